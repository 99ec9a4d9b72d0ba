"""A media server that speaks ng: RTPEngine (10.5 and later) and our own relay.

Differences are taken from what the server answers, not from its version:

- RTPEngine 10.5 goes on sending when a stream of a subscription is answered ``inactive``, and its ``block media``
  towards a subscription blocks the call as well. What every version obeys is port 0, so that is what withheld streams
  become, unless the server's replies carry ``gates`` (our relay: RTP stops, RTCP goes on, RFC 3264 5.1).
- Which stream of a subscription is whose comes from ``media-labels`` (the ``SIPREC`` flag), else from ``tag-medias``,
  else from the order of ``from-tags``.
- A subscription answered with fewer formats than offered is refused without ``allow transcoding``: it is always sent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import ItemsView, Mapping, Sequence
from functools import partial
from typing import Final

from siprec import sdp
from siprec.media.bencode import Value
from siprec.media.engine import (
    NO_FLAGS,
    DeleteResult,
    LoadResult,
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaTrace,
    Result,
    SdpResult,
    SessionsResult,
    StatisticsResult,
    SubscriptionResult,
    Tone,
)
from siprec.media.ng import NgClient, Reply, Request
from siprec.media.ngreplies import (
    dictionary,
    integer,
    items,
    numbers,
    read_moves,
    read_statistics,
    read_subscription,
    text,
)
from siprec.media.request_tracker import Opener
from siprec.sip.clock import Clock, Timer

_OURS = frozenset({"pre-roll", "re-key"})
LISTED: Final = 800
ASKED_AT_ONCE: Final = 8


class RtpEngine(MediaServer):
    """One ng server. `opener` makes the connection (:mod:`siprec.media.sockets`), `timeout` is in seconds."""

    def __init__(
        self,
        clock: Clock,
        opener: Opener,
        *,
        name: str = "rtpengine",
        timeout: float = 3.0,
        flags: MediaFlags = NO_FLAGS,
    ) -> None:
        self.name = name
        self.client = NgClient(clock, opener, name=name, timeout=timeout)
        self._flags = flags
        self._gates = False
        self._clock = clock
        self._tones: dict[tuple[str, str], Timer] = {}
        # Call-ID -> subscription -> the answer it runs by, for pause and resume.
        self._answers: dict[str, dict[str, bytes]] = {}

    def offer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        self._exchange("offer", session, sdp, done, flags)

    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        self._exchange("answer", session, sdp, done, flags)

    def _exchange(self, command: str, session: MediaSession, body: bytes, done: SdpResult, flags: MediaFlags) -> None:
        def replied(reply: Reply | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
                return
            if "gates" in reply:
                self._gates = True
            text = reply.get("sdp")
            done(text if isinstance(text, bytes) else MediaError(f"{command} without SDP", server=self.name))

        request = _address(session)
        request["sdp"] = body
        _wish(request, self._flags, flags)
        words = request.get("flags")
        if not self._gates and isinstance(words, list):  # words of ours that others would complain about
            request["flags"] = [word for word in words if word not in _OURS]
        if self._gates and session.received_from:
            request["received-from"] = ["IP6" if ":" in session.received_from else "IP4", session.received_from]
        self.client.request(command, request, replied)

    def delete(self, session: MediaSession, done: DeleteResult | None = None) -> None:
        self._answers.pop(session.call_id, None)
        if self._tones:
            for key in [key for key in self._tones if key[0] == session.call_id]:
                self._tones.pop(key).cancel()

        def replied(reply: Reply | MediaError) -> None:
            if done is not None:
                counted = isinstance(reply, MediaError) or "tags" in reply
                done(None if not counted else reply if isinstance(reply, MediaError) else read_statistics(reply))

        request = _address(session)
        request["delete delay"] = 0
        self.client.request("delete", request, replied)

    def subscribe_request(
        self,
        session: MediaSession,
        from_tags: Sequence[str],
        done: SubscriptionResult,
        *,
        flags: MediaFlags = NO_FLAGS,
        tag: str = "",
    ) -> None:
        def replied(reply: Reply | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
                return
            if "gates" in reply:
                self._gates = True
            try:
                subscription = read_subscription(reply, from_tags)
            except sdp.SdpError as error:
                done(MediaError(f"subscribe request: {error}", server=self.name))
                return
            done(subscription)

        request: Request = {
            "call-id": session.call_id,
            "from-tags": list(from_tags),
            "flags": ["SIPREC"],
        }
        _wish(request, flags)
        if tag:
            request["to-tag"] = tag
        if self._gates and flags.preroll is not None:  # keys of ours that others would complain about
            request["pre-roll age"] = round(max(0.0, flags.preroll) * 1000)
        if self._gates and flags.hold:
            request["pre-roll hold"] = 1
        self.client.request("subscribe request", request, replied)

    def subscribe_answer(
        self, session: MediaSession, tag: str, sdp: bytes, done: Result, *, flags: MediaFlags = NO_FLAGS
    ) -> None:
        self._answer_subscription(session, tag, sdp, done, flags, keep=True)

    def _answer_subscription(
        self, session: MediaSession, tag: str, body: bytes, done: Result, flags: MediaFlags, *, keep: bool
    ) -> None:
        adapted, readable = body, True
        # Without these words there is nothing to adapt.
        if b"inactive" in body or b"sendonly" in body:
            try:
                adapted = body if self._gates else reject_withheld(body)
            except sdp.SdpError:
                readable = False  # the refusal is the server's, and comes as its reply

        def replied(reply: Reply | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
                return
            if keep and readable:
                self._answers.setdefault(session.call_id, {})[tag] = body
            done(None)

        request: Request = {
            "call-id": session.call_id,
            "to-tag": tag,
            "sdp": adapted,
            "flags": ["allow transcoding"],
        }
        _wish(request, flags)
        self.client.request("subscribe answer", request, replied)

    @property
    def transcodes(self) -> bool:
        return not self._gates  # "allow transcoding" asks for it; our relay does not

    def pause(self, session: MediaSession, tag: str, done: Result) -> None:
        self._again(session, tag, done, paused=True)

    def resume(self, session: MediaSession, tag: str, done: Result) -> None:
        self._again(session, tag, done, paused=False)

    def _again(self, session: MediaSession, tag: str, done: Result, *, paused: bool) -> None:
        body = self._answers.get(session.call_id, {}).get(tag)
        if body is None:
            # Nothing flows to an unanswered subscription; whoever pauses it answers it inactive later.
            self._simple("query", session, {}, done)
            return
        if paused:
            try:
                body = _all_inactive(body)
            except sdp.SdpError as error:
                self._clock.call_later(0, done, MediaError(f"pause: {error}", server=self.name))
                return
        self._answer_subscription(session, tag, body, done, NO_FLAGS, keep=False)

    def unsubscribe(self, session: MediaSession, tag: str, done: Result | None = None) -> None:
        answers = self._answers.get(session.call_id)
        if answers is not None:
            answers.pop(tag, None)
            if not answers:
                del self._answers[session.call_id]
        self._simple("unsubscribe", session, {"to-tag": tag}, done)

    def play(self, session: MediaSession, tag: str, tone: Tone, done: Result) -> None:
        """Ours repeats the tone by itself; an RTPEngine plays one file once, so it is asked again each time."""
        self._stop_timer(session, tag)
        arguments: Request = {"from-tag": tag}
        if self._gates:
            said = {
                "frequency": tone.frequency,
                "duration": round(tone.duration * 1000),
                "interval": round(tone.interval * 1000),
                "level": tone.level,
            }
            self._simple("play media", session, {**arguments, "tone": said}, done)
            return
        arguments["blob"] = wav(tone)
        key = (session.call_id, tag)

        def again() -> None:
            self._tones[key] = self._clock.call_later(tone.interval, again)
            self._simple("play media", session, arguments, heard)

        def heard(error: MediaError | None) -> None:
            if error is not None:
                self._stop_timer(session, tag)  # the call is over there, or it cannot

        self._tones[key] = self._clock.call_later(tone.interval, again)

        def begun(error: MediaError | None) -> None:
            heard(error)
            done(error)

        self._simple("play media", session, arguments, begun)

    def stop_playing(self, session: MediaSession, tag: str, done: Result) -> None:
        self._stop_timer(session, tag)
        self._simple("stop media", session, {"from-tag": tag}, done)

    def _stop_timer(self, session: MediaSession, tag: str) -> None:
        timer = self._tones.pop((session.call_id, tag), None)
        if timer is not None:
            timer.cancel()

    def key_frame(self, session: MediaSession, tag: str, done: Result) -> None:
        """Ours asks by RTCP; an RTPEngine cannot be told to."""
        if not self._gates:
            self._clock.call_later(0, done, MediaError("it cannot ask for key frames", server=self.name))
            return

        def replied(reply: Reply | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
            else:
                done(None if integer(reply.get("asked")) else MediaError("nobody to be asked", server=self.name))

        self.client.request("key frame", {"call-id": session.call_id, "to-tag": tag}, replied)

    def query(self, session: MediaSession, done: StatisticsResult) -> None:
        def replied(reply: Reply | MediaError) -> None:
            done(reply if isinstance(reply, MediaError) else read_statistics(reply))

        self.client.request("query", {"call-id": session.call_id}, replied)

    def labelled(self, prefix: str, but: str, done: SessionsResult) -> None:
        """Asks for each call of the list, a few at a time: the list has Call-IDs only. Of more than :data:`LISTED`
        calls the first ones; a longer list does not fit into a datagram."""

        def listed(reply: Reply | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
                return
            waiting = [each for each in items(reply.get("calls")) if isinstance(each, bytes)]
            found: list[MediaSession] = []
            asking = 0

            def ask() -> None:
                nonlocal asking
                while waiting and asking < ASKED_AT_ONCE:
                    asking += 1
                    call_id = waiting.pop().decode("utf-8", "surrogateescape")
                    self.client.request("query", {"call-id": call_id}, partial(queried, call_id))
                if not waiting and not asking:
                    done(found)

            def queried(call_id: str, reply: Reply | MediaError) -> None:
                nonlocal asking
                asking -= 1
                if not isinstance(reply, MediaError):
                    labels = {tag: text(dictionary(each).get("label")) for tag, each in _tags(reply)}
                    ours = [tag for tag, label in labels.items() if label.startswith(prefix)]
                    if ours and but not in labels.values():
                        found.append(MediaSession(call_id, ours[0]))
                ask()

            ask()

        self.client.request("list", {"limit": LISTED}, listed)

    def ping(self, done: Result) -> None:
        if not self._gates or self.on_source is None:
            self._simple("ping", None, {}, done)
            return

        def replied(reply: Reply | MediaError) -> None:
            moves = [] if isinstance(reply, MediaError) else read_moves(reply)
            done(reply if isinstance(reply, MediaError) else None)
            for move in moves:
                if self.on_source is not None:
                    self.on_source(move)

        self.client.request("ping", {"events": 1}, replied)

    @property
    def counters(self) -> Mapping[str, int]:
        return self.client.counters

    @property
    def pending(self) -> int:
        return self.client.pending

    def traced(self, trace: MediaTrace | None) -> None:
        self.client.trace = trace

    def load(self, done: LoadResult, timeout: float) -> None:
        def replied(reply: Reply | MediaError) -> None:
            done(reply if isinstance(reply, MediaError) else numbers(reply))

        self.client.request("statistics", {}, replied, timeout=timeout)

    def close(self) -> None:
        self._answers.clear()
        for timer in self._tones.values():
            timer.cancel()
        self._tones.clear()
        self.client.close()

    def _simple(self, command: str, session: MediaSession | None, arguments: Request, done: Result | None) -> None:
        def replied(reply: Reply | MediaError) -> None:
            if not isinstance(reply, MediaError) and "gates" in reply:
                self._gates = True
            if done is not None:
                done(reply if isinstance(reply, MediaError) else None)

        named: Request = {"call-id": session.call_id} if session is not None else {}
        self.client.request(command, named | arguments, replied)


def _address(session: MediaSession) -> Request:
    """The keys that say which call a request is about, and which parties."""
    found: Request = {"call-id": session.call_id, "from-tag": session.from_tag}
    if session.to_tag:
        found["to-tag"] = session.to_tag
    if session.via_branch:
        found["via-branch"] = session.via_branch
    return found


def _tags(reply: Reply) -> ItemsView[str, Value]:
    return dictionary(reply.get("tags")).items()


def _wish(request: Request, *wishes: MediaFlags) -> None:
    """Put the ng keys of `wishes` into a request; later ones win, flags add up."""
    found = request.get("flags")
    flags: list[str] = found if isinstance(found, list) else []
    for wish in wishes:
        if wish is NO_FLAGS:
            continue
        for flag in wish.flags:
            if flag not in flags:
                flags.append(flag)
        if wish.replace:
            request["replace"] = list(wish.replace)
        if wish.direction:
            request["direction"] = list(wish.direction)
        if wish.transport_protocol:
            request["transport protocol"] = wish.transport_protocol
        if wish.media_address:
            request["media address"] = wish.media_address
        if wish.address_family:
            request["address family"] = wish.address_family
        if wish.ice:
            request["ICE"] = wish.ice
        if wish.label:
            request["label"] = wish.label
        if wish.extra:
            request.update(wish.extra)
    if flags:
        request["flags"] = flags


def wav(tone: Tone) -> bytes:
    """The tone, once, as a WAV file: 8000 Hz, 16 bit."""
    count = round(tone.duration * 8000)
    peak = 32767 * 10 ** (-tone.level / 20)
    step = math.tau * tone.frequency / 8000
    edges = [min(1.0, (i + 1) / 40, (count - i) / 40) for i in range(count)]
    samples = (round(peak * edge * math.sin(step * i)) for i, edge in enumerate(edges))
    octets = struct.pack(f"<{count}h", *samples)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(octets), b"WAVE")
        + form
        + struct.pack("<4sI", b"data", count * 2)
        + octets
    )


def _all_inactive(body: bytes) -> bytes:
    description = sdp.parse(body)
    for media in description.media:
        media.direction = "inactive"
    return description.to_bytes()


def reject_withheld(body: bytes) -> bytes:
    """The answer `body` with port 0 on each line that asks for no media."""
    description = sdp.parse(body)
    for media in description.media:
        if media.direction in ("inactive", "sendonly"):
            media.port = 0
    return description.to_bytes()
