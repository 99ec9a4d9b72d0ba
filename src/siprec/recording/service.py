"""The session recording client of a proxy: watches its calls, and records those that are to be recorded.

::

    service = RecordingService(clock, agent, profiles={"default": RecordingProfile(srs="sip:srs.example.com")})
    service.call_created(call)              # call.recorder is set now
    call.recorder.record("default")         # or siprec_start_recording("sip:a.example.com, sip:b.example.com")
    service.call_answered(call)             # after the 200 was forwarded: the recording begins

It is an observer of the proxy's calls (``call_created``, ``call_answered``, ``call_media_changed``, ``call_ended``);
nothing here ever makes a call wait (SRC-15) or raises into it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from siprec import sdp
from siprec.media.engine import MediaServer
from siprec.recording.active import ActiveRecording, Surroundings
from siprec.recording.describe import CallMetadata, GroupRegistry, RecordedCall
from siprec.recording.events import EventDispatcher
from siprec.recording.metadata import IdSource, new_id
from siprec.recording.settings import (
    RecordingProfile,
    SettingError,
    SiprecVariable,
    check_headers,
    check_uri,
)
from siprec.sdp import SdpError
from siprec.sip.clock import Clock
from siprec.sip.headers import TOKEN
from siprec.sip.message import SipMessage, encode
from siprec.sip.useragent import Result, UserAgent

log = logging.getLogger(__name__)

DEFAULT = "default"
_OURS = frozenset({"INVITE", "UPDATE", "BYE", "CANCEL", "ACK", "PRACK"})


class ProxyCall(RecordedCall, Protocol):
    """A call of the proxy, with the place where its recorder goes."""

    recorder: CallRecorder | None


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """One recording, for lists and the API."""

    instance: str
    state: str
    server: str
    dlg_id: str
    dlg_callid: str
    callid: str
    session_id: str


class CallRecorder:
    """The recordings of one call; what a routing script calls (reference.md, functions).

    `siprec` is the ``$siprec`` variable: ``recorder.siprec.group = "sales"``, ``recorder.siprec["copy"].media = ...``.
    """

    def __init__(self, service: RecordingService, call: RecordedCall) -> None:
        self.service = service
        self.call = call
        self.siprec = SiprecVariable()
        self.metadata = CallMetadata(call, service.around.new_id)
        self.recordings: dict[str, ActiveRecording] = {}
        self.answered = False
        self.over = False
        self._streams: object = None

    @property
    def wanted(self) -> bool:
        """Whether any recording of this call is wanted or going on: its media then have to pass a media server."""
        return bool(self.recordings)

    def record(self, name: str = DEFAULT) -> bool:
        """Record this call as ``[recording.NAME]`` says; false (and a warning) if that cannot be or is done already."""
        profile = self.service.profiles.get(name)
        if profile is None:
            log.warning("no recording profile %r (call %s)", name, self.call.call_id)
            return False
        return self._engage(name, profile)

    def siprec_start_recording(self, srs: str, instance: str = DEFAULT) -> bool:
        """Record this call at one of the SRSs of the comma-separated list `srs`, in order.

        Before the answer the recording begins with it; later at once. The profile named `instance`, else ``default``,
        gives what is not said here. False (and a warning) on a bad list, a call that is over, or when the instance is
        engaged already: then there is no second RS.
        """
        profiles = self.service.profiles
        base = profiles.get(instance) or profiles.get(DEFAULT)
        try:
            profile = base.with_srs(srs) if base is not None else RecordingProfile(srs=srs)
        except SettingError as error:
            log.warning("siprec_start_recording: %s (call %s)", error, self.call.call_id)
            return False
        return self._engage(instance, profile)

    def siprec_pause_recording(self, instance: str = DEFAULT) -> bool:
        """Withhold the media from the SRS; false when nothing is being recorded."""
        return self._with(instance, ActiveRecording.pause)

    def siprec_resume_recording(self, instance: str = DEFAULT) -> bool:
        """Go on after a pause; false when nothing is being recorded."""
        return self._with(instance, ActiveRecording.resume)

    def siprec_stop_recording(self, instance: str = DEFAULT) -> bool:
        """End the recording, the call goes on; false when nothing is being recorded."""
        return self._with(instance, ActiveRecording.stop)

    def siprec_send_indialog(
        self,
        method: str = "INFO",
        headers: str = "",
        body: bytes | str = b"",
        instance: str = DEFAULT,
        content_type: str = "text/plain",
        done: Callable[[Result], None] = lambda result: None,
    ) -> bool:
        """Send a request inside the RS dialog (INFO with DTMF, say). `headers` each end in CRLF; `done` gets the final
        response or why there is none. False when there is no RS dialog, or on a method or header that is ours."""
        recording = self.recordings.get(instance)
        try:
            if TOKEN.match(method) is None or method.upper() in _OURS:
                raise SettingError(f"method {method[:20]!r} cannot be sent by a script")
            pairs = check_headers(headers, also=("content-type",))
        except SettingError as error:
            log.warning("siprec_send_indialog: %s (call %s)", error, self.call.call_id)
            return False
        given = [value for name, value in pairs if name.lower() == "content-type"]
        pairs = tuple(pair for pair in pairs if pair[0].lower() != "content-type")
        octets = encode(body) if isinstance(body, str) else body
        return recording is not None and recording.send(
            method, pairs, octets, given[0] if given else content_type if octets else "", done
        )

    def info(self) -> list[RecordingInfo]:
        """The recordings of this call."""
        return [
            RecordingInfo(
                recording.instance,
                recording.state,
                recording.server,
                self.call.dlg_id,
                self.call.call_id,
                recording.rs_call_id,
                self.metadata.session_id,
            )
            for recording in self.recordings.values()
        ]

    # -- from the service ----------------------------------------------------------------------------------------------

    def _engage(self, instance: str, profile: RecordingProfile) -> bool:
        if self.over:
            log.warning("recording %r wanted after the end of call %s", instance, self.call.call_id)
            return False
        if instance in self.recordings:
            log.warning("recording %r is engaged already (call %s)", instance, self.call.call_id)
            return False
        settings = self.siprec[instance].over(profile.settings)
        recording = ActiveRecording(self.service.around, self.metadata, instance, profile, settings, self._finished)
        self.recordings[instance] = recording
        self.service.engaged(self)
        if self.answered:
            recording.begin()
        return True

    def _with(self, instance: str, do: Callable[[ActiveRecording], object]) -> bool:
        recording = self.recordings.get(instance)
        if recording is None or recording.state in ("ending", "ended"):
            log.warning("no recording %r (call %s)", instance, self.call.call_id)
            return False
        do(recording)
        return True

    def _finished(self, recording: ActiveRecording) -> None:
        if self.recordings.get(recording.instance) is recording:
            del self.recordings[recording.instance]
        if not self.recordings:
            self.service.released(self)

    def begin(self) -> None:
        """The call is answered."""
        self.answered = True
        self._streams = stream_signature(self.call)
        for recording in list(self.recordings.values()):
            # The script may have set more since it asked for the recording.
            recording.settings = self.siprec[recording.instance].over(recording.profile.settings)
            recording.begin()

    def media_changed(self) -> None:
        """A re-INVITE or UPDATE of the call is complete."""
        signature = stream_signature(self.call)
        media, self._streams = signature != self._streams, signature
        for recording in list(self.recordings.values()):
            recording.changed(media)

    def end(self) -> None:
        """The call is over."""
        self.over = True
        call = self.call
        wall = call.end_wall if call.end_wall is not None else self.service.around.clock.wall()
        for recording in list(self.recordings.values()):
            recording.call_ended(wall, self.metadata.reasons(), call.end_reason or "call ended")


def stream_signature(call: RecordedCall) -> object:
    """What makes a new fork and offer necessary when it changes: m-lines, formats and what they mean, rejected or not.
    Direction and addresses do not: hold is metadata (CTL-03), and addresses are the media server's business."""
    return tuple(_signature(octets) for octets in (call.caller_sdp, call.callee_sdp))


