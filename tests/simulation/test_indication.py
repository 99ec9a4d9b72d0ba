"""What the parties of a recorded call are told, and what they prefer (RFC 7866 6.1.2, 7.1.2, 7.1.3, 7.3)."""

from __future__ import annotations

import pytest

from siprec.sip.message import SipMessage
from siprec.sip.useragent import IncomingCall, session_description
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.transferworld import TransferWorld

AWARE = [("Supported", "record-aware")]


def record(message: SipMessage | None) -> list[str]:
    """``a=record`` of each m-line, as text."""
    assert message is not None
    octets = session_description(message)
    assert octets is not None
    return [line[9:] for line in octets.decode().split("\r\n") if line.startswith("a=record:")]


def aware(call: IncomingCall) -> None:
    call.answer(200, ANSWER, headers=AWARE)


def test_a_party_that_is_aware_is_told_in_the_first_exchange() -> None:
    w = TransferWorld(indication="attribute")
    w.bob.take = aware
    call = w.call(headers=AWARE)
    w.clock.run_for(2)
    assert record(w.bob.calls[0].invite) == ["on"]
    assert record(w.alice.diary.responses[0]) == ["on"]
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_party_that_is_not_aware_gets_no_attribute_in_its_answer() -> None:
    w = TransferWorld(indication="attribute")
    w.bob.take = aware
    call = w.call()
    w.clock.run_for(2)
    assert record(w.alice.diary.responses[0]) == []
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("indication", ["none", "tone"])
def test_what_other_recorders_and_parties_say_passes_when_nothing_is_indicated(indication: str) -> None:
    """CS-10."""
    w = TransferWorld(indication=indication)
    foreign = SDP + b"a=record:paused\r\na=recordpref:off\r\n"
    call = w.call(body=foreign, headers=AWARE)
    w.clock.run_for(2)
    octets = session_description(w.bob.calls[0].invite)
    assert octets is not None
    assert octets.endswith(b"a=record:paused\r\na=recordpref:off\r\n")
    assert record(w.alice.diary.responses[0]) == []
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_the_stronger_of_two_recorders_stands() -> None:
    w = TransferWorld(indication="attribute")
    call = w.call(body=SDP.replace(b"t=0 0", b"t=0 0\r\na=record:paused"), headers=AWARE)
    w.clock.run_for(2)
    assert record(w.bob.calls[0].invite) == ["paused", "on"]  # session level, then what overrides it
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize(("preference", "state", "srs"), [("off", "off", "gone"), ("pause", "paused", "paused")])
def test_a_preference_is_honoured_and_the_answer_says_so(preference: str, state: str, srs: str) -> None:
    """callflows.md 11; CS-06, CS-07."""
    w = TransferWorld(indication="attribute", recordpref="honour")
    w.bob.take = aware
    call = w.call(headers=AWARE)
    w.clock.run_for(2)
    wanted = SDP.replace(b"1 1 IN", b"1 2 IN") + f"a=recordpref:{preference}\r\n".encode()
    results: list[object] = []
    call.reinvite(wanted, done=results.append)
    w.clock.run_for(3)
    assert isinstance(results[0], SipMessage)
    assert record(results[0]) == [state]
    assert [info.state for info in w.service.info()] == ([srs] if srs != "gone" else [])
    results.clear()
    call.reinvite(wanted.replace(b"1 2 IN", b"1 3 IN").replace(preference.encode(), b"on"), done=results.append)
    w.clock.run_for(3)
    assert isinstance(results[0], SipMessage)
    assert record(results[0]) == ["on"]
    assert [info.state for info in w.service.info()] == ["active"]
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_preference_is_only_passed_on_by_default() -> None:
    w = TransferWorld(indication="attribute")
    w.bob.take = aware
    call = w.call(body=SDP + b"a=recordpref:off\r\n", headers=AWARE)
    w.clock.run_for(2)
    octets = session_description(w.bob.calls[0].invite)
    assert octets is not None
    assert b"a=recordpref:off\r\n" in octets
    assert record(w.alice.diary.responses[0]) == ["on"]
    assert [info.state for info in w.service.info()] == ["active"]
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_no_recording_is_begun_against_a_preference_that_counts() -> None:
    w = TransferWorld(indication="attribute", recordpref="honour")
    call = w.call(body=SDP + b"a=recordpref:off\r\n", headers=AWARE)
    w.clock.run_for(2)
    assert record(w.alice.diary.responses[0]) == ["off"]
    assert w.srs.requests == []
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_tone_is_heard_while_the_recording_is_fed() -> None:
    """CS-03: by everybody where nothing else tells them."""
    w = TransferWorld(indication="tone", tone_interval=10.0)
    call = w.call(headers=AWARE)
    w.clock.run_for(2)
    proxied = w.journal.calls[0]
    assert set(w.server.tones) == {proxied.from_tag, proxied.to_tag}
    assert {tone.interval for tone in w.server.tones.values()} == {10.0}
    assert w.server.words == [("re-key",)], "or it could not be heard in SRTP"
    assert w.service.siprec_pause_recording(proxied)
    w.clock.run_for(2)
    assert w.server.tones == {}
    assert w.service.siprec_resume_recording(proxied)
    w.clock.run_for(2)
    assert set(w.server.tones) == {proxied.from_tag, proxied.to_tag}
    assert w.service.siprec_stop_recording(proxied)
    w.clock.run_for(2)
    assert w.server.tones == {}
    assert record(w.alice.diary.responses[0]) == []
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_with_both_the_tone_is_for_those_who_are_not_aware() -> None:
    w = TransferWorld(indication="both")
    call = w.call(headers=AWARE)
    w.clock.run_for(2)
    assert set(w.server.tones) == {w.journal.calls[0].to_tag}
    assert record(w.alice.diary.responses[0]) == ["on"]
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_failure_is_heard_where_it_is_to_be_announced_and_the_call_goes_on() -> None:
    """ERR-10."""
    w = TransferWorld(indication="tone", on_failure="announce", rebuilds=0)
    call = w.call()
    w.clock.run_for(2)
    proxied = w.journal.calls[0]
    parties = {proxied.from_tag, proxied.to_tag}
    assert {tone.frequency for tone in w.server.tones.values()} == {1400}
    w.srs.on_request = lambda request, reply: (reply(481), True)[1]  # type: ignore[func-returns-value]
    w.service.siprec_pause_recording(proxied)
    w.clock.run_for(1)
    assert w.told() == ["START", "STOP", "FAILED"]
    w.srs.on_request = None
    assert {tag: tone.frequency for tag, tone in w.server.tones.items()} == dict.fromkeys(parties, 950)
    w.clock.run_for(2)
    assert w.server.tones == {}
    # Recorded again: the recording tone again.
    assert w.service.record(proxied)
    w.clock.run_for(2)
    assert {tag: tone.frequency for tag, tone in w.server.tones.items()} == dict.fromkeys(parties, 1400)
    call.bye()
    w.clock.run_for(5)
    assert w.journal.events[-1] == "ended bye"
    w.finish()


