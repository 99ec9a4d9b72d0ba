"""Has the message trace know which calls a recording session belongs to."""

from __future__ import annotations

from siprec.recording.recording_core import RecordingCore, RecordingObserver
from siprec.trace.ring import TraceRing


class TraceLinks(RecordingObserver):
    """Links the Call-IDs of calls and of their recording sessions in `ring`."""

    def __init__(self, ring: TraceRing) -> None:
        self._ring = ring

    def srs_called(self, recording: RecordingCore) -> None:
        """An SRS is about to be called."""
        self._ring.link(recording.call.call_id, recording.rs_call_id)
