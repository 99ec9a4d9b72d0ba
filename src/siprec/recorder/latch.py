"""Whose packets a stream takes: the signalled source, or another one by rule.

* The signalled address and port are taken at once, whoever spoke before.
* From the signalled host, or the host that is heard now, another port takes over after three packets in a row.
* Another host takes over when the known source has been silent for `relearn` seconds (three times that where silence
  is not sent) and ten packets in a row came. The source before wins as soon as it speaks again.
* A sender behind NAT, by its signalling, cannot be known before: there the first source is taken.

"In a row" are packets of one SSRC and of an agreed format with running sequence numbers. They are kept until it is
decided, so that a source that is taken in the end has lost nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from siprec.rtp.packets import RtpPacket

Address = tuple[str, int]
Learn = Literal["any", "host", "signalled"]

_SAME_HOST = 3  # packets in a row
_SILENCE = 0.05, 0.1  # seconds without the source of now before another port of its host takes over: least, most
_SPACING = 1.5  # ... and so many times the usual time between its packets
_OTHER_HOST = 10
_DTX = 3.0  # times `relearn` where silence is not sent
_MAX_CANDIDATES = 8
_MAX_KEPT = 400  # packets of a candidate: 3 s of any audio
_MAX_OCTETS = 400_000
_SECOND = 10  # packets in a row of another source beside that of now, which is then reported
_FOLLOWS = 5


class Heard(NamedTuple):
    """A packet as it came: `data` is decrypted."""

    data: bytes
    packet: RtpPacket


@dataclass(slots=True)
class _Candidate:
    ssrc: int
    sequence: int
    since: float
    in_a_row: int = 0
    total: int = 0
    beside: bool = False
    """The source of now has spoken since this one began."""
    octets: int = 0
    reported: bool = False
    kept: list[Heard] = field(default_factory=list)


@dataclass(slots=True)
class Taken:
    """What a packet led to: the packets to be recorded, whether the source changed, whether a second one was noticed,
    and how many packets of strangers were dropped."""

    heard: list[Heard] = field(default_factory=list)
    moved: Address | None = None
    second: Address | None = None
    dropped: int = 0


def is_private(address: str) -> bool:
    """Whether nobody outside reaches an address (RFC 1918, 4193, 6598...)."""
    try:
        return not ipaddress.ip_address(address).is_global
    except ValueError:
        return False


class Latch:
    """The source of one stream. Times are monotonic seconds."""

    def __init__(self, learn: Learn = "any", relearn: float = 1.0, now: float = 0.0) -> None:
        self.learn = learn
        self.relearn = relearn
        self.signalled: Address | None = None
        self.hosts: frozenset[str] = frozenset()
        self.behind_nat = False
        self.source: Address | None = None
        self.dtx = False
        """Silence is not sent: a silent source is not gone as soon."""
        self.heard = now
        """When the source spoke last."""
        self.spacing = _SILENCE[1]
        """Seconds between its packets, lately at most."""
        self._outdated: Address | None = None  # described before, not any more: it goes on until another one speaks
        self._before: list[Address] = []
        self._candidates: dict[Address, _Candidate] = {}

    def signal(self, media: Address | None, sip_source: str, now: float) -> None:
        """What signalling says: `media` as described, `sip_source` the host that the description came from."""
        hosts = frozenset(host for host in (media[0] if media else "", sip_source) if host)
        behind_nat = bool(media and sip_source and media[0] != sip_source) and (
            is_private(media[0] if media else "") and not is_private(sip_source)
        )
        if (media, hosts, behind_nat) == (self.signalled, self.hosts, self.behind_nat):
            return
        self.heard = now
        self._outdated = self.source if self.source is not None and self.source[0] not in hosts else None
        self.signalled, self.hosts, self.behind_nat = media, hosts, behind_nat
        self._before.clear()
        if self.behind_nat:
            self.source = None

    def speaks(self, now: float) -> None:
        """A packet of the source."""
        gap, self.heard = now - self.heard, now
        self.spacing = gap if gap > self.spacing else self.spacing * 0.98

    @property
    def contested(self) -> bool:
        """Whether others than the source have sent something."""
        return bool(self._candidates)

    @property
    def undecided(self) -> int:
        """Packets of others that are kept until it is decided whether they take over."""
        return sum(len(candidate.kept) for candidate in self._candidates.values())

    def welcomes_rtcp(self, host: str) -> bool:
        """Whether RTCP from `host` is listened to."""
        return host in self.hosts or (self.source is not None and host == self.source[0])

    def receive(self, address: Address, heard: Heard, *, agreed: bool) -> Taken:
        """A packet from `address`, authentic where that can be told; `agreed`: its format is one of the stream's."""
        packet = heard.packet
        if address == self.source:
            self.speaks(packet.arrival)
            return Taken([heard], dropped=self._outdo() if self._candidates else 0)
        if address == self.signalled and (agreed or self.source is None):
            return self._take(address, heard)
        if agreed and address in self._before and self.source != self.signalled:
            return self._take(address, heard)
        if agreed and self.source is None and self.behind_nat and self.learn == "any":
            return self._take(address, heard)
        if not agreed or self.learn == "signalled":
            return Taken(dropped=1)
        if self.learn == "host" and not self._near(address[0]):
            return Taken(dropped=1)
        return self._consider(address, heard)

    def _near(self, host: str) -> bool:
        return host in self.hosts or (self.source is not None and host == self.source[0])

    def _consider(self, address: Address, heard: Heard) -> Taken:
        packet, dropped = heard.packet, 0
        candidate = self._candidates.get(address)
        if candidate is not None and (
            candidate.ssrc != packet.ssrc or not 0 < (packet.sequence - candidate.sequence & 0xFFFF) <= _FOLLOWS
        ):
            dropped += self._forget(candidate)
            del self._candidates[address]
            candidate = None
        if candidate is None:
            if len(self._candidates) >= _MAX_CANDIDATES:
                weakest = min(self._candidates, key=lambda a: (self._candidates[a].in_a_row, self._candidates[a].since))
                dropped += self._forget(self._candidates.pop(weakest))
            candidate = self._candidates[address] = _Candidate(packet.ssrc, packet.sequence, packet.arrival)
        candidate.in_a_row += 1
        candidate.total += 1
        candidate.sequence = packet.sequence
        candidate.kept.append(heard)
        candidate.octets += len(heard.data)
        while len(candidate.kept) > _MAX_KEPT or candidate.octets > _MAX_OCTETS:
            candidate.octets -= len(candidate.kept.pop(0).data)
            dropped += 1
        if self._wins(address, candidate, packet.arrival):
            del self._candidates[address]
            taken = self._take(address, heard, candidate.kept)
            taken.dropped += dropped
            return taken
        if candidate.beside and candidate.total >= _SECOND and not candidate.reported:
            candidate.reported = True
            return Taken(second=address, dropped=dropped)
        return Taken(dropped=dropped)

    def _outdo(self) -> int:
        """The source of now speaks: others do not take over, unless they are described and it is not."""
        assert self.source is not None
        known, dropped = self.source[0] in self.hosts, 0
        for address, candidate in self._candidates.items():
            candidate.beside = True
            if known or address[0] not in self.hosts:
                candidate.in_a_row = 0
                dropped += self._forget(candidate)
        return dropped

    def _wins(self, address: Address, candidate: _Candidate, now: float) -> bool:
        if self._near(address[0]):
            if candidate.in_a_row < _SAME_HOST:
                return False
            # The signalled host silences another one; ports of one host have to leave each other time.
            other = self.source is None or (self.source[0] not in self.hosts and address[0] in self.hosts)
            return other or now - self.heard >= min(max(_SILENCE[0], _SPACING * self.spacing), _SILENCE[1])
        patience = self.relearn * (_DTX if self.dtx else 1.0)
        return candidate.in_a_row >= _OTHER_HOST and now - self.heard >= patience

    def _take(self, address: Address, heard: Heard, kept: Iterable[Heard] | None = None) -> Taken:
        if self.source is not None and address not in self._before:
            # The signalled source wins anyway.
            known = (self.signalled, self._outdated)
            self._before = [self.source, *self._before][:4] if self.source not in known else []
        if address in self._before:
            # It was there earlier than those that followed.
            self._before = self._before[self._before.index(address) + 1 :]
        self.source = address
        self.heard = heard.packet.arrival
        candidate = self._candidates.pop(address, None)
        before = list(kept) if kept is not None else [*(candidate.kept if candidate else ()), heard]
        return Taken(before, moved=address)

    def _forget(self, candidate: _Candidate) -> int:
        """Drop what was kept of it; how many packets that were."""
        count = len(candidate.kept)
        candidate.kept, candidate.octets = [], 0
        return count
