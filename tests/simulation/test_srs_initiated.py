"""Recording sessions that a recorder asks our recording client for (SRC-11, SRC-18), both sides ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from siprec import sdp
from siprec.proxy.call import Call as ProxyCall
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.server import RecorderServer
from siprec.recorder.session import RecordingSession
from siprec.recorder.srs_initiated import Invitations, InvitedRecording, record_from
from siprec.recording.srs_initiated import RequestSettings, is_request
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.multipart import parts_of
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, session_description
from tests.simulation.recording_world import World
from tests.unit.recorder.recorder_harness import ManualPoller

ME = NameAddr("", "sip:srs@10.0.0.8")


class Asking:
    """A world whose recording client takes requests, and a recorder at 10.0.0.8 that makes them."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.world = world = World()
        self.calls: list[ProxyCall] = []
        options = {"allow": ("10.0.0.8",), **settings}
        self.requests = world.service.answer_srs(RequestSettings(**options), lambda: self.calls)  # type: ignore[arg-type]
        world.ua.accept, world.ua.on_invite = is_request, self.requests.take
        self.node = world.network.node("10.0.0.8")
        self.agent, self.layer = world.agent(self.node, None)
        self.recorder = Recorder(RecorderLibrary(root), PortPool("127.0.0.1"), world.clock, ManualPoller())
        self.server = RecorderServer(self.recorder)
        self.outcomes: list[int] = []
        self.overs = 0

    def ask(self, target: str, run: float = 5.0) -> None:
        def over() -> None:
            self.overs += 1

        you = Uri.parse(target)
        hop = Uri.parse("sip:10.0.0.1;transport=" + (you.transport or "tcp"))
        # The domain in the Request-URI need not be an address.
        self.agent.resolve = lambda uri, done, resolve=self.agent.resolve: resolve(  # type: ignore[misc]
            hop if uri.host == you.host else uri, done
        )
        record_from(
            self.server, self.agent, you, from_=ME, to=NameAddr("", target),
            outcome=lambda status, _: self.outcomes.append(status), over=over,
        )  # fmt: skip
        self.world.clock.run_for(run)

    def call(self, caller: str = "sip:alice@example.org") -> ProxyCall:
        call = self.world.new_call()
        call.caller = NameAddr("", caller)
        self.calls.append(call)
        self.world.service.requested.created(call)  # type: ignore[union-attr]
        self.world.answer(call)
        self.world.clock.run_for(3.0)
        return call

    def end(self, call: ProxyCall) -> None:
        self.calls.remove(call)
        self.world.end(call)
        self.world.clock.run_for(6.0)

    @property
    def session(self) -> RecordingSession:
        (found,) = self.recorder.sessions
        return found

    def recorded(self) -> list[tuple[str, int]]:
        """Session ids and number of streams of what goes on."""
        return [(r.session.text if r.session else "", len(r.live)) for r in self.session.recordings]

    def assert_over(self) -> None:
        self.server.close()
        self.world.clock.run_for(10.0)
        for call in list(self.calls):
            self.end(call)
        self.world.assert_clean()
        assert not self.world.service.shared_sessions.sessions
        assert not self.recorder.sessions
        assert self.agent.counts() == {"calls": 0, "dialogs": 0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def session_of(asking: Asking, call: ProxyCall) -> str:
    recorder = asking.world.service.recorder_of(call)
    assert recorder is not None
    return recorder.metadata.session_id


@pytest.mark.parametrize("by", ["call_id", "dlg_id"])
def test_one_call_is_asked_for_and_the_session_ends_with_it(root: Path, by: str) -> None:
    asking = Asking(root)
    call, other = asking.call(), asking.call()
    asking.ask(f"sip:{getattr(call, by).replace('@', '%40')}@10.0.0.1")
    assert asking.outcomes == [200]
    assert asking.recorded() == [(session_of(asking, call), 2)]
    assert asking.world.states(other) == {}
    assert len(asking.world.media.flowing()) == 2
    asking.end(call)
    assert asking.overs == 1
    assert not asking.recorder.sessions
    asking.recorder.writer.call(lambda: None).result(timeout=60)
    (found,) = asking.recorder.library
    assert found.state == "complete"
    assert found.summary["communication_sessions"][0]["stop"]
    asking.end(other)
    asking.assert_over()


def test_the_200_has_offer_metadata_and_feature(root: Path) -> None:
    asking = Asking(root)
    call = asking.call()
    responses: list[SipResponse] = []
    answered = InvitedRecording.answered

    def keep(self: InvitedRecording, leg: Call, response: SipResponse) -> None:
        responses.append(response)
        answered(self, leg, response)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InvitedRecording, "answered", keep)
        asking.ask(f"sip:{call.dlg_id}@10.0.0.1")
    (response,) = responses
    assert response.contact is not None
    assert "+sip.src" in response.contact.params
    lines = sdp.parse(session_description(response) or b"").media
    assert [(line.label, line.direction) for line in lines] == [("1", "sendonly"), ("2", "sendonly")]
    (metadata,) = [part for part in parts_of(response) if part.disposition == "recording-session"]
    asking.world.check_schema(etree.fromstring(metadata.body))
    assert asking.recorded() == [(session_of(asking, call), 2)]
    asking.assert_over()


