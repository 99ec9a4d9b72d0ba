"""Messages that cross, are lost and overtake each other between us and the SRS: the recording comes to one end, all is
given back, and the phones see what they would see without any recording."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siprec.metadata.values import NAMESPACE
from siprec.sip.message import SipResponse
from siprec.sip.useragent import Call as UaCall
from siprec.sip.useragent import IncomingCall
from tests.simulation.network import LinkQuality
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import PROXY
from tests.simulation.recording_world import Srs, World
from tests.simulation.transferworld import SRS, TransferWorld

SECOND = "10.0.0.91"
SNAPSHOT = f'<requestsnapshot xmlns="{NAMESPACE}"/>'.encode()
HOLD = SDP + b"a=sendonly\r\n"

qualities = st.builds(
    LinkQuality,
    loss=st.sampled_from([0.0, 0.0, 0.15, 0.4]),
    duplicate=st.sampled_from([0.0, 0.3]),
    delay=st.sampled_from([0.001, 0.05, 0.3]),
    jitter=st.sampled_from([0.0, 0.1, 1.0]),
)
CALL = ("caller holds", "callee holds")
STEERING = ("pause", "resume", "stop", "start")
RECORDER = ("inactive", "recvonly", "offerless", "snapshot", "options", "bye", "update")
#: Branches, the cookie in Record-Route, the proxy's own tags.
_LOT = re.compile(rb"branch=[^;,\r]+|;did=[0-9a-f-]+|tag=[0-9a-f]{10}(?![0-9a-f])")
# Around a few moments, so that what happens there crosses.
moments = st.builds(
    lambda base, offset: base + offset,
    st.sampled_from([0.0, 0.4, 1.0, 3.0, 9.0]),
    st.integers(0, 400).map(lambda ms: ms / 1000),
)
happenings = st.lists(st.tuples(moments, st.sampled_from((*CALL, *STEERING, *RECORDER))), max_size=10)


class Crossing:
    """One call, its ends and what happens meanwhile; recorded or not."""

    def __init__(
        self,
        recorded: bool,
        quality: LinkQuality,
        happenings: list[tuple[float, str]],
        ring: float,
        ends: tuple[float, str],
        answer_delay: float,
        statuses: tuple[int, int],
        media_delay: float,
        seed: int,
    ) -> None:
        self.lossy = quality.loss > 0
        self.w = w = TransferWorld(
            2, wish=recorded, srs=f"sip:srs@{SRS}, sip:srs@{SECOND}", setup_timeout=2.0, end_timeout=2.0, watch=0
        )
        w.core.media.use = "always"  # recorded or not: the media pass our server
        recorders = World()
        recorders.clock, recorders.network = w.clock, w.network
        self.servers = [w.srs, Srs(recorders, SECOND)]
        for server, status in zip(self.servers, statuses, strict=True):
            server.answer_delay, server.status = answer_delay, status
            w.network.link(PROXY, server.node.host, quality)
            server.node.max_udp = 65535
        w.node.max_udp = 65535
        w.network.random.seed(seed)
        w.server.delay = media_delay
        w.bob.take = lambda call: self._ring(call, ring)
        self.call = w.call(session_expires=90)
        at, who = ends
        w.clock.call_later(at, self._end, who)
        for when, what in happenings:
            w.clock.call_later(when, self._do, what)

    def _ring(self, call: IncomingCall, ring: float) -> None:
        call.answer(180)
        self.w.clock.call_later(ring, call.answer, 200, ANSWER)

    def _end(self, who: str) -> None:
        callee = next(iter(self.w.bob.calls), None)
        if who == "callee" and callee is not None and callee.state == "confirmed":
            callee.bye()
        else:
            self.call.bye()  # before the answer: CANCEL

    def _do(self, what: str) -> None:
        w = self.w
        if what in CALL:
            side: UaCall | None = self.call if what == "caller holds" else next(iter(w.bob.calls), None)
            if side is not None and side.state == "confirmed":
                side.reinvite(HOLD, "application/sdp")
            return
        live = w.journal.calls[-1] if w.journal.calls else None
        if what in STEERING and live is not None and w.service.info():
            match what:
                case "pause":
                    live.siprec_pause_recording()
                case "resume":
                    live.siprec_resume_recording()
                case "stop":
                    live.siprec_stop_recording()
                case _:
                    live.siprec_start_recording(f"sip:srs@{SECOND}")
            return
        for server in self.servers:
            for call in server.calls:
                if call.state == "confirmed":
                    self._ask(server, call, what)

    def _ask(self, server: Srs, call: IncomingCall, what: str) -> None:
        match what:
            case "inactive" | "recvonly":
                call.reinvite(server.answer_to(call.invite, what))
            case "update":
                call.update(server.answer_to(call.invite, "recvonly"), "application/sdp")
            case "offerless":

                def answered(result: SipResponse | str) -> None:
                    if isinstance(result, SipResponse) and result.status == 200:
                        call.ack(server.answer_to(call.invite))

                call.reinvite(b"", "", (), answered)
            case "snapshot":
                call.update(SNAPSHOT, "application/rs-metadata+xml", (("Content-Disposition", "recording-session"),))
            case "options":
                call.request("OPTIONS", b"", "", (), lambda result: None)
            case "bye":
                call.bye()

    def finish(self) -> None:
        self.w.finish()
        # An SRS that asks in a dialog that is over is told so.
        assert not [s for s in self.w.network.trace if s.line.startswith("SIP/2.0 404")]
        for server in self.servers:
            assert server.agent.counts() == {"calls": 0, "dialogs": 0}
            if not self.lossy:
                # Every dialog that began was acknowledged, and ended by a message (481: one that crossed our BYE).
                assert set(server.ended_reasons) <= {"bye", "cancelled", "dialog dead: 481"}, server.ended_reasons

    def seen_by_phones(self) -> list[tuple[float, str, str, bytes]]:
        """What the phones sent and got, but for what is drawn by lot."""
        phones = {phone.node.host for phone in self.w.phones}
        return [
            (round(s.time, 6), s.source[0], s.destination[0], _LOT.sub(b"", s.data))
            for s in self.w.network.trace
            if phones & {s.source[0], s.destination[0]}
        ]


@pytest.fixture(autouse=True)
def nothing_is_thrown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    quality=qualities,
    happenings=happenings,
    ring=st.sampled_from([0.0, 0.0, 0.2, 0.9]),
    ends=st.tuples(
        st.one_of(moments, st.integers(9000, 12000).map(lambda ms: ms / 1000)), st.sampled_from(["caller", "callee"])
    ),
    answer_delay=st.sampled_from([0.0, 0.1, 0.8, 1.9]),
    statuses=st.sampled_from([(200, 200), (200, 200), (200, 486), (486, 200), (603, 486)]),
    media_delay=st.sampled_from([0.001, 0.05, 0.2]),
    seed=st.integers(0, 10**6),
)
def test_whatever_crosses_each_start_has_one_stop_all_is_released_and_the_call_is_as_it_would_be(
    caplog: pytest.LogCaptureFixture,
    quality: LinkQuality,
    happenings: list[tuple[float, str]],
    ring: float,
    ends: tuple[float, str],
    answer_delay: float,
    statuses: tuple[int, int],
    media_delay: float,
    seed: int,
) -> None:
    runs = [
        Crossing(recorded, quality, happenings, ring, ends, answer_delay, statuses, media_delay, seed)
        for recorded in (True, False)
    ]
    for run in runs:
        run.finish()
    recorded, plain = runs
    assert recorded.seen_by_phones() == plain.seen_by_phones()
    told: dict[str, list[str]] = defaultdict(list)
    for event in recorded.w.events:
        if event.name in ("E_SIPREC_START", "E_SIPREC_STOP"):
            told[event.callid].append(event.name.removeprefix("E_SIPREC_"))
    assert all(names == ["START", "STOP"] for names in told.values()), told
    names = Counter(recorded.w.told())
    answered = "answered" in recorded.w.journal.events
    assert answered or not names["START"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
