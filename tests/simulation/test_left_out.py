"""An SRS that takes a stream but not every codec that the call may use for it."""

from __future__ import annotations

import pytest

from siprec import sdp
from siprec.proxy.call import Call as ProxyCall
from siprec.sip.message import SipResponse
from tests.simulation.recording_world import World, party_sdp


class Picky(World):
    """Both parties agreed on G.729, PCMU and telephone events; the SRS takes PCMU and events."""

    def __post_init__(self) -> None:
        super().__post_init__()
        takes = self.takes = ["0", "101"]
        answer_to = self.srs.answer_to

        def picky(request: object, direction: sdp.Direction | None = None) -> bytes:
            answer = sdp.parse(answer_to(request, direction))  # type: ignore[arg-type]
            for line in answer.media:
                line.formats = [text for text in line.formats if text in takes] or line.formats
            return answer.to_bytes()

        self.srs.answer_to = picky  # type: ignore[method-assign]

    def told(self) -> list[str]:
        return [event.reason for event in self.events if event.name == "E_SIPREC_NOT_DECODABLE"]


def agreed(text: bytes) -> bytes:
    maps = b"a=rtpmap:18 G729/8000\r\na=fmtp:18 annexb=no\r\na=rtpmap:101 telephone-event/8000\r\n"
    return text.replace(b"a=rtpmap:0 PCMU/8000\r\n", b"a=rtpmap:0 PCMU/8000\r\n" + maps)


def call_of(w: World, formats: str = "18 0 101") -> ProxyCall:
    call = w.new_call()
    for leg, tag in (("caller", call.from_tag), ("callee", call.to_tag)):
        body = agreed(party_sdp("10.1.1.1", formats=formats))
        setattr(call, f"{leg}_sdp", body)
        w.media.parties[tag] = body
    call.record()
    w.answer(call)
    w.clock.run_for(3)
    return call


def test_an_event_names_the_stream_and_the_codec_once(caplog: pytest.LogCaptureFixture) -> None:
    w = Picky()
    call = call_of(w)
    assert w.names()[:2] == ["START", "NOT_DECODABLE"]
    assert w.told() == ["caller (label 1): the SRS does not take G729; callee (label 2): the SRS does not take G729"]
    assert "the SRS does not take G729" in caplog.text
    w.clock.run_for(60)
    assert len(w.told()) == 1
    w.end(call)
    w.clock.run_for(10)
    w.assert_clean()


def test_what_the_srs_did_not_take_is_not_offered_again_until_the_call_changes_its_codecs() -> None:
    w = Picky()
    call = call_of(w)
    assert [line.formats for line in w.srs.offers[-1].media] == [["18", "0", "101"]] * 2
    call.siprec_pause_recording()
    w.clock.run_for(3)
    paused = w.srs.offers[-1]
    assert [line.direction for line in paused.media] == ["inactive"] * 2
    assert [line.formats for line in paused.media] == [["0", "101"]] * 2
    assert all(18 not in line.rtpmaps and "18" not in line.fmtp for line in paused.media)
    call.siprec_resume_recording()
    w.clock.run_for(3)
    assert [line.formats for line in w.srs.offers[-1].media] == [["0", "101"]] * 2
    assert len(w.told()) == 1
    w.end(call)
    w.clock.run_for(10)
    w.assert_clean()


def test_where_the_media_server_transcodes_nothing_is_told() -> None:
    w = Picky()
    type(w.media).transcodes = property(lambda self: True)  # type: ignore[assignment,method-assign]
    try:
        call = call_of(w)
        assert w.names() == ["START"]
        w.end(call)
        w.clock.run_for(10)
        w.assert_clean()
    finally:
        del type(w.media).transcodes


def test_an_srs_that_takes_all_or_leaves_out_only_events_is_nothing_to_tell_of() -> None:
    for takes in (["18", "0", "101"], ["18", "0"]):
        w = Picky()
        w.takes[:] = takes
        call = call_of(w)
        assert w.told() == []
        w.end(call)
        w.clock.run_for(10)
        w.assert_clean()


def test_a_codec_that_the_srs_asks_for_later_is_agreed_to() -> None:
    w = Picky()
    call = call_of(w)
    w.takes.append("18")
    results: list[object] = []
    w.srs.call.reinvite(w.srs.answer_to(w.srs.requests[0]), done=results.append)
    w.clock.run_for(2)
    assert isinstance(results[0], SipResponse)
    assert [line.formats for line in sdp.parse(results[0].body).media] == [["18", "0", "101"]] * 2
    assert [line.formats for line in next(iter(w.media.targets.values())).media] == [["18", "0", "101"]] * 2
    w.end(call)
    w.clock.run_for(10)
    w.assert_clean()
