"""The RTP sources of one m-line (RFC 3550 8): which SSRCs are believed, and their packets in order."""

from __future__ import annotations

from siprec.recorder.numbering import Ordered, Source
from siprec.recorder.stream_counters import Counters
from siprec.rtp.packets import RtpPacket

MAX_SOURCES = 16
"""Synchronisation sources kept per stream; a flood of invented SSRCs must not cost memory."""


class Receiver:
    """The sources of one m-line."""

    def __init__(self) -> None:
        self.sources: dict[int, Source] = {}
        self._retired = Counters()
        self.counters = Counters()
        """Packets that belong to no source; :meth:`total` adds the sources up."""

    def accept(self, packet: RtpPacket, rate: int, *, event: bool = False) -> Source | None:
        """One packet with an RTP clock of `rate` Hz, a telephone event or not; its source, None if there are too many
        of them."""
        source = self.sources.get(packet.ssrc)
        if source is None:
            if len(self.sources) >= MAX_SOURCES and not self._retire(packet.arrival):
                self.counters.probation += 1
                return None
            source = self.sources[packet.ssrc] = Source(packet.ssrc, rate)
            # The first source is believed at once: its first packet may be the first word. Later ones have to
            # send two packets (RFC 3550 A.1), which are then both kept.
            source.valid = len(self.sources) == 1
        elif not source.valid:
            source.valid = True
        source.receive(packet, event=event)
        return source

    def gap(self) -> None:
        """The stream was inactive: what is missing of any source until its next packet is not lost."""
        for source in self.sources.values():
            source.gap()

    def _retire(self, now: float) -> bool:
        """Make room: forget the source that has been silent longest, if for 2 s at least (or never proven)."""
        candidate = min(self.sources.values(), key=lambda s: (s.valid, s.last_arrival))
        if candidate.valid and (now - candidate.last_arrival < 2.0 or candidate.waiting()):
            return False
        self._count(candidate, self._retired)
        del self.sources[candidate.ssrc]
        return True

    @staticmethod
    def _count(source: Source, into: Counters) -> None:
        if source.valid:
            into.add(source.counters)
        else:
            into.probation += source.counters.received

    def take(self, before: float) -> list[tuple[Source, list[Ordered]]]:
        """Per valid source the ordered packets that are due, see :meth:`Source.take`."""
        return [(source, items) for source in self.sources.values() if source.valid and (items := source.take(before))]

    @property
    def restarts(self) -> int:
        """How often a source changed its numbering."""
        return sum(source.restarts for source in self.sources.values())

    def total(self) -> Counters:
        """All counters of the stream so far."""
        total = Counters()
        total.add(self.counters)
        total.add(self._retired)
        for source in self.sources.values():
            self._count(source, total)
        return total
