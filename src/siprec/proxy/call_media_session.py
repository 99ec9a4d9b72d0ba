"""One call at one media server: a machine that says what is to be asked, and what goes on with which description.

The first law: it never delays or breaks the call. A request that is not answered in time is given up, and the
descriptions go on as the parties wrote them.

Nothing is called from here. Each method returns what is to be done, in order (`MediaAction`);
:class:`siprec.proxy.media_path.MediaPath` does it. The states::

    active --fail()--> failed --end()--> ended        active --end()--> ended

Between ``active`` and ``failed`` the session may be *lost*: the server is not asked any more, although the call did not
give it up yet, and descriptions go on as they came until :meth:`CallMedia.move` or :meth:`CallMedia.fail`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from msgspec.structs import replace

from siprec.media.engine import NO_FLAGS, DeleteResult, MediaError, MediaFlags, MediaServer, MediaSession, merged
from siprec.sip.clock import Timer

MAX_SPARES: Final = 2
"""Other media servers that a call may go to before one has answered."""

Command = Literal["offer", "answer"]


@dataclass(frozen=True, slots=True)
class MediaTimes:
    """Seconds a call waits at most. An answer is worth more patience than an offer: where an offer that went through
    the media server is answered around it, audio goes one way."""

    offer: float = 0.3
    answer: float = 1.0


class Waiting:
    """What goes on when a description has passed the media server."""

    __slots__ = ()


class _Reoffer(Waiting):
    """An offer that was passed before and is passed again, because its answer is a new one: that follows."""

    __slots__ = ("sdp", "session", "waiting")

    def __init__(self, session: MediaSession, sdp: bytes, waiting: Waiting) -> None:
        self.session = session
        self.sdp = sdp
        self.waiting = waiting


class Question:
    """A request to a media server that is not answered yet; `waiting` are the messages that go on with the reply (more
    than one when a message was retransmitted)."""

    __slots__ = ("command", "flags", "sdp", "server", "session", "timer", "waiting")

    def __init__(
        self,
        command: Command,
        server: MediaServer,
        session: MediaSession,
        sdp: bytes,
        flags: MediaFlags,
        waiting: list[Waiting],
    ) -> None:
        self.command = command
        self.server = server
        self.session = session
        self.sdp = sdp
        self.flags = flags
        self.waiting = waiting
        self.timer: Timer | None = None

    def is_about(self, command: Command, session: MediaSession, sdp: bytes) -> bool:
        """Whether the same is asked."""
        return self.command == command and self.sdp == sdp and self.session == session


MediaAction = (
    tuple[Literal["passed"], Waiting, bytes | None]
    | tuple[Literal["ask"], Question]
    | tuple[Literal["delete"], MediaServer, tuple[DeleteResult, ...]]
    | tuple[Literal["carried"], MediaServer, int]
    | tuple[Literal["unanswered"], MediaError, str]
    | tuple[Literal["failed"], str]
)
"""``passed``: the message goes on, with the description to forward, or None: as it came. ``ask``: send the question.
``delete``: delete the session at that server, and tell those who wait for its counters. ``carried``: the call has come
to a server (1) or left it (-1). ``unanswered``: an offer within the call failed: it is to be moved, or
:meth:`CallMedia.fail` called with the reason. ``failed``: the call does without a media server from now
on; said once."""


class CallMedia:
    """One call at one media server.

    `transport_protocol` is what the callee is offered, "" for what the caller offers; `asked` is said with the caller's
    offers. `lost` says why the server is not asked any more, `gone` whether all its media are lost too; `answered`
    whether an answer has passed, `held` whether the server may have something of the call.
    """

    __slots__ = (
        "_answerer",  # who answered last: of several branches that one has the media
        "_asked",
        "_at_end",  # who is to hear the counters of the session
        "_last",  # what each offer and answer became: (command, session, as it came, as it went on)
        "_moving",  # what was agreed is offered and answered at another server
        "_passed",  # something of the server's went to a party
        "_questions",
        "_reoffer",  # the last offer, where the server was not asked because it had come before
        "_spares",
        "_transport_protocol",
        "answered",
        "flags",
        "gone",
        "held",
        "lost",
        "server",
        "session",
        "state",
    )

    def __init__(
        self,
        server: MediaServer,
        session: MediaSession,
        flags: MediaFlags = NO_FLAGS,
        transport_protocol: str = "",
        asked: MediaFlags = NO_FLAGS,
    ) -> None:
        self.server = server
        self.session = session
        self.flags = flags
        self.state: Literal["active", "failed", "ended"] = "active"
        self.answered = False
        self.lost = ""
        self.gone = False
        self.held = True
        self._transport_protocol = transport_protocol
        self._asked = asked
        self._passed = self._moving = False
        self._spares = MAX_SPARES
        self._last: list[tuple[Command, MediaSession, bytes, bytes]] = []
        self._questions: list[Question] = []
        self._reoffer: tuple[MediaSession, bytes] | None = None
        self._answerer: MediaSession | None = None
        self._at_end: tuple[DeleteResult, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether the media server is being asked something."""
        return bool(self._questions)

    # -- descriptions --------------------------------------------------------------------------------------------------

    def offer(self, session: MediaSession, sdp: bytes, waiting: Waiting) -> list[MediaAction]:
        """Pass an offer; `session.from_tag` is who makes it. The same description again changes nothing, and gets what
        it got before."""
        if self.state == "active":
            known = self._known("offer", session, sdp)
            if known is not None:
                self._reoffer = (session, sdp)
                return [("passed", waiting, known)]
        self._reoffer = None
        if session.to_tag and not any(each.is_about("offer", session, sdp) for each in self._questions):
            # Within a dialog a new offer makes what was agreed before a thing of the past.
            self._last.clear()
        return self._request("offer", session, sdp, waiting)

    def answer(self, session: MediaSession, sdp: bytes, waiting: Waiting) -> list[MediaAction]:
        """Pass the answer of `session.to_tag` to the offer of `session.from_tag`."""
        if self.state == "active" and self._answerer == session:
            known = self._known("answer", session, sdp)
            if known is not None:
                return [("passed", waiting, known)]
        # Of several branches that answer, the one asked about last has the media: 183 of B, 183 of A, 200 of B.
        self._answerer = session
        again, self._reoffer = self._reoffer, None
        if any(each.is_about("answer", session, sdp) for each in self._questions):
            again = None  # both came again, and the answer is passing
        if again is not None and again[0].from_tag == session.from_tag and self.state == "active":
            # The offer needed no asking, its answer is another one: the media server has to hear both.
            return self._request("offer", *again, _Reoffer(session, sdp, waiting))
        return self._request("answer", session, sdp, waiting)

    def _known(self, command: Command, session: MediaSession, sdp: bytes) -> bytes | None:
        for known, of, came, result in self._last:
            if known == command and came == sdp and of == session:
                return result
        return None

    def _request(self, command: Command, session: MediaSession, sdp: bytes, waiting: Waiting) -> list[MediaAction]:
        if self.state != "active" or self.lost:
            return self._go_on(waiting, None)
        for question in self._questions:
            if question.is_about(command, session, sdp):
                question.waiting.append(waiting)  # a retransmission; one question is enough
                return []
        flags = self.flags
        if command == "offer" and session.from_tag == self.session.from_tag:
            # The media server remembers it for the callee's offers; said there it would be about the caller.
            flags = merged(flags, self._asked)
            if self._transport_protocol:
                flags = replace(flags, transport_protocol=self._transport_protocol)
        question = Question(command, self.server, session, sdp, flags, [waiting])
        self._questions.append(question)
        return [("ask", question)]

    def _go_on(self, waiting: Waiting, result: bytes | None) -> list[MediaAction]:
        if not isinstance(waiting, _Reoffer):
            return [("passed", waiting, result)]
        if result is None:
            return self._go_on(waiting.waiting, None)
        return self._request("answer", waiting.session, waiting.sdp, waiting.waiting)

    # -- replies -------------------------------------------------------------------------------------------------------

    def awaits(self, question: Question) -> bool:
        """Whether the reply to a question is still of use: it is not too late, and no other server was asked."""
        return question in self._questions

    def replied(
        self, question: Question, result: bytes | MediaError, other: MediaServer | None = None
    ) -> list[MediaAction]:
        """The media server answered a question that is awaited, refused it, or was silent. `other` is the one to go to
        after a failure: the call goes there if nothing has passed this one yet, two times at the most."""
        if not isinstance(result, MediaError):
            self._questions.remove(question)
            if self.state != "active" or self.lost:
                return self._all(question, None)
            command, session = question.command, question.session
            if self._last:
                self._last = [each for each in self._last if each[0] != command or each[1] != session]
            self._last.append((command, session, question.sdp, result))
            self._passed = True
            self.answered = self.answered or command == "answer"
            return self._all(question, result)
        if self.state == "active" and other is not None and not self.answered and not self._last and self._spares:
            return self._elsewhere(other)
        self._questions.remove(question)
        return [*self._refused(question.command, result), *self._all(question, None)]

    def _all(self, question: Question, result: bytes | None) -> list[MediaAction]:
        actions: list[MediaAction] = []
        for waiting in question.waiting:
            if isinstance(waiting, _Reoffer):
                actions += self._go_on(waiting, result)
            else:
                actions.append(("passed", waiting, result))
        return actions

    def _refused(self, command: Command, error: MediaError) -> list[MediaAction]:
        """Where the parties were told something of the server's already, the call is not given up at once: it may be
        moved (:mod:`siprec.proxy.media_failover`)."""
        reason = f"{command}: {error}"
        if self.state != "active" or self.lost:
            return []
        if self._moving or not self._passed:
            return self.fail(reason)
        if command == "answer":
            self.lost = reason
            return []
        return [("unanswered", error, reason)]

    def _elsewhere(self, other: MediaServer) -> list[MediaAction]:
        """Ask another media server everything that this one was asked."""
        self._spares -= 1
        actions = self._delete() + self._go_to(other)
        self.held = True
        asked, self._questions = self._questions, []
        for question in asked:
            for waiting in question.waiting:
                actions += self._request(question.command, question.session, question.sdp, waiting)
        return actions

    # -- from one server to another, and the end -----------------------------------------------------------------------

    def _go_to(self, server: MediaServer) -> list[MediaAction]:
        before, self.server = self.server, server
        return [("carried", before, -1), ("carried", server, 1)]

    def move(self, server: MediaServer, session: MediaSession, offer: bytes, waiting: Waiting) -> list[MediaAction]:
        """Take an established call to another media server, or anew to this one: `offer` of `session.from_tag` is
        passed there; :meth:`answer` follows, then :meth:`moved`. When one of them fails, the call does without."""
        actions: list[MediaAction] = []
        if server is not self.server:
            actions += self._delete()
            self._passed = False
        actions += self._go_to(server)
        self.held = self._moving = True
        self.lost = ""
        self._last.clear()
        self._reoffer = self._answerer = None
        self.answered = False
        self._spares = 0
        return actions + self.offer(session, offer, waiting)

    def moved(self) -> None:
        """The call is there now, or will not be."""
        self._moving = False

    def fail(self, reason: str) -> list[MediaAction]:
        """Do without the media server from now on."""
        if self.state != "active":
            return []
        self.state = "failed"
        self._last.clear()
        actions: list[MediaAction] = [("carried", self.server, -1)]
        if not self._passed:
            # Nothing runs through it; an offer that it took after all must not hold ports.
            actions += self._delete()
        return [*actions, ("failed", reason)]

    def unused(self) -> list[MediaAction]:
        """The call does without the media server, and no party sends there any more."""
        return self._delete() if self.state == "failed" and self.held else []

    def end(self) -> list[MediaAction]:
        """The call is over: everything of it goes, on every path. Twice is once."""
        if self.state == "ended":
            return []
        actions: list[MediaAction] = [("carried", self.server, -1)] if self.state == "active" else []
        self.state = "ended"
        self._last.clear()
        waiting, self._at_end = self._at_end, ()
        return actions + self._delete(waiting) if self.held else actions

    def at_end(self, done: DeleteResult) -> bool:
        """Have `done` told of the counters that the call leaves behind, when :meth:`end` ends it. False: nothing of it
        is at the media server any more, and `done` is not called."""
        if self.state == "ended" or not self.held:
            return False
        self._at_end = (*self._at_end, done)
        return True

    def _delete(self, waiting: tuple[DeleteResult, ...] = ()) -> list[MediaAction]:
        self.held = False
        return [("delete", self.server, waiting)]
