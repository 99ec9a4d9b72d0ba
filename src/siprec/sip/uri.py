"""SIP, SIPS, TEL and foreign URIs (RFC 3261 19.1, RFC 3966, RFC 5118)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from siprec.sip.errors import SipError

Params = dict[str, str | None]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
# host, optional port; IPv6 in brackets. Host names are checked loosely: they have to survive underscores.
_HOSTPORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\]|([A-Za-z0-9_.\-]+))(?::(\d{1,5}))?\Z")
_USER_OK: Final = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/:#\x80-\U0010ffff]|%[0-9A-Fa-f]{2})*\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MAX_KNOWN: Final = 1024
_MAX_KNOWN_LENGTH: Final = 128
_DEFAULT_PORTS: Final = {"sip": 5060, "sips": 5061}


def unescape(text: str) -> str:
    """Resolve %-escapes once; octets that are no UTF-8 survive as surrogates."""
    if "%" not in text:
        return text
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def parse_params(text: str) -> Params:
    """Parameters after the first ``;`` of a URI or header: names in lower case, in order, values raw (quotes kept).

    A repeated name keeps its first value.
    """
    params: Params = {}
    for part in text.split(";") if '"' not in text else split_outside_quotes(text, ";"):
        if not part:
            continue
        name, eq, value = part.partition("=")
        name = name.strip().lower()
        if name and name not in params:
            params[name] = value.strip() if eq else None
    return params


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Split at `separator` outside quoted strings and angle brackets."""
    parts: list[str] = []
    start = 0
    quoted = angle = False
    i, end = 0, len(text)
    while i < end:
        c = text[i]
        if quoted:
            if c == "\\":
                i += 1
            elif c == '"':
                quoted = False
        elif c == '"':
            quoted = True
        elif c == "<":
            angle = True
        elif c == ">":
            angle = False
        elif c == separator and not angle:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    parts.append(text[start:])
    return parts


def format_params(params: Params) -> str:
    """``;name=value;flag`` for a parameter dictionary."""
    text = ""
    for name, value in params.items():
        text += f";{name}" if value is None else f";{name}={value}"
    return text


