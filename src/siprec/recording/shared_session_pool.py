"""Which recording session a call joins, where sessions are shared or stand by (``session`` of a profile)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.rs_peer import DialogOwner
from siprec.recording.settings import RecordingSettings
from siprec.recording.shared_member import SessionMember
from siprec.recording.shared_session import SharedSession
from siprec.recording.srs_health import HealthTable, SrsObserver
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.uri import Uri
from siprec.sip.useragent import UserAgent

log = logging.getLogger(__name__)

#: Seconds between attempts to set up a standing recording session: doubled each time all SRSs were tried.
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
#: How the recordings of sessions that an SRS asked for are called, before the rest of the name.
INBOUND: Final = "srs-"


@dataclass(slots=True)
class _Standing:
    """The session that a profile keeps: which SRS is due, and since when it fails."""

    profile: RecordingProfile
    target: int = 0
    delay: float = FIRST_RETRY
    timer: Timer | None = None
    woken: bool = False
    """It was set up again because an SRS is back, and has not come up since."""


class SharedSessionPool(SrsObserver):
    """All shared recording sessions of a process. `from_uri` names the SRC (RFC 7866 6.1.1)."""

    def __init__(self, clock: Clock, agent: UserAgent, from_uri: str, health: HealthTable) -> None:
        self.clock, self.agent, self.from_uri, self._health = clock, agent, from_uri, health
        self.sessions: list[SharedSession] = []
        self._standing: dict[str, _Standing] = {}
        self._profiles: Mapping[str, RecordingProfile] = {}
        self._open = False

    # -- standing sessions ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """From now on set up what the profiles keep standing."""
        self._open = True
        self.configure(self._profiles)

    def configure(self, profiles: Mapping[str, RecordingProfile]) -> None:
        """Take a configuration: sessions of profiles that changed or are gone end with their last call."""
        self._profiles = profiles
        for name, standing in list(self._standing.items()):
            if profiles.get(name) != standing.profile:
                del self._standing[name]
                if standing.timer is not None:
                    standing.timer.cancel()
                for session in [t for t in self.sessions if t.key[0] == name]:
                    session.retired = True
                    session.release()
        for name, profile in profiles.items():
            if self._open and profile.session == "persistent" and name not in self._standing:
                self._standing[name] = _Standing(profile)
                self._stand(name)

    def close(self) -> None:
        """Keep nothing standing any more."""
        self._open = False
        for standing in self._standing.values():
            if standing.timer is not None:
                standing.timer.cancel()
        self._standing.clear()
        for session in list(self.sessions):
            session.release()

    def hurry(self) -> None:
        """End the sessions that are to end without waiting for an SRS."""
        if not self._open:
            for session in list(self.sessions):
                session.hurry()

    def _stand(self, name: str) -> None:
        """Make sure that there is a session of this profile without calls."""
        standing = self._standing.get(name)
        if standing is None or any(t.standing and t.key[0] == name for t in self.sessions):
            return
        if standing.timer is not None:
            standing.timer.cancel()
            standing.timer = None
        profile = standing.profile
        server = profile.targets[standing.target % len(profile.targets)]
        self._session((name, ""), server, profile, profile.settings, standing=True).open()

    def srs_up(self, server: str) -> None:
        """`server` answers again: sessions that it should keep standing are not waited for any longer."""
        for name, standing in list(self._standing.items()):
            if standing.timer is not None and not standing.woken and server in standing.profile.targets:
                standing.woken = True
                standing.target = standing.profile.targets.index(server)
                self._stand(name)

    def _over(self, session: SharedSession, status: int, reason: str) -> None:
        self.sessions.remove(session)
        if session.refused and status and not session.members:
            # Who has members hears it from them.
            self._health.mark_down(session.server, session.profile, status, reason, session.retry_after)
        name = session.key[0]
        standing = self._standing.get(name)
        if not session.standing or standing is None or standing.profile != session.profile:
            return
        log.warning("standing recording session of %r with %s: %s %s", name, session.server, status or "", reason)
        standing.target += 1
        delay = 0.0
        if session.refused and standing.target % len(standing.profile.targets) == 0:
            delay = standing.delay * (0.75 + 0.5 * self.agent.random.random())
            standing.delay = min(standing.delay * 2, LAST_RETRY)
        elif not session.refused:
            # It was up; a server that takes it and drops it at once is not to be called in a loop.
            standing.target -= 1 if status == 481 else 0
            delay = FIRST_RETRY
        standing.timer = self.clock.call_later(delay, self._stand, name)

    def _up(self, session: SharedSession) -> None:
        self._health.mark_up(session.server, session.profile, took=True)
        standing = self._standing.get(session.key[0])
        if session.standing and standing is not None:
            standing.delay = FIRST_RETRY
            standing.woken = False
            standing.target = session.profile.targets.index(session.server)
            log.info("standing recording session of %r with %s", session.key[0], session.server)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def join(
        self, instance: str, profile: RecordingProfile, settings: RecordingSettings, server: str, owner: DialogOwner
    ) -> SessionMember | None:
        """A place for a call at `server`; None when another SRS of the list has a standing session for it now.

        Calls of one profile share; where sessions are not standing, those that have the same group.
        """
        if instance.startswith(INBOUND):
            asked = next((t for t in self.sessions if t.key[0] == instance and t.takes_more), None)
            return asked.join(owner) if asked is not None else None
        key = (instance, settings.group if profile.session == "shared" else "")
        mine = [t for t in self.sessions if t.key == key and t.profile == profile and not t.retired and t.takes_more]
        here = [t for t in mine if t.server == server]
        if here:
            return max(here, key=lambda t: (t.state == "up", len(t.members))).join(owner)
        if profile.session == "persistent" and any(t.state == "up" for t in mine):
            return None
        # Where nothing stands just now, this is it.
        standing = instance in self._standing and not any(t.standing and t.key == key for t in self.sessions)
        return self._session(key, server, profile, profile.settings if standing else settings, standing=standing).join(
            owner
        )

    def _session(
        self,
        key: tuple[str, str],
        server: str,
        profile: RecordingProfile,
        settings: RecordingSettings,
        *,
        standing: bool,
    ) -> SharedSession:
        session = SharedSession(
            self.clock,
            self.agent,
            key,
            _reliable(server, profile),
            profile,
            settings,
            self.from_uri,
            standing=standing,
            limit=profile.calls_per_session,
            up=self._up,
            over=self._over,
        )
        session.server = server
        self.sessions.append(session)
        return session


def _reliable(server: str, profile: RecordingProfile) -> str:
    """A description of several calls fits no datagram: TCP, where nothing else is asked for (RFC 3261 18.1.1)."""
    try:
        uri = Uri.parse(server)
    except SipError:
        return server
    if profile.transport or uri.transport or uri.scheme == "sips":
        return server
    return uri.replace(params={**uri.params, "transport": "tcp"}).text
