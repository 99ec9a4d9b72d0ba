"""Typed views of header values. Each is made on demand from the raw text of a message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from siprec.sip.errors import SipError
from siprec.sip.uri import Params, Uri, format_params, parse_params, split_outside_quotes

TOKEN: Final = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+\Z")
_VIA: Final = re.compile(
    r"\s*SIP\s*/\s*2\.0\s*/\s*([A-Za-z0-9\-.!%*_+`'~]+)[ \t\r\n]+"
    r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.\-]+))\s*(?::\s*(\d{1,5}))?\s*(?:;(.*))?\Z",
    re.IGNORECASE | re.DOTALL,
)
_CSEQ: Final = re.compile(r"\s*(\d+)\s+([A-Za-z0-9\-.!%*_+`'~]+)\s*\Z")
_QUOTED: Final = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def split_commas(value: str) -> list[str]:
    """The elements of a comma-separated header value, stripped, empty ones left out."""
    if "," not in value:
        value = value.strip()
        return [value] if value else []
    parts = value.split(",") if '"' not in value and "<" not in value else split_outside_quotes(value, ",")
    return [part for part in map(str.strip, parts) if part]


def unquote(text: str) -> str:
    """A quoted string without its quotes and backslashes; anything else as it is."""
    text = text.strip()
    if len(text) >= 2 and text[0] == '"' and text[-1] == '"':
        text = text[1:-1]
        return _ESCAPED.sub(r"\1", text) if "\\" in text else text
    return text


def quote(text: str) -> str:
    """A quoted string for `text` (RFC 3261 25.1)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Via:
    """One Via value (RFC 3261 20.42). `transport` upper case; `host` without brackets."""

    __slots__ = ("host", "params", "port", "transport")

    def __init__(self, transport: str, host: str, port: int | None, params: Params) -> None:
        self.transport = transport
        self.host = host
        self.port = port
        self.params = params

    @classmethod
    def parse(cls, text: str) -> Via:
        """Parse one value.

        Raises:
            SipError: malformed.
        """
        match = _VIA.match(text)
        if match is None:
            raise SipError("malformed Via")
        port = int(match[4]) if match[4] is not None else None
        if port is not None and port > 65535:
            raise SipError("port out of range in Via")
        return cls(match[1].upper(), match[2] or match[3], port, parse_params(match[5]) if match[5] else {})

    @property
    def branch(self) -> str:
        """The branch parameter, or an empty string (RFC 2543 client)."""
        return self.params.get("branch") or ""

    @property
    def sent_by(self) -> str:
        """``host`` or ``host:port`` in lower case, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port is None else f"{host}:{self.port}").lower()

    @property
    def effective_port(self) -> int:
        """The port, or the transport's default."""
        if self.port is not None:
            return self.port
        return 5061 if self.transport == "TLS" else 5060

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"SIP/2.0/{self.transport} {host}{port}{format_params(self.params)}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """Sequence number and method (RFC 3261 20.16)."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> CSeq:
        """Parse a value; leading zeros are plain numbers, 2**32 and above is an error.

        Raises:
            SipError: malformed.
        """
        match = _CSEQ.match(text)
        if match is None or len(match[1].lstrip("0")) > 10 or int(match[1]) >= 2**32:
            raise SipError("malformed CSeq")
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


