"""``on_failure = "end-call"``, seen by SIPp on both sides: what cannot be recorded is ended or refused (ERR-10)."""

from __future__ import annotations

from pathlib import Path

from tests.interop.calls.harness import HOST, Command, Message, Sipp, free_port, until
from tests.interop.calls.scenarios import Scenario, sdp
from tests.parallel import unused_port


def run(tmp_path: Path, start: str, caller: Scenario, callee: Scenario) -> tuple[list[Message], list[Message]]:
    """One call, for which there is no recorder at all: what caller and callee sent and got."""
    callee_port = free_port()
    configuration = f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
[recording.default]
srs = "sip:{HOST}:{unused_port()};transport=tcp"
on_failure = "end-call"
start = "{start}"
[[route]]
record = "default"
targets = ["sip:{HOST}:{callee_port}"]
"""
    with Command("serve", configuration, tmp_path / "serve") as proxy:
        b = Sipp(callee, tmp_path / "callee", port=callee_port)
        with b, Sipp(caller, tmp_path / "caller", port=free_port(), proxy=proxy.port()) as a:
            a.finish()
            b.finish()
        assert until(lambda: not proxy.counts()["proxy"]["calls"])
        counts = proxy.counts()
        assert counts["recordings"] == {}
        assert counts["proxy"]["media_sessions"] == 0
    return a.messages(), b.messages()


def test_an_answered_call_is_ended_by_a_bye_to_both(tmp_path: Path) -> None:
    caller = Scenario("caller").invite().expect(100, optional=True).expect(180, optional=True)
    caller.expect(200, route=True).request("ACK").expect("BYE").respond(200, "OK")
    callee = Scenario("callee").expect_invite().respond_invite(180, "Ringing").respond_invite(200, "OK", sdp())
    callee.expect("ACK").expect("BYE").respond(200, "OK")
    for side, messages in zip(("caller", "callee"), run(tmp_path, "answer", caller, callee), strict=True):
        (bye,) = [message.text for message in messages if message.title == "< BYE BYE"]
        assert 'Reason: SIP;cause=500;text="recording failed: ' in bye, side


def test_a_call_with_early_media_is_refused(tmp_path: Path) -> None:
    caller = Scenario("caller").invite().expect(100, optional=True).expect(183)
    caller.expect(503).same_branch("ACK")
    callee = Scenario("callee").expect_invite().respond_invite(183, "Session Progress", sdp())
    callee.expect("CANCEL").respond(200, "OK").respond_invite(487, "Request Terminated").expect("ACK")
    a, b = run(tmp_path, "early", caller, callee)
    (refusal,) = [message.text for message in a if message.title == "< 503 INVITE"]
    assert "SIP/2.0 503 Recording Failed" in refusal
    assert "recording failed: " in refusal
    assert "< CANCEL CANCEL" in [message.title for message in b]
