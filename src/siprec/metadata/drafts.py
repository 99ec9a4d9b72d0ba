"""Metadata of the drafts before RFC 7865 and of vendors that stayed with them, rewritten as RFC 7865 has them.

Seen in use: ``id`` and ``session`` instead of ``participant_id`` and ``session_id``, a namespace without version or
another one altogether, ``recording_metadata`` around ``recording``, ``send`` and the times of the associations inside
``participant``, addresses in ``aor`` elements or attributes, ``dataMode``, ``group`` attributes and ``groupRef``
elements, ``extensiondata`` that names its ``parent``, participants and streams inside their session.
"""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from siprec.metadata.values import NAMESPACE
from siprec.metadata.xmltree import tag

LEGACY_NAMESPACE = "urn:ietf:params:xml:ns:recording"
_OURS = frozenset({NAMESPACE, LEGACY_NAMESPACE, "urn:ietf:params:xml:ns:siprec", ""})
_ROOTS = frozenset({"recording", "recording_metadata", "recordingmetadata", "recording-metadata"})
_KINDS = (
    "group", "session", "participant", "stream", "sessionrecordingassoc", "participantsessionassoc",
    "participantstreamassoc",
)  # fmt: skip
_NAMES = {
    name.lower(): name
    for name in (
        "recording", "requestsnapshot", "requestreason", "datamode", *_KINDS, "sipSessionID", "reason", "group-ref",
        "start-time", "stop-time", "associate-time", "disassociate-time", "nameID", "name", "aor", "label", "param",
        "send", "recv", "id",
    )
}  # fmt: skip
_NAMES |= {
    "groupref": "group-ref",
    "group_ref": "group-ref",
    "end-time": "stop-time",
    "stoptime": "stop-time",
    "starttime": "start-time",
    "associatetime": "associate-time",
    "disassociatetime": "disassociate-time",
    "receive": "recv",
}
_KNOWN = frozenset(_NAMES.values())
_IDS = {"group": "group_id", "session": "session_id", "participant": "participant_id", "stream": "stream_id"}

Note = Callable[[str, str], None]
"""Where, and what was wrong; a text that begins with ``schema:`` is what the schema forbids."""


def normalise(root: etree._Element, note: Note) -> None:
    """Rewrite the tree below `root` in place. Elements and attributes of RFC 7865 stay as they are.

    Foreign elements are left alone, whatever they are called.
    """
    namespace, local = tag(root)
    if namespace != NAMESPACE:
        note("recording", f"schema: namespace {namespace[:80] or 'missing'}")
    _rename(root, {*_OURS, namespace}, note)
    if local != "recording" and local.lower() in _ROOTS:
        note("recording", f"schema: root {local[:80]}")
        root.tag = _q("recording")
    if root.tag != _q("recording"):
        return
    _flatten(root, note)
    for kind in _KINDS:
        for number, element in enumerate(root.findall(_q(kind)), 1):
            _attributes(element, kind, number, note)
    found = _Associations(root)
    for element in root.findall(_q("session")):
        _session(root, element, found, note)
    for element in root.findall(_q("participant")):
        _participant(root, element, found, note)
    for element in root.findall(_q("participantstreamassoc")):
        _streams(element, note)
    for element in root.findall(_q("stream")):
        sender = _pop(element, "participant_id")
        if sender:
            note("stream", "schema: participant as an attribute")
            made = etree.SubElement(root, _q("participantstreamassoc"), {"participant_id": sender})
            etree.SubElement(made, _q("send")).text = element.get("stream_id")
        label = _pop(element, "label")
        if label and element.find(_q("label")) is None:
            note("stream", "schema: label as an attribute")
            etree.SubElement(element, _q("label")).text = label
    _extensions(root, note)


class _Associations:
    """What a document associates, by id: looked up once, as a document may have thousands of participants."""

    def __init__(self, root: etree._Element) -> None:
        self.sessions = [each.get("session_id", "") for each in root.findall(_q("session"))]
        self.recorded = {each.get("session_id") for each in root.findall(_q("sessionrecordingassoc"))}
        self.members = {
            (each.get("participant_id"), each.get("session_id")) for each in root.findall(_q("participantsessionassoc"))
        }
        self.streams: dict[str | None, etree._Element] = {}
        for each in root.findall(_q("participantstreamassoc")):
            self.streams.setdefault(each.get("participant_id"), each)


