"""The session recording client of a proxy: watches its calls, and records those that are to be recorded.

::

    service = RecordingService(clock, agent, profiles={"default": RecordingProfile(srs="sip:srs.example.com")})
    proxy = ProxyCore(..., observers=[service])

Calls whose `recordings` name a profile are recorded from the answer on; a script starts others with
``call.siprec_start_recording(...)``. Nothing here ever makes a call wait (SRC-15) or raises into it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from siprec import sdp
from siprec.media.engine import MediaServer
from siprec.proxy.call import Call, CallObserver
from siprec.recording import identity
from siprec.recording.active import ActiveRecording, Surroundings
from siprec.recording.describe import CallMetadata, GroupRegistry, Leg
from siprec.recording.events import EventDispatcher
from siprec.recording.indication import Indications
from siprec.recording.metadata import IdSource, new_id
from siprec.recording.settings import (
    RecordingProfile,
    RecordingSettings,
    SettingError,
    SiprecVariable,
    check_headers,
    check_uri,
)
from siprec.sdp import SdpError
from siprec.sip.clock import Clock
from siprec.sip.headers import TOKEN, NameAddr
from siprec.sip.message import SipMessage, encode
from siprec.sip.useragent import Result, UserAgent

log = logging.getLogger(__name__)

DEFAULT: Final = "default"
_OURS: Final = frozenset({"INVITE", "UPDATE", "BYE", "CANCEL", "ACK", "PRACK"})


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
    """The recordings of one call."""

    def __init__(self, service: RecordingService, call: Call) -> None:
        self.service = service
        self.call = call
        self.metadata = metadata_of(call, service.around.new_id)
        self.recordings: dict[str, ActiveRecording] = {}
        self.answered = False
        self.over = False
        self._streams: object = None

    def engage(self, instance: str, profile: RecordingProfile, settings: RecordingSettings | None) -> bool:
        """Want a recording: it begins with the answer, or now when that was."""
        if self.over:
            log.warning("recording %r wanted after the end of call %s", instance, self.call.call_id)
            return False
        if instance in self.recordings:
            log.warning("recording %r is engaged already (call %s)", instance, self.call.call_id)
            return False
        recording = ActiveRecording(
            self.service.around,
            self.metadata,
            instance,
            profile,
            settings.over(profile.settings) if settings is not None else profile.settings,
            self._finished,
        )
        self.recordings[instance] = recording
        if instance not in self.call.recordings:
            # The proxy looks here whether the media have to pass a media server.
            self.call.recordings.append(instance)
        self.service.indications.engaged(self, recording)
        if self.answered:
            recording.begin()
        self.service.indications.changed(self.call)
        return True

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

    def _finished(self, recording: ActiveRecording) -> None:
        if self.recordings.get(recording.instance) is recording:
            del self.recordings[recording.instance]
        if recording.instance in self.call.recordings and not self.answered:
            self.call.recordings.remove(recording.instance)
        self.service.on_finished(recording)
        self.service.released(self)
        self.service.indications.changed(self.call)

    def begin(self) -> None:
        """The call is answered. A late offer has its answer in the ACK: then the recording waits for that (R3)."""
        if self.answered or not (self.call.caller_sdp and self.call.callee_sdp):
            return
        self.answered = True
        self._streams = stream_signature(self.call)
        self.service.group(self)
        for recording in list(self.recordings.values()):
            # The script may have set more since it asked for the recording.
            settings = settings_of(self.call, recording.instance)
            if settings is not None:
                recording.settings = settings.over(recording.settings)
            recording.begin()

    def media_changed(self) -> None:
        """A re-INVITE or UPDATE of the call is complete, or the ACK with the answer came."""
        if not self.answered:
            self.begin()
            return
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


def metadata_of(call: Call, new_id: IdSource) -> CallMetadata:
    """What the recording knows of a call, recorded or not: made when first asked for."""
    found = call.metadata
    if not isinstance(found, CallMetadata):
        found = call.metadata = CallMetadata(call, new_id)
    return found


def settings_of(call: Call, instance: str) -> RecordingSettings | None:
    """What the script set for an instance of this call."""
    settings = call.settings[instance] if call.settings is not None else None
    return settings if isinstance(settings, RecordingSettings) else None


def stream_signature(call: Call) -> object:
    """What makes a new fork and offer necessary when it changes: m-lines, formats and what they mean, rejected or not;
    also another callee, when of two that answered the caller kept the second.
    Direction and addresses do not: hold is metadata (CTL-03), and addresses are the media server's business."""
    return call.to_tag, *(_signature(octets) for octets in (call.caller_sdp, call.callee_sdp))


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


