"""``a=record`` and ``a=recordpref`` in the descriptions that pass (RFC 7866 7.1, 7.3), where the media server rewrites
them anyway (the exception of RFC 3261 16.6 step 1). Other recording clients may be in the path: what they say is never
weakened."""

from __future__ import annotations

from typing import Final, Literal

from siprec import sdp
from siprec.sdp import SdpError

State = Literal["", "off", "paused", "on"]
Preference = Literal["", "nopreference", "off", "pause", "on"]
RECORD_AWARE: Final = "record-aware"
_STRENGTH: Final[dict[str, int]] = {"off": 0, "paused": 1, "on": 2}
_PREFERENCES: Final[dict[str, Preference]] = {
    "on": "on",
    "off": "off",
    "pause": "pause",
    "nopreference": "nopreference",
}


def marked(octets: bytes, state: State) -> bytes:
    """The description with ``a=record`` at each m-line in use (RFC 7866 7.1.2); with no `state` as it is (RFC 7866
    7.3.1).

    Where another SRC upstream records too, the stronger of both stands there.
    """
    if not state:
        return octets
    try:
        description = sdp.parse(octets)
    except SdpError:
        return octets
    outer = _record(description.attribute("record"))
    for media in description.media:
        if media.rejected:
            continue
        foreign = _record(media.attribute("record")) or outer
        strongest = max((foreign, state), key=lambda each: _STRENGTH.get(each, -1))
        media.remove_attributes("record")
        media.set_attribute("record", strongest)
    return description.to_bytes()


def preference(octets: bytes) -> Preference:
    """What a description prefers, of its first m-line in use; media level before session level (RFC 7866 7.3.2)."""
    if b"recordpref" not in octets:
        return ""
    try:
        description = sdp.parse(octets)
    except SdpError:
        return ""
    outer = description.attribute("recordpref")
    for media in description.media:
        if not media.rejected:
            value = media.attribute("recordpref") or outer
            return _PREFERENCES.get((value or "").strip().lower(), "")
    return ""


def version(octets: bytes, add: int) -> bytes:
    """The description with `add` more in the version of ``o=`` (RFC 3264 8)."""
    if not add:
        return octets
    try:
        description = sdp.parse(octets)
        origin = description.origin
        if origin is None:
            return octets
        number = str((int(origin.version) + add) % (1 << 63))
        description.origin = sdp.Origin(origin.username, origin.session_id, number, origin.address)
        return description.to_bytes()
    except (SdpError, ValueError):
        return octets


def origin_of(octets: bytes) -> sdp.Origin | None:
    """The ``o=`` line, None when there is none that can be read."""
    try:
        return sdp.parse(octets).origin if octets else None
    except SdpError:
        return None


def essence(octets: bytes) -> tuple[bytes, ...]:
    """A description without what may change from one to the next and means nothing for the media."""
    skipped = (b"o=", b"a=record:", b"a=recordpref")
    return tuple(line for line in octets.splitlines() if not line.startswith(skipped))


def whereabouts(octets: bytes) -> tuple[bytes, ...]:
    """Where a description says that media are received."""
    return tuple(line for line in octets.splitlines() if line.startswith((b"m=", b"c=", b"a=candidate:", b"a=rtcp:")))


class SentSdp:
    """What one party of a dialog was told last, and by how much our versions are ahead of its peer's.

    Once a description of our own went to a party, the numbers of its peer no longer fit: they are raised by as much.
    `relayed`: the party sends to the media server; else it was told the peer's own description.
    """

    __slots__ = ("ahead", "next_relayed", "relayed", "sdp", "source")

    def __init__(self, octets: bytes = b"") -> None:
        self.sdp = octets
        self.source = octets
        self.ahead = 0
        self.relayed = self.next_relayed = False

    def copy(self) -> SentSdp:
        """Another one that was told the same: an INVITE that forked further on."""
        other = SentSdp(self.sdp)
        other.source, other.ahead = self.source, self.ahead
        other.relayed = other.next_relayed = self.relayed
        return other

    def passing(self, octets: bytes, state: State, *, relayed: bool = True) -> bytes:
        """A description of the peer on its way to this party: as it is to be sent. `relayed`: it comes from the media
        server."""
        self.relayed = self.next_relayed = relayed
        result = marked(octets, state) if state else octets
        if self.ahead:
            result = version(result, self.ahead)
        if self.sdp and result != self.sdp and origin_of(result) == origin_of(self.sdp) and octets == self.source:
            # The peer has nothing new, but we have: without a new version nobody would look (RFC 3264 8).
            self.ahead += 1
            result = version(result, 1)
        self.source = octets
        self.sdp = result
        return result

    def own(self, state: State) -> bytes:
        """The same again with another state, as a new version; empty when it says so already. Nothing is changed here
        before :meth:`accepted`."""
        result = marked(self._bare(), state)
        return b"" if result == self.sdp or not self.sdp else version(result, 1)

    def accepted(self, octets: bytes) -> None:
        """The party has taken a description of our own."""
        self.relayed = self.next_relayed
        self.sdp = octets
        self.ahead += 1

    def _bare(self) -> bytes:
        """What the peer said, at our version: foreign indications are those of the source, not ours."""
        return version(self.source, self.ahead)


def _record(value: str | None) -> str:
    text = (value or "").strip().lower()
    return text if text in _STRENGTH else ""
