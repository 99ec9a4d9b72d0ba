"""The call: one proxied INVITE and what came of it. What routing scripts and the recording see."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from siprec.media.engine import NO_FLAGS, MediaFlags, MediaServer, MediaSession
from siprec.proxy.call_media_session import CallMedia
from siprec.proxy.party import Party
from siprec.proxy.routes import MediaUse, TransportProtocol
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest, SipResponse

log = logging.getLogger(__name__)

Leg = Literal["caller", "callee"]
StartMode = Literal["answer", "early"]


class RecordingUnavailable(RuntimeError):
    """A script asked for a recording, but nothing that records is set up."""


class Recorder(Protocol):
    """What records calls; handed in from above (:mod:`siprec.recording`). Each returns false on an internal error."""

    def siprec_start_recording(self, call: Call, srs: str, instance: str, settings: Any, start: str = "") -> bool:
        """Record `call` at the SRSs in `srs` (comma-separated URIs); `settings` are those of the message in hand,
        `start` says from when on (``answer``, ``early``, or nothing: as the profile has it)."""
        ...

    def setting_ignored(self, call: Call, instance: str, reason: str) -> None:
        """A script set something that cannot be."""
        ...

    def siprec_pause_recording(self, call: Call, instance: str) -> bool: ...

    def siprec_resume_recording(self, call: Call, instance: str) -> bool: ...

    def siprec_stop_recording(self, call: Call, instance: str) -> bool: ...

    def siprec_send_indialog(
        self, call: Call, method: str, headers: Iterable[tuple[str, str]], body: bytes, content_type: str, instance: str
    ) -> bool: ...


class CallObserver:
    """Told what happens to calls; does nothing by itself. Called after the message has been forwarded (all but
    `call_created`): what an observer does never delays the call, and what it raises is logged."""

    def call_created(self, call: Call) -> None:
        """An INVITE outside a dialog came; rules and script have not seen it yet."""

    def call_progress(self, call: Call, response: SipResponse) -> None:
        """A provisional response, not 100, was forwarded."""

    def call_early_media(self, call: Call) -> None:
        """Before the answer, both descriptions of an early dialog are known: `call.early` is the provisional response
        that made it. Told again for each response, PRACK or UPDATE that carries on with it, or with another dialog."""

    def call_answered(self, call: Call) -> None:
        """The first 2xx was forwarded. With a late offer `call.caller_sdp` follows with the ACK, as a media change."""

    def call_media_changed(self, call: Call, who: str) -> None:
        """An offer/answer exchange begun by ``caller`` or ``callee`` after the answer is complete."""

    def party_identified(self, call: Call, leg: Leg, address: NameAddr, message: SipMessage | None = None) -> None:
        """After the answer, a party turned out to be `address` (connected identity, RFC 4916); `message` says so."""

    def party_replaced(self, call: Call, leg: Leg, address: NameAddr, message: SipMessage | None = None) -> None:
        """`address` took the place of a party within the same dialog: a transfer by re-INVITE or UPDATE."""

    def call_media_failed(self, call: Call, reason: str) -> None:
        """The media server is out of this call, which goes on without (or was rejected, by policy)."""

    def call_media_moved(self, call: Call) -> None:
        """Another media server (`call.media`) carries the call now; the one before is lost, with all that it copied."""

    def call_ended(self, call: Call) -> None:
        """Over, for whatever reason, answered or not; its media is deleted right after this."""


@dataclass(frozen=True, slots=True)
class Relation:
    """The call at hand continues `call`: the party on side `mine` of the new call is the one on side `theirs` there."""

    call: Call
    theirs: Leg
    mine: Leg
    why: Literal["replaces", "refer"]


class Call:
    """One initial INVITE, all its branches, and the dialog that was answered (RFC 3261 13.2.2.4).

    `state` is ``early``, ``confirmed`` or ``terminated``; `from_tag` the caller's, `to_tag` that of the answered
    branch. `invite` is the request as received, `response` the 2xx, `caller` and `callee` From and To. Times are
    seconds since the epoch. `end_reason` says what ended it (``bye``, ``cancelled``, ``486``, ``expired``...),
    `end_message` is the BYE or failure response, if any, and `end_side` who sent the BYE. `media` and `media_session`
    are set while a media server carries the call, `media_bypassed` when descriptions went past it; `early` is the last
    provisional response with a description, `early_media` whether media can pass since; `talk_began` when the first
    2xx came (monotonic). `transport_protocol` is what the callee is offered, `media_set` where its media
    server is chosen from, `media_flags` what it is asked besides (see `RouteRule`).
    `caller_sdp`, `callee_sdp` are what the parties last agreed, as each of them sent it.
    `parties` are the sides that are known otherwise than from the INVITE and its answer (asserted or
    connected identity, transfer), from the answer on; `relations` the calls that this one continues; `metadata` belongs
    to the recording; `wanted_by` says which route, script or request wanted each recording.
    """

    __slots__ = (
        "__weakref__",
        "_settings",
        "answer_wall",
        "call_id",
        "callee",
        "callee_sdp",
        "caller",
        "caller_sdp",
        "dlg_id",
        "early",
        "early_media",
        "end_message",
        "end_reason",
        "end_side",
        "end_wall",
        "epoch",
        "from_tag",
        "invite",
        "media",
        "media_bypassed",
        "media_error",
        "media_flags",
        "media_path",
        "media_session",
        "media_set",
        "media_use",
        "metadata",
        "parties",
        "recorder",
        "recordings",
        "relations",
        "response",
        "source",
        "start_wall",
        "state",
        "talk_began",
        "to_tag",
        "transport_protocol",
        "wanted_by",
    )

    def __init__(self, dlg_id: str, invite: SipRequest, source: str, wall: float, now: float) -> None:
        self.dlg_id = dlg_id
        self.call_id = invite.call_id
        self.from_tag = invite.from_tag
        self.to_tag = ""
        self.invite = invite
        self.response: SipResponse | None = None
        self.early: SipResponse | None = None
        self.early_media = False
        self.talk_began: float | None = None
        self.caller: NameAddr = invite.from_
        self.callee: NameAddr = invite.to
        self.source = source
        self.state = "early"
        self.start_wall: float = wall
        self.epoch = wall - now
        self.answer_wall: float | None = None
        self.end_wall: float | None = None
        self.end_reason = ""
        self.end_side = ""
        self.end_message: SipMessage | None = None
        self.media: MediaServer | None = None
        self.media_session: MediaSession | None = None
        self.media_path: CallMedia | None = None
        self.media_use: MediaUse = ""
        self.media_set = ""
        self.transport_protocol: TransportProtocol = ""
        self.media_flags: MediaFlags = NO_FLAGS
        self.media_error = ""
        self.media_bypassed = False
        self.caller_sdp = b""
        self.callee_sdp = b""
        self.recordings: list[str] = []
        self.wanted_by: dict[str, str] | None = None
        self.recorder: Recorder | None = None
        self.parties: dict[str, Party] = {}
        self.relations: tuple[Relation, ...] = ()
        self.metadata: Any = None
        self._settings: Any = None

    def wall(self, now: float) -> float:
        """Seconds since the epoch at monotonic `now`, counted from the start of the call: nothing of it ends before it
        began, whatever becomes of the host's clock meanwhile."""
        return self.epoch + now

    @property
    def callee_tag(self) -> str:
        """The tag of the answered branch; before the answer that of the branch whose early media pass, if any do."""
        return self.to_tag or (self.early.to_tag if self.early is not None else "")

    @property
    def media_awaited(self) -> bool:
        """Whether the call is without a media server now, but is going to have one."""
        return self.media_path is not None and self.media_path.state == "active" and self.media_path.lost != ""

    @property
    def settings(self) -> Any:
        """Recording settings by instance, as the script set them (``request.siprec``); None if it did not."""
        return self._settings

    @settings.setter
    def settings(self, value: Any) -> None:
        self._settings = value

    # -- for routing scripts -------------------------------------------------------------------------------------------

    def record(self, name: str = "default") -> None:
        """Have the call recorded as ``[recording.NAME]`` says, from its answer or its early media on. Twice is once."""
        if name not in self.recordings:
            self.recordings.append(name)
        self.wants(name, "script")

    def wants(self, name: str, by: str) -> None:
        """Note who first wanted the recording `name`: for who asks later why there is one, or none."""
        if self.wanted_by is None:
            self.wanted_by = {}
        self.wanted_by.setdefault(name, by)

    def siprec_start_recording(self, srs: str, instance: str = "default", start: StartMode | Literal[""] = "") -> bool:
        """Record at `srs`, one or more SIP URIs separated by commas, in order of preference.

        The recording begins at once where the call has early media or is answered, else as `start` says: with the
        ``answer``, or with ``early`` media if there are any; left out, as the profile says. From the reply route of the
        2xx it begins with the answer. ``start="answer"`` waits for the answer in any case. False, with a warning, when
        it cannot be: a bad list, the instance is engaged already, or the call's media do not pass a media server.

        Raises:
            RecordingUnavailable: nothing that records is set up.
        """
        settings = self._settings[instance] if self._settings is not None else None
        self.wants(instance, "script")
        return self._recorder().siprec_start_recording(self, srs, instance, settings, start)

    def siprec_pause_recording(self, instance: str = "default") -> bool:
        """Withhold the media from the SRS; the recording session stays. Raises RecordingUnavailable."""
        return self._recorder().siprec_pause_recording(self, instance)

    def siprec_resume_recording(self, instance: str = "default") -> bool:
        """Go on after a pause. Raises RecordingUnavailable."""
        return self._recorder().siprec_resume_recording(self, instance)

    def siprec_stop_recording(self, instance: str = "default") -> bool:
        """End the recording session; the call goes on. Raises RecordingUnavailable."""
        return self._recorder().siprec_stop_recording(self, instance)

    def siprec_send_indialog(
        self,
        method: str = "INFO",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "",
        instance: str = "default",
    ) -> bool:
        """Send a request to the SRS within the recording session's dialog. Raises RecordingUnavailable."""
        return self._recorder().siprec_send_indialog(self, method, headers, body, content_type, instance)

    def _recorder(self) -> Recorder:
        if self.recorder is None:
            raise RecordingUnavailable(f"no recording service is set up (Call-ID {self.call_id})")
        return self.recorder

    def snapshot(self) -> dict[str, object]:
        """The call as plain values, for lists and APIs."""
        return {
            "dlg_id": self.dlg_id,
            "call_id": self.call_id,
            "from_tag": self.from_tag,
            "to_tag": self.to_tag,
            "caller": self.caller.uri_text,
            "callee": self.callee.uri_text,
            "state": self.state,
            "source": self.source,
            "start": self.start_wall,
            "answer": self.answer_wall,
            "end": self.end_wall,
            "end_reason": self.end_reason,
            "recordings": list(self.recordings),
            "media": self.media.name if self.media is not None else "",
            "media_error": self.media_error,
        }

    def __repr__(self) -> str:
        return f"<Call {self.call_id} {self.state}>"


class Observers:
    """All observers of a proxy, told in order."""

    __slots__ = ("_observers",)

    def __init__(self, observers: Iterable[CallObserver] = ()) -> None:
        self._observers: list[CallObserver] = list(observers)

    def add(self, observer: CallObserver) -> None:
        """One more."""
        self._observers.append(observer)

    def tell(self, event: str, call: Call, *arguments: object) -> None:
        """Call the method `event` of each."""
        for observer in self._observers:
            try:
                getattr(observer, event)(call, *arguments)
            except Exception:
                log.exception("%s failed in %s, Call-ID %s", event, type(observer).__name__, call.call_id)
