"""Calls at their media servers: which one a call has, what is asked there, what becomes of replies and failures."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from msgspec.structs import replace

from siprec.media.engine import (
    NO_FLAGS,
    DeleteResult,
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
)
from siprec.proxy.call import Call
from siprec.proxy.call_media_session import CallMedia, MediaAction, MediaTimes, Question, Waiting
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.protocols import Proxy
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)

_LATE: Final = MediaError("no reply in time", timeout=True)

PickMedia = Callable[[Call], "MediaServer | None"]


class MediaSessions(ABC):
    """Of one proxy. `pick` chooses the media server of a call (None: there is none); `use` is ``recorded``, ``always``
    or ``never``; `on_failure` ``pass`` or ``reject``."""

    def __init__(
        self,
        core: Proxy,
        pick: PickMedia | None,
        *,
        use: Literal["recorded", "always", "never"] = "recorded",
        on_failure: Literal["pass", "reject"] = "pass",
        times: MediaTimes | None = None,
        flags: MediaFlags = NO_FLAGS,
    ) -> None:
        self._core = core
        self._lines = SourceLog(log, now=core.clock.now)
        self.pick = pick
        self.use = use
        self.on_failure = on_failure
        self.times = times or MediaTimes()
        self.flags = flags
        self.on_trouble: Callable[[Call, MediaServer, MediaError], MediaServer | None] | None = None
        """Hears of each request of a call that failed; says which other media server a new call may go to."""
        self.on_unanswered: Callable[[Call, MediaServer, MediaError], bool] = lambda call, server, error: False
        """Hears of offers in mid-call that failed; true: the call is to be moved to another media server."""
        self.load: Counter[MediaServer] = Counter()
        """Calls by the media server that carries them."""
        self._busy: dict[tuple[str, str], Call] = {}

    @property
    def sessions(self) -> int:
        """Calls that have a media session: for leak checks."""
        return len(self._busy)

    # -- the session of a call -----------------------------------------------------------------------------------------

    def _session(self, call: Call) -> CallMedia | None:
        """The media session of a call that is to have one, made on first need."""
        path = call.media_path
        if path is not None or call.state != "early" or call.media_error or call.media_bypassed:
            return path
        use = call.media_use or self.use
        if self.pick is None or use == "never":
            return None
        if use == "recorded" and not call.recordings and not call.transport_protocol and call.media_flags is NO_FLAGS:
            return None
        key = (call.call_id, call.from_tag)
        if key in self._busy:
            return None  # a spiral: the media server knows this call by the same name already
        server = self.pick(call)
        if server is None:
            self._without(call, "no media server")
            return None
        flags, indicator = self.flags, self._core.indicator
        if indicator is not None and indicator.tones(call):
            # Into SRTP that only passes, nothing can be mixed.
            flags = replace(flags, flags=(*flags.flags, "re-key"))
        session = MediaSession(call.call_id, call.from_tag)
        path = CallMedia(server, session, flags, call.transport_protocol, call.media_flags)
        call.media_path, call.media, call.media_session = path, server, session
        self.load[server] += 1
        self._busy[key] = call
        return path

    def choose(self, call: Call) -> MediaServer | None:
        """A media server for a call that has to leave its own."""
        return self.pick(call) if self.pick is not None else None

    def fail(self, call: Call, reason: str, *, gone: bool = False) -> None:
        """The call does without its media server from now on; `gone`: all its media are lost."""
        path = call.media_path
        if path is not None:
            path.gone |= gone
            self._do(call, path.fail(reason))

    def release(self, call: Call) -> None:
        """The call is over (or never was): its media goes."""
        path = call.media_path
        if path is not None:
            self._do(call, path.end())
            if self._busy.get((call.call_id, call.from_tag)) is call:
                del self._busy[call.call_id, call.from_tag]

    def _do(self, call: Call, actions: list[MediaAction]) -> None:
        """Do what the media session of a call has said is to be done."""
        for action in actions:
            match action:
                case ("passed", waiting, result):
                    self._passed(waiting, result)
                case ("ask", question):
                    self._ask(call, question)
                case ("carried", server, change):
                    self.load[server] += change
                    if not self.load[server]:
                        del self.load[server]
                case ("delete", server, waiting):
                    self._delete(call, server, waiting)
                case ("unanswered", error, reason):
                    path = call.media_path
                    if path is not None and self.on_unanswered(call, path.server, error):
                        path.lost = path.lost or reason
                    else:
                        self.fail(call, reason)
                case ("failed", reason):
                    self._without(call, reason)

    def _ask(self, call: Call, question: Question) -> None:
        clock, server = self._core.clock, question.server
        is_offer = question.command == "offer"
        limit = self.times.offer if is_offer else self.times.answer
        question.timer = clock.call_later(limit, self._replied, call, question, _LATE)
        done = partial(self._replied, call, question)
        try:
            if is_offer:
                server.offer(question.session, question.sdp, done, flags=question.flags)
            else:
                server.answer(question.session, question.sdp, done, flags=question.flags)
        except Exception as error:
            log.exception("media server %s, Call-ID %s", server.name, call.call_id)
            clock.call_later(0, done, MediaError(f"internal error: {error}"))

    def _replied(self, call: Call, question: Question, result: bytes | MediaError) -> None:
        if question.timer is not None:
            question.timer.cancel()
            question.timer = None
        path = call.media_path
        if path is None or not path.awaits(question):
            return  # too late, or another media server was asked meanwhile
        other = None
        if isinstance(result, MediaError) and path.state == "active" and self.on_trouble is not None:
            server = path.server
            other = self.on_trouble(call, server, result)
            if other is not None and not path.answered:
                log.info("media server %s: %s, Call-ID %s to %s", server.name, result.reason, call.call_id, other.name)
        self._do(call, path.replied(question, result, other))

    def _delete(self, call: Call, server: MediaServer, waiting: tuple[DeleteResult, ...]) -> None:
        path = call.media_path
        if path is None:
            return
        try:
            server.delete(path.session, partial(_tell, waiting) if waiting else None)
        except Exception as error:
            log.exception("media server %s, Call-ID %s", server.name, call.call_id)
            # A proof of recording waits for the counters.
            self._core.clock.call_later(0, _tell, waiting, MediaError(f"internal error: {error}"))

    def _without(self, call: Call, reason: str) -> None:
        call.media_error = reason
        call.media = None
        call.media_session = None
        self._core.counters["media_failures"] += 1
        host = call.source.partition(":")[2].rpartition(":")[0]
        self._lines.warning(host, "no media server for a call: %s, Call-ID %s", reason, call.call_id)
        self._core.observers.tell("call_media_failed", call, reason)
        for dialog in self._core.dialogs.of(call):
            self.settle(dialog)

    @abstractmethod
    def _passed(self, waiting: Waiting, result: bytes | None) -> None:
        """A description has passed the media server, or (None) goes as it came."""

    @abstractmethod
    def settle(self, dialog: ProxiedDialog) -> None:
        """Make sure that the parties of a dialog were told the same."""


def _tell(waiting: tuple[DeleteResult, ...], result: MediaStatistics | MediaError | None) -> None:
    for done in waiting:
        done(result)
