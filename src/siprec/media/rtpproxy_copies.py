"""The copies of a subscription at an RTPProxy: brought about one pass at a time, whatever is asked meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from siprec.media.engine import ForkedStream, ForkStatistics, MediaError, MediaSession, Result
from siprec.media.rtpproxy_protocol import ENDS_COPIES, UNKNOWN, RtpProxyClient, word
from siprec.media.rtpproxy_sdp import Key
from siprec.sip.clock import Clock


@dataclass(slots=True)
class Copying:
    """The copies of one subscription. `wanted`: where they shall go; `running`: where they go."""

    tag: str
    streams: tuple[ForkedStream, ...]
    wanted: dict[Key, tuple[str, int]] = field(default_factory=dict)
    running: dict[Key, tuple[str, int]] = field(default_factory=dict)
    paused: bool = False
    ended: bool = False
    busy: bool = False
    waiting: list[Result] = field(default_factory=list)


class Copier:
    """Makes, moves and ends copies so that they are as wanted."""

    def __init__(self, clock: Clock, client: RtpProxyClient) -> None:
        self._clock = clock
        self._client = client

    def adjust(self, session: MediaSession, copying: Copying, done: Result) -> None:
        """Bring about what is wanted; one pass at a time, another one after it if something was asked meanwhile."""
        copying.waiting.append(done)
        if not copying.busy:
            copying.busy = True
            # Not from inside of a request: what is asked in one go is one pass.
            self._clock.call_later(0, self._pass_over, session, copying)

    def _pass_over(self, session: MediaSession, copying: Copying) -> None:
        waiting, copying.waiting = copying.waiting, []
        wanted = {} if copying.paused or copying.ended else copying.wanted
        keys = [
            key for key in dict.fromkeys((*copying.running, *wanted)) if copying.running.get(key) != wanted.get(key)
        ]
        left = len(keys)
        failure: MediaError | None = None

        def finished(error: MediaError | None = None) -> None:
            nonlocal left, failure
            failure, left = failure or error, left - 1
            if left > 0:
                return
            copying.busy = False
            if copying.waiting:
                copying.busy = True
                self._clock.call_later(0, self._pass_over, session, copying)
            for done in waiting:
                done(failure)

        if not keys:
            finished()
        for key in keys:
            self._move(session, copying, key, wanted.get(key), finished)

    def _move(
        self, session: MediaSession, copying: Copying, key: Key, target: tuple[str, int] | None, done: Result
    ) -> None:
        """End the copy of one stream if there is one, then begin it anew: a second `C` would change nothing."""
        tag, index = key
        other = session.to_tag if tag == session.from_tag else session.from_tag
        tail = f"{word(tag)};{index + 1} {word(other)};{index + 1}"
        call_id = word(session.call_id)

        def begin() -> None:
            if target is None:
                done(None)
                return
            if ":" in target[0]:
                done(MediaError("it cannot copy to an IPv6 address", server=self._client.name))
                return
            self._client.send(f"C {call_id} udp:{target[0]}:{target[1]} {tail}", session.call_id, begun)

        def begun(reply: str | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
                return
            assert target is not None
            copying.running[key] = target
            done(None)

        def ended(reply: str | MediaError) -> None:
            if isinstance(reply, MediaError) and not reply.reason.startswith(UNKNOWN):
                done(reply)
                return
            copying.running.pop(key, None)
            begin()

        def able(answer: bool | MediaError) -> None:
            if answer is True:
                self._client.send(f"N {call_id} {tail}", session.call_id, ended)
            else:
                reason = MediaError("this RTPProxy is too old to end a copy", server=self._client.name)
                done(answer if isinstance(answer, MediaError) else reason)

        if key in copying.running:
            self._client.capable(ENDS_COPIES, able)
        else:
            begin()


def forks(copying: Copying | None) -> tuple[ForkStatistics, ...]:
    """What there is to tell of the copies: where they go; RTPProxy does not count them."""
    if copying is None:
        return ()
    return tuple(
        ForkStatistics(
            tag=copying.tag,
            index=index,
            from_tag=stream.from_tag,
            source_index=stream.source_index,
            paused=copying.paused,
            endpoint=copying.running.get((stream.from_tag, stream.source_index)),
        )
        for index, stream in enumerate(copying.streams)
    )
