"""The session description of a recording session, seen from the SRC: offers, the SRS's answers, answers to its offers.

One `RecordingSdp` belongs to one RS dialog. Its m-lines never vanish and never change places (RFC 7866 7.1.1.1), and
``o=`` moves on exactly when the rest did (RFC 3264 8).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct, field

from siprec import sdp
from siprec.media.engine import ForkedStream, Subscription
from siprec.recording import srtp_sdp
from siprec.sdp import Direction, MediaDescription, Origin, SdpError, SessionDescription
from siprec.sip.errors import SipError
from siprec.sip.uri import Uri

#: Who sends the stream (tag of the party) and on which of its m-lines: names a stream across renewed subscriptions.
StreamKey = tuple[str, int]


def stream_key(stream: ForkedStream) -> StreamKey:
    """The key of a forked stream."""
    return stream.from_tag, stream.source_index


@lru_cache(maxsize=256)
def media_family(server: str, media: str = "") -> str:
    """``IP4`` or ``IP6``: the addresses that the SRS `server` (a SIP URI) can be offered media from; `media` is the
    address that is said instead, if any. Empty: the URI has a name, which says nothing."""
    if media:
        return sdp.address_family(media)
    try:
        host = Uri.parse(server).host.strip("[]")
        return "IP6" if ipaddress.ip_address(host).version == 6 else "IP4"
    except (SipError, ValueError):
        return ""


#: What is said beside a codec: a recording is whole without.
_SIDE: Final = frozenset({"telephone-event", "cn", "red", "rtx", "ulpfec", "flexfec"})


class _Slot(Struct, gc=False):
    """One m-line: the stream in it, None when it was removed and may be used again."""

    stream: ForkedStream | None
    kind: str
    proto: str
    formats: list[str]
    taken: list[str] = field(default_factory=list)
    """Of `formats` those that the SRS took in its last answer; empty: all are offered."""


class RecordingSdp(Struct, gc=False):
    """The SRC's half of the RS's session description. `session_id` is the number in ``o=``."""

    session_id: str
    slots: list[_Slot] = field(default_factory=list)
    version: int = 0
    """Of what was written last, in ``o=``; 0: nothing was."""
    address: str = ""
    partly: bool = False
    """Whether the SRS's last answer has other formats than were offered."""
    labels: dict[StreamKey, str] = field(default_factory=dict)
    """Label of each stream that is offered: the number of its m-line, from 1."""
    secure: bool = False
    """Whether SRTP is offered for any stream."""
    _last: str = ""

    def update(self, subscription: Subscription, first: str) -> None:
        """Take the streams of a (renewed) subscription: known ones keep their m-line, new ones get a free or a new one.

        `first` is the tag of the party that comes first among new streams: label 1 is the caller's.
        """
        streams = {(s.from_tag, s.source_index): s for s in subscription.streams if not s.section.rejected}
        free = []
        for slot in self.slots:
            if slot.stream is not None:
                slot.stream = streams.pop((slot.stream.from_tag, slot.stream.source_index), None)
            if slot.stream is None:
                free.append(slot)
        for _, _, tag, index in sorted([(index, tag != first, tag, index) for tag, index in streams]):
            stream = streams[tag, index]
            section = stream.section
            for slot in free:
                if slot.kind == section.kind:
                    slot.stream = stream
                    free.remove(slot)
                    break
            else:
                self.slots.append(_Slot(stream, section.kind, section.proto, list(section.formats)))
        self.labels, self.secure = {}, False
        for number, slot in enumerate(self.slots, 1):
            if slot.stream is not None:
                section = slot.stream.section
                formats = list(section.formats)
                if formats != slot.formats:
                    slot.taken = []
                slot.proto, slot.formats = section.proto, formats
                self.labels[slot.stream.from_tag, slot.stream.source_index] = str(number)
                self.secure = self.secure or srtp_sdp.is_secure(section)

    def took(self, theirs: SessionDescription) -> None:
        """The SRS's answer: what it did not take is not offered again, unless the call changes its codecs."""
        self.partly = False
        for slot, line in zip(self.slots, theirs.media, strict=False):
            if slot.formats == line.formats:
                slot.taken = []
                continue
            self.partly = True
            taken = [text for text in slot.formats if text in line.formats]
            # An answer without a codec of ours says nothing, for example one that numbers them anew.
            useful = any(name.lower() not in _SIDE for text, name in _codecs(line).items() if text in taken)
            slot.taken = taken if useful and not line.rejected and len(taken) < len(slot.formats) else []

    @property
    def offered(self) -> list[tuple[StreamKey | None, str]]:
        """Of each m-line the stream in it, None when there is none, and its kind."""
        return [(stream_key(slot.stream) if slot.stream is not None else None, slot.kind) for slot in self.slots]

    def offer(self, inactive: bool = False) -> bytes:
        """Our offer: every stream ``sendonly``, or ``inactive`` (RFC 7866 7.1.1, 7.1.1.1)."""
        direction: Direction = "inactive" if inactive else "sendonly"
        return self._write([self._line(i, slot, direction) for i, slot in enumerate(self.slots, 1)])

    def answer(self, offered: SessionDescription, inactive: bool = False) -> bytes:
        """Our answer to an offer of the SRS, m-line by m-line; what it adds is rejected (RFC 7866 7.2, RFC 3264 6.1).

        Raises:
            SdpError: the offer lost m-lines (RFC 3264 8), or SRTP; the session stays as it was.
        """
        if len(offered.media) < len(self.slots):
            raise SdpError(f"offer with {len(offered.media)} m-lines where {len(self.slots)} were agreed")
        lines = []
        for index, theirs in enumerate(offered.media):
            slot = self.slots[index] if index < len(self.slots) else None
            if slot is None or slot.stream is None or theirs.rejected or theirs.kind != slot.kind:
                lines.append(MediaDescription(theirs.kind, 0, theirs.proto, list(theirs.formats) or ["0"]))
                continue
            direction = sdp.answer_direction(theirs.direction, not inactive, "sendonly")
            ours = self._line(index + 1, slot, direction, whole=True)
            pair = srtp_sdp.agreed(ours, theirs)
            if pair is not None:
                srtp_sdp.replaced(ours, pair[1].tag, pair[0])  # RFC 4568 5.1.2: their tag, our key
            elif srtp_sdp.is_secure(ours) or "/SAVP" in theirs.proto.upper():
                raise SdpError("offer that changes between RTP and SRTP, or with no key that fits ours")
            common = [text for text in ours.formats if text in theirs.formats]
            if common:
                ours.formats = common
                ours.proto = theirs.proto
                # RFC 4585 4.2: no feedback in an answer that was not in the offer.
                ours.lines = [text for text in ours.lines if text[:10] != "a=rtcp-fb:" or text in theirs.lines]
            else:
                ours = MediaDescription(theirs.kind, 0, theirs.proto, list(theirs.formats) or ["0"])
            lines.append(ours)
        return self._write(lines)

    def for_media_server(self, theirs: SessionDescription, subscription: Subscription, withheld: bool = False) -> bytes:
        """The SRS's description with its m-lines in the order of `subscription`: an answer for the media server.

        `withheld`: all of them inactive.

        Lines are matched by position, labels are not relied on (RFC 4574 5); one that is missing counts as rejected,
        and so does one that declines SRTP: nothing leaves in the clear that was not offered so.

        Raises:
            SdpError: the SRS is where our side cannot send from: not every media server would say so.
        """
        positions = {stream_key(s.stream): i for i, s in enumerate(self.slots) if s.stream is not None}
        result = SessionDescription(list(theirs.lines))
        for stream in subscription.streams:
            index = positions.get(stream_key(stream), len(theirs.media))
            if index < len(theirs.media):
                line = theirs.media[index]
                _reachable(stream.section, line)
                copy = MediaDescription(line.kind, line.port, line.proto, list(line.formats), line.num_ports)
                copy.lines = list(line.lines)
                if withheld:
                    copy.direction = "inactive"
                if srtp_sdp.is_secure(stream.section):
                    pair = srtp_sdp.agreed(stream.section, line)
                    if pair is not None:
                        srtp_sdp.replaced(copy, pair[0].tag, pair[1])
                    else:
                        copy.port = 0
                        copy.proto = stream.section.proto
                result.add(copy)
            else:
                section = stream.section
                result.add(MediaDescription(section.kind, 0, section.proto, list(section.formats) or ["0"]))
        return result.to_bytes()

    def accepted(self, theirs: SessionDescription) -> int:
        """How many of our streams the SRS takes (also those it wants inactive for now)."""
        return sum(
            1
            for slot, line in zip(self.slots, theirs.media, strict=False)
            if slot.stream is not None and not line.rejected and not srtp_sdp.declines(slot.stream.section, line)
        )

    def left_out(self, theirs: SessionDescription) -> dict[StreamKey, list[str]]:
        """Codecs that were offered for a stream and that the SRS, which takes the stream, does not take."""
        found: dict[StreamKey, list[str]] = {}
        if not self.partly:
            return found
        for slot, line in zip(self.slots, theirs.media, strict=False):
            if slot.stream is None or line.rejected:
                continue
            taken = {name.lower() for name in _codecs(line).values()}
            offered = _codecs(slot.stream.section)
            left = [name for name in offered.values() if name.lower() not in taken and name.lower() not in _SIDE]
            if left:
                found[stream_key(slot.stream)] = list(dict.fromkeys(left))
        return found

    def declined(self, theirs: SessionDescription) -> bool:
        """Whether the SRS declines SRTP: a stream answered in the clear or with a wrong key, or none of them taken."""
        if not self.secure:
            return False
        pairs = [
            (slot.stream.section, line)
            for slot, line in zip(self.slots, theirs.media, strict=False)
            if slot.stream is not None and srtp_sdp.is_secure(slot.stream.section)
        ]
        fitting = [srtp_sdp.agreed(ours, line) is not None for ours, line in pairs]
        clear = any(not fits and not line.rejected for fits, (_, line) in zip(fitting, pairs, strict=True))
        return clear or not any(fitting)

    def _line(self, number: int, slot: _Slot, direction: Direction, *, whole: bool = False) -> MediaDescription:
        if slot.stream is None:
            return sdp.build_media(slot.kind, 0, slot.formats or ["0"], proto=slot.proto, label=str(number))
        section = slot.stream.section
        if slot.taken and not whole:
            section = _only(section, slot.taken)
        line = sdp.recording_media(section, label=str(number), direction=direction)
        if self.secure:
            line.lines += srtp_sdp.lines_of(slot.stream.section)
        return line

    def _write(self, media: Sequence[MediaDescription]) -> bytes:
        address = next((c.address for m in media if m.port and (c := m.own_connection()) is not None), "")
        lines: list[str] = []
        for each in media:
            lines.append(each.to_line())
            lines += each.lines
        written = "\n".join(lines)
        if not self.version:
            self.version, self.address = 1, address or "0.0.0.0"
        elif written != self._last:
            self.version += 1
        self._last = written
        origin = Origin("siprec", self.session_id, str(self.version), self.address)
        return sdp.build_session(origin, media).to_bytes()


def _only(section: MediaDescription, formats: list[str]) -> MediaDescription:
    """The m-line with these formats and nothing about others."""
    found = MediaDescription(section.kind, section.port, section.proto, list(formats), section.num_ports)
    found.lines = [
        line
        for line in section.lines
        if not line.startswith(("a=rtpmap:", "a=fmtp:")) or line.partition(":")[2].split(" ", 1)[0] in formats
    ]
    return found


def _codecs(line: MediaDescription) -> dict[str, str]:
    """Format -> name, of the m-line's formats; one without a meaning is called by its number."""
    maps = line.rtpmaps
    known = {str(number): meaning.encoding for number, meaning in maps.items()}
    return {text: known.get(text, text) for text in line.formats}


def _reachable(ours: MediaDescription, theirs: MediaDescription) -> None:
    here, there = ours.connection, theirs.connection
    if theirs.rejected or here is None or there is None:
        return
    families = sdp.address_family(here.address), sdp.address_family(there.address)
    if families[0] != families[1]:
        raise SdpError(f"the SRS answered an offer of {families[0]} addresses with {families[1]}")
