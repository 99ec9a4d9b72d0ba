"""The header lines of a message: an ordered list that keeps the bytes of what is not touched.

Two lists side by side: `lines` are the raw lines as received, folding included, without the final CRLF; `keys` are
their canonical lower-case header names, compact forms resolved. Text is UTF-8 with surrogate escapes, so that any octet
survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from siprec.sip.errors import UnsafeText
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
MAX_CACHED: Final = 4096

_keys: dict[str, str] = {}
known_names: dict[str, str] = dict(_NAMES)
"""The usual spelling of the names seen last, by key: see :func:`header_name`."""
# The same for what stands before a value, colon included: a line without a colon never looks like a header.
_prefixes: dict[str, str] = {}


def _remember(cache: dict[str, str], name: str, value: str) -> None:
    """Keep what was worked out for a name; neither many nor long names of strangers fill the memory."""
    if len(name) <= 64:
        if len(cache) >= MAX_CACHED:
            cache.clear()
            if cache is known_names:
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
    name = known_names.get(key)
    if name is None:
        name = "-".join(part.capitalize() for part in key.split("-"))
        _remember(known_names, key, name)
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


def without_first(line: str) -> str:
    """The line of a list header without its first value; empty when no other value is left."""
    values = split_commas(field_value(line))
    return f"{line[: line.find(':')]}: {', '.join(values[1:])}" if len(values) > 1 else ""


_LINE_END: Final = re.compile(r"\r(?!\n)|(?<!\r)\n|\r\n(?![ \t])")
"""A line end that is no folding."""


def write(lines: list[str], body: bytes) -> bytes:
    """A message on the wire: start line, header lines, body."""
    head = "\r\n".join(lines)
    count = len(lines) - 1
    if head.count("\n") != count or head.count("\r") != count:
        # Folded lines of others, or a line end that somebody wrote past the methods: that becomes a blank.
        head = "\r\n".join([_LINE_END.sub(" ", line) for line in lines])
    return f"{head}\r\n\r\n".encode("utf-8", "surrogateescape") + body


def read_lines(raw: list[str]) -> tuple[list[str], list[str]]:
    """Keys and header lines; continuation lines are joined to the header they belong to, CRLF included.

    A line that is no header keeps its place under an empty key.
    """
    prefixes = _prefixes
    keys: list[str] = []
    try:
        for line in raw:
            keys.append(prefixes[line[: line.find(":") + 1]])  # noqa: PERF401 - a comprehension is a call more
    except KeyError:
        # A name not seen before, or a continuation line: those are never remembered.
        raw = _unfold(raw)
        keys = [_prefix_key(line[: line.find(":") + 1]) for line in raw]
    return keys, raw


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


VIEWS: Final = {
    "via": ("top_via", "branch", "sent_by", "problem"),
    "from": ("from_", "from_tag", "problem"),
    "to": ("to", "to_tag", "problem"),
    "call-id": ("call_id", "problem"),
    "cseq": ("cseq", "problem"),
    "contact": ("contact",),
    "content-type": ("content_type", "problem", "sdp_part"),
    "content-disposition": ("sdp_part",),
    "content-transfer-encoding": ("sdp_part",),
    "max-forwards": ("max_forwards", "problem"),
    "content-length": ("content_length",),
    "expires": ("problem",),
    "min-expires": ("problem",),
}
"""What a message has derived from a header, by the header's key: forgotten when that changes."""


