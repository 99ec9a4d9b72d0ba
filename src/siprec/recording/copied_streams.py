"""The copies that a recording's streams are: what the media server is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from siprec.media.engine import (
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
    StatisticsResult,
    Subscription,
)
from siprec.recording import events, silence, srtp_sdp
from siprec.recording.recording_core import RecordingCore
from siprec.recording.rs_sdp import RecordingSdp, media_family
from siprec.recording.session_events import (
    Event,
    Kind,
    Notify,
    State,
)
from siprec.sdp import SdpError, SessionDescription

log = logging.getLogger(__name__)


class CopiedStreams(RecordingCore):
    """A recording, and the media server of its call."""

    __slots__ = ()

    def query(self, done: StatisticsResult) -> None:
        """Ask the media server for its counters of the call."""
        media, session = self._media, self._media_session
        if media is None or session is None:
            self.context.clock.call_later(0, done, MediaError("no media server"))
        else:
            media.query(session, done)

    def look_for_media(self, result: MediaStatistics, since: float) -> None:
        """Tell of streams that carry nothing since the recording began (`since`, seconds since the epoch)."""
        subscription, description, answer = self._subscription, self._description, self._their_answer()
        if self.machine.state is not State.ACTIVE or self.machine.wanted.paused:
            return
        if subscription is None or description is None or answer is None:
            return
        found = silence.silent(self.call, subscription, description.labels, answer, result, since)
        if found:
            why = f"in {silence.AFTER:g} s: {'; '.join(found)}"
            log.warning("streams without media, %s (call %s)", why, self.call.call_id, extra=self._fields)
            self._notify(Notify(events.NO_MEDIA, why, 0, self.machine.target))

    def _fork(self) -> None:
        if self.call.media is not None:
            self._media, self._media_session = self.call.media, self.call.media_session
        media, session = self._media, self._media_session
        if media is None or session is None:
            why = f": {self.call.media_error}" if self.call.media_error else ""
            self._later(Event(Kind.FORK_FAILED, reason=f"the call's media pass through no media server{why}"))
            return
        if self.machine.state is State.FORKING:
            self._attached = self._wall()
        # A dialog there was before: its SRS is lost, and what is said now is for the next one (RFC 7865 6.4).
        lost = self.machine.state is State.FORKING and self._dialog is not None and bool(self._tag)
        age = self.context.clock.now() - self._since if self._since is not None else None
        transport = self._srtp.ask(self.server)
        flags = MediaFlags(
            media_address=self.settings.media,
            address_family=media_family(self.server, self.settings.media),
            preroll=age,
            hold=lost,
            transport_protocol=transport,
        )
        self._placed = self._moves
        self._subscribe(media, session, flags)

    def _subscribe(self, media: MediaServer, session: MediaSession, flags: MediaFlags) -> None:
        parties = [self.call.from_tag, self.call.callee_tag]
        done = partial(self._subscribed, media, session, flags, self._moves)
        media.subscribe_request(session, parties, done, flags=flags, tag=self._tag)

    def _subscribed(
        self,
        media: MediaServer,
        session: MediaSession,
        flags: MediaFlags,
        moves: int,
        result: Subscription | MediaError,
    ) -> None:
        if moves != self._moves:
            if not self._left:
                return  # the other one was asked meanwhile
            if self.machine.state in (State.ACTIVE, State.PAUSED):
                self._fork()
                return
            result = MediaError("the media server is lost")
        if not isinstance(result, MediaError):
            self._tag = result.tag
            if not self._srtp.transport and any(srtp_sdp.is_dtls(stream.section) for stream in result.streams):
                self._srtp.transport = srtp_sdp.SECURE  # keyed by SDP; DTLS ends at the media server
                self._subscribe(media, session, replace(flags, transport_protocol=srtp_sdp.SECURE))
                return
        self._forked(result)

    @property
    def _left(self) -> bool:
        """Whether the call has gone to another media server, which was not asked for copies yet: that comes next."""
        return self._placed != self._moves

    def _forked(self, result: Subscription | MediaError) -> None:
        if isinstance(result, MediaError):
            self._post(Event(Kind.FORK_FAILED, reason=f"fork: {result}"))
            return
        self._subscription = result
        if self._srtp.transport == srtp_sdp.SECURE and any(
            srtp_sdp.is_plain(stream.section) for stream in result.streams
        ):
            self._post(Event(Kind.FORK_FAILED, reason="fork: the media server offers no SRTP"))
            return
        if self._description is None or self.machine.state is State.FORKING:
            self._new_description()
        else:
            self._description.update(result, self.call.from_tag)
        if self._description is None or not self._description.labels:
            self._post(Event(Kind.FORK_FAILED, reason="fork: the media server offers no stream"))
        else:
            self._post(Event(Kind.FORKED, self._document()))

    def _new_description(self) -> None:
        if self._subscription is not None:
            # The number in o= only has to be unique for us (RFC 8866 5.2).
            number = self.context.agent.random.getrandbits(53)
            self._description = RecordingSdp(str(number))
            self._description.update(self._subscription, self.call.from_tag)

    def _connect(self, withheld: bool, done: Callable[[MediaError | None], None]) -> None:
        media, session, answer = self._media, self._media_session, self._their_answer()
        subscription, description = self._subscription, self._description
        if self._left:
            self.context.clock.call_later(0, done, None)
            return
        if media is None or session is None or answer is None or subscription is None or description is None:
            self.context.clock.call_later(0, done, MediaError("no answer of the SRS"))
            return
        try:
            octets = description.for_media_server(answer, subscription, withheld)
        except SdpError as error:
            self.context.clock.call_later(0, done, MediaError(error.reason))
            return
        media.subscribe_answer(session, self._tag, octets, done)

    def _done(self, well: Kind, badly: Kind) -> Callable[[MediaError | None], None]:
        moves = self._moves

        def done(error: MediaError | None) -> None:
            lost = self._left or moves != self._moves
            if error is None and not lost and well is Kind.CONNECTED and not self._flowing:
                self._flowing = True
                for hear in self.context.observers.media_connected:
                    hear(self)
            # What a media server says, or does not say, that is lost means nothing any more.
            self._post(Event(badly, reason=str(error)) if error is not None and not lost else Event(well))
            if error is None and not lost and well is Kind.CONNECTED:
                self._tell_left_out()
                answer = self._answer
                if answer is not None:
                    self._answer, self._answered = None, answer.to_bytes()

        return done

    def _take_answer(self, answer: SessionDescription) -> None:
        self._answer, self._answered = answer, b""
        if self._description is not None:
            self._description.took(answer)

    def _tell_left_out(self) -> None:
        """Tell of codecs of the call that the SRS does not take, where nobody transcodes them: once for each change."""
        description, media = self._description, self._media
        if description is None or media is None or not (description.partly or self._left_out):
            return
        left = self.declined if not media.transcodes else {}
        if left == (self._left_out or {}):
            return
        self._left_out = left
        if left:
            labels = self.labels
            why = "; ".join(
                f"{'caller' if tag == self.call.from_tag else 'callee'} (label {labels.get((tag, index), '?')}): "
                f"the SRS does not take {', '.join(codecs)}"
                for (tag, index), codecs in left.items()
            )
            log.warning("%s (call %s, SRS %s)", why, self.call.call_id, self.server, extra=self._fields)
            self._notify(Notify(events.NOT_DECODABLE, why, 0, self.machine.target))

    def _gate(self, closed: bool) -> None:
        media, session = self._media, self._media_session
        done = self._done(Kind.GATED, Kind.GATE_FAILED)
        if self._left:
            self.context.clock.call_later(0, done, None)
        elif media is not None and session is not None:
            do = media.pause if closed else media.resume
            do(session, self._tag, done)

    def _release(self) -> None:
        for hear in self.context.observers.copies_ending:
            hear(self)
        media, session, tag = self._media, self._media_session, self._tag
        self._tag = ""
        # With a call that is over the proxy ends all of it at the media server.
        gone = self.call.end_wall is not None and self.call.media_path is not None
        if media is None or session is None or not tag or gone:
            self._later(Event(Kind.RELEASED))
            return

        def done(error: MediaError | None) -> None:
            if error is not None:
                # The call's end may have been faster: then the media server has forgotten all of it.
                log.debug("unsubscribe: %s (call %s)", error, self.call.call_id, extra=self._fields)
            self._post(Event(Kind.RELEASED))

        media.unsubscribe(session, tag, done)

    def _key_frame_asked(self, error: MediaError | None) -> None:
        if error is not None:
            log.info("key frame for the SRS: %s (call %s)", error, self.call.call_id, extra=self._fields)
