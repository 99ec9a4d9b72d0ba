"""The recorder as a UAS, on the simulated network: which INVITEs are recording sessions, what bodies may look like."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from siprec import sdp
from siprec.metadata.document import Document, NameId, Participant
from siprec.metadata.values import new_id
from siprec.metadata.write import write
from siprec.recorder.acceptance import Acceptance
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.server import RecorderServer
from siprec.recorder.settings import RecorderSettings
from siprec.recording import confirmation
from siprec.recording.confirmation import Recorded
from siprec.rtp import packets as rtp
from siprec.sip.date import format_date
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE, Part, build_multipart
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, CallHandler, OutgoingCall, Reply, Result
from tests.simulation.recording_world import World, party_sdp
from tests.unit.recorder.recorder_harness import ManualPoller

OFFER = party_sdp("127.0.0.1", "sendonly")
XML = write(Document(participants=(Participant(new_id(), (NameId("sip:alice@example.com"),)),)))
METADATA = "application/rs-metadata+xml"


def dated(wall: float | None) -> list[tuple[str, str]]:
    return [("Date", format_date(wall))] if wall is not None else []


class Client(CallHandler):
    """A recording client with its recorder."""

    def __init__(self, tmp_path: Path, *, strict: bool = False, **settings: Any) -> None:
        self.world = World()
        self.recorder = Recorder(
            RecorderLibrary(tmp_path),
            PortPool("127.0.0.1"),
            self.world.clock,
            ManualPoller(),
            RecorderSettings(**settings),
        )
        self.server = RecorderServer(self.recorder, acceptance=Acceptance("strict" if strict else "lenient"))
        self.world.agent(self.world.network.node("10.0.0.8"), self.server.take)
        self.agent, _ = self.world.agent(self.world.network.node("10.0.0.9"), None)
        self.response: SipResponse | None = None
        self.results: list[int] = []
        self.requests: list[SipRequest] = []

    def invite(
        self,
        body: bytes = OFFER,
        content_type: str = SDP_TYPE,
        *,
        feature: str = "+sip.src",
        require: str = "siprec",
        supported: tuple[str, ...] = ("timer",),
        date: float | None = None,
    ) -> OutgoingCall:
        call = self.agent.invite(
            Uri.parse("sip:srs@10.0.0.8"),
            from_=NameAddr("", "sip:src@10.0.0.9"),
            to=NameAddr("", "sip:srs@10.0.0.8"),
            handler=self,
            headers=([("Require", require)] if require else []) + dated(date),
            contact_params=feature,
            body=body,
            content_type=content_type,
            supported=supported,
        )
        self.world.clock.run_for(1.0)
        return call

    def answered(self, call: Call, response: SipResponse) -> None:
        self.response = response

    def failed(self, call: Call, status: int, response: SipResponse | None, reason: str) -> None:
        self.response = response

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        self.requests.append(request)
        reply(200)

    def done(self, result: Result) -> None:
        self.results.append(result.status if isinstance(result, SipResponse) else 0)

    @property
    def status(self) -> int:
        assert self.response is not None
        return self.response.status

    def close(self) -> None:
        self.server.close()
        self.world.clock.run_for(2.0)
        self.recorder.close()
        assert not self.server.calls


@pytest.mark.parametrize(
    ("feature", "require", "strict", "status"),
    [
        ("+sip.src", "siprec", True, 200),
        ("", "siprec", True, 400),
        ("", "siprec", False, 200),  # SRS-02: deployed clients forget it
        ("+sip.src", "", True, 421),
        ("+sip.src", "", False, 200),
        ("", "", False, 200),  # the offer is sendonly: nobody calls to hear nothing
    ],
)
def test_a_recording_session_has_the_tag_and_the_feature_parameter(
    tmp_path: Path, feature: str, require: str, strict: bool, status: int
) -> None:
    client = Client(tmp_path, strict=strict)
    client.invite(feature=feature, require=require)
    assert client.status == status
    assert len(client.recorder.sessions) == (status == 200)
    if status == 200:
        assert client.response is not None
        contact = client.response.contact
        assert contact is not None
        assert "+sip.srs" in contact.params
    client.close()


def parts(*order: str, subtype: str = "mixed") -> tuple[str, bytes]:
    made = {
        "sdp": Part.make(SDP_TYPE, OFFER),
        "xml": Part.make(METADATA, XML, disposition="recording-session"),
        "old": Part.make("application/rs-metadata", XML, disposition="recording-session"),
        "note": Part.make("text/plain", b"hello"),
    }
    return build_multipart([made[name] for name in order], subtype)


def nested() -> tuple[str, bytes]:
    content_type, body = parts("sdp", "note", subtype="alternative")
    return build_multipart([Part.make(content_type, body), Part.make(METADATA, XML, disposition="recording-session")])


@pytest.mark.parametrize(
    ("content_type", "body", "documents"),
    [
        (SDP_TYPE, OFFER, 0),  # SRS-27: nobody says who talks
        (*parts("sdp", "xml"), 1),
        (*parts("xml", "sdp"), 1),
        (*parts("old", "sdp"), 1),
        (*parts("sdp"), 0),
        (*parts("note", "sdp", "xml"), 1),
    ],
)
def test_bodies_of_every_shape_are_read(tmp_path: Path, content_type: str, body: bytes, documents: int) -> None:
    client = Client(tmp_path)
    client.invite(body, content_type)
    assert client.status == 200
    (session,) = client.recorder.sessions
    assert sum(len(r.documents) for r in session.recordings) == documents
    assert len(session.state.participants) == documents
    client.close()


def test_parts_may_be_nested(tmp_path: Path) -> None:
    content_type, body = nested()
    client = Client(tmp_path)
    client.invite(body, content_type)
    # Of alternatives the last one understood counts: text is not, the description is (RFC 2046 5.1.4).
    assert client.status == 200
    (session,) = client.recorder.sessions
    assert len(session.recordings[0].documents) == 1
    client.close()


@pytest.mark.parametrize("slow", [False, True], ids=["written", "a slow disk"])
def test_the_answer_to_a_bye_tells_what_was_received_and_what_became_of_it(tmp_path: Path, slow: bool) -> None:
    client = Client(tmp_path)
    call = client.invite(OFFER.replace(b"a=sendonly", b"a=label:left\r\na=sendonly"))
    (session,) = client.recorder.sessions
    (line,) = session.lines
    for number in range(20):
        packet = rtp.build(0 if number < 15 else 99, number, 160 * number, 7, bytes(160))
        line.rtp_datagram(packet, ("127.0.0.1", 5004), client.world.clock.now())
    gate = threading.Event()
    if slow:
        client.recorder.writer.submit(gate.wait)
    answers: list[SipResponse] = []

    def done(result: Result) -> None:
        assert isinstance(result, SipResponse)
        answers.append(result)

    call.bye(done=done)
    began = client.world.clock.now()
    for _ in range(400):
        client.world.clock.run_for(0.001)
        if answers:
            break
        time.sleep(0 if slow else 0.01)  # the disk thread lives in real time
    assert client.world.clock.now() - began < 0.5  # before the BYE is sent again
    gate.set()
    (answer,) = answers
    state = "pending" if slow else "complete"
    assert answer.get("x-siprec-recorded") == f"left;packets=20;lost=0;undecoded=5;unwritten=0;state={state}"
    assert confirmation.read(answer) == {"left": Recorded(20, 0, 5, 0, "pending" if slow else "complete")}
    client.close()


def test_metadata_come_by_update_and_in_a_bye(tmp_path: Path) -> None:
    client = Client(tmp_path)
    call = client.invite()
    (session,) = client.recorder.sessions
    (recording,) = session.recordings
    disposition = [("Content-Disposition", "recording-session")]
    call.update(XML, METADATA, disposition, client.done)
    client.world.clock.run_for(1.0)
    assert client.results == [200]
    assert len(recording.documents) == 1
    call.bye(disposition, XML, METADATA, client.done)
    client.world.clock.run_for(2.0)
    assert client.results == [200, 200]
    assert len(recording.documents) == 2  # SRS-26
    assert not client.recorder.sessions
    client.close()


def test_a_reinvite_with_metadata_alone_gets_our_description_as_offer(tmp_path: Path) -> None:  # META-18, SRS-07
    client = Client(tmp_path)
    call = client.invite()
    assert client.response is not None
    (session,) = client.recorder.sessions
    offers: list[bytes] = []

    def done(result: Result) -> None:
        assert isinstance(result, SipResponse)
        offers.append(result.body)
        call.ack(OFFER)

    call.reinvite(XML, METADATA, [("Content-Disposition", "recording-session")], done)
    client.world.clock.run_for(1.0)
    assert offers == [client.response.body]  # no stream more, none less, the same version
    assert len(session.recordings[0].documents) == 1
    assert len(session.state.participants) == 1
    client.close()


def test_lost_state_is_asked_for_by_update_after_the_ack(tmp_path: Path) -> None:  # META-11, META-12
    client = Client(tmp_path)
    content_type, body = build_multipart(
        [
            Part.make(SDP_TYPE, OFFER),
            Part.make(METADATA, XML.replace(b">complete<", b">partial<"), disposition="recording-session"),
        ]
    )
    client.invite(body, content_type)
    (update,) = client.requests
    assert update.method == "UPDATE"
    assert (update.get("content-type"), update.get("content-disposition")) == (METADATA, "recording-session")
    assert update.tokens("require") == {"siprec"}
    assert update.contact is not None
    assert "+sip.srs" in update.contact.params  # SRS-03
    assert b"<requestsnapshot" in update.body
    lines = [line for line in client.world.network.lines() if line.startswith(("ACK", "UPDATE"))]
    assert [line.split()[0] for line in lines] == ["ACK", "UPDATE"]
    client.close()


def test_an_invite_without_offer_is_refused_where_srtp_is_required(tmp_path: Path) -> None:
    client = Client(tmp_path, srtp="require")
    client.invite(b"")
    assert client.status == 488
    client.close()


def test_the_answer_takes_each_direction_of_the_call(tmp_path: Path) -> None:
    line = b"m=audio 4000 RTP/AVP 0\r\na=label:%d\r\na=sendonly\r\n"
    head = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    video = b"m=video 4000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=label:%d\r\na=sendonly\r\n"
    client = Client(tmp_path)
    client.invite(head + line % 1 + line % 2 + video % 3 + video % 4)
    assert client.response is not None
    answer = sdp.parse(client.response.body)
    assert [m.kind for m in answer.media] == ["audio", "audio", "video", "video"]
    assert all(m.port and m.direction == "recvonly" for m in answer.media)
    assert [m.label for m in answer.media] == ["1", "2", "3", "4"]
    client.close()


@pytest.mark.parametrize(
    ("off", "counts"),
    [(0.0, "arrival"), (-7.0, "date"), (30.0, "date"), (-86500.0, "arrival"), (None, "arrival")],
)
def test_beginning_and_end_are_when_the_date_says(tmp_path: Path, off: float | None, counts: str) -> None:  # SRS-22
    client = Client(tmp_path)
    began = client.world.clock.wall()
    call = client.invite(date=began + off if off is not None else None)
    (session,) = client.recorder.sessions
    (recording,) = session.recordings
    client.world.clock.run_for(60)
    over = client.world.clock.wall()
    call.bye(dated(over + off if off is not None else None))
    client.world.clock.run_for(2)
    for seen, arrived in ((recording.started, began), (recording.ended, over)):
        assert seen is not None
        shift = (off or 0.0) if counts == "date" else 0.0
        assert seen == pytest.approx(arrived + shift, abs=1.0)
    client.close()


HEAD = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
VIDEO = b"m=video 4000 %s 96\r\na=rtpmap:96 H264/90000\r\na=label:%d\r\n%sa=sendonly\r\n"


def test_a_key_frame_is_asked_for_by_info_when_video_begins(tmp_path: Path) -> None:  # SRS-24
    client = Client(tmp_path)
    call = client.invite(HEAD + b"m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n")
    client.world.clock.run_for(2)
    assert client.requests == []
    more = HEAD.replace(b"1 1 IN", b"1 2 IN") + b"m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n"
    call.reinvite(more + VIDEO % (b"RTP/AVP", 2, b""), done=client.done)
    client.world.clock.run_for(2)
    (info,) = client.requests
    assert info.method == "INFO"
    assert info.get("content-type") == "application/media_control+xml"
    assert b"<picture_fast_update/>" in info.body
    call.reinvite(more + VIDEO % (b"RTP/AVP", 2, b""), done=client.done)
    client.world.clock.run_for(2)
    assert len(client.requests) == 1  # a refresh is no beginning
    client.close()


@pytest.mark.parametrize(
    ("proto", "feedback", "negotiated"),
    [
        (b"RTP/AVPF", b"a=rtcp-fb:* ccm fir\r\n", True),
        (b"RTP/AVPF", b"a=rtcp-fb:* nack\r\n", False),
        (b"RTP/AVP", b"a=rtcp-fb:* ccm fir\r\n", False),
    ],
)
def test_where_fir_is_negotiated_there_is_no_info(
    tmp_path: Path, proto: bytes, feedback: bytes, negotiated: bool
) -> None:
    client = Client(tmp_path)
    client.invite(HEAD + VIDEO % (proto, 1, feedback))
    client.world.clock.run_for(2)
    assert client.response is not None
    assert (b"a=rtcp-fb:* ccm fir" in client.response.body) == negotiated
    assert [request.method for request in client.requests] == ([] if negotiated else ["INFO"])
    client.close()
