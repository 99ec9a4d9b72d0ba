"""The media server's part in one call: descriptions go through it on their way, or pass untouched when it fails.

The first law: it never delays or breaks the call. A request that is not answered in time is given up, and the
descriptions go on as the parties wrote them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from msgspec.structs import replace

from siprec.media.engine import (
    NO_FLAGS,
    DeleteResult,
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
    merged,
)
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.headers import ParameterValue
from siprec.sip.message import SipMessage
from siprec.sip.multipart import SDP_TYPE, Part, replace_part
from siprec.sip.multipart import sdp_part as located_sdp

log = logging.getLogger(__name__)

Passed = Callable[["bytes | None"], None]
"""Gets the description to forward, or None: forward it as it came."""

Trouble = Callable[[MediaServer, MediaError], "MediaServer | None"]
"""Hears that a media server did not do what a call asked; says which one to ask instead, if any."""
MAX_SPARES: Final = 2
_LATE: Final = MediaError("no reply in time", timeout=True)

_SDP: Final = ParameterValue(SDP_TYPE, {})
_Key = tuple[str, MediaSession]


@dataclass(frozen=True, slots=True)
class MediaTimes:
    """Seconds a call waits at most. An answer is worth more patience than an offer: where an offer that went through
    the media server is answered around it, audio goes one way."""

    offer: float = 0.3
    answer: float = 1.0


def sdp_part(message: SipMessage) -> Part | None:
    """The session description of a message, alone or in a multipart (OA-06), or as the whole body under a wrong type or
    none; None also when the body is broken."""
    body = message.body
    if not body:
        return None
    try:
        part = located_sdp(message)
    except SipError:
        part = None
    if part is None and body.startswith(b"v=0") and "early" not in (message.get("content-disposition") or "").lower():
        return Part(_SDP, [], body, whole=body, end=len(body))
    return part


def sdp_of(message: SipMessage) -> bytes:
    """The octets of the session description of a message, empty if there is none."""
    part = sdp_part(message)
    if part is None:
        return b""
    try:
        return part.content
    except SipError:
        return b""


def put_sdp(message: SipMessage, sdp: bytes) -> bool:
    """Replace the session description in its place; false if that cannot be done (the message stays as it was)."""
    part = sdp_part(message)
    if part is None:
        return False
    try:
        replace_part(message, part, sdp)
    except (SipError, ValueError):
        return False
    return True


class CallMedia:
    """One call at one media server.

    `transport_protocol` is what the callee is offered, "" for what the caller offers; `asked` is said with the caller's
    offers.
    `on_trouble` hears of each request that failed; where nothing has passed the media server yet, the call goes to the
    one that it names, two times at the most. `on_failure(reason)` is called once, when the call is to do without.
    `lost` says why the server is not asked any more, although the call did not give it up yet: an answer did not pass,
    or the server is lost (`gone`: with all its media). Then descriptions go on as they came, until :meth:`move` or
    :meth:`fail`. `on_unanswered` hears of offers within a call that failed; true: the call is going to be moved.
    `carried` is told of servers that the call comes to (1) and leaves (-1). Callbacks may come from
    inside `offer` and `answer` when nothing has to be asked: a description that came before gets the answer it got.
    """

    __slots__ = (
        "_answerer",
        "_asked",
        "_at_end",
        "_carried",
        "_clock",
        "_held",
        "_in_flight",
        "_last",
        "_moving",
        "_on_failure",
        "_on_trouble",
        "_on_unanswered",
        "_passed",
        "_reoffer",
        "_spares",
        "_times",
        "_transport_protocol",
        "answered",
        "flags",
        "gone",
        "lost",
        "requests",
        "server",
        "session",
        "state",
    )

    def __init__(
        self,
        clock: Clock,
        server: MediaServer,
        session: MediaSession,
        times: MediaTimes,
        on_failure: Callable[[str], None],
        flags: MediaFlags = NO_FLAGS,
        transport_protocol: str = "",
        asked: MediaFlags = NO_FLAGS,
        on_trouble: Trouble | None = None,
        carried: Callable[[MediaServer, int], None] | None = None,
        on_unanswered: Callable[[MediaError], bool] | None = None,
    ) -> None:
        self._clock = clock
        self._on_unanswered = on_unanswered
        # Something of the server's went to a party; the server may have something of the call.
        self._passed, self._held = False, True
        self._moving = False
        self.lost, self.gone = "", False
        self._on_trouble = on_trouble
        self._carried = carried or _nobody
        self._spares = MAX_SPARES
        self._transport_protocol = transport_protocol
        self._asked = asked
        self.server = server
        self.session = session
        self._times = times
        self._on_failure = on_failure
        self.flags = flags
        self.state = "active"
        self.answered = False
        self.requests = 0
        self._last: dict[_Key, tuple[bytes, bytes]] = {}
        self._in_flight: dict[tuple[_Key, bytes], list[Passed]] = {}
        self._reoffer: tuple[MediaSession, bytes] | None = None
        self._answerer: MediaSession | None = None
        self._at_end: tuple[DeleteResult, ...] = ()
        self._carried(server, 1)

    @property
    def busy(self) -> bool:
        """Whether the media server is being asked something."""
        return bool(self._in_flight)

    def offer(self, session: MediaSession, sdp: bytes, done: Passed) -> None:
        """Pass an offer; `session.from_tag` is who makes it. The same description again changes nothing (OA-09)."""
        key = ("offer", session)
        last = self._last.get(key)
        if self.state == "active" and last is not None and last[0] == sdp:
            self._reoffer = (session, sdp)
            done(last[1])
            return
        self._reoffer = None
        if session.to_tag and (key, sdp) not in self._in_flight:
            # Within a dialog a new offer makes what was agreed before a thing of the past.
            self._last.clear()
        self._request(key, sdp, done)

    def answer(self, session: MediaSession, sdp: bytes, done: Passed) -> None:
        """Pass the answer of `session.to_tag` to the offer of `session.from_tag`."""
        key = ("answer", session)
        last = self._last.get(key)
        if self.state == "active" and last is not None and last[0] == sdp and self._answerer == session:
            done(last[1])
            return
        # Of several branches that answer, the one asked about last has the media: 183 of B, 183 of A, 200 of B.
        self._answerer = session
        again, self._reoffer = self._reoffer, None
        if again is not None and again[0].from_tag == session.from_tag and self.state == "active":
            # The offer needed no asking, its answer is another one: the media server has to hear both.
            def offered(result: bytes | None) -> None:
                if result is None:
                    done(None)
                else:
                    self._request(key, sdp, done)

            self._request(("offer", again[0]), again[1], offered)
            return
        self._request(key, sdp, done)

    def _request(self, key: _Key, sdp: bytes, done: Passed) -> None:
        if self.state != "active" or self.lost:
            done(None)
            return
        waiting = self._in_flight.get((key, sdp))
        if waiting is not None:
            waiting.append(done)  # a retransmission; one question is enough
            return
        mine: list[Passed] = [done]
        self._in_flight[key, sdp] = mine
        self.requests += 1
        command, session = key
        timer: Timer | None = None

        def finish(result: bytes | MediaError) -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
                timer = None
            if self._in_flight.get((key, sdp)) is not mine:
                return  # too late, or another media server was asked meanwhile
            if isinstance(result, MediaError) and self._elsewhere(result):
                return
            waiting = self._in_flight.pop((key, sdp))
            if isinstance(result, MediaError):
                self._refused(command, result)
            if self.state != "active" or self.lost or isinstance(result, MediaError):
                for each in waiting:
                    each(None)
                return
            self._last[key] = (sdp, result)
            self._passed = True
            self.answered = self.answered or command == "answer"
            for each in waiting:
                each(result)

        limit = self._times.offer if command == "offer" else self._times.answer
        timer = self._clock.call_later(limit, finish, _LATE)
        request = self.server.offer if command == "offer" else self.server.answer
        flags = self.flags
        if command == "offer" and session.from_tag == self.session.from_tag:
            # The media server remembers it for the callee's offers; said there it would be about the caller.
            flags = merged(flags, self._asked)
            if self._transport_protocol:
                flags = replace(flags, transport_protocol=self._transport_protocol)
        try:
            request(session, sdp, finish, flags=flags)
        except Exception as error:
            log.exception("media server %s, Call-ID %s", self.server.name, session.call_id)
            self._clock.call_later(0, finish, MediaError(f"internal error: {error}"))

    def _refused(self, command: str, error: MediaError) -> None:
        """A request failed. Where the parties were told something of the server's already, the call is not given up at
        once: it may be moved (:mod:`siprec.proxy.media_failover`)."""
        reason = f"{command}: {error}"
        if self.state != "active" or self.lost:
            return
        if self._moving or not self._passed:
            self.fail(reason)
        elif command == "answer" or (self._on_unanswered is not None and self._on_unanswered(error)):
            self.lost = self.lost or reason
        else:
            self.fail(reason)

    def _elsewhere(self, error: MediaError) -> bool:
        """Tell of the trouble; ask another media server, if there is one and nothing went through this one so far."""
        if self.state != "active" or self._on_trouble is None:
            return False
        other = self._on_trouble(self.server, error)
        if other is None or self.answered or self._last or not self._spares:
            return False
        self._spares -= 1
        self._delete()
        self._go_to(other)
        self._held = True
        asked, self._in_flight = self._in_flight, {}
        for (key, sdp), waiting in asked.items():
            for done in waiting:
                self._request(key, sdp, done)
        return True

    def _go_to(self, server: MediaServer) -> None:
        self._carried(self.server, -1)
        self.server = server
        self._carried(server, 1)

    def move(
        self,
        server: MediaServer,
        session: MediaSession,
        offer: bytes,
        answer: bytes,
        done: Callable[[bytes, bytes], None],
    ) -> None:
        """Take an established call to another media server: `offer` of `session.from_tag` and `answer` of
        `session.to_tag` are what they agreed; `done` gets what each of them has to be told instead: the offer for who
        answered it, the answer for who made it. Not called when that fails: then the call does without."""
        if server is not self.server:
            self._delete()
            self._passed = False
        self._go_to(server)
        self._held = self._moving = True
        self.lost = ""
        self._last.clear()
        self._reoffer = self._answerer = None
        self.answered = False
        self._spares = 0

        def offered(first: bytes | None) -> None:
            if first is not None:
                self.answer(session, answer, lambda second: answered(first, second))
            else:
                self._moving = False

        def answered(first: bytes, second: bytes | None) -> None:
            self._moving = False
            if second is not None:
                done(first, second)

        self.offer(session, offer, offered)

    def fail(self, reason: str) -> None:
        """Do without the media server from now on."""
        if self.state != "active":
            return
        self.state = "failed"
        self._carried(self.server, -1)
        self._last.clear()
        if not self._passed:
            # Nothing runs through it; an offer that it took after all must not hold ports.
            self._delete()
        self._on_failure(reason)

    def unused(self) -> None:
        """The call does without the media server, and no party sends there any more."""
        if self.state == "failed" and self._held:
            self._delete()

    def end(self) -> None:
        """The call is over: everything of it goes, on every path. Twice is once."""
        if self.state == "ended":
            return
        if self.state == "active":
            self._carried(self.server, -1)
        self.state = "ended"
        self._last.clear()
        # These know the call, which knows this object: no cycle is to be left.
        self._on_failure, self._on_trouble, self._on_unanswered = _unheard, None, None
        waiting, self._at_end = self._at_end, ()
        if self._held:
            self._delete(partial(_tell, waiting) if waiting else None)

    def at_end(self, done: DeleteResult) -> bool:
        """Have `done` told of the counters that the call leaves behind, when :meth:`end` ends it. False: nothing of it
        is at the media server any more, and `done` is not called."""
        if self.state == "ended" or not self._held:
            return False
        self._at_end = (*self._at_end, done)
        return True

    def _delete(self, done: DeleteResult | None = None) -> None:
        self._held = False
        try:
            self.server.delete(self.session, done)
        except Exception:
            log.exception("media server %s, Call-ID %s", self.server.name, self.session.call_id)


def _tell(waiting: Sequence[DeleteResult], result: MediaStatistics | MediaError | None) -> None:
    for done in waiting:
        done(result)


def _unheard(reason: str) -> None:
    """The call is over."""


def _nobody(server: MediaServer, change: int) -> None:
    """Nobody counts."""
