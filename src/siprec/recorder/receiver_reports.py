"""Our receiver reports (RFC 3550 6.3, 6.4.2).

The recorder only receives: it sends RR + SDES and BYE, from its own SSRC (RFC 7866 8.1.1, 8.1.3), with a random CNAME
per RFC 7022 (RFC 7866 8.1.5.1).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from siprec.recorder.numbering import Source
from siprec.rtp import rtcp
from siprec.rtp.rtcp import ReportBlock, SenderReport

_MAX_REPORTS = 31


@dataclass(slots=True)
class _Last:
    expected: int = 0
    received: int = 0
    middle: int = 0
    arrival: float = 0.0


class Reporter:
    """Our half of the RTCP of one RTP session.

    Time is monotonic seconds, handed in. The interval is 5 s with the randomisation of RFC 3550 6.2 and 6.3.1, half of
    it before the first report; with one sender and one receiver the 5 % rule never asks for more.
    """

    INTERVAL = 5.0

    def __init__(self, now: float, *, cname: bytes | None = None, rng: random.Random | None = None) -> None:
        self._random = rng or random.SystemRandom()
        self.ssrc = self._random.getrandbits(32)
        self.cname = cname or rtcp.make_cname()
        self._last: dict[int, _Last] = {}
        self.sent = 0
        self.due = now + self._interval() / 2

    def _interval(self) -> float:
        # 1.21828 = e - 3/2, the compensation of RFC 3550 6.3.1.
        return self.INTERVAL * (0.5 + self._random.random()) / 1.21828

    def note_sender_report(self, report: SenderReport, arrival: float) -> None:
        """Remember a sender report for LSR and DLSR."""
        if report.ssrc in self._last or len(self._last) < _MAX_REPORTS:
            last = self._last.setdefault(report.ssrc, _Last())
            last.middle, last.arrival = report.middle, arrival

    def avoid(self, ssrc: int) -> None:
        """Choose another SSRC if a sender uses ours (RFC 3550 8.2)."""
        while self.ssrc == ssrc:
            self.ssrc = self._random.getrandbits(32)

    def report(self, now: float, sources: list[Source]) -> bytes:
        """The next compound packet: RR on `sources` and SDES CNAME. Sets :attr:`due`."""
        self.due = now + self._interval()
        self.sent += 1
        return rtcp.receiver_report(self.ssrc, [self._block(now, each) for each in sources[:_MAX_REPORTS]], self.cname)

    def bye(self, now: float, sources: list[Source]) -> bytes:
        """The last compound packet: RR, SDES, BYE (RFC 3550 6.6)."""
        return self.report(now, sources) + rtcp.bye(self.ssrc)

    def full_intra_request(self, now: float, sources: list[Source], ssrc: int, number: int) -> bytes:
        """RR, SDES, FIR (RFC 5104 4.3.1): a key frame is wanted of `ssrc`, for the `number`-th time."""
        return self.report(now, sources) + rtcp.full_intra_request(self.ssrc, ssrc, number)

    def _block(self, now: float, source: Source) -> ReportBlock:
        counters = source.counters
        if source.ssrc not in self._last and len(self._last) >= 64:
            self._last.pop(next(iter(self._last)))
        last = self._last.setdefault(source.ssrc, _Last())
        # Duplicates are counted apart: they mask no loss, and nothing is lost less than not at all.
        came = counters.distinct + counters.late
        expected = counters.expected - last.expected
        lost = expected - (came - last.received)
        last.expected, last.received = counters.expected, came
        fraction = min((lost << 8) // expected, 255) if expected > 0 and lost > 0 else 0
        cumulative = min(max(counters.expected - came, 0), 0x7FFFFF)
        delay = round((now - last.arrival) * 65536) & 0xFFFFFFFF if last.middle else 0
        return ReportBlock(
            source.ssrc,
            fraction,
            cumulative,
            (source.highest - 0x10000) & 0xFFFFFFFF,
            round(counters.jitter * source.clock_rate) & 0xFFFFFFFF,
            last.middle,
            delay,
        )
