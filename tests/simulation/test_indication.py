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
