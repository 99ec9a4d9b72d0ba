"""From the octets of a metadata document to an XML tree, hardened and forgiving.

Hardened: the text is decoded here, a DOCTYPE is refused before any XML parser sees it, size, depth and element
count are limited. Forgiving: a document that is damaged is used as far as it can be understood, and the damage is
reported. Audio never depends on it.
"""

from __future__ import annotations

import codecs
import re

from lxml import etree

from siprec.metadata.errors import MetadataError

MAX_SIZE = 512 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 10_000
_ENCODINGS = {
    "utf-8",
    "utf8",
    "us-ascii",
    "ascii",
    "iso-8859-1",
    "latin1",
    "windows-1252",
    "utf-16",
    "utf-16le",
    "utf-16be",
}
_DECLARATION = re.compile(r"<\?xml\s[^>]*?\?>\s*")
_DECLARED = re.compile(rb"<\?xml\s[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ROOT = re.compile(r"<([A-Za-z_][\w.:-]*)")


def _as_latin1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("siprec-latin-1", _as_latin1)


def decode(data: bytes, charset: str | None) -> tuple[str, list[str]]:
    """Text of a document, and what was wrong with its octets. The MIME charset wins over the declaration (RFC 7303
    3.3); one that is unknown or cannot be right is not believed, and octets that do not fit are read as ISO 8859-1."""
    errors: list[str] = []
    encoding = (charset or "").strip("\"' ").lower()
    if not encoding:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            encoding = "utf-16"
        else:
            found = _DECLARED.search(data[:200])
            encoding = found[1].decode().lower() if found else "utf-8"
    actual = encoding
    if encoding not in _ENCODINGS:
        actual = "utf-8"
        errors.append(f"encoding {encoding[:40]!r} is not known, read as UTF-8")
    # Every document begins with white space and "<": that tells the width of its characters.
    wide = b"\0" in data[:4]
    if wide != actual.startswith("utf-16"):
        actual = ("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else _endian(data)) if wide else "utf-8"
        errors.append(f"the document is not in {encoding[:40]}, read as {actual.upper()}")
    try:
        return data.decode(actual).removeprefix("\ufeff"), errors
    except UnicodeDecodeError as error:
        errors.append(f"octet {data[error.start]:#04x} at {error.start} is not {actual.upper()}, read as ISO 8859-1")
        if actual.startswith("utf-16"):
            return data.decode(actual, "replace").removeprefix("\ufeff"), errors
        return data.decode("utf-8" if "ascii" in actual else actual, "siprec-latin-1").removeprefix("\ufeff"), errors


def _endian(data: bytes) -> str:
    return "utf-16be" if data[:1] == b"\0" else "utf-16le"


def tree(data: bytes, charset: str | None = None) -> tuple[etree._Element, list[str]]:
    """The root element of a document, and what was damaged.

    Of a document that ends too early everything up to there is returned, without the element that was cut in two; of
    one that is damaged elsewhere, everything libxml2 can make sense of.

    Raises:
        MetadataError: too large or too deep, with a DTD, or nothing in it is an element.
    """
    if len(data) > MAX_SIZE:
        raise MetadataError(f"metadata of more than {MAX_SIZE} octets")
    text, errors = decode(data, charset)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise MetadataError("metadata with a DTD")
    start = text.find("<")
    if start < 0:
        raise MetadataError("metadata is not well-formed: there is no element")
    if text[:start].strip():
        errors.append(f"{start} characters before the document")
    text = text[start:]
    declaration = _DECLARATION.match(text)
    if declaration:
        text = text[declaration.end() :]
    text, strange = _NOT_XML.subn("", text)
    if strange:
        errors.append(f"{strange} characters that XML does not have, left out")
    body = text.encode("utf-8")
    try:
        root = etree.fromstring(body, _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        errors.append(f"not well-formed: {str(error)[:120]}")
        repaired = _repair(text, body)
        if repaired is None:
            raise MetadataError(f"metadata is not well-formed: {str(error)[:120]}") from error
        root = repaired
    _limit(root)
    return root, errors


def _parser(*, recover: bool = False) -> etree.XMLParser:
    return etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False,
        huge_tree=False, remove_comments=True, remove_pis=True, recover=recover,
    )  # fmt: skip


def _repair(text: str, body: bytes) -> etree._Element | None:
    name = _ROOT.search(text)
    if name is not None and f"</{name[1]}" in text:
        try:
            root = etree.fromstring(body, _parser(recover=True))
        except (etree.XMLSyntaxError, ValueError):
            return None
        if not isinstance(root, etree._Element):
            return None
        etree.strip_elements(root, etree.Entity, with_tail=False)
        return root
    return _prefix(body)


def _prefix(body: bytes) -> etree._Element | None:
    """What was complete when the document ended."""
    parser = etree.XMLPullParser(
        events=("start", "end"), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
        remove_comments=True, remove_pis=True,
    )  # fmt: skip
    try:
        parser.feed(body)
        parser.close()
    except etree.XMLSyntaxError:
        pass
    root: etree._Element | None = None
    unfinished: list[etree._Element] = []
    for event, element in parser.read_events():
        if not isinstance(element, etree._Element):
            continue
        if root is None:
            root = element
        if event == "start":
            unfinished.append(element)
        else:
            unfinished.pop()
    for element in reversed(unfinished):
        # Text that was cut in two says something else than was meant.
        if len(element):
            element[-1].tail = None
        else:
            element.text = None
        parent = element.getparent()
        if parent is not None and not len(element) and not element.attrib:
            parent.remove(element)
    return root


def _limit(root: etree._Element) -> None:
    depth = count = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        if event == "start":
            depth += 1
            count += 1
            if depth > MAX_DEPTH or count > MAX_ELEMENTS:
                raise MetadataError("metadata is nested too deeply or has too many elements")
        else:
            depth -= 1


def tag(element: etree._Element) -> tuple[str, str]:
    """Namespace (empty: none) and local name of an element, also of one whose prefix was never declared."""
    text = str(element.tag)
    if text.startswith("{"):
        namespace, _, local = text[1:].partition("}")
        return namespace, local
    prefix, _, local = text.rpartition(":")
    return (f"undeclared prefix {prefix}" if prefix else ""), local