def test_all_calls_are_asked_for_now_and_to_come(root: Path) -> None:
    asking = Asking(root)
    asking.ask("sip:10.0.0.1")
    assert asking.outcomes == [200]
    assert asking.recorded() == []  # nothing to record yet: an inactive line
    calls = [asking.call() for _ in range(3)]
    assert asking.recorded() == [(session_of(asking, call), 2) for call in calls]
    asking.end(calls[1])
    assert [name for name, _ in asking.recorded()] == [session_of(asking, calls[0]), session_of(asking, calls[2])]
    late = Asking(root / "late")
    early = late.call()
    late.ask("sip:10.0.0.1")
    assert late.recorded() == [(session_of(late, early), 2)]
    late.assert_over()
    # The recorder ends its session: copies stop, calls go on.
    asking.server.close()
    asking.world.clock.run_for(5.0)
    assert not asking.world.media.flowing()
    assert all(call.state == "confirmed" for call in asking.calls)
    asking.assert_over()


def test_the_calls_of_an_address_of_record_are_asked_for(root: Path) -> None:
    asking = Asking(root)
    asking.ask("sip:carol@example.org")
    carol, alice = asking.call("sip:carol@example.org;x=y"), asking.call()
    assert asking.recorded() == [(session_of(asking, carol), 2)]
    assert asking.world.states(alice) == {}
    asking.assert_over()


@pytest.mark.parametrize(
    ("settings", "target", "status"),
    [
        ({"allow": ()}, "sip:10.0.0.1", 403),
        ({"allow": ("192.0.2.0/24",)}, "sip:10.0.0.1", 403),
        ({"scope": ("call",)}, "sip:10.0.0.1", 403),
        ({"scope": ("call", "all")}, "sip:alice@10.0.0.1", 403),
        ({}, "sip:nothing%40here@10.0.0.1", 404),
        ({"max_sessions": 1}, "sip:10.0.0.1", 486),
    ],
)
def test_what_policy_does_not_allow_is_refused(
    root: Path, settings: dict[str, object], target: str, status: int
) -> None:
    asking = Asking(root, **settings)
    if status == 486:
        asking.ask("sip:10.0.0.1")
        asking.outcomes.clear()
    asking.ask(target)
    assert asking.outcomes == [status]
    asking.assert_over()


def test_a_call_whose_media_cannot_be_copied_is_480(root: Path) -> None:
    asking = Asking(root)
    call = asking.call()
    asking.world.media.fail.add("subscribe")
    asking.ask(f"sip:{call.dlg_id}@10.0.0.1", 8.0)
    assert asking.outcomes == [480]
    asking.assert_over()


def test_a_call_that_ends_while_its_session_is_set_up_leaves_nothing(root: Path) -> None:
    for moment in (0.0, 0.005, 0.02, 0.03, 0.05, 0.1):
        asking = Asking(root / str(moment))
        call = asking.call()
        asking.ask(f"sip:{call.dlg_id}@10.0.0.1", moment)
        asking.end(call)
        asking.assert_over()


@pytest.mark.parametrize(
    ("head", "yes"),
    [
        ("Require: siprec\r\nContact: <sip:s@h>;+sip.srs\r\n", True),
        ("Contact: <sip:s@h>;+sip.srs\r\n", False),
        ("Require: siprec\r\nContact: <sip:s@h>\r\n", False),
        ("Require: siprec\r\nContact: <sip:s@h>;+sip.src\r\n", False),
    ],
)
def test_only_tag_and_feature_together_make_a_recording_session(head: str, yes: bool) -> None:
    text = f"INVITE sip:a@b SIP/2.0\r\nCSeq: 1 INVITE\r\n{head}\r\n"
    request = parse_datagram(text.encode())
    assert isinstance(request, SipRequest)
    assert is_request(request) is yes


@pytest.mark.parametrize(("transport", "outcome"), [("udp", 403), ("tcp", 200), ("", 200)])
def test_an_address_is_believed_over_tcp_and_not_over_udp(
    root: Path, transport: str, outcome: int, caplog: pytest.LogCaptureFixture
) -> None:
    asking = Asking(root)
    asking.ask("sip:10.0.0.1" + (f";transport={transport}" if transport else ""))
    assert asking.outcomes == [outcome]
    assert ("forged" in caplog.text) is (outcome == 403)
    asking.server.close()
    asking.world.clock.run_for(60)
    asking.assert_over()


def test_a_recorder_keeps_asking_with_growing_patience(root: Path) -> None:
    asking = Asking(root, allow=())
    invitations = Invitations(asking.server, asking.agent, ME)
    invitations.invite(Uri.parse("sip:10.0.0.1"))
    asking.world.clock.run_for(100.0)
    asking.requests.settings = RequestSettings(allow=("10.0.0.0/8",))
    asking.world.clock.run_for(70.0)
    assert len(asking.recorder.sessions) == 1
    # When the client ends it, it is asked again.
    asking.world.service.shared_sessions.sessions[0].hurry()
    asking.world.clock.run_for(5.0)
    assert len(asking.recorder.sessions) == 1
    invitations.close()
    asking.assert_over()