def _q(local: str) -> str:
    return f"{{{NAMESPACE}}}{local}"


def _pop(element: etree._Element, attribute: str) -> str:
    """Take an attribute away; empty if it is not there."""
    return str(element.attrib.pop(attribute, ""))


def _rename(root: etree._Element, ours: set[str], note: Note) -> None:
    """One namespace, and the names of RFC 7865, for everything that is not inside a foreign element."""
    waiting = [root]
    while waiting:
        element = waiting.pop()
        namespace, local = tag(element)
        if namespace not in ours:
            continue
        name = _NAMES.get(local.lower(), local)
        if name != local:
            outer = element.getparent()
            where = tag(outer)[1] if outer is not None else "recording"
            note(where[:80], f"schema: {local[:80]} instead of {name}")
        known = name in _KNOWN
        if known and (namespace != NAMESPACE or name != local):
            element.tag = _q(name)
        if known or element is root:
            waiting += element


def _flatten(root: etree._Element, note: Note) -> None:
    """Participants and streams inside a session, a ``recording`` inside a ``recording``: all become children of the
    root, and keep the id of the session they were in."""
    for element in list(root.iterdescendants(*(_q(kind) for kind in _KINDS), _q("recording"))):
        parent = element.getparent()
        if parent is None or parent is root or not _ours_all_the_way(element, root):
            continue
        note(tag(element)[1], f"schema: inside {tag(parent)[1]}")
        outer = parent.get("session_id") or parent.get("id")
        if parent.tag == _q("session") and outer and not (element.get("session_id") or element.get("session")):
            element.set("session_id", outer)
        element.tail = None
        root.append(element)
    for element in root.findall(_q("recording")):
        root.remove(element)


def _ours_all_the_way(element: etree._Element, root: etree._Element) -> bool:
    return all(each is root or str(each.tag).startswith(_q("")) for each in element.iterancestors())


def _attributes(element: etree._Element, kind: str, number: int, note: Note) -> None:
    own = _IDS.get(kind, "")
    for key in list(element.attrib):
        plain = str(key).lower().replace("-", "_")
        wanted = None
        if own and plain in ("id", own, own.replace("_", "")):
            wanted = own
        elif plain in ("session", "sessionid", "session_id"):
            wanted = "session_id"
        elif plain in ("participant", "participantid", "participant_id"):
            wanted = "participant_id"
        elif plain in ("group", "groupid", "group_id") and kind == "session":
            wanted = "group_id"
        if wanted is not None and wanted != key and wanted not in element.attrib:
            note(kind, f"schema: attribute {str(key)[:40]} instead of {wanted}")
            element.set(wanted, element.attrib.pop(key))
    if own and not (element.get(own) or "").strip():
        made = _made_id(element, kind, number)
        note(kind, f"schema: no {own}, taken as {made}")
        element.set(own, made)


def _made_id(element: etree._Element, kind: str, number: int) -> str:
    """An id for an element that has none: the same one whenever it is described in the same way."""
    if kind == "participant":
        for inner in element.iter(_q("nameID"), _q("aor"), _q("name")):
            text = (inner.get("aor") or "".join(map(str, inner.itertext()))).strip()
            if text:
                return f"participant:{text[:200]}"
    if kind == "stream":
        label = element.get("label") or element.findtext(_q("label")) or ""
        if label.strip():
            return f"stream:{label.strip()[:200]}"
    return f"{kind}:{number}"


def _session(root: etree._Element, element: etree._Element, found: _Associations, note: Note) -> None:
    group = _pop(element, "group_id")
    if group and element.find(_q("group-ref")) is None:
        etree.SubElement(element, _q("group-ref")).text = group
    times = _times(element, ("associate-time", "disassociate-time"))
    if not times:
        return
    note("session", "schema: the times of sessionrecordingassoc inside session")
    start = next((each for each in times if each.tag == _q("associate-time")), None)
    if start is not None and element.find(_q("start-time")) is None:
        etree.SubElement(element, _q("start-time")).text = start.text
    if element.get("session_id") not in found.recorded:
        found.recorded.add(element.get("session_id", ""))
        made = etree.SubElement(root, _q("sessionrecordingassoc"), {"session_id": element.get("session_id", "")})
        made.extend(times)


