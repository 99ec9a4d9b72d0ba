"""Recording sessions that the recorder starts (SRS-04), on the simulated network."""

from __future__ import annotations

from pathlib import Path

import pytest

from siprec import sdp
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.server import RecorderServer
from siprec.recorder.srs_initiated import record_from
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, CallHandler, IncomingCall, session_description
from tests.simulation.recording_world import World, party_sdp
from tests.unit.recorder.recorder_harness import ManualPoller


class Client(CallHandler):
    """A recording client with one call to offer."""

    def __init__(self, world: World, offer: bytes, status: int = 200) -> None:
        self.agent, _ = world.agent(world.network.node("10.0.0.9"), self.invited)
        self.offer, self.status = offer, status
        self.calls: list[IncomingCall] = []
        self.answers: list[bytes] = []
        self.ends: list[str] = []

    def invited(self, call: IncomingCall) -> None:
        call.handler, call.contact_params = self, "+sip.src"
        self.calls.append(call)
        call.answer(self.status, self.offer if self.status == 200 else b"")

    def ack(self, call: Call, request: SipRequest) -> None:
        self.answers.append(session_description(request) or b"")

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        self.ends.append(reason)


@pytest.mark.parametrize(
    ("proto", "status", "result"), [("RTP/AVP", 200, 200), ("UDP/BFCP", 200, 488), ("RTP/AVP", 403, 403)]
)
def test_recorder_asks_a_client_for_its_calls(tmp_path: Path, proto: str, status: int, result: int) -> None:
    world = World()
    client = Client(world, party_sdp("127.0.0.1", "sendonly", proto=proto), status)
    agent, _ = world.agent(world.network.node("10.0.0.8"), None)
    recorder = Recorder(RecorderLibrary(tmp_path), PortPool("127.0.0.1"), world.clock, ManualPoller())
    server = RecorderServer(recorder)
    outcomes: list[int] = []
    me, you = NameAddr("", "sip:srs@10.0.0.8"), NameAddr("", "sip:src@10.0.0.9")
    record_from(server, agent, Uri.parse("sip:src@10.0.0.9"), from_=me, to=you, outcome=lambda s, _: outcomes.append(s))
    world.clock.run_for(2.0)
    assert outcomes == [result]
    invite = client.calls[0].invite
    assert invite.tokens("require") == {"siprec"}
    assert invite.contact is not None
    assert "+sip.srs" in invite.contact.params
    assert not invite.body  # SRS-04: no offer
    if status == 200:
        line = sdp.parse(client.answers[0]).media[0]
        assert (line.port > 0) == (result == 200)
    if result == 200:
        assert line.direction == "recvonly"
        assert len(recorder.sessions) == 1
        server.close()
        world.clock.run_for(2.0)
    assert client.ends == (["bye"] if status == 200 else [])
    assert not server.calls
    assert not recorder.sessions
    recorder.close()
