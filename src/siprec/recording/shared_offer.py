"""What several calls say in one recording session, put together: one session description, one metadata document.

A call keeps its own view (:class:`siprec.recording.rs_sdp.RecordingSdp`, :class:`siprec.metadata.document.Document`);
here its m-lines get their places and labels among those of others, and what the SRS answers comes back in its terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from msgspec.structs import replace

from siprec import sdp
from siprec.metadata.document import Document, Group, Participant, ParticipantStreamAssoc
from siprec.recording import srtp_sdp
from siprec.sdp import MediaDescription, Origin, SdpError, SessionDescription
from siprec.sdp import crypto as sdp_crypto

_O = TypeVar("_O")

#: A stream that waits for a call: nothing is sent, the port is the discard service's (RFC 863).
_IDLE: Final = ("audio", 9, ("0", "8"))


@dataclass(frozen=True, slots=True)
class _Place(Generic[_O]):
    """One m-line: the `number`-th of `owner`, or nobody's."""

    owner: _O | None
    number: int
    line: MediaDescription


class SharedOffer(Generic[_O]):
    """The SRC's half of a shared RS. M-lines never vanish (RFC 7866 7.1.1.1); freed ones are used again (RFC 7866
    7.1.1.1).

    `standing`: while nobody uses the first m-line it waits, inactive, so that there is something to agree upon; as
    SRTP if it is `secure`.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self.standing = False
        self.secure = False
        self._key = sdp_crypto.generate()  # nothing is ever encrypted with it
        self._places: list[_Place[_O]] = []
        self._origin: Origin | None = None
        self._written: tuple[str, ...] | None = None

    def wait(self) -> None:
        """An m-line for nobody yet."""
        self._places.append(_Place(None, 0, self._idle()))

    def _idle(self) -> MediaDescription:
        kind, port, formats = _IDLE
        proto = srtp_sdp.SECURE if self.secure else srtp_sdp.PLAIN
        line = sdp.build_media(kind, port, list(formats), proto=proto, address="0.0.0.0", direction="inactive")
        if self.secure:
            line.lines.append(f"a=crypto:{self._key.value()}")
        return line

    def copy(self) -> SharedOffer[_O]:
        """The same, to try a change on."""
        other: SharedOffer[_O] = SharedOffer(self._session_id)
        other.standing, other._places = self.standing, list(self._places)
        other.secure, other._key = self.secure, self._key
        other._origin, other._written = self._origin, self._written
        return other

    def put(self, owner: _O, lines: Iterable[MediaDescription]) -> None:
        """The m-lines of `owner` as they are now, all of them, in its order."""
        mine = {place.number: i for i, place in enumerate(self._places) if place.owner is owner}
        for number, line in enumerate(lines):
            index = mine.get(number)
            if index is None:
                index = next(
                    (i for i, p in enumerate(self._places) if p.owner is None and p.line.kind == line.kind),
                    len(self._places),
                )
            self._places[index : index + 1] = [_Place(owner, number, line)]

    def remove(self, owner: _O) -> None:
        """Free the m-lines of `owner`."""
        for index, place in enumerate(self._places):
            if place.owner is owner:
                idle = self.standing and index == 0 and place.line.kind == _IDLE[0]
                self._places[index] = _Place(None, 0, self._idle() if idle else _off(place.line))

    def __len__(self) -> int:
        return len(self._places)

    def labels(self, owner: _O) -> list[str]:
        """Label of each m-line of `owner`, in its order."""
        return [label for _, label in sorted((p.number, str(i)) for i, p in self._numbered() if p.owner is owner)]

    def _numbered(self) -> Iterable[tuple[int, _Place[_O]]]:
        return enumerate(self._places, 1)

    def lines(self) -> tuple[str, ...]:
        """All m-lines as text: what is compared to know whether an offer is needed."""
        return _text(self._offered())

    def _offered(self) -> list[MediaDescription]:
        return [_labelled(place.line, str(number)) for number, place in self._numbered()]

    def offer(self) -> bytes:
        """The whole description."""
        return self._write(self._offered())

    def part(self, owner: _O, theirs: SessionDescription) -> SessionDescription:
        """The SRS's description as `owner` would have got it alone; m-lines that are missing count as rejected."""
        result = SessionDescription(list(theirs.lines))
        mine = sorted((p.number, i, p.line) for i, p in enumerate(self._places) if p.owner is owner)
        for _, index, ours in mine:
            result.add(_copy(theirs.media[index]) if index < len(theirs.media) else _off(ours))
        return result

    def answer(self, offered: SessionDescription, parts: Mapping[_O, SessionDescription]) -> bytes:
        """Our answer to an offer of the SRS, out of the answers of the calls; what nobody uses is answered with port 0,
        what only waits with what it says.

        Raises:
            SdpError: the offer lost m-lines (RFC 3264 8).
        """
        if len(offered.media) < len(self._places):
            raise SdpError(f"offer with {len(offered.media)} m-lines where {len(self._places)} were agreed")
        lines = []
        for index, theirs in enumerate(offered.media):
            place = self._places[index] if index < len(self._places) else None
            ours: MediaDescription | None = None
            if place is not None and place.owner is not None:
                media = parts[place.owner].media if place.owner in parts else []
                ours = media[place.number] if place.number < len(media) else None
            elif place is not None and place.line.port and not theirs.rejected and theirs.kind == place.line.kind:
                ours = _waiting(place.line, theirs)
            lines.append(_labelled(ours, str(index + 1)) if ours is not None else _off(theirs))
        return self._write(lines)

    def _write(self, media: list[MediaDescription]) -> bytes:
        address = next((c.address for m in media if m.port and (c := m.own_connection()) is not None), "")
        if self._origin is None:
            self._origin = Origin("siprec", self._session_id, "1", address or "0.0.0.0")
        lines = _text(media)
        if self._written is not None and lines != self._written:
            self._origin = self._origin.bump()
        self._written = lines
        return sdp.build_session(self._origin, media).to_bytes()


