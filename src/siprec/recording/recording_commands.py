"""What scripts, the API and the command line ask of the recording client."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from siprec.metadata.values import IdSource, new_id
from siprec.proxy.call import Call, StartMode
from siprec.recording.call_metadata import GroupRegistry
from siprec.recording.call_recording import CallRecording
from siprec.recording.call_recordings import CallRecordings, settings_of
from siprec.recording.events import FAILED, IGNORED, EventDispatcher, SiprecEvent
from siprec.recording.recording_awareness import Indications
from siprec.recording.recording_core import RecordingContext, RecordingObserver
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.retry import RetryQueue, Waiting
from siprec.recording.settings import RecordingSettings, SettingError, check_headers, check_uri
from siprec.recording.srs_initiated import RequestedSessions
from siprec.sip.clock import Clock
from siprec.sip.header_list import has_control, header_key
from siprec.sip.headers import TOKEN
from siprec.sip.message import encode
from siprec.sip.useragent import Result, UserAgent

log = logging.getLogger(__name__)

DEFAULT: Final = "default"
_AGAIN: Final = 5.0
"""Seconds in which the same refusal of the same recording is told once."""
_REFUSALS: Final = 1000
_OURS: Final = frozenset({"INVITE", "UPDATE", "BYE", "CANCEL", "ACK", "PRACK"})


def check_indialog(
    method: str, headers: Iterable[tuple[str, str]] | str, content_type: str
) -> tuple[tuple[tuple[str, str], ...], str]:
    """The headers of a request that a script sends within the RS dialog, without Content-Type, and that.

    Raises:
        SettingError: a method or header that is not a script's to send, or text that cannot stand in a header.
    """
    if TOKEN.match(method) is None or method.upper() in _OURS:
        raise SettingError(f"method {method[:20]!r} cannot be sent by a script")
    if isinstance(headers, str):
        pairs = check_headers(headers, also=("content-type",))
    else:
        # One by one: a value cannot begin another header.
        pairs = tuple(pair for name, value in headers for pair in _one_header(name, value))
    given = [value for name, value in pairs if header_key(name) == "content-type"]
    kind = content_type or (given[0] if given else "")
    if has_control(kind):
        raise SettingError("content_type: control character in it")
    return tuple(pair for pair in pairs if header_key(pair[0]) != "content-type"), kind


def _one_header(name: str, value: str) -> tuple[tuple[str, str], ...]:
    if has_control(value) or has_control(name):
        raise SettingError(f"headers: control character in {name[:60]!r}")
    return check_headers(f"{name}: {value}", also=("content-type",))


class RecordingCommands(RecordingObserver):
    """The profiles, the recordings of all calls by dialog id, and what can be asked of them (reference.md, functions).

    Args:
        clock: time.
        agent: our user agent, on the proxy's transaction layer.
        profiles: ``[recording.NAME]`` of the configuration.
        skip_failover_codes: of recordings whose SRSs a script names and that have no profile.
        events: where recordings tell what happens; one of its own when none is given.
        from_uri: names the SRC in From of the RS (RFC 7866 6.1.1) where no profile does.
        group_secret: of the deployment, for group identifiers.
        new_id: source of SIPREC identifiers.
        hang_up: ends a call, with the reason; needed for ``on_failure = "end-call"``.
        signalled: has record-aware parties of a call told of a change in mid-call, where profiles want that.

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
        signalled: Callable[[Call], None] | None = None,
        skip_failover_codes: str = "",
    ) -> None:
        check_uri(from_uri, "from_uri")
        self.events = events or EventDispatcher()
        self.hang_up = hang_up
        self.context = RecordingContext(
            clock, agent, self.events, from_uri, group_secret, new_id, GroupRegistry(new_id)
        )
        self.clock = clock
        self.shared_sessions = self.context.shared_sessions
        self.retry = RetryQueue(clock, self.context.health)
        self.context.health.observers += (self.shared_sessions, self.retry)
        self.profiles: Mapping[str, RecordingProfile] = {}
        self.indicates = False
        """Whether any profile has, or had, something for the parties to hear or see."""
        self._refusals: dict[tuple[str, str, str], float] = {}
        self._retired: dict[str, tuple[RecordingProfile, float]] = {}
        self.set_profiles(profiles or {}, skip_failover_codes)
        self._recorders: dict[str, CallRecordings] = {}
        self.indications = Indications(self, signalled)
        self.context.observers.append(self.indications)
        self.context.observers.append(self)
        self.requested: RequestedSessions | None = None

    def set_profiles(self, profiles: Mapping[str, RecordingProfile], skip_failover_codes: str = "") -> None:
        """Take a new configuration; recordings that exist keep theirs. `skip_failover_codes`: see the class.

        Raises:
            ValueError: see the class.
        """
        for name, profile in profiles.items():
            if profile.on_failure == "end-call" and self.hang_up is None:
                raise ValueError(f'recording.{name}.on_failure: "end-call" is not possible here')
        now = self.context.clock.now()
        self._retired |= {name: (self.profiles[name], now) for name in self.profiles.keys() - profiles.keys()}
        self.profiles = dict(profiles)
        # For good: recordings that go on keep their profile.
        self.indicates |= any(profile.indication != "none" for profile in profiles.values())
        self.skip_failover_codes = skip_failover_codes
        self.shared_sessions.configure(self.profiles)
        self.context.health.watch(list(profiles.values()))

    def profile_for(self, call: Call, name: str) -> RecordingProfile | None:
        """The profile `name`; for a call that began before a reload took it away, as it was."""
        found = self.profiles.get(name)
        if found is None and name in self._retired:
            profile, until = self._retired[name]
            return profile if call.start_wall - call.epoch <= until else None
        return found

    def record(self, call: Call, name: str = DEFAULT) -> bool:
        """Record the call as ``[recording.NAME]`` says; false (and a warning) if that cannot be or is done already."""
        return not self.start(call, "", name)

    def siprec_start_recording(
        self, call: Call, srs: str, instance: str = DEFAULT, settings: Any = None, start: str = ""
    ) -> bool:
        """`start`, as scripts call it: false (and a warning) where that says why not."""
        return not self.start(call, srs, instance, settings, start, at_once=True)

    def start(
        self,
        call: Call,
        srs: str = "",
        instance: str = DEFAULT,
        settings: Any = None,
        start: str = "",
        *,
        at_once: bool = False,
    ) -> str:
        """Record the call at one of the SRSs of the comma-separated list `srs`, in order; those of the profile named
        `instance` where there is none.

        That profile, else ``default``, gives what neither `settings` nor the call's own settings say. In an answered
        call the recording begins at once, else with the answer or with early media, as `start` says (``answer`` or
        ``early``; left out, as the profile does, but `at_once` where there are early media already).

        Returns:
            Why it cannot be, which is logged, or nothing: a bad list, a call that is over, whose media do not pass a
            media server, or that has this instance already. Then there is no new RS.
        """
        if start not in ("", "answer", "early"):
            return self.not_recorded(call, instance, f'start: "answer" or "early", not {start[:20]!r}')
        if not srs:
            return self._record(call, instance, settings, start)
        base = self.profiles.get(instance) or self.profiles.get(DEFAULT)
        try:
            profile = base.with_srs(srs) if base is not None else self._bare(srs)
        except SettingError as error:
            return self.not_recorded(call, instance, str(error))
        if not start and at_once and call.early is not None and call.talk_began is None:
            start = "early"
        return self._engage(call, instance, profile, settings, start)

    def _bare(self, srs: str) -> RecordingProfile:
        return RecordingProfile(srs=srs, skip_failover_codes=self.skip_failover_codes)

    def _record(self, call: Call, name: str, settings: Any = None, start: str = "", *, promised: bool = False) -> str:
        profile = self.profile_for(call, name)
        if profile is None and self.requested is not None:
            profile = self.requested.profile(name)
        if profile is None:
            return self.not_recorded(call, name, "no such recording profile")
        return self._engage(call, name, profile, settings, start, promised=promised)

    def setting_ignored(self, call: Call, instance: str, reason: str) -> None:
        """A script set something that cannot be: the call goes on, and its recording without that."""
        log.warning("recording %r: setting ignored: %s, Call-ID %s", instance, reason, call.call_id)
        wall = call.wall(self.context.clock.now())
        text = IGNORED + reason
        self.events.emit(SiprecEvent(FAILED, call.dlg_id, call.call_id, "", "", "", instance, wall, text))

    def siprec_pause_recording(self, call: Call, instance: str = DEFAULT, by: str = "script") -> bool:
        """Withhold the media from the SRS; false when nothing is being recorded. `by` says who asks, for the event and
        the proof of recording."""
        return self._with(call, instance, lambda recording: recording.pause(by), _pause_waiting)

    def siprec_resume_recording(self, call: Call, instance: str = DEFAULT, by: str = "script") -> bool:
        """Go on after a pause; false when nothing is being recorded."""
        return self._with(call, instance, lambda recording: recording.resume(by), _resume_waiting)

    def siprec_stop_recording(self, call: Call, instance: str = DEFAULT, by: str = "script") -> bool:
        """End the recording, the call goes on; false when nothing is being recorded."""
        return self._with(
            call,
            instance,
            lambda recording: recording.stop(f"stopped by {by}"),
            lambda waiting: self.retry.discard(call.dlg_id, instance),
        )

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
        try:
            pairs, kind = check_indialog(method, headers, content_type)
        except SettingError as error:
            log.warning("siprec_send_indialog: %s (call %s)", error, call.call_id)
            return False
        octets = encode(body) if isinstance(body, str) else body
        kind = (kind or "text/plain") if octets else ""
        return recording is not None and recording.send(method, pairs, octets, kind, done)

    def _engage(
        self,
        call: Call,
        instance: str,
        profile: RecordingProfile,
        settings: Any,
        start: str,
        *,
        promised: bool = False,
    ) -> str:
        """`promised`: said before the call set out, so that what cannot be is a failure and not a refusal."""
        if call.state == "terminated":
            return self._refused(call, instance, "the call is over")
        recorder = self._recorders.get(call.dlg_id)
        engaged = recorder is not None and instance in recorder.recordings
        if call.media is None and not promised and not engaged and (call.media_bypassed or call.state == "confirmed"):
            why = call.media_error or "they were not led through one when the call was set up (media.use)"
            return self.not_recorded(call, instance, f"no relay media: the call's media pass no media server: {why}")
        if recorder is None:
            recorder = self._recorders[call.dlg_id] = CallRecordings(self.context, self.retry, self._recorders, call)
            if call.answer_wall is not None:
                self._begin(call)
        given = settings if isinstance(settings, RecordingSettings) else settings_of(call, instance)
        mode: StartMode = "early" if (start or profile.start) == "early" else "answer"
        why = recorder.engage(instance, profile, given, mode, promised=promised)
        if why:
            return self._refused(call, instance, why)
        self.indications.changed(call)
        return ""

    def _begin(self, call: Call) -> None:
        """Begin what waits for the answer; where the media server is lost, when the call has another one."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None and call.state == "confirmed" and not call.media_awaited:
            recorder.begin()

    def not_recorded(self, call: Call, instance: str, reason: str) -> str:
        """A recording was wanted and does not begin: an E_SIPREC_FAILED, so that subscribers, page and proof have it.
        Returns the reason. For who finds out before there is a recording (a rule, a script's setting, an error)."""
        clock = self.context.clock
        before = self._refusals.get((call.dlg_id, instance, reason))
        if before is not None and clock.now() - before < _AGAIN:
            return self._refused(call, instance, reason)  # a script that tries again when it hears of it
        self._refusals[call.dlg_id, instance, reason] = clock.now()
        if len(self._refusals) > _REFUSALS:
            del self._refusals[next(iter(self._refusals))]
        found = self._recorders.get(call.dlg_id)
        session_id = found.metadata.session_id if found is not None else ""
        wall = call.wall(clock.now())
        self.events.emit(SiprecEvent(FAILED, call.dlg_id, call.call_id, "", session_id, "", instance, wall, reason))
        return self._refused(call, instance, reason)

    @staticmethod
    def _refused(call: Call, instance: str, why: str) -> str:
        log.warning("recording %r not started: %s, Call-ID %s", instance, why, call.call_id)
        return why

    def _with(
        self,
        call: Call,
        instance: str,
        do: Callable[[CallRecording], object],
        waits: Callable[[Waiting], bool],
    ) -> bool:
        """`do` it to the recording, or `waits` to one that waits for an SRS."""
        recorder = self._recorders.get(call.dlg_id)
        recording = recorder.recordings.get(instance) if recorder is not None else None
        waiting = self.retry.get(call.dlg_id, instance)
        if waiting is not None and waits(waiting):
            return True
        if recording is None or recording.state in ("ending", "ended"):
            log.warning("no recording %r (call %s)", instance, call.call_id)
            return False
        do(recording)
        self.indications.changed(call)
        return True

    def recordings_of(self, call: Call) -> list[CallRecording] | None:
        """The recordings of a call that are wanted or going on; None: none ever was, or all is over."""
        recorder = self._recorders.get(call.dlg_id)
        return list(recorder.recordings.values()) if recorder is not None else None

    def recorder_of(self, call: Call) -> CallRecordings | None:
        """The recordings of a call; None if none was ever wanted, or all is over."""
        return self._recorders.get(call.dlg_id)

    def recorder(self, dlg_id: str) -> CallRecordings | None:
        """The recordings of one call, if it has any."""
        return self._recorders.get(dlg_id)


def _pause_waiting(waiting: Waiting) -> bool:
    waiting.paused = True
    return True


def _resume_waiting(waiting: Waiting) -> bool:
    waiting.paused = False
    return True
