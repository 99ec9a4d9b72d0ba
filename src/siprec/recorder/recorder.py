"""A recorder: the recording sessions of a process, and what they share."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from siprec.recorder import headers
from siprec.recorder.errors import RecorderFull
from siprec.recorder.resources import Resources
from siprec.recorder.session import RecordingSession
from siprec.recorder.space import Space


@dataclass(eq=False)
class Recorder(Resources):
    """Makes recording sessions."""

    sessions: set[RecordingSession] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.space = Space(self.library.root, self.writer, self.settings.min_free)
        if not self.settings.advertised and ipaddress.ip_address(self.ports.address).is_unspecified:
            raise ValueError(f"bound to {self.ports.address}: the address for answers (advertised) has to be given")

    def session(
        self,
        *,
        call_id: str,
        from_uri: str,
        src_address: str = "",
        wall: float | None = None,
        kept: headers.Kept | None = None,
    ) -> RecordingSession:
        """Begin a recording session; raises :class:`RecorderFull`.

        `src_address` is where the request came from (an IP address, its media are trusted); `wall` its time of arrival
        or its Date (RFC 7865 6.1.1), Unix seconds; `kept` headers of the request that are kept with the recordings. The
        files are made with the first offer.
        """
        if len(self.sessions) >= self.settings.max_sessions:
            raise RecorderFull("too many recording sessions")
        if problem := self.space.problem():
            raise RecorderFull(problem)
        most = self.settings.max_sessions_per_client
        if most and sum(each.src_address == src_address for each in self.sessions) >= most:
            raise RecorderFull(f"too many recording sessions of {src_address}")
        started = self.clock.wall() if wall is None else wall
        session = RecordingSession(self, self.sessions.discard, call_id, from_uri, src_address, started, kept)
        self.sessions.add(session)
        return session

    def close(self) -> None:
        """End all sessions, finish all files; blocks until they are on the disk."""
        for session in list(self.sessions):
            session.close("the recorder stopped")
        self.ports.close()
        self.writer.close()
