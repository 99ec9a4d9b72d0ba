"""SIPREC metadata (RFC 7865): the model as plain values, documents written from templates.

A :class:`Recording` is everything the SRS should know at one moment. :func:`diff` makes the partial document that leads
from what the SRS was told to what is so now (RFC 7866 9.1), :func:`write` turns either into XML. Identifiers are base64
of 16 octets (RFC 7865 6.10), times are seconds since the Unix epoch, UTC. Nothing here parses XML or knows a call.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from os import urandom
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

NAMESPACE: Final = "urn:ietf:params:xml:ns:recording:1"
#: RFC 9806; the older name, without ``+xml``, is what RFC 7866 first had and some recorders still want.
MEDIA_TYPE: Final = "application/rs-metadata+xml"
LEGACY_MEDIA_TYPE: Final = "application/rs-metadata"
DISPOSITION: Final = "recording-session"
#: Elements of our own inside documents: XML-06 wants them in a namespace of their own.
OWN_NAMESPACE: Final = "urn:x-siprec:metadata:1"
#: P4: a participant needs an address, also when nobody knows one.
ANONYMOUS: Final = "sip:anonymous@anonymous.invalid"

IdSource = Callable[[], str]

# XML 1.0 2.2 Char; lone surrogates are octets of a SIP message which were no UTF-8.
_ILLEGAL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_SPECIAL: Final = re.compile('[&<>"\x00-\x1f\ud800-\udfff\ufffe\uffff]')
# What a URI may hold (RFC 3986 3, as xs:anyURI is checked in practice). Brackets belong in an authority, which a SIP
# URI has none of, so those around an IPv6 host are escaped too.
_NOT_URI: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~:/?@!$&'()*+,;=%]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:(?!//).|//[A-Za-z0-9.\-]+(?::\d{1,5})?(?:[/?]|\Z))")


def new_id() -> str:
    """A random identifier: base64 of a version 4 UUID (RFC 7865 6.10, RFC 4122 4.4)."""
    octets = bytearray(urandom(16))
    octets[6] = octets[6] & 0x0F | 0x40
    octets[8] = octets[8] & 0x3F | 0x80
    return b2a_base64(octets, newline=False).decode()


def is_id(text: str) -> bool:
    """Whether `text` is base64 of exactly 16 octets in its one canonical spelling (ID-03)."""
    return len(text) == 24 and re.fullmatch(r"[A-Za-z0-9+/]{21}[AQgw]==", text) is not None


def rfc3339(wall: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds and ``Z`` (RFC 7865 6.9)."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def escape(text: str) -> str:
    """Text or attribute value for XML 1.0: markup escaped, characters XML cannot hold dropped (XML-09)."""
    if _SPECIAL.search(text) is None:
        return text
    text = _ILLEGAL.sub("", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    # Character references survive line-end and attribute normalisation (XML 1.0 2.11, 3.3.3).
    return text.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")


def clean_aor(text: str) -> str:
    """`text` as a URI that passes xs:anyURI: stray characters %-escaped; nothing usable gives `ANONYMOUS`."""
    text = _ILLEGAL.sub("", text).strip()
    if _SCHEME.match(text) is None:
        return ANONYMOUS
    if _NOT_URI.search(text) is not None:
        text = _NOT_URI.sub(_percent, text)
    return text


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in match[0].encode("utf-8"))


class Reason(Struct, frozen=True, gc=False):
    """Why a session ended: one Reason header value (RFC 3326); `cause` within xs:short (P3)."""

    cause: int
    protocol: str = "SIP"
    text: str = ""


class NameId(Struct, frozen=True, gc=False):
    """One address of a participant, with at most one display name (P5)."""

    aor: str
    name: str = ""
    lang: str = ""


class Group(Struct, frozen=True, gc=False):
    """A CS group (RFC 7865 6.2). `extension` is checked foreign XML."""

    id: str
    associate_time: float | None = None
    disassociate_time: float | None = None
    extension: str = ""


class Session(Struct, frozen=True, gc=False):
    """A communication session (RFC 7865 6.3). `sip_session_ids` are RFC 7989 pairs, one per dialog."""

    id: str
    sip_session_ids: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    group_ref: str = ""
    start_time: float | None = None
    stop_time: float | None = None
    extension: str = ""


class Participant(Struct, frozen=True, gc=False):
    """A party (RFC 7865 6.5). `custom` is checked XML that replaces the whole content of the element."""

    id: str
    name_ids: tuple[NameId, ...]
    custom: str = ""
    extension: str = ""


class Stream(Struct, frozen=True, gc=False):
    """A media stream (RFC 7865 6.7); its label is no part of it but of the message that carries it (SDP-03)."""

    id: str
    session_id: str = ""


class SessionRecordingAssoc(Struct, frozen=True, gc=False):
    """CS attached to this RS (RFC 7865 6.4)."""

    session_id: str
    associate_time: float | None = None
    disassociate_time: float | None = None


class ParticipantSessionAssoc(Struct, frozen=True, gc=False):
    """Party in a CS (RFC 7865 6.6); `params` are Contact feature parameters, name and bare value (RFC 4235 4.1.6.2)."""

    participant_id: str
    session_id: str
    associate_time: float | None = None
    disassociate_time: float | None = None
    params: tuple[tuple[str, str], ...] = ()


class ParticipantStreamAssoc(Struct, frozen=True, gc=False):
    """Who feeds and who hears which streams (RFC 7865 6.8): always the whole sets."""

    participant_id: str
    send: tuple[str, ...] = ()
    recv: tuple[str, ...] = ()
    associate_time: float | None = None
    disassociate_time: float | None = None


class Recording(Struct, frozen=True, gc=False):
    """One metadata document: ``complete``, or ``partial`` relative to the last one the SRS accepted."""

    mode: str = "complete"
    groups: tuple[Group, ...] = ()
    sessions: tuple[Session, ...] = ()
    participants: tuple[Participant, ...] = ()
    streams: tuple[Stream, ...] = ()
    session_assocs: tuple[SessionRecordingAssoc, ...] = ()
    participant_assocs: tuple[ParticipantSessionAssoc, ...] = ()
    stream_assocs: tuple[ParticipantStreamAssoc, ...] = ()

    def stopped(self, wall: float, reasons: tuple[Reason, ...] = ()) -> Recording:
        """This document with every session ended at `wall`: stop-time, reason and disassociate-times."""
        return replace(
            self,
            sessions=tuple(
                s if s.stop_time is not None else replace(s, stop_time=max(wall, s.start_time or wall), reasons=reasons)
                for s in self.sessions
            ),
            session_assocs=tuple(_closed(a, wall) for a in self.session_assocs),
            participant_assocs=tuple(_closed(a, wall) for a in self.participant_assocs),
        )

    def detached(self, wall: float) -> Recording:
        """This document with the sessions going on but no longer recorded here (recording stopped before the call)."""
        return replace(self, session_assocs=tuple(_closed(a, wall) for a in self.session_assocs))

    def attached(self, wall: float) -> Recording:
        """This document for a new RS: sessionrecordingassoc open since `wall`, all ids as they were (ERR-09)."""
        return replace(
            self, session_assocs=tuple(SessionRecordingAssoc(a.session_id, wall) for a in self.session_assocs)
        )


_Assoc = TypeVar("_Assoc", SessionRecordingAssoc, ParticipantSessionAssoc)


def _closed(assoc: _Assoc, wall: float) -> _Assoc:
    if assoc.disassociate_time is not None:
        return assoc
    # Sessions of several calls in one document are by the times of each: none ends before it began.
    return replace(assoc, disassociate_time=max(wall, assoc.associate_time or wall))


# -- writing -----------------------------------------------------------------------------------------------------------

_HEAD: Final = f'<?xml version="1.0" encoding="UTF-8"?>\n<recording xmlns="{NAMESPACE}"><datamode>'


def write(document: Recording, labels: Mapping[str, str] | None = None) -> bytes:
    """The document as XML in UTF-8, elements in the order of the schema (XML-05).

    `labels` gives the label of each stream id in the SDP of the same message; without SDP leave it out, since a
    label must not appear then (META-06).
    """
    out = [_HEAD, document.mode, "</datamode>"]
    add = out.append
    for group in document.groups:
        add(
            f'<group group_id="{escape(group.id)}">{_times(group.associate_time, group.disassociate_time)}'
            f"{group.extension}</group>"
        )
    for session in document.sessions:
        _write_session(session, add)
    for participant in document.participants:
        add(f'<participant participant_id="{escape(participant.id)}">')
        add(participant.custom or "".join(map(_name_id, participant.name_ids)) or f'<nameID aor="{ANONYMOUS}"/>')
        add(f"{participant.extension}</participant>")
    for stream in document.streams:
        session_id = f' session_id="{escape(stream.session_id)}"' if stream.session_id else ""
        label = labels.get(stream.id) if labels else None
        inner = f"><label>{escape(label)}</label></stream>" if label else "/>"
        add(f'<stream stream_id="{escape(stream.id)}"{session_id}{inner}')
    for assoc in document.session_assocs:
        add(
            f'<sessionrecordingassoc session_id="{escape(assoc.session_id)}">'
            f"{_times(assoc.associate_time, assoc.disassociate_time)}</sessionrecordingassoc>"
        )
    for party in document.participant_assocs:
        params = "".join(f'<param pname="{escape(n)}" pval="{escape(v)}"/>' for n, v in party.params)
        add(
            f'<participantsessionassoc participant_id="{escape(party.participant_id)}"'
            f' session_id="{escape(party.session_id)}">'
            f"{_times(party.associate_time, party.disassociate_time)}{params}</participantsessionassoc>"
        )
    for feed in document.stream_assocs:
        sends = "".join([f"<send>{escape(i)}</send>" for i in feed.send])
        recvs = "".join([f"<recv>{escape(i)}</recv>" for i in feed.recv])
        add(
            f'<participantstreamassoc participant_id="{escape(feed.participant_id)}">{sends}{recvs}'
            f"{_times(feed.associate_time, feed.disassociate_time)}</participantstreamassoc>"
        )
    add("</recording>\n")
    return "".join(out).encode("utf-8")


def _write_session(session: Session, add: Callable[[str], None]) -> None:
    add(f'<session session_id="{escape(session.id)}">')
    for pair in session.sip_session_ids:
        add(f"<sipSessionID>{escape(pair)}</sipSessionID>")
    for reason in session.reasons:
        add(f'<reason cause="{reason.cause}" protocol="{escape(reason.protocol)}">{escape(reason.text)}</reason>')
    if session.group_ref:
        add(f"<group-ref>{escape(session.group_ref)}</group-ref>")
    if session.start_time is not None:
        add(f"<start-time>{rfc3339(session.start_time)}</start-time>")
    if session.stop_time is not None:
        add(f"<stop-time>{rfc3339(session.stop_time)}</stop-time>")
    add(f"{session.extension}</session>")


def _name_id(name_id: NameId) -> str:
    aor = escape(clean_aor(name_id.aor))
    if not name_id.name:
        return f'<nameID aor="{aor}"/>'
    lang = f' xml:lang="{escape(name_id.lang)}"' if name_id.lang else ""
    return f'<nameID aor="{aor}"><name{lang}>{escape(name_id.name)}</name></nameID>'


def _times(associate: float | None, disassociate: float | None) -> str:
    text = f"<associate-time>{rfc3339(associate)}</associate-time>" if associate is not None else ""
    if disassociate is not None:
        text += f"<disassociate-time>{rfc3339(disassociate)}</disassociate-time>"
    return text


# -- partial updates ---------------------------------------------------------------------------------------------------


def diff(told: Recording, now: Recording) -> Recording | None:
    """The document that brings an SRS which knows `told` to `now`: partial, or None when nothing changed.

    Where a partial update cannot say it (a child element vanished, and an absent child means "as before"), the answer
    is `now` itself, complete. A stream nobody feeds any more may simply be missing in `now`: the stream associations
    tell.
    """
    groups = _changed(told.groups, now.groups, lambda g: g.id, ("associate_time", "disassociate_time", "extension"))
    sessions = _changed(
        told.sessions,
        now.sessions,
        lambda s: s.id,
        ("sip_session_ids", "reasons", "group_ref", "start_time", "stop_time", "extension"),
    )
    session_assocs = _changed(told.session_assocs, now.session_assocs, lambda a: a.session_id, ())
    participant_assocs = _changed(
        told.participant_assocs,
        now.participant_assocs,
        lambda a: (a.participant_id, a.session_id),
        ("params",),
    )
    # Names are required children (65 9), send and recv are sets: both always go out whole.
    participants = _different(told.participants, now.participants)
    streams = _different(told.streams, now.streams)
    if groups is None or sessions is None or session_assocs is None or participant_assocs is None:
        return replace(now, mode="complete")
    before = {a.participant_id: a for a in told.stream_assocs}
    stream_assocs = []
    for assoc in now.stream_assocs:
        old = before.get(assoc.participant_id)
        if old == assoc:
            continue
        if old is not None:
            since, until = _new_times(old, assoc)
            assoc = replace(assoc, associate_time=since, disassociate_time=until)
        stream_assocs.append(assoc)
    if not (groups or sessions or participants or streams or session_assocs or participant_assocs or stream_assocs):
        return None
    return Recording(
        "partial",
        groups,
        sessions,
        participants,
        streams,
        session_assocs,
        participant_assocs,
        tuple(stream_assocs),
    )


_Element = TypeVar("_Element", Group, Session, SessionRecordingAssoc, ParticipantSessionAssoc)
_Whole = TypeVar("_Whole", Participant, Stream)


def _different(told: tuple[_Whole, ...], now: tuple[_Whole, ...]) -> tuple[_Whole, ...]:
    return () if told == now else tuple(item for item in now if item not in told)


def _changed(
    told: tuple[_Element, ...],
    now: tuple[_Element, ...],
    key: Callable[[_Element], object],
    kinds: tuple[str, ...],
) -> tuple[_Element, ...] | None:
    """New elements whole, known ones with the changed kinds of children only; None when a kind vanished.

    The interval of an association may be reopened: a new associate-time alone (merge rule 4 of metadata.md 6).
    """
    if told == now:
        return ()
    before = {key(item): item for item in told}
    result = []
    for item in now:
        old = before.get(key(item))
        if old is None:
            result.append(item)
        elif old != item:
            blank: dict[str, object] = {}
            for kind in kinds:
                if getattr(item, kind) == getattr(old, kind):
                    blank[kind] = None if kind.endswith("_time") else type(getattr(item, kind))()
                elif getattr(item, kind) in (None, "", ()):
                    return None
            if isinstance(item, _INTERVALS) and isinstance(old, _INTERVALS):
                if item.associate_time is None and old.associate_time is not None:
                    return None
                blank["associate_time"], blank["disassociate_time"] = _new_times(old, item)
            result.append(replace(item, **blank))
    return tuple(result)


_INTERVALS: Final = (SessionRecordingAssoc, ParticipantSessionAssoc)
_Interval = SessionRecordingAssoc | ParticipantSessionAssoc | ParticipantStreamAssoc


def _new_times(old: _Interval, new: _Interval) -> tuple[float | None, float | None]:
    """The times of `new` that the SRS does not know: of a reopened interval both ends belong together."""
    reopened = new.associate_time != old.associate_time
    closed = reopened or new.disassociate_time != old.disassociate_time
    return new.associate_time if reopened else None, new.disassociate_time if closed else None
