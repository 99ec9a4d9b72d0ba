"""Odd answers of SRSs: none of them kills the call, the other stream or the proxy."""

from __future__ import annotations

import pytest

from tests.interop.calls.harness import HOST, until
from tests.interop.srs.recorder import Sink, Srs, answer
from tests.interop.srs.world import World


def flowing(sinks: list[Sink], least: int = 10) -> bool:
    return until(lambda: all(len(sink.packets) > least for sink in sinks))


@pytest.mark.parametrize("labels", ["", "12", "21", "xy"])
def test_streams_are_matched_by_their_place_whatever_the_labels_say(world: World, labels: str) -> None:
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port), labels=labels)
        with world.recorder(Srs().accept(body).end()) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert flowing(sinks)
            info = world.ask("/recordings")["recordings"][0]["streams"]
            assert [stream["party"] for stream in info] == ["caller", "callee"]
    assert {p.ssrc for p in sinks[0].packets} == {0x51}
    assert {p.ssrc for p in sinks[1].packets} == {0x52}


@pytest.mark.parametrize("how", ["port 0", "inactive"])
def test_one_stream_that_is_not_wanted_leaves_the_other_alone(world: World, how: str) -> None:
    with world.sinks() as sinks:
        if how == "port 0":
            body = answer((0, sinks[1].port))
        else:
            body = answer((sinks[0].port, sinks[1].port)).replace("a=recvonly", "a=inactive", 1)
        # The offer comes once more, and the answer is the same.
        with world.recorder(Srs().accept(body).reinvited(body).end()) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert flowing(sinks[1:])
            assert sinks[0].packets == []
    assert call.names() == ["START", "STOP"]


def test_a_200_without_a_description_is_acknowledged_ended_and_the_next_srs_records(world: World) -> None:
    with world.sinks() as sinks:
        bare = Srs().expect_invite().respond_invite(200, "OK").expect("ACK").expect("BYE").reply()
        good = Srs().accept(answer((sinks[0].port, sinks[1].port))).end()
        with world.recorder(bare) as first, world.recorder(good) as second, world.call(first, second) as call:
            call.wait_for("START")
            assert flowing(sinks)
    assert first.titles()[-2:] == ["< BYE", "> 200 BYE"]
    assert call.names() == ["FAILOVER", "START", "STOP"]


@pytest.mark.parametrize(
    "body",
    [
        "no description at all",
        f"v=0\no=- 1 1 IN IP4 {HOST}\ns=-\nc=IN IP4 {HOST}\nt=0 0\nm=audio 9000 RTP/AVP 0",
        f"v=0\no=- 1 1 IN IP4 {HOST}\ns=-\nc=IN IP4 {HOST}\nt=0 0\nm=audio 0 RTP/AVP 0\nm=audio 0 RTP/AVP 0",
    ],
    ids=["garbage", "one line for two", "all refused"],
)
def test_an_answer_that_is_of_no_use_does_no_harm(world: World, body: str) -> None:
    scenario = Srs().expect_invite().respond_invite(200, "OK", body).expect("ACK").pause(1.0)
    with world.recorder(scenario) as srs, world.call(srs.uri, instance="once") as call:
        assert until(lambda: bool(call.names()))
        assert call.is_up()
        assert until(lambda: "< ACK" in srs.titles())
    assert call.names()[0] in ("FAILED", "START")


def test_an_answer_in_a_multipart_with_more_in_it_is_read(world: World) -> None:
    with world.sinks() as sinks:
        sdp = answer((sinks[0].port, sinks[1].port))
        body = f"--b1\nContent-Type: application/sdp\n\n{sdp}\n\n--b1\nContent-Type: text/plain\n\nwelcome\n--b1--"
        headers = ("MIME-Version: 1.0", "Content-Type: multipart/mixed;boundary=b1")
        with world.recorder(Srs().accept(body, headers).end()) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert flowing(sinks)


def test_provisional_responses_and_early_dialogs_come_first(world: World) -> None:
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        scenario = Srs().expect_invite().respond_invite(100, "Trying", tag="").respond_invite(180, "Ringing")
        scenario.respond_invite(183, "Session Progress", body).respond_invite(200, "OK", body).expect("ACK").end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert flowing(sinks)
    assert call.names() == ["START", "STOP"]


def test_a_2xx_that_crosses_the_cancel_is_acknowledged_and_ended(world: World) -> None:
    scenario = Srs().expect_invite().respond_invite(180, "Ringing").expect("CANCEL").reply(200)
    scenario.respond_invite(200, "OK", answer((9, 9))).expect("ACK").expect("BYE").reply()
    with world.recorder(scenario) as srs, world.call(srs) as call:
        assert until(lambda: "> 180 INVITE" in srs.titles())
        call.hang_up()
        assert until(lambda: "< BYE" in srs.titles())
    assert call.names() == []
