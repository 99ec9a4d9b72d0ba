"""What an SRS asks inside the dialog, and what it answers to our requests there."""

from __future__ import annotations

import pytest

from siprec.sip.message import SipResponse
from tests.interop.calls.harness import until
from tests.interop.srs.recorder import Seen, Srs, answer
from tests.interop.srs.world import World

TIMER = ("Supported: timer", "Session-Expires: 1800;refresher=uas")


def responses(srs_messages: list[Seen], method: str) -> list[SipResponse]:
    return [
        seen.message
        for seen in srs_messages
        if not seen.sent and isinstance(seen.message, SipResponse) and seen.message.cseq.method == method
    ]


def test_options_info_message_and_notify_of_the_srs_are_answered_and_what_is_unknown_is_refused(world: World) -> None:
    with world.sinks() as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port)))
        for method in ("OPTIONS", "INFO", "MESSAGE", "NOTIFY"):
            scenario.ask(method, headers=("Event: x", "Subscription-State: active")).expect(200)
        scenario.ask("PUBLISH").expect(405)
        scenario.end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: bool(responses(srs.messages, "PUBLISH")))
    (options,) = responses(srs.messages, "OPTIONS")
    assert "invite" in options.tokens("allow")
    assert "application/sdp" in options.tokens("accept")
    (refused,) = responses(srs.messages, "PUBLISH")
    assert "invite" in refused.tokens("allow")
    assert call.names() == ["START", "STOP"]


def test_a_reinvite_of_the_srs_moves_the_copies_and_the_call_does_not_notice(world: World) -> None:
    with world.sinks(4) as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port)))
        scenario.pause(0.3)
        scenario.ask("INVITE", answer((sinks[2].port, sinks[3].port), version=2)).expect(100, optional=True)
        scenario.expect(200).ask("ACK").end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 20 for sink in sinks[2:]))
            moved = [seen.time for seen in srs.messages if seen.title == "> ACK"][-1]
            assert not [p for sink in sinks[:2] for p in sink.packets if p.time > moved + 0.1]
    [(agreed)] = [seen for seen in srs.messages if seen.title == "< 200 INVITE"]
    assert agreed.directions == ["sendonly", "sendonly"]


def test_an_update_of_the_srs_moves_one_stream_and_refuses_nothing_else(world: World) -> None:
    with world.sinks(3) as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port))).pause(0.3)
        scenario.ask("UPDATE", answer((sinks[0].port, sinks[2].port), version=2)).expect(200).end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: len(sinks[2].packets) > 20)
            ended = next(seen.time for seen in srs.messages if seen.title == "< 200 UPDATE")
            assert not [p for p in sinks[1].packets if p.time > ended + 0.1]
            before = len(sinks[0].packets)
            assert until(lambda: len(sinks[0].packets) > before + 5)
    (agreed,) = (seen for seen in srs.messages if seen.title == "< 200 UPDATE")
    assert agreed.directions == ["sendonly", "sendonly"]


def test_an_offerless_reinvite_gets_our_offer_with_all_metadata_and_its_answer_in_the_ack_counts(
    world: World, schema: object
) -> None:
    with world.sinks(4) as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port))).pause(0.3)
        scenario.ask("INVITE").expect(100, optional=True).expect(200)
        scenario.ask("ACK", answer((sinks[2].port, sinks[3].port), version=2)).end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 20 for sink in sinks[2:]))
            moved = [seen.time for seen in srs.messages if seen.title == "> ACK"][-1]
            assert not [p for sink in sinks[:2] for p in sink.packets if p.time > moved + 0.1]
    (offer,) = (seen for seen in srs.messages if seen.title == "< 200 INVITE")
    first = srs.requests("INVITE")[0]
    assert offer.directions == ["sendonly", "sendonly"]
    assert offer.sdp is not None
    assert first.sdp is not None
    assert [(x.label, x.port) for x in offer.sdp.media] == [(x.label, x.port) for x in first.sdp.media]
    assert offer.document.mode == "complete"
    assert call.names() == ["START", "STOP"]


def test_the_srs_pauses_by_inactive_and_goes_on(world: World) -> None:
    with world.sinks() as sinks:
        ports = (sinks[0].port, sinks[1].port)
        scenario = Srs().accept(answer(ports)).pause(0.3)
        for version, direction, wait in ((2, "inactive", 0.6), (3, "recvonly", 0.1)):
            scenario.ask("INVITE", answer(ports, direction, version=version)).expect(100, optional=True).expect(200)
            scenario.ask("ACK").pause(wait)
        scenario.end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: [s.title for s in srs.messages].count("< 200 INVITE") == 2)
            ends = [len(sink.packets) for sink in sinks]
            assert until(lambda: all(len(s.packets) > end + 10 for s, end in zip(sinks, ends, strict=True)))
    paused, resumed = (seen for seen in srs.messages if seen.title == "< 200 INVITE")
    assert [paused.directions, resumed.directions] == [["inactive"] * 2, ["sendonly"] * 2]
    assert not [p for sink in sinks for p in sink.packets if paused.time + 0.05 < p.time < resumed.time - 0.05]


