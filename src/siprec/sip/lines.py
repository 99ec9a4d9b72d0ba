"""The header lines of a message: an ordered list that keeps the bytes of what is not touched.

Each line is a pair ``(key, line)``: `key` is the canonical lower-case header name, compact forms resolved; `line` the
raw line as received, folding included, without the final CRLF. Text is UTF-8 with surrogate escapes, so that any octet
survives.
"""

from __future__ import annotations

import re
from typing import Any, Final

from siprec.sip.errors import SipError, UnsafeText
from siprec.sip.headers import split_commas

COMPACT: Final = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
_NAMES: Final = {
    "call-id": "Call-ID",
    "content-id": "Content-ID",
    "cseq": "CSeq",
    "mime-version": "MIME-Version",
    "www-authenticate": "WWW-Authenticate",
    "rack": "RAck",
    "rseq": "RSeq",
    "min-se": "Min-SE",
    "sip-etag": "SIP-ETag",
    "sip-if-match": "SIP-If-Match",
    "session-id": "Session-ID",
    "p-asserted-identity": "P-Asserted-Identity",
    "remote-party-id": "Remote-Party-ID",
}
_FOLD: Final = re.compile(r"\r?\n[ \t]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MAX_CACHED: Final = 4096

_keys: dict[str, str] = {}
_names: dict[str, str] = dict(_NAMES)
# The same for what stands before a value, colon included: a line without a colon never looks like a header.
_prefixes: dict[str, str] = {}


def _remember(cache: dict[str, str], name: str, value: str) -> None:
    """Keep what was worked out for a name; neither many nor long names of strangers fill the memory."""
    if len(name) <= 64:
        if len(cache) >= _MAX_CACHED:
            cache.clear()
            if cache is _names:
                cache.update(_NAMES)
        cache[name] = value


def has_control(text: str) -> bool:
    """Whether there is a control character other than a tab in it: nothing that a message may hold (RFC 3261 25.1)."""
    return not text.isprintable() and _CONTROL.search(text) is not None


def safe(text: str, what: str) -> str:
    """`text` for a message that is built here; `what` it is, for the error. Every value passes here that is not
    printable: a line end is an error of ours, other control characters (of strangers) become blanks.

    Raises:
        UnsafeText: a line end in it.
    """
    if "\r" in text or "\n" in text:
        raise UnsafeText(what)
    return _CONTROL.sub(" ", text)


def header_key(name: str) -> str:
    """Canonical lower-case key of a header name, compact forms resolved."""
    key = _keys.get(name)
    if key is None:
        key = name.strip().lower()
        key = COMPACT.get(key, key)
        _remember(_keys, name, key)
    return key


def header_name(key: str) -> str:
    """The usual spelling for a header key: ``record-route`` -> ``Record-Route``."""
    name = _names.get(key)
    if name is None:
        name = "-".join(part.capitalize() for part in key.split("-"))
        _remember(_names, key, name)
    return name


def encode(text: str) -> bytes:
    """Text of a message to octets: the inverse of how it was read."""
    return text.encode("utf-8", "surrogateescape")


def field_value(line: str) -> str:
    """The value of a header line: unfolded, without white space around it."""
    value = line[line.find(":") + 1 :]
    if "\n" in value:
        value = _FOLD.sub(" ", value)
    return value.strip(" \t\r\n")


def read_lines(raw: list[str]) -> list[tuple[str, str]]:
    """Header lines with their keys; continuation lines are joined to the header they belong to, CRLF included.

    A line that is no header keeps its place under an empty key.
    """
    prefixes = _prefixes
    try:
        return [(prefixes[line[: line.find(":") + 1]], line) for line in raw]
    except KeyError:
        # A name not seen before, or a continuation line: those are never remembered.
        return [(_prefix_key(line[: line.find(":") + 1]), line) for line in _unfold(raw)]


def _unfold(raw: list[str]) -> list[str]:
    lines: list[list[str]] = []
    for line in raw:
        if line[:1] in (" ", "\t") and lines:
            lines[-1].append(line)
        else:
            lines.append([line])
    return ["\r\n".join(parts) for parts in lines]


def _prefix_key(prefix: str) -> str:
    key = _prefixes.get(prefix)
    if key is None:
        key = header_key(prefix[:-1])
        if prefix and prefix[0] not in " \t":
            _remember(_prefixes, prefix, key)
    return key


class HeaderLines:
    """Header lines, and changing them. `_cache` holds typed views by key, `_index` the first line of each header. A
    change drops both."""

    __slots__ = ("_cache", "_index", "lines")

    lines: list[tuple[str, str]]

    def __init__(self, lines: list[tuple[str, str]] | None = None) -> None:
        self.lines = lines if lines is not None else []
        self._cache: dict[str, Any] = {}
        self._index: dict[str, str] | None = None

    # -- reading ---------------------------------------------------------------------------------------------------

    def _first(self, name: str) -> str | None:
        """The first line of a header, or None."""
        index = self._index
        if index is None:
            index = self._index = dict(reversed(self.lines))
        if name in index:
            return index[name]
        key = _keys[name] if name in _keys else header_key(name)
        return index[key] if key != name and key in index else None

    def get(self, name: str) -> str | None:
        """The first field value of a header (unfolded, stripped), or None. `name` in any case, compact or long."""
        line = self._first(name)
        return field_value(line) if line is not None else None

    def get_all(self, name: str) -> list[str]:
        """All field values of a header, one per header line."""
        if self._first(name) is None:
            return []
        key = header_key(name)
        return [field_value(line) for k, line in self.lines if k == key]

    def values(self, name: str) -> list[str]:
        """All elements of a comma-separated header, over all its lines, in order."""
        result: list[str] = []
        if self._first(name) is None:
            return result
        key = header_key(name)
        for k, line in self.lines:
            if k == key:
                value = field_value(line)
                if "," in value:
                    result += split_commas(value)
                elif value:
                    result.append(value)
        return result

    def has(self, name: str) -> bool:
        """Whether the header occurs."""
        return self._first(name) is not None

    def tokens(self, name: str) -> set[str]:
        """The elements of a list header such as Supported, Require or Allow, in lower case."""
        return {value.lower() for value in self.values(name)}

    def _required(self, key: str) -> str:
        """The value of a header that must occur exactly once."""
        found = self._first(key)
        if found is None:
            raise SipError(f"{header_name(key)} is missing")
        index = self._index
        if index is None or len(index) != len(self.lines):
            # Some header occurs twice: perhaps this one.
            for k, line in self.lines:
                if k == key and line is not found:
                    raise SipError(f"{header_name(key)} occurs twice")
        return field_value(found)

    # -- changing --------------------------------------------------------------------------------------------------

    def _changed(self, key: str) -> None:
        """Forget what was derived from a header."""
        self._index = None
        cache = self._cache
        if key in cache:
            del cache[key]

    def write_line(self, key: str, line: str, *, at: int | None = None) -> None:
        """Put a whole header line, whose canonical key is `key`, in the place of line number `at`, else at the end."""
        self._changed(key)
        if at is None:
            self.lines.append((key, line))
        else:
            self.lines[at] = (key, line)

    def add(self, name: str, value: str) -> None:
        """Append a header at the end."""
        key = header_key(name)
        self._changed(key)
        value = value if value.isprintable() else safe(value, name)
        self.lines.append((key, f"{name if not name.islower() else header_name(key)}: {value}"))

    def set(self, name: str, value: str) -> None:
        """Replace all occurrences of a header by one, in the place of the first; append it if there was none."""
        key = header_key(name)
        value = value if value.isprintable() else safe(value, name)
        line = (key, f"{header_name(key)}: {value}")
        lines = self.lines
        if self._first(key) is None:
            self._changed(key)
            lines.append(line)
            return
        self._changed(key)
        position = count = 0
        for i, (k, _) in enumerate(lines):
            if k == key:
                if not count:
                    position = i
                count += 1
        lines[position] = line
        if count > 1:
            lines[position + 1 :] = [item for item in lines[position + 1 :] if item[0] != key]

    def prepend(self, name: str, value: str) -> None:
        """Insert a header above the first of its kind, or on top of all headers."""
        key = header_key(name)
        self._changed(key)
        value = value if value.isprintable() else safe(value, name)
        line = (key, f"{header_name(key)}: {value}")
        for i, (k, _) in enumerate(self.lines):
            if k == key:
                self.lines.insert(i, line)
                return
        self.lines.insert(0, line)

    def remove(self, name: str) -> int:
        """Remove all occurrences; returns how many there were."""
        if self._first(name) is None:
            return 0
        key = header_key(name)
        self._changed(key)
        kept = [item for item in self.lines if item[0] != key]
        removed = len(self.lines) - len(kept)
        self.lines = kept
        return removed

    def remove_first_value(self, name: str) -> str | None:
        """Remove the topmost value of a list header (Via, Route); returns it, or None."""
        key = header_key(name)
        self._changed(key)
        i = 0
        while i < len(self.lines):
            k, line = self.lines[i]
            if k != key:
                i += 1
                continue
            values = split_commas(field_value(line))
            if len(values) > 1:
                self.lines[i] = (key, f"{header_name(key)}: {', '.join(values[1:])}")
                return values[0]
            del self.lines[i]
            if values:
                return values[0]
        return None

    def replace_first_value(self, name: str, value: str) -> None:
        """Replace the topmost value of a list header; the other values stay. Adds the header if there is none."""
        key = header_key(name)
        value = value if value.isprintable() else safe(value, name)
        self._changed(key)
        for i, (k, line) in enumerate(self.lines):
            if k == key:
                rest = split_commas(field_value(line))[1:]
                self.lines[i] = (key, f"{header_name(key)}: {', '.join([value, *rest])}")
                return
        self.lines.append((key, f"{header_name(key)}: {value}"))
