"""The session recording client of a proxy: watches its calls, and records those that are to be recorded.

::

    service = RecordingService(clock, agent, profiles={"default": RecordingProfile(srs="sip:srs.example.com")})
    proxy = ProxyCore(..., observers=[service])

Calls whose `recordings` name a profile are recorded from the answer on; a script starts others with
``call.siprec_start_recording(...)``. Nothing here ever makes a call wait or raises into it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

from siprec.proxy.call import Call, CallObserver
from siprec.recording.call_metadata import Leg
from siprec.recording.call_recording import CallRecording
from siprec.recording.call_recordings import CallRecordings, RecordingInfo
from siprec.recording.recording_commands import RecordingCommands
from siprec.recording.recording_core import RecordingCore
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import SiprecVariable
from siprec.recording.srs_initiated import RequestedSessions, RequestSettings
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage

log = logging.getLogger(__name__)


class RecordingService(RecordingCommands, CallObserver):
    """The SRC: an observer of the proxy's calls, and the recorder their scripts speak to.

    See :class:`siprec.recording.recording_commands.RecordingCommands` for the arguments.
    """

    def answer_srs(self, settings: RequestSettings, calls: Callable[[], Iterable[Call]]) -> RequestedSessions:
        """Take recording sessions that SRSs ask for (RFC 7866 7.2): what is returned takes their INVITEs. `calls` are
        those of the proxy."""

        def engage(call: Call, instance: str, profile: RecordingProfile) -> str:
            call.wants(instance, "srs")
            return self._engage(call, instance, profile, None, "")

        self.requested = RequestedSessions(
            self.shared_sessions, settings, lambda name: self.profiles.get(name), calls, engage
        )
        return self.requested

    def open(self) -> None:
        """The network is there: set up the recording sessions that stand without calls (RFC 7866 10)."""
        self.shared_sessions.open()

    def call_created(self, call: Call) -> None:
        """A new call: scripts find us at `call.recorder`, and their settings at `call.settings`."""
        call.recorder = self
        if call.settings is None:
            call.settings = SiprecVariable()
        if self.requested is not None:
            self.requested.created(call)

    def call_early_media(self, call: Call) -> None:
        """Early media pass: begin what is to begin with them, where they pass the media server."""
        if call.media_awaited:
            return
        recorder = self._recorders.get(call.dlg_id)
        for name in list(call.recordings):
            profile = self.profile_for(call, name)
            if (
                profile is not None
                and profile.start == "early"
                and (recorder is None or name not in recorder.recordings)
            ):
                self._engage(call, name, profile, None, "early", promised=True)
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            recorder.early_media()

    def call_answered(self, call: Call) -> None:
        """The 200 was forwarded: begin."""
        for name in list(call.recordings):
            recorder = self._recorders.get(call.dlg_id)
            if recorder is None or name not in recorder.recordings:
                self._record(call, name, promised=True)
        # Also without a recording: one may be wanted in mid-call.
        self._begin(call)

    def call_media_changed(self, call: Call, who: str = "") -> None:
        """A re-INVITE or UPDATE of the call was completed."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None and recorder.answered:
            recorder.media_changed()
        else:
            self._begin(call)

    def party_identified(self, call: Call, leg: Leg, address: NameAddr, message: SipMessage | None = None) -> None:
        """A party of the call turned out to be `address` (connected identity, RFC 4916); `message` is what it sent."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            recorder.metadata.identify(leg, address, message)
            for recording in list(recorder.recordings.values()):
                recording.changed(False)

    def party_replaced(self, call: Call, leg: Leg, address: NameAddr, message: SipMessage | None = None) -> None:
        """`address` took the place of a party within the same session: a transfer by re-INVITE (RFC 8068 3.2.3)."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            if not recorder.differs(leg, address, message):
                # Of what tells them apart nothing is to be used here: as far as it is known, the same party.
                self.party_identified(call, leg, address, message)
                return
            recorder.metadata.replace(leg, address, message, call.wall(self.context.clock.now()))
            for recording in list(recorder.recordings.values()):
                # The newcomer's streams have new ids, whose labels need an offer beside them (RFC 7866 9.1).
                recording.changed(True)

    def call_media_failed(self, call: Call, reason: str) -> None:
        """The media server is out of this call, and so are the copies it made."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            for recording in list(recorder.recordings.values()):
                recording.media_lost(f"media server: {reason}")
            self._begin(call)

    def call_media_moved(self, call: Call) -> None:
        """Another media server has the call: it is asked for copies, and the SRSs are told where they come from."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            for recording in list(recorder.recordings.values()):
                recording.media_moved()
            self._begin(call)
            self.indications.moved(call)

    def call_ended(self, call: Call) -> None:
        """The call is over, or never came about."""
        recorder = self._recorders.get(call.dlg_id)
        if recorder is not None:
            self.retry.forget(call.dlg_id, call.recordings)
            recorder.end()
            self._release(recorder)
        self.indications.forget(call)

    def info(self) -> list[RecordingInfo]:
        """All recordings that are wanted or going on."""
        return [info for recorder in list(self._recorders.values()) for info in recorder.info()]

    def recorders(self) -> list[CallRecordings]:
        """All calls with recordings, in the order they began."""
        return list(self._recorders.values())

    def counts(self) -> dict[str, int]:
        """How many recordings are in which state: for metrics and leak checks."""
        counts: dict[str, int] = {}
        for recording in self._active():
            counts[recording.state] = counts.get(recording.state, 0) + 1
        return counts

    def close(self) -> None:
        """Ask no SRS any more; recordings are not touched (`stop_all`)."""
        self.context.health.close()
        self.retry.close()

    def stop_all(self, reason: str = "shutdown") -> None:
        """End every recording, and the recording sessions that stand without (drain); the calls go on."""
        self.retry.close()
        for recording in list(self._active()):
            recording.stop(reason)
        self.shared_sessions.close()

    def hurry(self) -> None:
        """Let those that are ending wait for no answer of their SRS any more: BYE."""
        for recording in list(self._active()):
            recording.hurry()
        self.shared_sessions.hurry()

    def _active(self) -> Iterator[CallRecording]:
        for recorder in list(self._recorders.values()):
            yield from list(recorder.recordings.values())

    def recording_over(self, recording: RecordingCore) -> None:
        """One recording is over: of a call that is over too, nothing is kept when the last one is."""
        recorder = self._recorders.get(recording.call.dlg_id)
        if recorder is not None:
            recorder.remove(recording)
            self._release(recorder)
            self.indications.changed(recorder.call)

    def recording_failed(self, recording: RecordingCore, reason: str) -> None:
        """What becomes of the call, by the profile's `on_failure`."""
        recorder, policy = self._recorders.get(recording.call.dlg_id), recording.profile.on_failure
        if recorder is None or recorder.over:
            return
        if policy == "end-call" and self.hang_up:
            self.hang_up(recorder.call, reason)
        elif policy == "announce":
            self.indications.announce_failure(recorder.call)

    def _release(self, recorder: CallRecordings) -> None:
        if recorder.over and not recorder.recordings:
            self._recorders.pop(recorder.call.dlg_id, None)
