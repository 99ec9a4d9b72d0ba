"""The first law: whatever the recorder does, caller and callee notice nothing."""

from __future__ import annotations

import re

import pytest

from tests.interop.calls import scenarios
from tests.interop.calls.harness import Message, Sipp, until
from tests.interop.calls.rig import Rig
from tests.interop.calls.scenarios import Scenario

TALK = 1.0


@pytest.fixture(scope="module")
def unrecorded(rig: Rig) -> tuple[Sipp, Sipp]:
    """A call through the relay that nobody records: what the others are compared with."""
    return rig.call(scenarios.caller(TALK), scenarios.callee(), user="plain")


def refusing_recorder() -> Scenario:
    call = Scenario("refusing recorder").expect("INVITE")
    call.respond(486, "Busy Here")
    return call.expect("ACK")


@pytest.mark.parametrize("user", ["gone", "silent", "busy", "bob"])
def test_parties_see_the_messages_of_an_unrecorded_call(rig: Rig, unrecorded: tuple[Sipp, Sipp], user: str) -> None:
    if user == "busy":
        directory = rig.new_directory("recorder")
        # The metadata makes the INVITE too large for UDP, so it comes by TCP (RFC 3261 18.1.1).
        with Sipp(refusing_recorder(), directory, port=rig.busy_port, transport="t1") as recorder:
            seen = rig.call(scenarios.caller(TALK), scenarios.callee(), user=user)
            recorder.finish()
            assert recorder.messages()[0].title == "< INVITE INVITE"
    else:
        seen = rig.call(scenarios.caller(TALK), scenarios.callee(), user=user)
    for side, ours, other in zip(("caller", "callee"), seen, unrecorded, strict=True):
        got, expected = ours.messages(), other.messages()
        assert [m.title for m in got] == [m.title for m in expected], side
        for a, b in zip(got, expected, strict=True):
            assert normal(a, user) == normal(b, "plain"), (side, a.title)
        # Set-up and end take as long: the recorder, which would take four seconds, is not waited for.
        for mine, theirs in zip(moments(got), moments(expected), strict=True):
            assert abs(mine - theirs) < 1.5, (side, moments(got), moments(expected))
    # The silent recorder's INVITE is given up in time too, and everything is freed.
    assert until(rig.at_rest, 40), rig.proxy.counts()


def test_the_relay_changes_addresses_and_ports_of_the_description_only(rig: Rig, unrecorded: tuple[Sipp, Sipp]) -> None:
    direct = rig.call(scenarios.caller(TALK), scenarios.callee(), user="direct")
    for ours, other in zip(unrecorded, direct, strict=True):
        got, expected = ours.messages(), other.messages()
        assert [m.title for m in got] == [m.title for m in expected]
        for a, b in zip(got, expected, strict=True):
            ours_head, _, ours_sdp = normal(a, "plain").partition("\n\n")
            other_head, _, other_sdp = normal(b, "direct").partition("\n\n")
            assert ours_head == other_head, a.title
            added = set(ours_sdp.splitlines()) - set(other_sdp.splitlines())
            assert set(other_sdp.splitlines()) <= set(ours_sdp.splitlines()), a.title
            assert all(line.startswith("a=rtcp:") for line in added), added


def moments(messages: list[Message]) -> list[float]:
    return [m.time - messages[0].time for m in messages]


def normal(message: Message, user: str) -> str:
    """The message without what differs from call to call: ports, tags, branches, Call-ID, length, cookies, user."""
    text = message.text.replace(f"sip:{user}@", "sip:USER@")
    text = re.sub(r"(branch=)[^;\s]+", r"\1B", text)
    text = re.sub(r"(;tag=)[^;\s]+", r"\1T", text)
    text = re.sub(r"(;(?:rport|did|ftag|dlg|cookie|siprec)=)[^;>\s]+", r"\1N", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", text)
    text = re.sub(r"^(Call-ID|Content-Length):.*$", r"\1: X", text, flags=re.M | re.I)
    text = re.sub(r"^m=audio \d+", "m=audio PORT", text, flags=re.M)
    text = re.sub(r"^a=rtcp:\d+", "a=rtcp:PORT", text, flags=re.M)
    return text.strip()
