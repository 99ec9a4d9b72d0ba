"""A proxy that records its calls, with phones and a recorder, on the simulated network: what the two together do."""

from __future__ import annotations

from typing import Any

from siprec import sdp
from siprec.media.engine import NO_FLAGS, MediaFlags, MediaSession, SdpResult
from siprec.proxy.call import Call, CallObserver
from siprec.proxy.hang_up import HangUp
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import Rules
from siprec.proxy.script import Script
from siprec.recording.events import SiprecEvent
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.service import RecordingService
from siprec.recording.settings import SiprecVariable
from siprec.sip.useragent import UserAgent
from tests.simulation.network import VirtualClock
from tests.simulation.proxyworld import PROXY, ProxyWorld
from tests.simulation.recording_world import FakeMediaServer, Srs, World

SRS = "10.0.0.90"


class CallMediaServer(FakeMediaServer):
    """Passes descriptions too, with an address of its own in them, and knows its parties by them."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.live: set[str] = set()
        self.words: list[tuple[str, ...]] = []

    def _pass(self, command: str, party: str, session: MediaSession, octets: bytes, done: SdpResult) -> None:
        self.live.add(session.call_id)
        self.parties[party] = octets
        description = sdp.parse(octets)
        description.set_address("10.0.0.9")
        self._later(command, done, description.to_bytes)

    def offer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        self.words.append(flags.flags)
        self._pass("offer", session.from_tag, session, sdp, done)

    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        self._pass("answer", session.to_tag, session, sdp, done)

    def delete(self, session: MediaSession, done: Any = None) -> None:
        self.live.discard(session.call_id)
        super().delete(session, done)


class _Wish(CallObserver):
    """Has every call recorded."""

    def call_created(self, call: Call) -> None:
        call.record()


class TransferWorld(ProxyWorld):
    """`ProxyWorld` with a recording client on the proxy, and a recorder at 10.0.0.90."""

    def __init__(
        self,
        phones: int = 3,
        *,
        wish: bool = True,
        rules: Rules | None = None,
        script: Script | None = None,
        options: ProxyOptions | None = None,
        others: dict[str, dict[str, Any]] | None = None,
        **profile: Any,
    ) -> None:
        super().__init__(phones, rules=rules, script=script, options=options)
        self.server = CallMediaServer(self.clock)
        self.core.media.pick = lambda call: self.server
        self.agent = UserAgent(
            self.clock, self.layer, self.resolve, contact=lambda hop: f"sip:siprec@{PROXY}:5060", extensions=("siprec",)
        )
        self.core.attach(self.layer, self.agent)
        self.service = RecordingService(
            self.clock,
            self.agent,
            profiles={
                name: RecordingProfile(**{"srs": f"sip:srs@{SRS}", **settings})
                for name, settings in {"default": profile, **(others or {})}.items()
            },
            from_uri=f"sip:src@{PROXY}",
            group_secret=b"s",
            hang_up=HangUp(self.core),
            signalled=self.core.midcall.changed,
        )
        if wish:
            self.core.observers.add(_Wish())
        self.core.settings = SiprecVariable
        self.events: list[SiprecEvent] = []
        self.service.events.subscribe(self.events.append)
        self.core.observers.add(self.service)
        self.core.recorder = self.service
        self.core.indicator = self.service.indications
        recorders = World()
        recorders.clock, recorders.network = self.clock, self.network
        self.srs = Srs(recorders, SRS)

    def told(self, instance: str = "") -> list[str]:
        """The events so far."""
        return [e.name.removeprefix("E_SIPREC_") for e in self.events if instance in ("", e.instance)]

    def finish(self) -> None:
        self.service.close()
        super().finish()
        assert not self.service.info()
        assert not self.server.live
        assert not self.server.subscriptions
        assert self.agent.counts() == {"calls": 0, "dialogs": 0}