class HeaderList:
    """Header lines, and changing them. `keys` and `lines` are of equal length; change them by the methods only.

    Names are taken in any case, compact or long; the canonical key costs least.
    """

    __slots__ = ("derived", "keys", "lines")

    keys: list[str]
    lines: list[str]
    derived: bool
    """Whether anything was derived from the headers: else nothing has to be forgotten."""

    def __init__(self, keys: list[str] | None = None, lines: list[str] | None = None) -> None:
        self.keys = keys if keys is not None else []
        self.lines = lines if lines is not None else []
        self.derived = False

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, name: str) -> str | None:
        """The first field value of a header (unfolded, stripped), or None."""
        keys = self.keys
        if name not in keys:
            key = _keys[name] if name in _keys else header_key(name)
            if key == name or key not in keys:
                return None
            name = key
        line = self.lines[keys.index(name)]
        value = line[line.find(":") + 1 :]
        if "\n" in value:
            value = _FOLD.sub(" ", value)
        return value.strip(" \t\r\n")

    def get_all(self, name: str) -> list[str]:
        """All field values of a header, one per header line."""
        key = _keys[name] if name in _keys else header_key(name)
        if key not in self.keys:
            return []
        return [field_value(line) for k, line in zip(self.keys, self.lines, strict=True) if k == key]

    def values(self, name: str) -> list[str]:
        """All elements of a comma-separated header, over all its lines, in order."""
        keys = self.keys
        result: list[str] = []
        if name not in keys:
            name = _keys[name] if name in _keys else header_key(name)
            if name not in keys:
                return result
        at = keys.index(name)
        for _ in range(keys.count(name)):
            while keys[at] != name:
                at += 1
            line = self.lines[at]
            value = line[line.find(":") + 1 :]
            if "\n" in value:
                value = _FOLD.sub(" ", value)
            value = value.strip(" \t\r\n")
            if "," in value:
                result += split_commas(value)
            elif value:
                result.append(value)
            at += 1
        return result

    def has(self, name: str) -> bool:
        """Whether the header occurs."""
        return name in self.keys or (_keys[name] if name in _keys else header_key(name)) in self.keys

    def tokens(self, name: str) -> set[str]:
        """The elements of a list header such as Supported, Require or Allow, in lower case."""
        return set(map(str.lower, self.values(name)))

    # -- changing --------------------------------------------------------------------------------------------------

    def forget(self, view: str) -> None:
        """Drop one view that was derived from a header."""
        try:
            delattr(self, view)
        except AttributeError:
            pass

    def _forget(self, key: str) -> None:
        """Drop what was derived from a header."""
        for view in VIEWS[key]:  # written out: a call for each would cost more than the rest
            try:
                delattr(self, view)
            except AttributeError:
                pass

    def write_line(self, key: str, line: str, *, at: int | None = None) -> None:
        """Put a whole header line, whose canonical key is `key`, in the place of line number `at`, else at the end."""
        if self.derived and key in VIEWS:
            self._forget(key)
        if at is None:
            self.keys.append(key)
            self.lines.append(line)
        else:
            self.keys[at] = key
            self.lines[at] = line

    def add(self, name: str, value: str) -> None:
        """Append a header at the end."""
        key = _keys[name] if name in _keys else header_key(name)
        if self.derived and key in VIEWS:
            self._forget(key)
        if not value.isprintable():
            value = safe(value, name)
        if name.islower():
            name = known_names[key] if key in known_names else header_name(key)
        self.keys.append(key)
        self.lines.append(f"{name}: {value}")

    def extend(self, headers: Iterable[tuple[str, str]]) -> None:
        """:meth:`add` each of these names and values."""
        keys, lines = self.keys, self.lines
        for name, value in headers:
            key = _keys[name] if name in _keys else header_key(name)
            if self.derived and key in VIEWS:
                self._forget(key)
            if not value.isprintable():
                value = safe(value, name)
            if name.islower():
                name = known_names[key] if key in known_names else header_name(key)
            keys.append(key)
            lines.append(f"{name}: {value}")

    def set(self, name: str, value: str) -> None:
        """Replace all occurrences of a header by one, in the place of the first; append it if there was none."""
        key = _keys[name] if name in _keys else header_key(name)
        if self.derived and key in VIEWS:
            self._forget(key)
        if not value.isprintable():
            value = safe(value, name)
        line = f"{known_names[key] if key in known_names else header_name(key)}: {value}"
        keys = self.keys
        if key not in keys:
            keys.append(key)
            self.lines.append(line)
            return
        at = keys.index(key)
        self.lines[at] = line
        if keys.count(key) > 1:
            self._drop(key, at + 1)

    def _drop(self, key: str, start: int) -> None:
        """Remove the lines of a header from number `start` on."""
        keep = [at for at in range(len(self.keys)) if at < start or self.keys[at] != key]
        self.lines = [self.lines[at] for at in keep]
        self.keys = [self.keys[at] for at in keep]

    def prepend(self, name: str, value: str) -> None:
        """Insert a header above the first of its kind, or on top of all headers."""
        key = _keys[name] if name in _keys else header_key(name)
        if self.derived and key in VIEWS:
            self._forget(key)
        if not value.isprintable():
            value = safe(value, name)
        at = self.keys.index(key) if key in self.keys else 0
        self.keys.insert(at, key)
        self.lines.insert(at, f"{known_names[key] if key in known_names else header_name(key)}: {value}")

    def remove(self, name: str) -> int:
        """Remove all occurrences; returns how many there were."""
        key = _keys[name] if name in _keys else header_key(name)
        count = self.keys.count(key)
        if count:
            if self.derived and key in VIEWS:
                self._forget(key)
            self._drop(key, 0)
        return count

    def remove_first_value(self, name: str) -> str | None:
        """Remove the topmost value of a list header (Via, Route); returns it, or None."""
        key = _keys[name] if name in _keys else header_key(name)
        keys = self.keys
        if self.derived and key in VIEWS:
            self._forget(key)
        while key in keys:
            at = keys.index(key)
            line = self.lines[at]
            value = line[line.find(":") + 1 :]
            if "\n" not in value and "," not in value:
                value = value.strip(" \t\r")
                values = [value] if value else []
            else:
                values = split_commas(field_value(line))
            if len(values) > 1:
                self.lines[at] = f"{header_name(key)}: {', '.join(values[1:])}"
                return values[0]
            del keys[at], self.lines[at]
            if values:
                return values[0]
        return None

    def replace_first_value(self, name: str, value: str) -> None:
        """Replace the topmost value of a list header; the other values stay. Adds the header if there is none."""
        key = _keys[name] if name in _keys else header_key(name)
        if self.derived and key in VIEWS:
            self._forget(key)
        if not value.isprintable():
            value = safe(value, name)
        if key not in self.keys:
            self.keys.append(key)
            self.lines.append(f"{header_name(key)}: {value}")
            return
        at = self.keys.index(key)
        line = self.lines[at]
        if "," in line:
            value = ", ".join([value, *split_commas(field_value(line))[1:]])
        self.lines[at] = f"{known_names[key] if key in known_names else header_name(key)}: {value}"