@pytest.mark.parametrize("hang_up_after", [0.001, 0.5, 5.0])
def test_a_failure_at_the_start_is_heard_unless_the_call_is_over(hang_up_after: float) -> None:
    w = TransferWorld(on_failure="announce")
    w.srs.status = 486
    call = w.call()
    w.clock.run_until_true(lambda: w.told() == ["FAILED"])
    w.clock.run_for(hang_up_after)
    assert bool(w.server.tones) == (hang_up_after == 0.5)
    call.bye()
    w.clock.run_for(5)
    assert all(line.startswith(("play", "stop")) for line in w.server.log if "play" in line)
    w.finish()


def test_the_tone_ends_when_the_recorder_does() -> None:
    w = TransferWorld(indication="tone")
    call = w.call()
    w.clock.run_for(2)
    assert w.server.tones
    w.srs.call.bye()
    w.clock.run_for(5)
    assert w.server.tones == {}
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_tone_that_cannot_be_played_costs_the_call_nothing() -> None:
    w = TransferWorld(indication="tone")
    call = w.call()
    w.clock.run_for(0.01)
    w.server.fail |= {f"play {each}" for each in (w.journal.calls[0].from_tag, w.journal.calls[0].to_tag)}
    w.clock.run_for(2)
    assert [info.state for info in w.service.info()] == ["active"]
    call.bye()
    w.clock.run_for(5)
    w.finish()
