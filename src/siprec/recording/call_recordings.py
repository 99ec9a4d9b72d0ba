"""The recordings of one call: which are wanted, when each begins, and what they are told of the call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from siprec.metadata.values import IdSource
from siprec.proxy.call import Call, Leg, StartMode
from siprec.proxy.party import asserted
from siprec.recording import participants
from siprec.recording.call_metadata import CallMetadata
from siprec.recording.call_recording import CallRecording
from siprec.recording.recording_core import RecordingContext, RecordingCore
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.retry import RetryQueue, Waiting
from siprec.recording.settings import RecordingSettings, SiprecVariable
from siprec.recording.shared_session_pool import INBOUND
from siprec.recording.stream_digest import digest
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipResponse

log = logging.getLogger(__name__)

#: Seconds before the answer passed here from which media may be the conversation already: packets are faster than a
#: 200. Where there were early media, all that came before the 200 belongs to these.
HEAD_START: Final = 0.2


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


class CallRecordings:
    """The recordings of one call.

    `calls` are those of all calls, by dialog id. `answered`: those that begin with the answer have begun; `early`: at
    least one began with early media.
    """

    __slots__ = (
        "_callee",
        "_calls",
        "_context",
        "_retry",
        "_streams",
        "answered",
        "call",
        "early",
        "metadata",
        "over",
        "recordings",
    )

    def __init__(
        self, context: RecordingContext, retry: RetryQueue, calls: Mapping[str, CallRecordings], call: Call
    ) -> None:
        self._context = context
        self._retry = retry
        self._calls = calls
        self.call = call
        self.metadata = metadata_of(call, context.new_id)
        self.recordings: dict[str, CallRecording] = {}
        self.answered = False
        self.early = False
        self.over = False
        self._streams: object = None
        self._callee = ""

    def engage(
        self,
        instance: str,
        profile: RecordingProfile,
        settings: RecordingSettings | None,
        start: StartMode,
        *,
        promised: bool = False,
    ) -> str:
        """Want a recording: it begins as `start` says, or now when that was; with what was said since the answer if it
        was `promised` before. Returns why not, or nothing."""
        if self.over:
            return "the call is over"
        if instance in self.recordings:
            return f"instance {instance!r} is engaged already"
        self._retry.discard(self.call.dlg_id, instance)
        recording = CallRecording(
            self._context,
            self.metadata,
            instance,
            profile,
            settings.over(profile.settings) if settings is not None else profile.settings,
            start,
        )
        self.recordings[instance] = recording
        if instance not in self.call.recordings:
            # The proxy looks here whether the media have to pass a media server.
            self.call.recordings.append(instance)
        for hear in self._context.observers.recording_wanted:
            hear(recording)
        now = self._context.clock.now()
        if self.answered:
            recording.begin(self._since_answer() if promised else now)
        elif self.call.early_media and start == "early" and not self.call.media_awaited:
            # What rang before anybody wanted it is not in it.
            self._begin_early(now)
        return ""

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

    def remove(self, recording: RecordingCore) -> None:
        """One is over."""
        if self.recordings.get(recording.instance) is recording:
            del self.recordings[recording.instance]
        waits = recording.may_return and self._waits(recording)
        if recording.instance in self.call.recordings and not self.answered and not waits:
            self.call.recordings.remove(recording.instance)

    def _waits(self, recording: RecordingCore) -> bool:
        """Have a recording whose SRSs were all down tried again later; false: it is not to be."""
        profile, instance = recording.profile, recording.instance
        if self.over or not profile.retry or instance in self.recordings or instance.startswith(INBOUND):
            return False
        waiting = Waiting(
            self,
            instance,
            profile,
            recording.settings,
            recording.start,
            self._context.clock.now() + profile.retry,
            recording.paused,
            recording.failure,
            recording.woken,
        )
        self._retry.add(waiting)
        return True

    def again(self, waiting: Waiting) -> None:
        """Begin a recording that waited, with what is said from now on."""
        if self.over or self.engage(waiting.instance, waiting.profile, waiting.settings, waiting.start):
            return
        recording = self.recordings[waiting.instance]
        recording.failure, recording.woken = waiting.failure, waiting.woken
        if waiting.paused:
            recording.pause()

    # -- beginning -----------------------------------------------------------------------------------------------------

    def early_media(self) -> None:
        """Early media pass, or those of another branch do (RFC 3261 13.2.2.4), or they have changed."""
        if not self.answered and not self.over:
            self._begin_early(None)

    def _begin_early(self, since: float | None) -> None:
        waiting = [r for r in self._waiting() if r.start == "early"]
        response = self.call.early
        if response is None or not (waiting or self.early):
            return
        self._met(response)
        if self.early:
            self._changed()
        else:
            self.early = True
            self.metadata.begin(self.call.wall(self._context.clock.now()))
            self._streams = stream_signature(self.call)
            self._group()
        self._begin(waiting, since)

    def begin(self) -> None:
        """The call is answered. A late offer has its answer in the ACK: then the recording waits for that."""
        call = self.call
        if self.answered or not (call.caller_sdp and call.callee_sdp):
            return
        self.answered = True
        if self.early:
            # What began with early media goes on with whoever answered.
            if call.response is not None:
                self._met(call.response)
            self._changed()
        else:
            self._streams = stream_signature(call)
            self._group()
        self._begin(self._waiting(), self._since_answer())

    def _group(self) -> None:
        """A call that comes of others (transfer, REFER) is in one group with them, whose settings' group it takes, and
        the party they have in common keeps its id (RFC 7865 6.2)."""
        context, mine = self._context, self.metadata
        for relation in self.call.relations:
            before = metadata_of(relation.call, context.new_id)
            other = self._calls.get(relation.call.dlg_id)
            active = list(other.recordings.values()) if other is not None else []
            names = [recording.settings.group for recording in active if recording.settings.group]
            group_id = participants.group(names[0], context.group_secret)[0] if names else before.group_id
            group_id = group_id or mine.group_id or context.new_id()
            formed = relation.call.answer_wall or relation.call.start_wall
            common = before.participant_id(relation.theirs, group_id)
            before.join(group_id, formed, {relation.theirs: common})
            mine.join(group_id, formed, {relation.mine: common})
            for recording in active:
                recording.changed(False)

    def _since_answer(self) -> float | None:
        since = self.call.talk_began
        return since - HEAD_START if since is not None and self.call.early is None else since

    def _waiting(self) -> list[CallRecording]:
        return [recording for recording in self.recordings.values() if recording.state == "idle"]

    def _begin(self, recordings: list[CallRecording], since: float | None) -> None:
        for recording in recordings:
            # The script may have set more since it asked for the recording.
            settings = settings_of(self.call, recording.instance)
            if settings is not None:
                recording.settings = settings.over(recording.settings)
            recording.begin(since)

    # -- while it lasts ------------------------------------------------------------------------------------------------

    def _met(self, response: SipResponse) -> None:
        """The callee is who sent `response`: before the answer that may be another one each time."""
        before, self._callee = self._callee, response.to_tag
        if before == self._callee and not asserted(response):
            self.metadata.heard("callee", response)
        elif before in ("", self._callee) or not self.differs("callee", response.to, response):
            self.metadata.identify("callee", response.to, response)
        else:
            self.metadata.replace("callee", response.to, response, self.call.wall(self._context.clock.now()))

    def differs(self, leg: Leg, address: NameAddr, message: SipMessage | None) -> bool:
        """Whether `address` is another name than that of the party there, as the policies of the recordings see it."""
        policies = {recording.profile.identity for recording in self.recordings.values()}
        return not policies or any(self.metadata.differs(leg, address, message, each) for each in policies)

    def media_changed(self) -> None:
        """A re-INVITE or UPDATE of the call is complete, or the ACK with the answer came."""
        if not self.answered:
            self.begin()
        else:
            self._changed()

    def _changed(self) -> None:
        signature = stream_signature(self.call)
        media, self._streams = signature != self._streams, signature
        for recording in list(self.recordings.values()):
            recording.changed(media)

    def end(self) -> None:
        """The call is over."""
        self.over = True
        call = self.call
        wall = call.end_wall if call.end_wall is not None else call.wall(self._context.clock.now())
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
    return call.settings.given(instance) if isinstance(call.settings, SiprecVariable) else None


def stream_signature(call: Call) -> object:
    """What makes a new fork and offer necessary when it changes: m-lines, formats and what they mean, rejected or not;
    also another callee, when of two that answered the caller kept the second.
    Direction and addresses do not: hold is metadata (RFC 7866 7.1.1.1), and addresses are the media server's
    business."""
    return call.callee_tag, digest(call.caller_sdp).signature, digest(call.callee_sdp).signature
