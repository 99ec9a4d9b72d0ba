"""RTPProxy as media server: its text protocol, and the descriptions it leaves to its clients.

Each m-line is a session of its own there (tags with ``;N``). `U` makes or updates the side that an offer comes from,
`L` the side of the answer; both tell the port to give to the other party. `C` copies what one party sends to a
recorder, `N` ends that copy. What it cannot do is refused with words: one copy of a stream at a time, over IPv4; no
pre-roll, no SRTP of its own, no RTCP with the recorder, no key frames. A copy comes from a port that nobody is told:
the description for the recorder has port 9 there (``sendonly``, so nothing is ever sent to it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from siprec import sdp
from siprec.media.engine import (
    NO_FLAGS,
    DeleteResult,
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
    MediaTrace,
    Result,
    SdpResult,
    StatisticsResult,
    StreamStatistics,
    Subscription,
    SubscriptionResult,
    Tone,
)
from siprec.media.request_tracker import Opener
from siprec.media.rtpproxy_copies import Copier, Copying, forks
from siprec.media.rtpproxy_protocol import (
    COPIES,
    RtpProxyClient,
    counts,
    modifiers,
    nobody,
    numeric,
    place,
    settled,
    word,
)
from siprec.media.rtpproxy_sdp import (
    established,
    forked_streams,
    pointed,
    private_removed,
    relayable,
    targets,
)
from siprec.sdp import SdpError
from siprec.sip.clock import Clock, Timer


@dataclass(slots=True)
class _Call:
    """What is known of a call there. `origin`: the tag that its sessions were made with."""

    origin: str
    created: float
    offers: dict[str, bytes] = field(default_factory=dict)
    agreed: dict[str, bytes] = field(default_factory=dict)
    """By tag: the description of each party, once offer and answer have met."""
    address: str = ""
    copying: Copying | None = None
    tones: dict[str, Timer] = field(default_factory=dict)


class RtpProxy(MediaServer):
    """One RTPProxy. `opener` makes the connection (:mod:`siprec.media.rtpproxy_stream`, for UDP
    :mod:`siprec.media.sockets`), `timeout` is in seconds; `prompt` names a file at its host, without the suffix of the
    payload type, that is played as recording tone.
    """

    def __init__(
        self,
        clock: Clock,
        opener: Opener,
        *,
        name: str = "rtpproxy",
        timeout: float = 3.0,
        prompt: str = "",
        flags: MediaFlags = NO_FLAGS,
    ) -> None:
        self.name = name
        self.client = RtpProxyClient(clock, opener, name=name, timeout=timeout)
        self._clock = clock
        self._prompt = prompt
        self._flags = flags
        self._calls: dict[str, _Call] = {}
        self._serial = 0
        self._copier = Copier(clock, self.client)

    # -- offers and answers --------------------------------------------------------------------------------------------

    def offer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        call = self._calls.setdefault(session.call_id, _Call(session.from_tag, self._clock.wall()))

        def passed(result: bytes | MediaError) -> None:
            if not isinstance(result, MediaError):
                call.offers[session.from_tag] = sdp
            done(result)

        self._pass("U", session, session.from_tag, session.to_tag, sdp, passed, flags)

    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        call = self._calls.get(session.call_id)
        if call is None:
            self._clock.call_later(0, done, MediaError("an answer without an offer", server=self.name))
            return

        def passed(result: bytes | MediaError) -> None:
            if not isinstance(result, MediaError):
                offered = call.offers.get(session.from_tag)
                if offered is not None:
                    call.agreed = {session.from_tag: offered, session.to_tag: sdp}
            done(result)

        self._pass("L", session, session.from_tag, session.to_tag, sdp, passed, flags)

    def _pass(
        self,
        command: str,
        session: MediaSession,
        ours: str,
        theirs: str,
        body: bytes,
        done: SdpResult,
        flags: MediaFlags,
    ) -> None:
        """Have each m-line of a description relayed, and point it there."""
        try:
            description = sdp.parse(body)
        except SdpError as error:
            self._clock.call_later(0, done, MediaError(f"SDP: {error.reason}", server=self.name))
            return
        letters = modifiers(self._flags, flags)
        commands = {}
        for index, media in enumerate(description.media):
            if relayable(media):
                address = numeric(media)
                family = "6" if ":" in address else ""
                tags = f"{word(ours)};{index + 1}" + (f" {word(theirs)};{index + 1}" if theirs else "")
                commands[index] = f"{command}{family}{letters} {word(session.call_id)} {address} {media.port} {tags}"

        def replied(replies: Mapping[int, str] | MediaError) -> None:
            if isinstance(replies, MediaError):
                done(replies)
                return
            try:
                places = {index: place(reply) for index, reply in replies.items()}
            except ValueError as error:
                done(MediaError(f"{command}: {error}", server=self.name))
                return
            call = self._calls.get(session.call_id)
            if call is not None and places:
                call.address = next(iter(places.values()))[0]
            advertised = flags.media_address or self._flags.media_address
            if advertised:
                places = {index: (advertised, port) for index, (_, port) in places.items()}
            try:
                private_removed(description, places)
                pointed(description, places, origin="origin" in (*self._flags.replace, *flags.replace))
                done(description.to_bytes())
            except SdpError as error:
                done(MediaError(f"SDP: {error.reason}", server=self.name))

        self.client.send_all(commands, session.call_id, replied)

    def delete(self, session: MediaSession, done: DeleteResult | None = None) -> None:
        """An RTPProxy says nothing when it ends a call, so the counters are asked for just before."""
        call = self._calls.get(session.call_id)
        origin = session.from_tag
        ended: Result | None = done  # without counters
        if call is not None:
            if done is not None and call.agreed:
                self.query(session, partial(_left_behind, done))
                ended = None
            del self._calls[session.call_id]
            origin = call.origin
            if call.copying is not None:
                call.copying.ended = True
            for timer in call.tones.values():
                timer.cancel()
        self.client.send(f"D {word(session.call_id)} {word(origin)}", session.call_id, settled(ended))

    # -- copies --------------------------------------------------------------------------------------------------------

    def subscribe_request(
        self,
        session: MediaSession,
        from_tags: Sequence[str],
        done: SubscriptionResult,
        *,
        flags: MediaFlags = NO_FLAGS,
        tag: str = "",
    ) -> None:
        later = partial(self._clock.call_later, 0)
        call = self._calls.get(session.call_id)
        if call is None or not call.agreed:
            later(done, MediaError("unknown call, or one without an answer yet", server=self.name))
            return
        if call.copying is not None and call.copying.tag != tag:
            later(done, MediaError("it makes one copy of a stream only", server=self.name))
            return
        if flags.address_family == "IP6":
            later(done, MediaError("it cannot copy to an IPv6 address", server=self.name))
            return
        try:
            streams = forked_streams(call.agreed, from_tags, flags.media_address or call.address)
        except SdpError as error:
            later(done, MediaError(f"SDP: {error.reason}", server=self.name))
            return
        if not streams:
            later(done, MediaError("no stream that it can copy", server=self.name))
            return
        wanted = flags.transport_protocol.upper()
        if wanted and any(("SAVP" in wanted) != ("SAVP" in stream.section.proto.upper()) for stream in streams):
            why = "it has no SRTP of its own" if "SAVP" in wanted else "it cannot decrypt"
            later(done, MediaError(why, server=self.name))
            return

        def probed(able: bool | MediaError) -> None:
            if isinstance(able, MediaError):
                done(able)
                return
            if not able:
                done(MediaError("this RTPProxy is too old to copy streams", server=self.name))
                return
            if call.copying is None:
                self._serial += 1
                call.copying = Copying(f"copy-{self._serial}", streams)
            elif call.copying.tag == tag:
                call.copying.streams = streams
            else:
                done(MediaError("it makes one copy of a stream only", server=self.name))
                return
            done(Subscription(call.copying.tag, streams))

        self.client.capable(COPIES, probed)

    def subscribe_answer(
        self, session: MediaSession, tag: str, sdp: bytes, done: Result, *, flags: MediaFlags = NO_FLAGS
    ) -> None:
        copying = self._copying(session, tag, done)
        if copying is None:
            return
        try:
            copying.wanted = targets(sdp, copying.streams)
            copying.paused = False  # the answer says what is withheld
        except SdpError as error:
            self._clock.call_later(0, done, MediaError(f"SDP: {error.reason}", server=self.name))
            return
        self._copier.adjust(session, copying, done)

    def pause(self, session: MediaSession, tag: str, done: Result) -> None:
        copying = self._copying(session, tag, done)
        if copying is not None:
            copying.paused = True
            self._copier.adjust(session, copying, done)

    def resume(self, session: MediaSession, tag: str, done: Result) -> None:
        copying = self._copying(session, tag, done)
        if copying is not None:
            copying.paused = False
            self._copier.adjust(session, copying, done)

    def unsubscribe(self, session: MediaSession, tag: str, done: Result | None = None) -> None:
        done = done or nobody
        copying = self._copying(session, tag, done)
        if copying is None:
            return
        copying.ended = True

        def ended(error: MediaError | None) -> None:
            call = self._calls.get(session.call_id)
            if call is not None and call.copying is copying and not copying.running:
                call.copying = None
            done(error)

        self._copier.adjust(session, copying, ended)

    def _copying(self, session: MediaSession, tag: str, done: Result) -> Copying | None:
        call = self._calls.get(session.call_id)
        if call is None or call.copying is None or call.copying.tag != tag:
            self._clock.call_later(0, done, MediaError("unknown subscription", server=self.name))
            return None
        return call.copying

    # -- the rest ------------------------------------------------------------------------------------------------------

    def play(self, session: MediaSession, tag: str, tone: Tone, done: Result) -> None:
        """Plays the prompt that is configured, again and again; RTPProxy has no tones of its own."""
        call = self._calls.get(session.call_id)
        if call is None or not self._prompt:
            reason = "unknown call" if call is None else "no prompt is configured to be played"
            self._clock.call_later(0, done, MediaError(reason, server=self.name))
            return
        timer = call.tones.pop(tag, None)
        if timer is not None:
            timer.cancel()
        formats = _formats(call.agreed.get(tag, b""))
        command = f"P {word(session.call_id)} {word(self._prompt)} {formats} {self._both(session, tag)}"

        def again() -> None:
            if self._calls.get(session.call_id) is call:
                call.tones[tag] = self._clock.call_later(tone.interval, again)
                self.client.send(command, session.call_id, heard)

        def heard(reply: str | MediaError) -> None:
            timer = call.tones.pop(tag, None) if isinstance(reply, MediaError) else None
            if timer is not None:
                timer.cancel()

        def begun(reply: str | MediaError) -> None:
            heard(reply)
            done(reply if isinstance(reply, MediaError) else None)

        call.tones[tag] = self._clock.call_later(tone.interval, again)
        self.client.send(command, session.call_id, begun)

    def stop_playing(self, session: MediaSession, tag: str, done: Result) -> None:
        call = self._calls.get(session.call_id)
        timer = call.tones.pop(tag, None) if call is not None else None
        if timer is not None:
            timer.cancel()
        self.client.send(f"S {word(session.call_id)} {self._both(session, tag)}", session.call_id, settled(done))

    @staticmethod
    def _both(session: MediaSession, tag: str) -> str:
        other = session.to_tag if tag == session.from_tag else session.from_tag
        return f"{word(tag)};1 {word(other)};1"

    def key_frame(self, session: MediaSession, tag: str, done: Result) -> None:
        """RTPProxy cannot ask."""
        self._clock.call_later(0, done, MediaError("it cannot ask for key frames", server=self.name))

    def query(self, session: MediaSession, done: StatisticsResult) -> None:
        call = self._calls.get(session.call_id)
        if call is None or not call.agreed:
            self._clock.call_later(0, done, MediaError("unknown call", server=self.name))
            return
        first, second = call.agreed
        try:
            lines = [media.kind for media in sdp.parse(call.agreed[first]).media]
            live = established(call.agreed)
        except SdpError as error:
            self._clock.call_later(0, done, MediaError(f"SDP: {error.reason}", server=self.name))
            return
        asked = {
            index: f"Qv {word(session.call_id)} {word(first)};{index + 1} {word(second)};{index + 1}"
            " npkts_ina npkts_ino nrelayed ndropped"
            for index in live
        }

        def replied(replies: Mapping[int, str] | MediaError) -> None:
            if isinstance(replies, MediaError):
                done(replies)
                return
            streams: list[StreamStatistics] = []
            for index, reply in sorted(replies.items()):
                found = counts(reply)
                for tag, name in ((first, "npkts_ina"), (second, "npkts_ino")):
                    streams.append(StreamStatistics(tag, index, lines[index], found.get(name, 0), 0))
            total = sum(stream.packets for stream in streams)
            done(MediaStatistics(call.created, total, 0, 0, tuple(streams), forks(call.copying)))

        self.client.send_all(asked, session.call_id, replied)

    def ping(self, done: Result) -> None:
        def replied(reply: str | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
            else:
                fine = reply.isdigit()
                done(None if fine else MediaError(f"no RTPProxy: {reply[:40]!r}", server=self.name))

        self.client.send("V", "", replied)

    @property
    def counters(self) -> Mapping[str, int]:
        return self.client.counters

    @property
    def pending(self) -> int:
        return self.client.pending

    def traced(self, trace: MediaTrace | None) -> None:
        self.client.trace = trace

    def close(self) -> None:
        for call in self._calls.values():
            for timer in call.tones.values():
                timer.cancel()
        self._calls.clear()
        self.client.close()


def _left_behind(done: DeleteResult, result: MediaStatistics | MediaError) -> None:
    unknown = isinstance(result, MediaError) and not result.timeout  # it was restarted: there is no such call
    done(None if unknown else result)


def _formats(body: bytes) -> str:
    """Payload types that a party takes, for a prompt."""
    try:
        media = next((each for each in sdp.parse(body).media if each.kind == "audio"), None)
    except SdpError:
        media = None
    return ",".join(text for text in media.formats if text.isdigit()) if media is not None else "0"
