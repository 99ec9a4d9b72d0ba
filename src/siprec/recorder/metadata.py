"""Recording metadata (RFC 7865) as read by the SRS.

Octets become a tree in :mod:`siprec.recorder.metadata_text`, drafts become RFC 7865 in
:mod:`siprec.recorder.metadata_drafts`. Reading is tolerant by default: what a schema would refuse but a reader can
understand becomes a finding; `strict` turns those findings into a refusal.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from xml.sax.saxutils import escape

from lxml import etree

from siprec.recorder.errors import MetadataError
from siprec.recorder.metadata_drafts import LEGACY_NAMESPACE, NAMESPACE, normalise
from siprec.recorder.metadata_text import MAX_DEPTH, MAX_ELEMENTS, MAX_SIZE, tag, tree

__all__ = [
    "LEGACY_NAMESPACE",
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "MAX_SIZE",
    "NAMESPACE",
    "Document",
    "Extension",
    "Id",
    "Item",
    "Name",
    "Reason",
    "SnapshotRequest",
    "Time",
    "identifier",
    "parse",
    "parse_time",
    "snapshot_request",
]

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)([Tt ])(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?\s*(Z|z|[+-]\d\d:?\d\d)?")
_ORDER = (
    "datamode", "group", "session", "participant", "stream", "sessionrecordingassoc", "participantsessionassoc",
    "participantstreamassoc",
)  # fmt: skip
_CHILDREN: dict[str, tuple[str, ...]] = {
    "group": ("associate-time", "disassociate-time"),
    "session": ("sipSessionID", "reason", "group-ref", "start-time", "stop-time"),
    "participant": ("nameID",),
    "stream": ("label",),
    "sessionrecordingassoc": ("associate-time", "disassociate-time"),
    "participantsessionassoc": ("associate-time", "disassociate-time", "param"),
    "participantstreamassoc": ("send", "recv", "associate-time", "disassociate-time"),
}
_REPEATED = {"sipSessionID", "reason", "nameID", "param", "send", "recv"}
_UUID = re.compile(r"(?:urn:uuid:)?\{?([0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12})\}?")
_MAX_FINDINGS = 200


@dataclass(frozen=True, slots=True)
class Id:
    """An identifier. Equal by decoded octets (ID-05): `key` is the UUID's text form, or the text of an opaque id."""

    key: str
    text: str = field(compare=False)

    @property
    def uuid(self) -> str | None:
        """The UUID in its usual form, None for an id that is not 16 octets (ID-06)."""
        return self.key if _is_uuid(self.key) else None


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def identifier(text: str) -> tuple[Id, str | None]:
    """An id as written, and what is wrong with it (None: nothing)."""
    text = "".join(text.split())
    found = _UUID.fullmatch(text)
    if found is not None:
        return Id(found[1].lower(), text), "schema: a UUID in its text form, not in base64"
    try:
        octets = base64.b64decode(text, validate=True)
        problem = None
    except (binascii.Error, ValueError):
        try:
            octets = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            problem = "schema: base64 padding is missing"
        except (binascii.Error, ValueError):
            return Id(text, text), "schema: not base64"
    if len(octets) != 16:
        return Id(text, text), problem or f"{len(octets)} octets instead of 16"
    return Id(str(uuid.UUID(bytes=octets)), text), problem


