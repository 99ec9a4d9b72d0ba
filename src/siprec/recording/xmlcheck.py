"""XML handed in by scripts and configuration, checked before a call depends on it (reference.md, settings).

A fragment becomes part of every document of a recording, so it is rejected at once, with the reason, when it is not
well-formed or the schema would not allow it there (RFC 7865 9). No DTD, no entities, bounded size and
depth.
"""

from __future__ import annotations

import re
from typing import Final
from xml.parsers import expat

from siprec.metadata.values import NAMESPACE, OWN_NAMESPACE, escape

MAX_FRAGMENT: Final = 16384
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 1024
_XML: Final = "http://www.w3.org/XML/1998/namespace"


_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*\Z")


class FragmentError(ValueError):
    """An XML block that cannot go into a metadata document. The text says what is wrong, and where."""


def extension(name: str, text: str, *, namespace: str = OWN_NAMESPACE) -> str:
    """An extension element for `group_custom_extension` and the like: ``<name xmlns="namespace">text</name>``.

    `text` may hold anything, such as the value of a header: markup is escaped, octets that are no UTF-8 are read as
    Latin-1, characters that XML cannot hold are left out.

    Raises:
        FragmentError: `name` is no name of an element, or `namespace` is empty or that of SIPREC itself.
    """
    if _NAME.match(name) is None or name[:3].lower() == "xml":
        raise FragmentError(f"{name[:60]!r} is no name of an element")
    if not namespace.strip() or namespace.strip() == NAMESPACE:
        raise FragmentError("an extension needs a namespace of its own (XML-06)")
    return f'<{name} xmlns="{escape(_readable(namespace))}">{escape(_readable(text))}</{name}>'


def _readable(text: str) -> str:
    if text.isascii():
        return text
    return "".join(chr(ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in text)


def with_namespace(fragment: str) -> str:
    """`fragment` with our own namespace for elements that have none, and plain text put into an element ``text``. What
    cannot be read comes back as it is: `check_extension` says why."""
    if len(fragment) > MAX_FRAGMENT or not fragment.strip():
        return fragment
    if "<" not in fragment:
        return extension("text", fragment.strip())
    places = _Places(fragment).found
    if not places:
        return fragment
    octets = fragment.encode()
    parts, last = [], 0
    for place in places:
        parts += [octets[last:place], b' xmlns="', OWN_NAMESPACE.encode(), b'"']
        last = place
    return b"".join((*parts, octets[last:])).decode()


class _Places:
    """Where a namespace can be put in: behind the names of the outermost elements that have none, in octets."""

    _HEAD: Final = b"<w>"

    def __init__(self, fragment: str) -> None:
        self.found: list[int] = []
        self.depth = 0
        self.emptied = False
        parser = self.parser = expat.ParserCreate("UTF-8", "}")
        parser.StartNamespaceDeclHandler = self.declared
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        try:
            parser.Parse(self._HEAD + fragment.encode() + b"</w>", True)
        except (expat.ExpatError, UnicodeEncodeError):
            pass  # up to there; `check_extension` says what is wrong

    def declared(self, prefix: str | None, uri: str | None) -> None:
        self.emptied = self.emptied or (prefix is None and not uri)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self.depth == 1 and "}" not in name and not self.emptied:
            self.found.append(self.parser.CurrentByteIndex - len(self._HEAD) + 1 + len(name.encode()))
        self.depth += 1
        self.emptied = False

    def end(self, name: str) -> None:
        self.depth -= 1


def check_extension(fragment: str) -> str:
    """`fragment` itself, when it is foreign elements only, as may stand last in most elements (RFC 7865 9).

    Raises:
        FragmentError: not well-formed, text between elements, or an element without a namespace of its own.
    """
    _Check(fragment, names_first=False)
    return fragment.strip()


def check_participant(fragment: str) -> str:
    """`fragment` itself, when it may be the whole content of a ``participant``: ``nameID`` once or more, then foreign
    elements.

    Raises:
        FragmentError: not well-formed, or not in that shape.
    """
    _Check(fragment, names_first=True)
    return fragment.strip()


class _Check:
    """One pass of expat over the fragment inside a wrapper; the wrapper cannot be closed from inside."""

    def __init__(self, fragment: str, names_first: bool) -> None:
        if len(fragment) > MAX_FRAGMENT:
            raise FragmentError(f"XML block of {len(fragment)} characters, at most {MAX_FRAGMENT} allowed")
        self.lines = fragment.count("\n") + 1
        self.path: list[str] = []
        self.names = 0
        self.foreign = 0
        self.elements = 0
        self.names_first = names_first
        parser = expat.ParserCreate("UTF-8", "}")
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text
        parser.StartDoctypeDeclHandler = self.forbidden
        parser.ProcessingInstructionHandler = self.forbidden
        self.parser = parser
        try:
            text = f'<w xmlns="{NAMESPACE}">\n{fragment}\n</w>'.encode()
        except UnicodeEncodeError as error:
            raise FragmentError(f"XML block with characters that are no Unicode text: {error.reason}") from None
        try:
            parser.Parse(text, True)
        except expat.ExpatError as error:
            raise FragmentError(
                f"XML block not well-formed: {expat.ErrorString(error.code)} in line {self.line(error.lineno)}"
            ) from None
        if names_first and not self.names:
            raise FragmentError("XML block of a participant needs at least one <nameID aor=...>")
        if not names_first and not self.foreign:
            raise FragmentError("XML block holds no element")

    def line(self, number: int) -> int:
        """The line of the fragment, from that of the wrapped text."""
        return min(max(1, number - 1), self.lines)

    def fail(self, what: str) -> None:
        raise FragmentError(f"{what} in line {self.line(self.parser.CurrentLineNumber)} of the XML block")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        if len(self.path) >= MAX_DEPTH or self.elements > MAX_ELEMENTS:
            self.fail("too many or too deeply nested elements")
        namespace, _, local = name.rpartition("}")
        if self.path and not any(step.startswith("*") for step in self.path):
            self.place(namespace, local, attributes)
            name = local if namespace == NAMESPACE else f"*{local}"
        self.path.append(name)

    def place(self, namespace: str, local: str, attributes: dict[str, str]) -> None:
        if namespace != NAMESPACE:
            if len(self.path) > 1:
                self.fail(f"<{local}> must not stand inside <{self.path[-1]}>")
            if not namespace:
                self.fail(f"<{local}> has no namespace")
            self.foreign += 1
        elif not self.names_first:
            self.fail(f"<{local}> needs a namespace of its own (xmlns=...): extensions must not be SIPREC elements")
        elif len(self.path) == 1:
            if local != "nameID":
                self.fail(f"<{local}> found where <nameID> or an extension is allowed")
            if self.foreign:
                self.fail("<nameID> after an extension element")
            if set(attributes) != {"aor"} or not attributes["aor"].strip():
                self.fail("<nameID> needs the attribute aor and no other")
            self.names += 1
            self.named = False
        elif self.path[-1] != "nameID" or local != "name" or self.named:
            self.fail(f"<{local}> must not stand here: <nameID> holds at most one <name>")
        else:
            self.named = True
            if set(attributes) - {f"{_XML}}}lang"}:
                self.fail("<name> may have xml:lang and no other attribute")

    def end(self, name: str) -> None:
        self.path.pop()

    def text(self, text: str) -> None:
        if text.strip() and (len(self.path) == 1 or self.path[-1] == "nameID"):
            self.fail("text outside of elements")

    def forbidden(self, *_: object) -> None:
        self.fail("declarations and processing instructions are not allowed")