def _text(media: Iterable[MediaDescription]) -> tuple[str, ...]:
    return tuple(line for m in media for line in (m.to_line(), *m.lines))


def _waiting(line: MediaDescription, theirs: MediaDescription) -> MediaDescription | None:
    """The answer for an m-line that only waits: as it is, with the tag of the key that `theirs` offers."""
    pair = srtp_sdp.agreed(line, theirs)
    if pair is None:
        return None if srtp_sdp.is_secure(line) else line
    copy = _copy(line)
    srtp_sdp.replaced(copy, pair[1].tag, pair[0])
    return copy


def _off(line: MediaDescription) -> MediaDescription:
    return MediaDescription(line.kind, 0, line.proto, list(line.formats) or ["0"])


def _copy(line: MediaDescription) -> MediaDescription:
    copy = MediaDescription(line.kind, line.port, line.proto, list(line.formats), line.num_ports)
    copy.lines = list(line.lines)
    return copy


def _labelled(line: MediaDescription, label: str) -> MediaDescription:
    copy = _copy(line)
    copy.lines = [*(text for text in line.lines if not text.startswith("a=label:")), f"a=label:{label}"]
    return copy


def union(documents: Iterable[Document]) -> Document:
    """One complete document about all of them. A party that takes part in several is one participant (RFC 7865
    6.5.1)."""
    groups: dict[str, Group] = {}
    participants: dict[str, Participant] = {}
    feeds: dict[str, ParticipantStreamAssoc] = {}
    all_of = list(documents)
    for document in all_of:
        groups.update((group.id, group) for group in document.groups)
        participants.update((who.id, who) for who in document.participants)
        for feed in document.stream_assocs:
            other = feeds.get(feed.participant_id)
            feeds[feed.participant_id] = feed if other is None else _together(other, feed)
    return Document(
        "complete",
        tuple(groups.values()),
        tuple(session for document in all_of for session in document.sessions),
        tuple(participants.values()),
        tuple(stream for document in all_of for stream in document.streams),
        tuple(assoc for document in all_of for assoc in document.session_assocs),
        tuple(assoc for document in all_of for assoc in document.participant_assocs),
        tuple(feeds.values()),
    )


def _together(one: ParticipantStreamAssoc, other: ParticipantStreamAssoc) -> ParticipantStreamAssoc:
    starts = [t for t in (one.associate_time, other.associate_time) if t is not None]
    ends = [t for t in (one.disassociate_time, other.disassociate_time) if t is not None]
    return replace(
        one,
        send=tuple(dict.fromkeys(one.send + other.send)),
        recv=tuple(dict.fromkeys(one.recv + other.recv)),
        associate_time=min(starts) if starts else None,
        disassociate_time=max(ends) if len(ends) == 2 else None,
    )


def is_final(document: Document) -> bool:
    """Whether every session of it is over, here at least."""
    detached = {a.session_id for a in document.session_assocs if a.disassociate_time is not None}
    return all(s.stop_time is not None or s.id in detached for s in document.sessions)