@dataclass(frozen=True, slots=True)
class Time:
    """A moment: Unix seconds, and the text it came as."""

    seconds: float
    text: str

    @classmethod
    def at(cls, seconds: float) -> Time:
        """A moment we stamp ourselves, in UTC to the millisecond."""
        moment = datetime.fromtimestamp(seconds, UTC)
        return cls(seconds, moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def parse_time(text: str) -> tuple[Time | None, str | None]:
    """RFC 3339, with the common mistakes understood; and what is wrong (None: nothing)."""
    text = text.strip()
    found = _TIME.fullmatch(text)
    if not found:
        return None, "schema: not a time"
    year, month, day, separator, hour, minute, second, fraction, offset = found.groups()
    problem = None
    if separator != "T" or offset == "z":
        problem = "schema: T and Z have to be capital"
    if offset is None:
        problem = problem or "no offset, taken as UTC"
        shift = "+00:00"
    elif offset in "Zz":
        shift = "+00:00"
    else:
        if ":" not in offset:
            problem = "schema: colon missing in the offset"
        shift = f"{offset[:3]}:{offset[-2:]}"
    micro = (fraction or "0")[:6].ljust(6, "0")
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(
            f"{year}-{month}-{day}T{hour}:{minute}:{'59' if leap else second}.{micro}{shift}"
        )
        return Time(moment.timestamp() + leap, text), problem
    except (ValueError, OverflowError):
        return None, "schema: no such time"


@dataclass(frozen=True, slots=True)
class Name:
    """One ``nameID``: address of record, display name and its language."""

    aor: str
    name: str = ""
    lang: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a session ended (RFC 3326): protocol, cause, text."""

    protocol: str
    cause: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Extension:
    """A foreign element: ``{namespace}name``, its whole text (XML-07), its attributes and the elements in it."""

    name: str
    text: str
    attributes: tuple[tuple[str, str], ...] = ()
    children: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One child of ``recording``.

    `ids` are its identifying attributes by name; `children` hold only the kinds that were present, so that a partial
    update can tell absent from empty.
    """

    kind: str
    ids: dict[str, Id]
    children: dict[str, list[str | Id | Time | Name | Reason | tuple[str, str]]]
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A ``recording`` document: `mode`, and its children in document order.

    `findings` is what was odd about it, `errors` what was damaged and may therefore be missing.
    """

    mode: Literal["complete", "partial"]
    items: tuple[Item, ...]
    extensions: tuple[Extension, ...]
    findings: tuple[str, ...]
    errors: tuple[str, ...] = ()

    def of(self, kind: str) -> list[Item]:
        """The children of one kind, in order."""
        return [item for item in self.items if item.kind == kind]


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """A ``requestsnapshot`` document (META-12)."""

    reason: str
    findings: tuple[str, ...] = ()


def parse(data: bytes, *, charset: str | None = None, strict: bool = False) -> Document | SnapshotRequest:
    """Read a document; raises :class:`MetadataError` for what cannot be used at all.

    `strict` also refuses what is damaged and what breaks the schema (findings that begin with ``schema:``).
    """
    reader = _Reader()
    root, errors = tree(data, charset)
    reader.errors += errors
    if not tag(root)[0]:
        reader.errors.append("the elements have no namespace")
    normalise(root, reader.note)
    result = reader.read(root)
    if strict:
        if reader.errors:
            raise MetadataError(f"metadata is damaged: {reader.errors[0]}")
        broken = [f for f in result.findings if f.startswith("schema:")]
        if broken:
            raise MetadataError(f"metadata breaks the schema: {broken[0][8:]}")
    return result


class _Reader:
    def __init__(self) -> None:
        self.findings: list[str] = []
        self.errors: list[str] = []

    def note(self, where: str, problem: str | None) -> None:
        if problem is not None and len(self.findings) < _MAX_FINDINGS:
            schema = problem.startswith("schema: ")
            text = f"{where}: {problem.removeprefix('schema: ')}"
            self.findings.append(f"schema: {text}" if schema else text)

    def read(self, root: etree._Element) -> Document | SnapshotRequest:
        name = self._local(root)
        if name == "requestsnapshot":
            reasons = [child for child in root if self._local(child) == "requestreason"]
            return SnapshotRequest(_text(reasons[0]) if reasons else "", tuple(self.findings))
        if name != "recording":
            raise MetadataError(f"not recording metadata: root {str(root.tag)[:80]}")
        mode: Literal["complete", "partial"] = "complete"
        items: list[Item] = []
        extensions: list[Extension] = []
        place = 0
        for child in root:
            local = self._local(child)
            if local is None:
                extensions.append(_extension(child))
                continue
            if local not in _ORDER:
                self.note("recording", f"schema: unknown element {local}")
                extensions.append(_extension(child))
                continue
            if _ORDER.index(local) < place or extensions:
                self.note("recording", f"schema: {local} out of order")
            place = max(place, _ORDER.index(local))
            if local == "datamode":
                value = _text(child)
                mode = "partial" if value.lower() == "partial" else "complete"
                if value != mode:
                    self.errors.append(f"datamode is {value[:40]!r}, taken as {mode}")
            else:
                item = self._item(local, child)
                if item is not None:
                    items.append(item)
        return Document(mode, tuple(items), tuple(extensions), tuple(self.findings), tuple(self.errors))

    def _local(self, element: etree._Element) -> str | None:
        """Local name of an element of ours, None for a foreign one."""
        namespace, local = tag(element)
        return local if namespace == NAMESPACE else None

    def _item(self, kind: str, element: etree._Element) -> Item | None:
        ids: dict[str, Id] = {}
        for attribute in ("group_id", "session_id", "participant_id", "stream_id"):
            value = element.get(attribute)
            if value is not None and value.strip():
                ids[attribute] = self._id(f"{kind} {attribute}", value)
        needed = {
            "sessionrecordingassoc": ("session_id",),
            "participantsessionassoc": ("participant_id", "session_id"),
            "participantstreamassoc": ("participant_id",),
        }.get(kind, (f"{kind}_id",))
        missing = [name for name in needed if name not in ids]
        if missing:
            self.note(kind, f"schema: no {missing[0]}, element ignored")
            return None
        order = _CHILDREN[kind]
        children: dict[str, list[str | Id | Time | Name | Reason | tuple[str, str]]] = {}
        extensions: list[Extension] = []
        place = 0
        for child in element:
            local = self._local(child)
            if local is None:
                extensions.append(_extension(child))
                continue
            if local not in order:
                self.note(kind, f"schema: unknown element {local}")
                extensions.append(_extension(child))
                continue
            if order.index(local) < place or extensions:
                self.note(kind, f"schema: {local} out of order")
            place = max(place, order.index(local))
            if local in children and local not in _REPEATED:
                self.note(kind, f"schema: {local} more than once")
                continue
            content = self._child(kind, local, child)
            if content is not None:
                children.setdefault(local, []).append(content)
        if kind == "participant" and "nameID" not in children:
            self.note(kind, "schema: no nameID")
        return Item(kind, ids, children, tuple(extensions))

    def _child(
        self, kind: str, local: str, element: etree._Element
    ) -> str | Id | Time | Name | Reason | tuple[str, str] | None:
        if local.endswith("-time"):
            time, problem = parse_time(_text(element))
            self.note(f"{kind} {local}", problem)
            return time
        if local in ("send", "recv", "group-ref"):
            return self._id(f"{kind} {local}", _text(element)) if _text(element) else None
        if local == "sipSessionID":
            return "".join(_text(element).split())
        if local == "nameID":
            return self._name(element)
        if local == "param":
            name, value = element.get("pname"), element.get("pval")
            if not name:
                self.note(local, "schema: no pname")
                return None
            if value is None:
                self.note(local, "schema: no pval, taken as true")
            return (name, "true" if value is None else value)
        if local == "reason":
            try:
                cause: int | None = int(element.get("cause") or "")
            except ValueError:
                cause = None
                self.note(local, "schema: no cause")
            return Reason(element.get("protocol") or "SIP", cause, _text(element))
        return _text(element)

    def _name(self, element: etree._Element) -> Name:
        aor = (element.get("aor") or "").strip()
        if not aor:
            self.note("nameID", "schema: no aor")
        names = [child for child in element if self._local(child) == "name"]
        if len(names) > 1:
            self.note("nameID", "schema: more than one name")
        if not names:
            return Name(aor)
        return Name(aor, _text(names[0]), names[0].get("{http://www.w3.org/XML/1998/namespace}lang") or "")

    def _id(self, where: str, text: str) -> Id:
        found, problem = identifier(text)
        self.note(where, problem)
        return found


def _text(element: etree._Element) -> str:
    return "".join(str(part) for part in element.itertext()).strip()


def _extension(element: etree._Element) -> Extension:
    attributes = tuple((str(key)[:200], str(value)[:1000]) for key, value in element.attrib.items())
    return Extension(
        str(element.tag)[:200], _text(element)[:4000], attributes, tuple(_extension(child) for child in element)
    )


def snapshot_request(reason: str = "", lang: str = "en") -> bytes:
    """The document that asks an SRC for a complete snapshot (META-12), UTF-8."""
    inner = ""
    if reason:
        # XML-09: characters that XML 1.0 does not have are dropped.
        clean = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", reason)
        inner = f'\n  <requestreason xml:lang="{lang}">{escape(clean)}</requestreason>\n'
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<requestsnapshot xmlns="{NAMESPACE}">{inner}</requestsnapshot>\n'.encode()
