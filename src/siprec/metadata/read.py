"""Documents as the SRS reads them: tolerant by default.

Octets become a tree in :mod:`siprec.metadata.xmltree`, drafts become RFC 7865 in :mod:`siprec.metadata.drafts`. What a
schema would refuse but a reader can understand becomes a finding; `strict` turns those findings into a refusal.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from lxml import etree

from siprec.metadata.document import (
    Document,
    Extension,
    Group,
    NameId,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Reason,
    Session,
    SessionRecordingAssoc,
    SnapshotRequest,
    Stream,
)
from siprec.metadata.drafts import normalise
from siprec.metadata.errors import MetadataError
from siprec.metadata.values import NAMESPACE, Id, identifier, parse_time
from siprec.metadata.xmltree import tag, tree

_ORDER: Final = (
    "datamode", "group", "session", "participant", "stream", "sessionrecordingassoc", "participantsessionassoc",
    "participantstreamassoc",
)  # fmt: skip
_CHILDREN: Final[dict[str, tuple[str, ...]]] = {
    "group": ("associate-time", "disassociate-time"),
    "session": ("sipSessionID", "reason", "group-ref", "start-time", "stop-time"),
    "participant": ("nameID",),
    "stream": ("label",),
    "sessionrecordingassoc": ("associate-time", "disassociate-time"),
    "participantsessionassoc": ("associate-time", "disassociate-time", "param"),
    "participantstreamassoc": ("send", "recv", "associate-time", "disassociate-time"),
}
_REPEATED: Final = {"sipSessionID", "reason", "nameID", "param", "send", "recv"}
_MAX_FINDINGS: Final = 200


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
        items: dict[str, list[Any]] = {kind: [] for kind in _CHILDREN}
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
                    items[local].append(item)
        return Document(
            mode,
            tuple(items["group"]),
            tuple(items["session"]),
            tuple(items["participant"]),
            tuple(items["stream"]),
            tuple(items["sessionrecordingassoc"]),
            tuple(items["participantsessionassoc"]),
            tuple(items["participantstreamassoc"]),
            tuple(extensions),
            tuple(self.findings),
            tuple(self.errors),
        )

    def _local(self, element: etree._Element) -> str | None:
        """Local name of an element of ours, None for a foreign one."""
        namespace, local = tag(element)
        return local if namespace == NAMESPACE else None

    def _item(self, kind: str, element: etree._Element) -> Any | None:
        """One child of ``recording``, None where an identifier is missing."""
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
        children: dict[str, list[Any]] = {}
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
        return _element(kind, ids, children, tuple(extensions))

    def _child(self, kind: str, local: str, element: etree._Element) -> object:
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
            return Reason(cause, element.get("protocol") or "SIP", _text(element))
        return _text(element)

    def _name(self, element: etree._Element) -> NameId:
        aor = (element.get("aor") or "").strip()
        if not aor:
            self.note("nameID", "schema: no aor")
        names = [child for child in element if self._local(child) == "name"]
        if len(names) > 1:
            self.note("nameID", "schema: more than one name")
        if not names:
            return NameId(aor)
        return NameId(aor, _text(names[0]), names[0].get("{http://www.w3.org/XML/1998/namespace}lang") or "")

    def _id(self, where: str, text: str) -> Id:
        found, problem = identifier(text)
        self.note(where, problem)
        return found


def _element(
    kind: str, ids: dict[str, Id], children: dict[str, list[Any]], extensions: tuple[Extension, ...]
) -> object:
    def several(name: str) -> tuple[Any, ...]:
        return tuple(children.get(name, ()))

    def one(name: str, absent: Any = None) -> Any:
        return children[name][0] if name in children else absent

    times = one("associate-time"), one("disassociate-time")
    if kind == "group":
        return Group(ids["group_id"], *times, extensions=extensions)
    if kind == "session":
        described = several("sipSessionID"), several("reason"), one("group-ref", "")
        return Session(ids["session_id"], *described, one("start-time"), one("stop-time"), extensions=extensions)
    if kind == "participant":
        return Participant(ids["participant_id"], several("nameID"), extensions=extensions)
    if kind == "stream":
        return Stream(ids["stream_id"], ids.get("session_id", ""), one("label"), extensions)
    if kind == "sessionrecordingassoc":
        return SessionRecordingAssoc(ids["session_id"], *times)
    if kind == "participantsessionassoc":
        return ParticipantSessionAssoc(ids["participant_id"], ids["session_id"], *times, several("param"))
    return ParticipantStreamAssoc(ids["participant_id"], several("send"), several("recv"), *times)


def _text(element: etree._Element) -> str:
    return "".join(str(part) for part in element.itertext()).strip()


def _extension(element: etree._Element) -> Extension:
    attributes = tuple((str(key)[:200], str(value)[:1000]) for key, value in element.attrib.items())
    return Extension(
        str(element.tag)[:200], _text(element)[:4000], attributes, tuple(_extension(child) for child in element)
    )