def _times(element: etree._Element, names: tuple[str, ...]) -> list[etree._Element]:
    found = [child for child in element if child.tag in {_q(name) for name in names}]
    for child in found:
        element.remove(child)
    return found


def _participant(root: etree._Element, element: etree._Element, found: _Associations, note: Note) -> None:
    own = element.get("participant_id", "")
    _names(element, note)
    streams = [child for child in element if child.tag in (_q("send"), _q("recv"))]
    if streams:
        note("participant", "schema: send or recv inside participant")
        made = found.streams.get(own)
        if made is None:
            made = etree.SubElement(root, _q("participantstreamassoc"), {"participant_id": own})
            found.streams[own] = made
        made.extend(streams)
    times = _times(element, ("associate-time", "disassociate-time", "start-time", "stop-time"))
    for child in times:
        child.tag = child.tag.replace("start-time", "associate-time").replace("}stop-time", "}disassociate-time")
    sessions = _pop(element, "session_id").split()
    if times or sessions:
        note("participant", "schema: the session inside participant")
    if not sessions and times:
        sessions = found.sessions if len(found.sessions) == 1 else []
    for session in sessions:
        if (own, session) in found.members:
            continue
        found.members.add((own, session))
        made = etree.SubElement(root, _q("participantsessionassoc"), {"participant_id": own, "session_id": session})
        for child in times:
            etree.SubElement(made, child.tag).text = child.text


def _names(element: etree._Element, note: Note) -> None:
    """``aor`` and ``name`` as children or attributes of the participant, or inside ``nameID``."""
    loose: list[tuple[str, etree._Element]] = []
    name = _pop(element, "name")
    for child in [*element]:
        if child.tag == _q("aor"):
            loose.append(("aor", child))
        elif child.tag == _q("name"):
            loose.append(("name", child))
        elif child.tag == _q("nameID") and not (child.get("aor") or "").strip():
            inner = child.find(_q("aor"))
            text = "".join(map(str, inner.itertext())) if inner is not None else child.text or ""
            if text.strip():
                note("nameID", "schema: aor is not an attribute")
                child.set("aor", text.strip())
                child.text = None
            if inner is not None:
                child.remove(inner)
    addresses = ["".join(map(str, child.itertext())).strip() for kind, child in loose if kind == "aor"]
    if (attribute := _pop(element, "aor")) and attribute not in addresses:
        addresses.append(attribute)
    names = ["".join(map(str, child.itertext())).strip() for kind, child in loose if kind == "name"]
    names += [name] if name else []
    for _, child in loose:
        element.remove(child)
    if not addresses and not names:
        return
    note("participant", "schema: aor or name outside nameID")
    existing = element.findall(_q("nameID"))
    if existing and not addresses:
        if existing[0].find(_q("name")) is None:
            etree.SubElement(existing[0], _q("name")).text = names[0]
        return
    for number, address in enumerate(addresses or [""]):
        made = etree.Element(_q("nameID"), {"aor": address})
        if number < len(names):
            etree.SubElement(made, _q("name")).text = names[number]
        element.insert(number, made)


def _streams(element: etree._Element, note: Note) -> None:
    """``send`` and ``recv`` that hold ``id`` elements, one for each stream."""
    for child in list(element):
        inner = child.findall(_q("id"))
        if child.tag not in (_q("send"), _q("recv")) or not inner:
            continue
        note(tag(child)[1], "schema: id elements inside")
        place = element.index(child)
        element.remove(child)
        for number, each in enumerate(inner):
            made = etree.Element(child.tag)
            made.text = "".join(map(str, each.itertext()))
            element.insert(place + number, made)


def _extensions(root: etree._Element, note: Note) -> None:
    """``extensiondata`` of the document that names its parent goes there."""
    owners: dict[str, etree._Element] = {}
    for kind, attribute in _IDS.items():
        for element in root.findall(_q(kind)):
            owners.setdefault(element.get(attribute, "").strip(), element)
    for element in [child for child in root if tag(child)[1].lower() == "extensiondata"]:
        owner = owners.get((element.get("parent") or "").strip())
        if owner is not None:
            note("extensiondata", "schema: names its parent")
            owner.append(element)