class NameAddr:
    """``"Display name" <uri>;params`` or ``uri;params`` (From, To, Contact, Route, ...; RFC 3261 20.10).

    `display_name` is unquoted, `uri_text` raw, `params` the header's parameters. The URI is parsed on first use.
    """

    __slots__ = ("_uri", "display_name", "params", "uri_text")

    def __init__(self, display_name: str, uri: str | Uri, params: Params | None = None) -> None:
        self.display_name = display_name
        self.uri_text = uri if isinstance(uri, str) else uri.text
        self._uri = uri if isinstance(uri, Uri) else None
        self.params: Params = params if params is not None else {}

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """Parse one value.

        Raises:
            SipError: malformed (unbalanced quotes or brackets, nothing before the URI).
        """
        quoted = _QUOTED.match(text) if '"' in text else None
        if quoted is not None:
            name = _ESCAPED.sub(r"\1", quoted[1])
            start = quoted.end()
            if start >= len(text) or text[start] != "<":
                raise SipError("display name without <uri>")
        else:
            start = text.find("<")
            name = text[:start].strip() if start > 0 else ""
            if '"' in name:
                raise SipError("unbalanced quotes in display name")
        if start >= 0:
            end = text.find(">", start)
            if end < 0:
                raise SipError("missing > in address")
            uri = text[start + 1 : end].strip()
            rest = text[end + 1 :].strip()
            if rest and rest[0] != ";":
                raise SipError("garbage after <uri>")
        else:
            # addr-spec without brackets: parameters belong to the header (RFC 3261 20.10)
            uri, _, rest = text.partition(";")
            uri = uri.strip()
            if any(c in uri for c in ' \t,?"'):
                raise SipError("address needs <>")
        if not uri:
            raise SipError("empty address")
        return cls(name, uri, parse_params(rest) if rest else {})

    @property
    def uri(self) -> Uri:
        """The parsed URI.

        Raises:
            SipError: malformed URI.
        """
        if self._uri is None:
            self._uri = Uri.parse(self.uri_text)
        return self._uri

    @property
    def tag(self) -> str:
        """The tag parameter, or an empty string."""
        return self.params.get("tag") or ""

    def __str__(self) -> str:
        name = f"{quote(self.display_name)} " if self.display_name else ""
        return f"{name}<{self.uri_text}>{format_params(self.params)}"


@dataclass(frozen=True, slots=True)
class Reason:
    """One Reason value (RFC 3326): ``SIP;cause=200;text="..."``. `cause` is None when absent or no number."""

    protocol: str
    cause: int | None
    text: str = ""

    @classmethod
    def parse(cls, value: str) -> Reason:
        """Parse one value; never raises."""
        protocol, _, rest = value.partition(";")
        params = parse_params(rest)
        cause = (params.get("cause") or "").strip()
        return cls(
            protocol.strip(),
            int(cause) if cause.isdecimal() and len(cause) < 6 else None,
            unquote(params.get("text") or ""),
        )

    def __str__(self) -> str:
        cause = f";cause={self.cause}" if self.cause is not None else ""
        return f"{self.protocol}{cause}" + (f";text={quote(self.text)}" if self.text else "")


@dataclass(frozen=True, slots=True)
class SessionExpires:
    """Session-Expires (RFC 4028 4): interval in seconds, refresher ``uac``, ``uas`` or empty."""

    interval: int
    refresher: str = ""

    @classmethod
    def parse(cls, value: str) -> SessionExpires:
        """Parse a value.

        Raises:
            SipError: no number of seconds.
        """
        seconds, _, rest = value.partition(";")
        seconds = seconds.strip()
        if not seconds.isdecimal() or len(seconds) > 10:
            raise SipError("malformed Session-Expires")
        return cls(int(seconds), (parse_params(rest).get("refresher") or "").lower())

    def __str__(self) -> str:
        return f"{self.interval};refresher={self.refresher}" if self.refresher else str(self.interval)


@dataclass(frozen=True, slots=True)
class ParameterValue:
    """``value;name=value`` as in Content-Type and Content-Disposition; `value` in lower case."""

    value: str
    params: Params

    @classmethod
    def parse(cls, text: str) -> ParameterValue:
        """Parse a value; never raises."""
        value, _, rest = text.partition(";")
        value = "/".join(part.strip() for part in value.split("/"))
        return cls(value.lower(), parse_params(rest) if rest else {})

    def param(self, name: str) -> str:
        """A parameter's value without quotes, or an empty string."""
        return unquote(self.params.get(name) or "")

    def __str__(self) -> str:
        return f"{self.value}{format_params(self.params)}"