class RecordingService(CallObserver):
    """The SRC: an observer of the proxy's calls, and the recorder their scripts speak to (reference.md, functions).

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
        hang_up: Callable[[Call, str], None] | None = None,
    ) -> None:
        check_uri(from_uri, "from_uri")
        self.events = events or EventDispatcher()
        self.hang_up = hang_up
        self.on_finished: Callable[[ActiveRecording], object] = lambda recording: None
        self.around = Surroundings(
            clock, agent, self.events, from_uri, group_secret, new_id, GroupRegistry(new_id), self._failed
        )
        self.profiles: Mapping[str, RecordingProfile] = {}
        self.set_profiles(profiles or {})
        self._recorders: dict[str, CallRecorder] = {}
        self.indications = Indications(self)

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

    def call_created(self, call: Call) -> None:
        """A new call: scripts find us at `call.recorder`, and their settings at `call.settings`."""
        call.recorder = self
        if call.settings is None:
            call.settings = SiprecVariable()

    def call_answered(self, call: Call) -> None:
        """The 200 was forwarded: begin (SRC-15)."""
        for name in list(call.recordings):
            recorder = self._recorders.get(call.dlg_id)
            if recorder is None or name not in recorder.recordings:
                self.record(call, name)
        # Also without a recording: one may be wanted in mid-call.
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            recorder.begin()

    def call_media_changed(self, call: Call, who: str = "") -> None:
        """A re-INVITE or UPDATE of the call was completed."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            recorder.media_changed()

    def party_identified(self, call: Call, leg: Leg, address: NameAddr, message: SipMessage | None = None) -> None:
        """A party of the call turned out to be `address` (connected identity, RFC 4916); `message` is what it sent."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            recorder.metadata.identify(leg, address, message)
            for recording in list(recorder.recordings.values()):
                recording.changed(False)

    def party_replaced(self, call: Call, leg: Leg, address: NameAddr, message: SipMessage | None = None) -> None:
        """`address` took the place of a party within the same session: a transfer by re-INVITE (SCN-07)."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            policies = {recording.profile.identity for recording in recorder.recordings.values()}
            if policies and not any(recorder.metadata.differs(leg, address, message, each) for each in policies):
                # Of what tells them apart nothing is to be used here: as far as it is known, the same party.
                self.party_identified(call, leg, address, message)
                return
            recorder.metadata.replace(leg, address, message, self.around.clock.wall())
            for recording in list(recorder.recordings.values()):
                # The newcomer's streams have new ids, whose labels need an offer beside them (META-06).
                recording.changed(True)

    def group(self, recorder: CallRecorder) -> None:
        """A call that comes of others (transfer, REFER) is in one group with them, whose settings' group it takes, and
        the party they have in common keeps its id (SCN-08, ID-07)."""
        around, mine = self.around, recorder.metadata
        for relation in recorder.call.relations:
            before = metadata_of(relation.call, around.new_id)
            other = self._recorders.get(relation.call.dlg_id)
            active = list(other.recordings.values()) if other is not None else []
            names = [recording.settings.group for recording in active if recording.settings.group]
            group_id = identity.group(names[0], around.group_secret)[0] if names else before.group_id
            group_id = group_id or mine.group_id or around.new_id()
            formed = relation.call.answer_wall or relation.call.start_wall
            common = before.participant_id(relation.theirs, group_id)
            before.join(group_id, formed, {relation.theirs: common})
            mine.join(group_id, formed, {relation.mine: common})
            for recording in active:
                recording.changed(False)

    def call_media_failed(self, call: Call, reason: str) -> None:
        """The media server is out of this call, and so are the copies it made."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            for recording in list(recorder.recordings.values()):
                recording.media_lost(f"media server: {reason}")

    def call_ended(self, call: Call) -> None:
        """The call is over, or never came about."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            recorder.end()
            self.released(recorder)

    def media_server_lost(self, server: MediaServer, reason: str) -> None:
        """A media server is gone, and with it what it copied."""
        for recording in list(self._active()):
            if recording.call.media is server:
                recording.media_lost(reason)

    # -- what scripts, the API and the command line ask ----------------------------------------------------------------

    def record(self, call: Call, name: str = DEFAULT) -> bool:
        """Record the call as ``[recording.NAME]`` says; false (and a warning) if that cannot be or is done already."""
        profile = self.profiles.get(name)
        if profile is None:
            log.warning("no recording profile %r (call %s)", name, call.call_id)
            return False
        return self._engage(call, name, profile, None)

    def siprec_start_recording(self, call: Call, srs: str, instance: str = DEFAULT, settings: Any = None) -> bool:
        """Record the call at one of the SRSs of the comma-separated list `srs`, in order.

        Before the answer the recording begins with it; later at once. The profile named `instance`, else ``default``,
        gives what neither `settings` nor the call's own settings say. False (and a warning) on a bad list, a call that
        is over, or when the instance is engaged already: then there is no second RS.
        """
        base = self.profiles.get(instance) or self.profiles.get(DEFAULT)
        try:
            profile = base.with_srs(srs) if base is not None else RecordingProfile(srs=srs)
        except SettingError as error:
            log.warning("siprec_start_recording: %s (call %s)", error, call.call_id)
            return False
        return self._engage(call, instance, profile, settings if isinstance(settings, RecordingSettings) else None)

    def siprec_pause_recording(self, call: Call, instance: str = DEFAULT, by: str = "script") -> bool:
        """Withhold the media from the SRS; false when nothing is being recorded. `by` says who asks, for the event and
        the proof of recording."""
        return self._with(call, instance, lambda recording: recording.pause(by))

    def siprec_resume_recording(self, call: Call, instance: str = DEFAULT, by: str = "script") -> bool:
        """Go on after a pause; false when nothing is being recorded."""
        return self._with(call, instance, lambda recording: recording.resume(by))

    def siprec_stop_recording(self, call: Call, instance: str = DEFAULT, by: str = "script") -> bool:
        """End the recording, the call goes on; false when nothing is being recorded."""
        return self._with(call, instance, lambda recording: recording.stop(f"stopped by {by}"))

    def siprec_send_indialog(
        self,
        call: Call,
        method: str = "INFO",
        headers: Iterable[tuple[str, str]] | str = (),
        body: bytes | str = b"",
        content_type: str = "",
        instance: str = DEFAULT,
        done: Callable[[Result], None] = lambda result: None,
    ) -> bool:
        """Send a request inside the RS dialog (INFO with DTMF, say).

        `headers` are pairs, or lines each ending in CRLF; `content_type` is ``text/plain`` for a body unless said
        there or here; `done` gets the final response or why there is none. False when there is no RS dialog, or on a
        method or header that is not a script's to send.
        """
        recorder = self._recorders.get(call.dlg_id)
        recording = recorder.recordings.get(instance) if recorder is not None else None
        lines = headers if isinstance(headers, str) else "".join(f"{name}: {value}\r\n" for name, value in headers)
        try:
            if TOKEN.match(method) is None or method.upper() in _OURS:
                raise SettingError(f"method {method[:20]!r} cannot be sent by a script")
            pairs = check_headers(lines, also=("content-type",))
        except SettingError as error:
            log.warning("siprec_send_indialog: %s (call %s)", error, call.call_id)
            return False
        given = [value for name, value in pairs if name.lower() == "content-type"]
        octets = encode(body) if isinstance(body, str) else body
        kind = (content_type or (given[0] if given else "text/plain")) if octets else ""
        pairs = tuple(pair for pair in pairs if pair[0].lower() != "content-type")
        return recording is not None and recording.send(method, pairs, octets, kind, done)

    def _engage(self, call: Call, instance: str, profile: RecordingProfile, settings: RecordingSettings | None) -> bool:
        recorder = self._recorders.get(call.dlg_id)
        if recorder is None:
            if call.state == "terminated":
                log.warning("recording %r wanted after the end of call %s", instance, call.call_id)
                return False
            recorder = self._recorders[call.dlg_id] = CallRecorder(self, call)
            if call.state == "confirmed" and call.answer_wall is not None:
                recorder.begin()
        return recorder.engage(instance, profile, settings or settings_of(call, instance))

    def _with(self, call: Call, instance: str, do: Callable[[ActiveRecording], object]) -> bool:
        recorder = self._recorders.get(call.dlg_id)
        recording = recorder.recordings.get(instance) if recorder is not None else None
        if recording is None or recording.state in ("ending", "ended"):
            log.warning("no recording %r (call %s)", instance, call.call_id)
            return False
        do(recording)
        self.indications.changed(call)
        return True

    # -- looking -------------------------------------------------------------------------------------------------------

    def recorder_of(self, call: Call) -> CallRecorder | None:
        """The recordings of a call; None if none was ever wanted, or all is over."""
        return self._recorders.get(call.dlg_id)

    def info(self) -> list[RecordingInfo]:
        """All recordings that are wanted or going on."""
        return [info for recorder in list(self._recorders.values()) for info in recorder.info()]

    def recorder(self, dlg_id: str) -> CallRecorder | None:
        """The recordings of one call, if it has any."""
        return self._recorders.get(dlg_id)

    def recorders(self) -> list[CallRecorder]:
        """All calls with recordings, in the order they began."""
        return list(self._recorders.values())

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

    def released(self, recorder: CallRecorder) -> None:
        """A recording is over: of a call that is over too, nothing is kept when the last one is."""
        if recorder.over and not recorder.recordings:
            self._recorders.pop(recorder.call.dlg_id, None)

    def _failed(self, recording: ActiveRecording, reason: str) -> None:
        recorder = self._recorders.get(recording.call.dlg_id)
        if recording.profile.on_failure == "end-call" and self.hang_up and recorder is not None and not recorder.over:
            self.hang_up(recorder.call, reason)
