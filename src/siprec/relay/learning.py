"""Whose media a flow takes: what descriptions say of a party's media, and how another source takes over.

- The signalled address is always right: it wins at once, over any other source. So does the source before the present
  one when it speaks again.
- The host that is signalled, or known, may use any port: after three packets in a row.
- Another host is learned when nothing came from the known source for a second, and ten packets in a row did from there
  (:attr:`Latching.relearn`; three times as long where comfort noise or DTX is in use).
- Packets in a row are of one SSRC, of payload types that were agreed on, with running sequence numbers, and the known
  source says nothing between them. Of SRTP whose keys are known here, the last of them has to be authentic.
- Where signalling shows NAT, or no description tells an address, the first source is taken.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from siprec.sdp import MediaDescription

NEAR_PACKETS: Final = 3
NEAR_SECONDS: Final = 0.1
"""Two packets that are so far apart are enough from a known host."""
FAR_PACKETS: Final = 10
WITH_PAUSES: Final = 3
RIVAL_FRESH: Final = 0.5
"""Seconds after which a source that was about to take over begins anew."""
VERIFY_PAUSE: Final = 1.0
"""Seconds between two sources that are not authentic: each costs a decryption."""
REORDER: Final = 5
PAUSE: Final = 0.2
PAUSE_UNITS: Final = 1600
"""A pause of so many seconds, in which the sender's clock (8000 Hz or more) went on so far: DTX is in use."""

ALL_PAYLOADS: Final = (1 << 128) - 1
_NOISE: Final = frozenset({"cn"})
_DTX_FORMATS: Final = frozenset({"amr", "amr-wb", "amr-wb+", "evs"})
_PRIVATE: Final = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8"),
        *("fc00::/7", "fe80::/10", "::1/128"),
    )
)


@dataclass(frozen=True, slots=True)
class Latching:
    """Policy of learning sources. `learn`: ``any`` host, the signalled ``host`` on any port, or only what is
    ``signalled``. `relearn`: seconds of silence after which another host may take over; 0: never."""

    learn: Literal["any", "host", "signalled"] = "any"
    relearn: float = 1.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What offer and answer say of what a party sends on one m-line.

    `payloads` has a bit for each payload type that was agreed on, none before an answer; `nat`: its address is not the
    one it signals from; `pauses`: comfort noise or DTX may be in use; `secure`: SRTP that can be authenticated here.
    """

    payloads: int = 0
    nat: bool = False
    pauses: bool = False
    secure: bool = False


NOTHING: Final = Expected()


def behind_nat(host: str, received_from: str, own: str) -> bool:
    """Is the private address `host`, which a description names, another one than that of the party's signalling?
    Where the latter is not known: of another network than the relay's address `own`."""
    network = _private(host)
    if network is None:
        return False
    if received_from:
        return ipaddress.ip_address(received_from) != ipaddress.ip_address(host)
    return network != _private(own)


@lru_cache(maxsize=1024)
def _private(host: str) -> object:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return next((each for each in _PRIVATE if address in each), None)


def expected(own: MediaDescription, peer: MediaDescription) -> tuple[int, bool]:
    """The payload types that the party of `own` may send to that of `peer`, as bits, and whether it may pause.

    It sends with the numbers of `peer`, but some do with their own.
    """
    if own.direction in ("recvonly", "inactive") or peer.direction in ("sendonly", "inactive"):
        return 0, False
    theirs = {number: meaning.encoding.lower() for number, meaning in peer.rtpmaps.items()}
    mine = {number: meaning.encoding.lower() for number, meaning in own.rtpmaps.items()}
    shared = set(theirs.values())
    numbers = _numbers(peer.formats) | {number for number in _numbers(own.formats) if mine.get(number) in shared}
    bits = sum(1 << number for number in numbers)
    return bits or ALL_PAYLOADS, any(_pauses(media, numbers) for media in (own, peer))


def _numbers(formats: Iterable[str]) -> set[int]:
    return {int(each) for each in formats if each.isascii() and each.isdecimal() and len(each) < 4 and int(each) < 128}


def _pauses(media: MediaDescription, numbers: set[int]) -> bool:
    silence = media.attribute("silenceSupp")
    if silence is not None and silence.lower().startswith("on"):
        return True
    formats = media.fmtp
    for number, meaning in media.rtpmaps.items():
        if number not in numbers:
            continue
        name, parameters = meaning.encoding.lower(), formats.get(str(number), "").replace(" ", "").lower()
        if (
            name in _NOISE
            or name in _DTX_FORMATS
            or (name == "opus" and "usedtx=1" in parameters)
            or (name == "g729" and "annexb=no" not in parameters)
            or (name == "g723" and "annexa=no" not in parameters)
        ):
            return True
    return bool(numbers & {13, 19})


class Rival:
    """A source that may take over: how many of its packets came in a row."""

    __slots__ = ("count", "last", "mark", "seq", "since", "source", "ssrc")

    def __init__(self, source: Any, now: float) -> None:
        self.source = source
        self.since = self.last = now
        self.count = 0
        self.seq = self.ssrc = self.mark = 0