def test_a_snapshot_is_sent_when_the_srs_asks_for_one(world: World) -> None:
    with world.sinks() as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port)))
        request = (
            "<?xml version='1.0' encoding='UTF-8'?>\n<requestsnapshot xmlns='urn:ietf:params:xml:ns:recording:1'>"
            "\n<requestreason xml:lang='en'>lost</requestreason>\n</requestsnapshot>"
        )
        headers = ("Content-Type: application/rs-metadata-request", "Content-Disposition: recording-session")
        scenario.ask("UPDATE", request, headers).expect(200)
        scenario.reinvited(answer((sinks[0].port, sinks[1].port), version=2)).end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: len(srs.requests("INVITE")) == 2)
    start, snapshot = (seen.document for seen in srs.requests("INVITE"))
    assert snapshot.mode == "complete"
    for kind in ("sessions", "participants", "streams"):
        ids = [[each.id for each in getattr(document, kind)] for document in (start, snapshot)]
        assert ids[0] == ids[1], kind


def test_bye_of_the_srs_ends_the_recording_and_not_the_call(world: World) -> None:
    with world.sinks() as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port))).pause(0.2).ask("BYE").expect(200)
        with world.recorder(scenario) as srs, world.call(srs, instance="once") as call:
            call.wait_for("STOP")
            ended = next(seen.time for seen in srs.messages if seen.title == "> BYE")
            assert call.is_up()
            assert not [p for sink in sinks for p in sink.packets if p.time > ended + 0.1]
    assert "BYE" in [seen.title.split()[-1] for seen in srs.messages]


@pytest.mark.parametrize(("status", "reason"), [(481, "Call/Transaction Does Not Exist"), (408, "Request Timeout")])
def test_a_session_the_srs_has_forgotten_is_set_up_anew_with_the_same_ids(
    world: World, status: int, reason: str
) -> None:
    with world.sinks(4) as sinks:
        first = Srs().accept(answer((sinks[0].port, sinks[1].port))).expect("INVITE").reply(status, reason)
        first.expect("ACK").expect("BYE").reply(481, "Call/Transaction Does Not Exist")
        again = Srs().accept(answer((sinks[2].port, sinks[3].port))).end()
        with (
            world.recorder(first) as gone,
            world.recorder(again) as new,
            world.call(gone, new) as call,
        ):
            call.wait_for("START")
            call.steer("pause")
            call.wait_for("START", 2)
    old, fresh = gone.requests("INVITE")[0], new.requests("INVITE")[0]
    assert old.message.call_id != fresh.message.call_id
    for kind in ("sessions", "participants", "streams"):
        ids = [[each.id for each in getattr(x.document, kind)] for x in (old, fresh)]
        assert ids[0] == ids[1], kind


def test_glare_is_waited_out_and_the_pause_happens(world: World) -> None:
    with world.sinks() as sinks:
        ports = (sinks[0].port, sinks[1].port)
        scenario = Srs().accept(answer(ports)).expect("INVITE").reply(491, "Request Pending").expect("ACK")
        scenario.reinvited(answer(ports, "inactive", version=2)).end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            call.steer("pause")
            call.wait_for("PAUSED")
    first, second = srs.requests("INVITE")[1:]
    assert first.directions == second.directions == ["inactive", "inactive"]
    assert 2.0 < second.time - first.time < 6.0  # RFC 3261 14.1: the owner of the Call-ID waits 2.1 to 4 s


def test_the_session_timer_that_the_srs_wants_is_agreed_to(world: World) -> None:
    with world.sinks() as sinks:
        scenario = Srs().expect_invite()
        scenario.respond_invite(422, "Session Interval Too Small", headers=("Min-SE: 2400",)).expect("ACK")
        scenario.expect_invite("second").respond_invite(
            200, "OK", answer((sinks[0].port, sinks[1].port)), TIMER, prefix="second"
        )
        scenario.expect("ACK").end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
    first, second = srs.requests("INVITE")
    assert first.message.call_id == second.message.call_id
    assert (second.message.get("min-se") or "").startswith("2400")
    assert int((second.message.get("session-expires") or "0").partition(";")[0]) >= 2400
