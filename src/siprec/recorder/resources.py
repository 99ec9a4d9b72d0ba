"""What all recording sessions of a process share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from siprec.recorder.disk_thread import DiskWriter
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import Poller, PortPool
from siprec.recorder.settings import RecorderSettings
from siprec.sip.clock import Clock


@dataclass(eq=False)
class Resources:
    """`poller` is the event loop (``add_reader``)."""

    library: RecorderLibrary
    ports: PortPool
    clock: Clock
    poller: Poller
    settings: RecorderSettings = field(default_factory=RecorderSettings)
    writer: DiskWriter = field(default_factory=DiskWriter)
    counters: Counter[str] = field(default_factory=Counter)
    """Since the start: ``sessions`` accepted and ``refused``; of recordings that ended: ``recordings``,
    ``recordings_failed`` and ``recordings_interrupted`` (counted in the disk thread), ``packets``,
    ``lost``, ``dropped_by_disk``, ``not_decodable``, ``source_changes`` and ``second_sources``."""
