"""AMR and AMR-WB in RTP (RFC 4867): the speech frames in a payload, bandwidth-efficient or octet-aligned."""

from __future__ import annotations

from collections.abc import Sequence

_NB = (95, 103, 118, 134, 148, 159, 204, 244, 39)
_WB = (132, 177, 253, 285, 317, 365, 397, 461, 477, 40)
_LOST, _NO_DATA = 14, 15
_MAX_FRAMES = 50  # a second


def supported(fmtp: str) -> bool:
    """Whether a format with these parameters can be read: no interleaving, no CRCs, no robust sorting, no second
    channel (RFC 4867 8.1)."""
    found = _parameters(fmtp)
    plain = all(found.get(name, "0") in ("", "0") for name in ("interleaving", "crc", "robust-sorting"))
    return plain and found.get("channels", "1") == "1"


def octet_aligned(fmtp: str) -> bool:
    """Whether a format is octet-aligned; bandwidth-efficient is the default."""
    return _parameters(fmtp).get("octet-align") == "1"


def _parameters(fmtp: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in fmtp.lower().split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sizes(wideband: bool) -> Sequence[int]:
    return _WB if wideband else _NB


def frames(payload: bytes, *, wideband: bool, aligned: bool) -> list[bytes] | None:
    """The frames of a payload as a file has them (RFC 4867 5.3): an octet with type and quality, then the bits. None if
    the payload is none of this format."""
    return _aligned(payload, _sizes(wideband)) if aligned else _packed(payload, _sizes(wideband))


def _bits(kind: int, sizes: Sequence[int]) -> int | None:
    """Bits of a frame of type `kind`, None for a type that there is not."""
    if kind in (_LOST, _NO_DATA):
        return 0
    return sizes[kind] if kind < len(sizes) else None


def _aligned(payload: bytes, sizes: Sequence[int]) -> list[bytes] | None:
    heads: list[int] = []
    at = 1
    while True:
        if at >= len(payload) or len(heads) >= _MAX_FRAMES:
            return None
        heads.append(payload[at])
        at += 1
        if not heads[-1] & 0x80:
            break
    out = []
    for head in heads:
        bits = _bits(head >> 3 & 0x0F, sizes)
        if bits is None:
            return None
        size = (bits + 7) // 8
        if at + size > len(payload):
            return None
        out.append(bytes((head & 0x7C,)) + payload[at : at + size])
        at += size
    return out


def _packed(payload: bytes, sizes: Sequence[int]) -> list[bytes] | None:
    total = 8 * len(payload)
    value = int.from_bytes(payload, "big")
    heads: list[int] = []
    at = 4
    while True:
        if at + 6 > total or len(heads) >= _MAX_FRAMES:
            return None
        head = value >> (total - at - 6) & 0x3F
        heads.append(head)
        at += 6
        if not head & 0x20:
            break
    out = []
    for head in heads:
        bits = _bits(head >> 1 & 0x0F, sizes)
        if bits is None or at + bits > total:
            return None
        size = (bits + 7) // 8
        frame = (value >> (total - at - bits) & (1 << bits) - 1) << (8 * size - bits)
        out.append(bytes((head << 2 & 0x7C,)) + frame.to_bytes(size, "big"))
        at += bits
    return out


def count(payload: bytes, *, wideband: bool, aligned: bool) -> int:
    """How many frames of 20 ms a payload has; 0 if it is none of this format."""
    found = frames(payload, wideband=wideband, aligned=aligned)
    return len(found) if found is not None else 0
