"""What the parties of a call are told of its recording, and what they prefer (RFC 7866 6.1.2, 7.1.2, 7.1.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from siprec.media.engine import MediaError, Tone
from siprec.proxy.call import Call, Leg
from siprec.proxy.record_attribute import RECORD_AWARE, Preference, State
from siprec.recording.call_recording import CallRecording
from siprec.recording.recording_core import RecordingCore, RecordingObserver
from siprec.recording.recording_profile import RecordingProfile
from siprec.sip.clock import Clock

log = logging.getLogger(__name__)

_WITH_ATTRIBUTE: Final = frozenset({"attribute", "both"})
_WITH_TONE: Final = frozenset({"tone", "both"})
_OVER: Final = frozenset({"ending", "ended"})
#: ``on_failure = "announce"``: three short tones, unlike the recording tone and unlike what networks signal with.
FAILURE: Final = Tone(950, 0.3, 0.8)
FAILURE_TIME: Final = 2.2


class CallIndication:
    """What was indicated in one call, and what its parties preferred last."""

    __slots__ = ("announcing", "preferences", "shown", "signals", "stopped", "tones")

    def __init__(self) -> None:
        self.announcing = False
        self.shown: State = ""
        self.signals = False
        self.preferences: dict[Leg, Preference] = {}
        self.stopped: set[str] = set()
        self.tones: dict[str, Tone] = {}


class RecordedCalls(Protocol):
    """What the recording client knows of the proxy's calls."""

    @property
    def clock(self) -> Clock:
        """Time."""

    @property
    def indicates(self) -> bool:
        """Whether any profile has, or had, something for the parties to hear or see."""

    @property
    def profiles(self) -> Mapping[str, RecordingProfile]:
        """Those of the configuration."""

    def recordings_of(self, call: Call) -> list[CallRecording] | None:
        """The recordings of a call that are wanted or going on; None: none ever was."""

    def record(self, call: Call, name: str) -> bool:
        """Record it as a profile says."""


