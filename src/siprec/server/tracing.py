"""Where messages are kept and sent to, as ``[trace]`` says."""

from __future__ import annotations

from siprec.net.address import split_host_port
from siprec.server.config import TraceConfig
from siprec.server.config_file import ConfigError
from siprec.trace.hep import HepSender
from siprec.trace.ring import TraceRing
from siprec.trace.tap import Tap


def open_tap(wanted: TraceConfig) -> Tap | None:
    """The tap with its ring and its sender to Homer; None when neither is wanted.

    Raises:
        ConfigError: the collector cannot be used.
    """
    hep = None
    if wanted.hep is not None:
        host, port = split_host_port(wanted.hep.collector)
        try:
            hep = HepSender((host, port or 0), node=wanted.hep.node, password=wanted.hep.password)
        except OSError as error:
            raise ConfigError(f"trace.hep.collector: {wanted.hep.collector}: {error}") from None
    # Homer is told which call a recording session belongs to: the ring knows.
    megabytes = max(wanted.megabytes, int(hep is not None))
    ring = TraceRing(megabytes << 20) if megabytes else None
    return Tap(ring, hep) if ring is not None or hep is not None else None