def _signature(octets: bytes) -> object:
    try:
        description = sdp.parse(octets) if octets else None
    except SdpError:
        return octets
    if description is None:
        return None
    return tuple(
        (
            line.kind,
            line.proto,
            line.rejected,
            tuple(line.formats),
            *line.attributes("rtpmap"),
            *line.attributes("fmtp"),
        )
        for line in description.media
    )


class RecordingService:
    """The SRC. Give it to the proxy as an observer of its calls.

    Args:
        clock: time.
        agent: our user agent, on the proxy's transaction layer.
        profiles: ``[recording.NAME]`` of the configuration.
        events: where recordings tell what happens; one of its own when none is given.
        from_uri: names the SRC in From of the RS (SRC-07) where no profile does.
        group_secret: of the deployment, for group identifiers.
        new_id: source of SIPREC identifiers.
        hang_up: ends a call, with the reason; needed for ``on_failure = "end-call"``.

    Raises:
        ValueError: a profile asks for ``end-call`` and there is no `hang_up`, or `from_uri` is no SIP URI.
    """

    def __init__(
        self,
        clock: Clock,
        agent: UserAgent,
        *,
        profiles: Mapping[str, RecordingProfile] | None = None,
        events: EventDispatcher | None = None,
        from_uri: str = "sip:siprec@localhost",
        group_secret: bytes = b"",
        new_id: IdSource = new_id,
        hang_up: Callable[[RecordedCall, str], None] | None = None,
    ) -> None:
        check_uri(from_uri, "from_uri")
        self.events = events or EventDispatcher()
        self.hang_up = hang_up
        self.around = Surroundings(
            clock, agent, self.events, from_uri, group_secret, new_id, GroupRegistry(new_id), self._failed
        )
        self.profiles: Mapping[str, RecordingProfile] = {}
        self.set_profiles(profiles or {})
        self._recorders: dict[int, CallRecorder] = {}

    def set_profiles(self, profiles: Mapping[str, RecordingProfile]) -> None:
        """Take a new configuration; recordings that exist keep theirs.

        Raises:
            ValueError: see the class.
        """
        for name, profile in profiles.items():
            if profile.on_failure == "end-call" and self.hang_up is None:
                raise ValueError(f'recording.{name}.on_failure: "end-call" is not possible here')
        self.profiles = dict(profiles)

    # -- the proxy's observer ------------------------------------------------------------------------------------------

    def call_created(self, call: ProxyCall) -> None:
        """A new call: it gets its recorder."""
        call.recorder = CallRecorder(self, call)

    def call_progress(self, call: ProxyCall, response: SipMessage) -> None:
        """A provisional response was forwarded: recordings wait for the answer (R3)."""

    def call_answered(self, call: ProxyCall) -> None:
        """The 200 was forwarded: begin (SRC-15)."""
        if call.recorder is not None:
            call.recorder.begin()

    def call_media_changed(self, call: ProxyCall, who: str = "") -> None:
        """A re-INVITE or UPDATE of the call was completed."""
        if call.recorder is not None:
            call.recorder.media_changed()

    def call_ended(self, call: ProxyCall) -> None:
        """The call is over, or never came about."""
        if call.recorder is not None:
            call.recorder.end()

    def media_server_lost(self, server: MediaServer, reason: str) -> None:
        """A media server is gone, and with it what it copied."""
        for recording in list(self._active()):
            if recording.call.media is server:
                recording.media_lost(reason)

    # -- looking -------------------------------------------------------------------------------------------------------

    def info(self) -> list[RecordingInfo]:
        """All recordings that are wanted or going on."""
        return [info for recorder in list(self._recorders.values()) for info in recorder.info()]

    def counts(self) -> dict[str, int]:
        """How many recordings are in which state: for metrics and leak checks."""
        counts: dict[str, int] = {}
        for recording in self._active():
            counts[recording.state] = counts.get(recording.state, 0) + 1
        return counts

    def stop_all(self, reason: str = "shutdown") -> None:
        """End every recording (drain); the calls go on."""
        for recording in list(self._active()):
            recording.stop(reason)

    def _active(self) -> Iterator[ActiveRecording]:
        for recorder in list(self._recorders.values()):
            yield from list(recorder.recordings.values())

    # -- from the recorders --------------------------------------------------------------------------------------------

    def engaged(self, recorder: CallRecorder) -> None:
        """The recorder has a recording."""
        self._recorders[id(recorder)] = recorder

    def released(self, recorder: CallRecorder) -> None:
        """The recorder has none any more."""
        self._recorders.pop(id(recorder), None)

    def _failed(self, recording: ActiveRecording, reason: str) -> None:
        if recording.profile.on_failure == "end-call" and self.hang_up is not None:
            recorder = self._recorders.values()
            if any(recording in r.recordings.values() and not r.over for r in recorder):
                self.hang_up(recording.call, reason)