class Uri:
    """One URI. `text` is what was on the wire and is written back untouched.

    For ``sip``/``sips``: `user` and `password` raw (escapes kept; None if absent), `host` without brackets in lower
    case, `port` None if absent, `params` lower-case names, `headers` raw text after ``?``. For ``tel`` the number is
    `user` and `host` is empty; for other schemes only `scheme` and `opaque` are filled. A URI is shared by all who
    read the same text: it is not to be changed, `replace` makes another.
    """

    __slots__ = ("aor", "headers", "host", "is_sip", "opaque", "params", "password", "port", "scheme", "text", "user")

    is_sip: bool
    """Whether the scheme is ``sip`` or ``sips``."""
    aor: str
    """Address of record: scheme, user and host, without port and parameters (RFC 3261 10.3 step 5)."""

    def __init__(
        self,
        scheme: str,
        user: str | None,
        host: str,
        port: int | None = None,
        params: Params | None = None,
        headers: str = "",
        password: str | None = None,
    ) -> None:
        self.scheme = scheme
        self.is_sip = scheme == "sip" or scheme == "sips"
        self.user = user
        self.password = password
        self.host = host
        self.port = port
        self.params: Params = params if params is not None else {}
        self.headers = headers
        self.opaque = ""
        self.text = self._compose()

    def _compose(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = ""
        if self.user is not None:
            user = self.user if self.password is None else f"{self.user}:{self.password}"
            if self.scheme != "tel":
                user += "@"
        port = f":{self.port}" if self.port is not None else ""
        headers = f"?{self.headers}" if self.headers else ""
        return f"{self.scheme}:{user}{host}{port}{format_params(self.params)}{headers}"

    @classmethod
    def parse(cls, text: str) -> Uri:
        """Parse one URI (no angle brackets, no surrounding white space).

        Raises:
            SipError: 400 for a malformed SIP, SIPS or TEL URI or a missing scheme.
        """
        if text in known_uris:
            return known_uris[text]
        match = _SCHEME.match(text)
        if match is None:
            raise SipError(f"URI without a scheme: {text[:60]!r}")
        if not text.isprintable() and _CONTROL.search(text) is not None:
            raise SipError(f"control character in URI: {text[:60]!r}")
        uri = cls.__new__(cls)
        uri.scheme = scheme = match[1].lower()
        uri.text = text
        uri.user = uri.password = None
        uri.host = uri.headers = uri.opaque = ""
        uri.port = None
        uri.params = {}
        rest = text[match.end() :]
        uri.is_sip = scheme == "sip" or scheme == "sips"
        if uri.is_sip:
            uri._parse_sip(rest)
        elif scheme == "tel":
            number, semi, params = rest.partition(";")
            if not number:
                raise SipError("tel URI without a number")
            uri.user = number
            if semi:
                uri.params = parse_params(params)
        else:
            uri.opaque = rest
        if ";" not in text and len(text) <= _MAX_KNOWN_LENGTH:  # parameters differ from call to call
            if len(known_uris) >= _MAX_KNOWN:
                known_uris.clear()
            known_uris[text] = uri
        return uri

    def _parse_sip(self, rest: str) -> None:
        # The user part may hold ";", "?" and "/" (RFC 4475 3.1.1.13), never "@": so "@" is looked for first.
        at = rest.rfind("@", 0, _limit(rest) if "?" in rest else len(rest))
        if at >= 0:
            userinfo = rest[:at]
            rest = rest[at + 1 :]
            if not userinfo or _USER_OK.match(userinfo) is None:
                raise SipError(f"malformed user part in URI: {self.text[:60]!r}")
            user, colon, password = userinfo.partition(":")
            self.user = user
            if colon:
                self.password = password
        if ":::" in rest:
            # A slip of the RFC 3261 grammar, seen in the wild (RFC 5118 4.10).
            rest = rest.replace(":::", "::")
        q = rest.find("?")
        if q >= 0:
            self.headers = rest[q + 1 :]
            rest = rest[:q]
        semi = rest.find(";")
        if semi >= 0:
            self.params = parse_params(rest[semi + 1 :])
            rest = rest[:semi]
        match = _HOSTPORT.match(rest)
        if match is None:
            raise SipError(f"malformed host in URI: {self.text[:60]!r}")
        self.host = (match[1] or match[2]).lower()
        if match[3] is not None:
            self.port = int(match[3])
            if self.port > 65535:
                raise SipError(f"port out of range in URI: {self.text[:60]!r}")

    @property
    def effective_port(self) -> int:
        """The port, or the scheme's default (5060, 5061)."""
        return self.port if self.port is not None else _DEFAULT_PORTS.get(self.scheme, 5060)

    @property
    def transport(self) -> str:
        """The ``transport`` parameter in lower case, or an empty string."""
        return (self.params.get("transport") or "").lower()

    @property
    def user_unescaped(self) -> str:
        """The user part with %-escapes resolved once; empty if there is none."""
        return unescape(self.user or "")

    if not TYPE_CHECKING:  # a type checker knows the slots by their annotations

        def __getattr__(self, name: str) -> object:
            """What has not been asked for yet; a slot that is filled does not come here."""
            if name != "aor":
                raise AttributeError(name)
            aor = self.text
            if self.is_sip:
                host = f"[{self.host}]" if ":" in self.host else self.host
                aor = f"{self.scheme}:{self.user}@{host}" if self.user is not None else f"{self.scheme}:{host}"
            elif self.scheme == "tel":
                aor = f"tel:{self.user}"
            self.aor = aor
            return aor

    def replace(self, **changes: object) -> Uri:
        """A copy with some of scheme, user, password, host, port, params, headers changed."""
        values: dict[str, object] = {
            "scheme": self.scheme,
            "user": self.user,
            "password": self.password,
            "host": self.host,
            "port": self.port,
            "params": dict(self.params),
            "headers": self.headers,
        }
        values.update(changes)
        return Uri(**values)  # type: ignore[arg-type]

    def equivalent(self, other: Uri) -> bool:
        """URI comparison of RFC 3261 19.1.4."""
        if self.scheme != other.scheme:
            return False
        if not self.is_sip:
            return self.text == other.text or (
                self.scheme == "tel"
                and _digits(self.user) == _digits(other.user)
                and _lower(self.params) == _lower(other.params)
            )
        if (
            unescape(self.user or "") != unescape(other.user or "")
            or (self.user is None) != (other.user is None)
            or unescape(self.password or "") != unescape(other.password or "")
            or self.host != other.host
            or self.port != other.port
        ):
            return False
        mine, theirs = _lower(self.params), _lower(other.params)
        for name in ("user", "ttl", "method", "maddr", "transport"):
            if mine.get(name) != theirs.get(name) or (name in mine) != (name in theirs):
                return False
        if any(mine[name] != theirs[name] for name in mine.keys() & theirs.keys()):
            return False
        return _header_map(self.headers) == _header_map(other.headers)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Uri({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Uri) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


known_uris: Final[dict[str, Uri]] = {}
"""The URIs read last, by their text: a peer writes the same ones into every message."""


def _limit(rest: str) -> int:
    """Where the search for "@" ends: headers may legally hold an escaped "@" only, so the last "@" before the first
    "?" that follows one is the separator; without headers the whole text counts."""
    q = rest.find("?")
    if q < 0:
        return len(rest)
    return len(rest) if rest.find("@", q) >= 0 and rest.find("@") > q else q


def _digits(number: str | None) -> str:
    return re.sub(r"[\-.()]", "", number or "").lower()


def _lower(params: Params) -> dict[str, str | None]:
    return {name: unescape(value).lower() if value is not None else None for name, value in params.items()}


def _header_map(headers: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in headers.split("&") if part)
    return {unescape(name).lower(): unescape(value) for name, _, value in pairs}