class Indications(RecordingObserver):
    """The `siprec.proxy.record_attribute.Indicator` of a recording service. `signalled(call)` is called when the
    record-aware parties of a call are to be told something new."""

    def __init__(self, service: RecordedCalls, signalled: Callable[[Call], None] | None = None) -> None:
        self._service = service
        self._signalled = signalled
        self._calls: dict[str, CallIndication] = {}

    def changed(self, call: Call) -> None:
        """Something about the recordings of a call has changed: tell its parties, each by its means."""
        self._sound(call)
        if self._signalled is not None:
            self._signalled(call)

    def moved(self, call: Call) -> None:
        """Another media server has the call, and plays nothing yet."""
        self._of(call).tones.clear()
        self._sound(call)

    def _sound(self, call: Call) -> None:
        """RFC 7866 6.1.2: the tone, while the recording is fed, for those who are not told otherwise."""
        if not self._service.indicates and call.dlg_id not in self._calls:
            return
        active = self._service.recordings_of(call) or [] if call.state == "confirmed" else []
        wanted: dict[str, Tone] = {}
        for recording in active:
            profile = recording.profile
            if profile.indication not in _WITH_TONE or state_of(recording) != "on":
                continue
            tone = Tone(profile.tone_frequency, profile.tone_duration, profile.tone_interval)
            for tag, message in ((call.from_tag, call.invite), (call.to_tag, call.response)):
                told = (
                    profile.indication == "both" and message is not None and RECORD_AWARE in message.tokens("supported")
                )
                if tag and not told:
                    wanted.setdefault(tag, tone)
        if not wanted and call.dlg_id not in self._calls:
            return
        known = self._of(call)
        media, session = call.media, call.media_session
        if media is None or session is None or call.state != "confirmed":
            known.tones.clear()  # ended with the call's media
            return
        if known.announcing:
            return  # afterwards
        for tag in [tag for tag in known.tones if tag not in wanted]:
            del known.tones[tag]
            media.stop_playing(session, tag, lambda error: self._played(call, error))
        for tag, tone in wanted.items():
            if known.tones.get(tag) != tone:
                known.tones[tag] = tone
                media.play(session, tag, tone, lambda error: self._played(call, error))

    def announce_failure(self, call: Call) -> None:
        """RFC 7866 7.1.2: let the parties of an answered call hear that it is not recorded, or no longer."""
        known, media, session = self._of(call), call.media, call.media_session
        if known.announcing or media is None or session is None or call.state != "confirmed":
            return
        known.announcing = True
        for tag in (call.from_tag, call.to_tag):
            known.tones.pop(tag, None)
            media.play(session, tag, FAILURE, lambda error: self._played(call, error))
        self._service.clock.call_later(FAILURE_TIME, self._announced, call)

    def _announced(self, call: Call) -> None:
        known, media, session = self._of(call), call.media, call.media_session
        known.announcing = False
        if media is not None and session is not None and call.state == "confirmed":
            for tag in (call.from_tag, call.to_tag):
                media.stop_playing(session, tag, lambda error: self._played(call, error))
            self._sound(call)

    def _played(self, call: Call, error: MediaError | None) -> None:
        if error is not None and call.state == "confirmed":
            log.warning("recording tone: %s, Call-ID %s", error, call.call_id)

    def forget(self, call: Call) -> None:
        """The call is over."""
        self._calls.pop(call.dlg_id, None)

    def _of(self, call: Call) -> CallIndication:
        found = self._calls.get(call.dlg_id)
        if found is None:
            found = CallIndication()
            if call.state != "terminated":
                self._calls[call.dlg_id] = found
        return found

    def state(self, call: Call) -> State:
        """Of all recordings of the call the strongest; once indicated, ``off`` when there is none any more (RFC 7866
        7.1.2)."""
        if call.dlg_id not in self._calls and not (self._service.indicates and self._indicates(call)):
            return ""
        known = self._of(call)
        states: list[State] = []
        recordings = self._service.recordings_of(call) or []
        for recording in recordings:
            if recording.profile.indication in _WITH_ATTRIBUTE:
                known.signals = known.signals or recording.profile.resignal
                states.append(state_of(recording))
        if call.state == "early":
            for name in call.recordings:
                profile = self._service.profiles.get(name)
                engaged = any(recording.instance == name for recording in recordings)
                if profile is not None and not engaged and profile.indication in _WITH_ATTRIBUTE:
                    known.signals = known.signals or profile.resignal
                    states.append("paused" if "pause" in known.preferences.values() else "on")
        result: State = "off" if known.shown else ""
        for each in ("off", "paused", "on"):
            if each in states:
                result = each
        known.shown = result or known.shown
        return result

    def _indicates(self, call: Call) -> bool:
        """Whether a profile of the call has an attribute for its parties."""
        for recording in self._service.recordings_of(call) or ():
            if recording.profile.indication in _WITH_ATTRIBUTE:
                return True
        for name in call.recordings:
            profile = self._service.profiles.get(name)
            if profile is not None and profile.indication in _WITH_ATTRIBUTE:
                return True
        return False

    def signals(self, call: Call) -> bool:
        """Whether a profile of this call lets us send requests of our own (RFC 7866 7.1.2)."""
        self.state(call)  # a recording begun in mid-call counts at once
        known = self._calls.get(call.dlg_id)
        return known is not None and known.signals

    def tones(self, call: Call) -> bool:
        """Whether a profile of the call has a tone for its parties (RFC 7866 6.1.2), be it about a failure."""
        profiles = [profile for name in call.recordings if (profile := self._service.profiles.get(name)) is not None]
        return any(profile.indication in _WITH_TONE or profile.on_failure == "announce" for profile in profiles)

    def preference(self, call: Call, leg: Leg, preference: Preference) -> None:
        """RFC 7866 7.1.3: what a party prefers now is done, where the profile says ``honour``. Said again it is no
        news."""
        known = self._of(call)
        if known.preferences.get(leg) == preference:
            return
        known.preferences[leg] = preference
        recordings = self._service.recordings_of(call)
        if call.state == "early" or recordings is None:
            self._before(call, known, preference)
            if recordings is None:
                return
        for recording in recordings:
            if recording.profile.recordpref == "honour" and recording.state not in _OVER:
                self._honour(call, recording, preference)
        if preference == "on" and call.state == "confirmed":
            for name in sorted(known.stopped):
                known.stopped.discard(name)
                self._service.record(call, name)

    def _before(self, call: Call, known: CallIndication, preference: Preference) -> None:
        """Of a call that is not answered yet: what is to be recorded with the answer."""
        for name in list(call.recordings):
            profile = self._service.profiles.get(name)
            if profile is not None and profile.recordpref == "honour" and preference == "off":
                log.info("recording %r is not wanted by a party, Call-ID %s", name, call.call_id)
                call.recordings.remove(name)
                known.stopped.add(name)
                known.shown = known.shown or "off"

    def _honour(self, call: Call, recording: CallRecording, preference: Preference) -> None:
        log.info("a party prefers %s: recording %r, Call-ID %s", preference, recording.instance, call.call_id)
        if preference == "off":
            self._of(call).stopped.add(recording.instance)
            recording.stop("recordpref")
        elif preference == "pause":
            recording.pause("party (a=recordpref)")
        elif preference == "on":
            recording.resume("party (a=recordpref)")

    def recording_wanted(self, recording: RecordingCore) -> None:
        """Paused from its first packet on where a party asked for that before."""
        known = self._calls.get(recording.call.dlg_id)
        if known is not None and recording.profile.recordpref == "honour" and "pause" in known.preferences.values():
            recording.pause("party (a=recordpref)")


def state_of(recording: RecordingCore) -> State:
    """What a recording is for the parties: what is intended counts, not how far the SRS has followed."""
    if recording.state in _OVER:
        return "off"
    return "paused" if recording.paused else "on"
