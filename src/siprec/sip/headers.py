"""Typed views of header values. Each is made on demand from the raw text of a message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from siprec.sip.errors import SipError
from siprec.sip.uri import Params, Uri, format_params, known_uris, parse_params, split_outside_quotes

# Strangers choose what these read: quantifiers are possessive, so that nothing is tried twice.
TOKEN: Final = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+\Z")
_SENT_BY: Final = re.compile(
    r"\s*+SIP\s*+/\s*+2\.0\s*+/\s*+([A-Za-z0-9\-.!%*_+`'~]++)[ \t\r\n]++"
    r"(?:\[([0-9A-Fa-f:.]++)\]|([A-Za-z0-9_.\-]++))\s*+(?::\s*+([0-9]{1,5}+))?+\s*+\Z",
    re.IGNORECASE,
)
_CSEQ: Final = re.compile(r"\s*+([0-9]++)\s++([A-Za-z0-9\-.!%*_+`'~]++)\s*+\Z")
_NAME_ADDR: Final = re.compile(
    r'\s*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*+|([^"<,]*+))<([^>]*+)>\s*+(;.*+)?+\Z',
    re.DOTALL,
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_Q: Final = re.compile(r"(?:0(?:\.[0-9]*)?|1(?:\.0*)?)\Z")
_MAX_CACHED: Final = 4096
_MAX_CACHED_LENGTH: Final = 128

sent_bys: dict[str, tuple[str, str, int | None, str]] = {}
"""What stands before the parameters of a Via: transport, host, port, and the sent-by in lower case. A peer writes the
same into every message, so the last ones are remembered."""


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


class _Parameters:
    """Header parameters behind a value, parsed when first asked for. `_rest` is their raw text, ``;name=value...``."""

    __slots__ = ("_rest", "params")

    _rest: str
    params: Params
    """The parameters: lower-case names, in order, values raw (quotes kept), None for a flag."""

    if not TYPE_CHECKING:  # a type checker knows the slots by their annotations

        def __getattr__(self, name: str) -> object:
            """What has not been asked for yet; a slot that is filled does not come here."""
            if name != "params":
                raise AttributeError(name)
            params = self.params = parse_params(self._rest) if self._rest else {}
            return params


class Via(_Parameters):
    """One Via value (RFC 3261 20.42). `transport` upper case; `host` without brackets; `branch` empty when absent
    (RFC 2543 client); `sent_by` is ``host`` or ``host:port`` in lower case, IPv6 in brackets. Not to be changed."""

    __slots__ = ("branch", "host", "port", "sent_by", "transport")

    def __init__(self, transport: str, host: str, port: int | None, params: Params | None = None) -> None:
        self.transport = transport
        self.host = host
        self.port = port
        self.sent_by = _sent_by(host, port)
        self._rest = ""
        self.params = params if params is not None else {}
        self.branch = self.params.get("branch") or ""

    @classmethod
    def parse(cls, text: str) -> Via:
        """Parse one value.

        Raises:
            SipError: malformed.
        """
        semi = text.find(";")
        sent_by = text if semi < 0 else text[:semi]
        via = cls.__new__(cls)
        via.transport, via.host, via.port, via.sent_by = (
            sent_bys[sent_by] if sent_by in sent_bys else parse_sent_by(sent_by)
        )
        if semi < 0:
            via._rest = via.branch = ""
            return via
        via._rest = rest = text[semi:]
        start = rest.find(";branch=")
        if start == 0 and '"' not in rest:
            end = rest.find(";", 8)
            via.branch = (rest[8:] if end < 0 else rest[8:end]).strip()
        else:
            via.branch = via.params.get("branch") or ""
        return via

    @property
    def received(self) -> str:
        """The received parameter without brackets (RFC 5118 4.5), or an empty string."""
        return (self.params.get("received") or "").strip("[]")

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


def _sent_by(host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return (host if port is None else f"{host}:{port}").lower()


def parse_sent_by(text: str) -> tuple[str, str, int | None, str]:
    """Transport, host, port and sent-by in lower case, as `sent_bys` has them. Raises SipError when malformed."""
    match = _SENT_BY.match(text)
    if match is None:
        raise SipError("malformed Via")
    port = int(match[4]) if match[4] is not None else None
    if port is not None and port > 65535:
        raise SipError("port out of range in Via")
    host = match[2] or match[3]
    known = (match[1].upper(), host, port, _sent_by(host, port))
    if len(text) <= _MAX_CACHED_LENGTH:
        if len(sent_bys) >= _MAX_CACHED:
            sent_bys.clear()
        sent_bys[text] = known
    return known


class CSeq(NamedTuple):
    """Sequence number and method (RFC 3261 20.16)."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> CSeq:
        """Parse a value; leading zeros are plain numbers, 2**32 and above is an error.

        Raises:
            SipError: malformed.
        """
        return _cseqs[text] if text in _cseqs else _parse_cseq(text)

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


_cseqs: dict[str, CSeq] = {}


def _parse_cseq(text: str) -> CSeq:
    """Most calls begin with the same low numbers, so these are remembered."""
    match = _CSEQ.match(text)
    if match is None:
        raise SipError("malformed CSeq")
    digits, method = match.groups()
    digits = digits.lstrip("0") or "0"
    if len(digits) > 10 or int(digits) >= 2**32:
        raise SipError("CSeq out of range")
    value = CSeq(int(digits), method)
    if len(digits) <= 3 and len(text) <= _MAX_CACHED_LENGTH:
        if len(_cseqs) >= _MAX_CACHED:
            _cseqs.clear()
        _cseqs[text] = value
    return value


class NameAddr(_Parameters):
    """``"Display name" <uri>;params`` or ``uri;params`` (From, To, Contact, Route, ...; RFC 3261 20.10).

    `display_name` is unquoted, `uri_text` raw, `params` the header's parameters, `tag` the tag among them (empty when
    absent). `uri` is parsed on first use; SipError is raised when it is malformed. Not to be changed.
    """

    __slots__ = ("display_name", "tag", "uri", "uri_text")

    uri: Uri

    def __init__(self, display_name: str, uri: str | Uri, params: Params | None = None) -> None:
        self.display_name = display_name
        if isinstance(uri, str):
            self.uri_text = uri
        else:
            self.uri_text = uri.text
            self.uri = uri
        self._rest = ""
        self.params = params if params is not None else {}
        self.tag = self.params.get("tag") or ""

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """Parse one value.

        Raises:
            SipError: malformed (unbalanced quotes or brackets, a comma outside quotes, nothing before the URI).
        """
        match = _NAME_ADDR.match(text) if "<" in text else None
        if match is not None:
            quoted, name, uri, rest = match.groups()
            if quoted is None:
                name = name.strip()
            elif "\\" in quoted:
                name = _ESCAPED.sub(r"\1", quoted)
            else:
                name = quoted
            uri = uri.strip()
        else:
            # addr-spec without brackets: parameters belong to the header (RFC 3261 20.10)
            name = ""
            uri, semi, rest = text.partition(";")
            rest = semi + rest
            uri = uri.strip()
            if any(c in uri for c in ' \t,?"<>'):
                raise SipError("malformed address" if "<" in uri or '"' in uri else "address needs <>")
        if not uri:
            raise SipError("empty address")
        value = cls.__new__(cls)
        value.display_name = name
        value.uri_text = uri
        if not rest:
            value._rest = value.tag = ""
            return value
        value._rest = rest
        if rest[:5] == ";tag=" and '"' not in rest:
            end = rest.find(";", 5)
            value.tag = (rest[5:] if end < 0 else rest[5:end]).strip()
        else:
            value.tag = value.params.get("tag") or ""
        return value

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """What has not been asked for yet: see the class."""
            if name == "uri":
                text = self.uri_text
                uri = self.uri = known_uris[text] if text in known_uris else Uri.parse(text)
                return uri
            if name != "params":
                raise AttributeError(name)
            params = self.params = parse_params(self._rest) if self._rest else {}
            return params

    @property
    def q(self) -> float:
        """The preference of a Contact, 0 to 1; 1 when absent or malformed (RFC 3261 20.10)."""
        value = (self.params.get("q") or "").strip()
        return min(float(value), 1.0) if _Q.match(value) else 1.0

    @property
    def expires(self) -> int | None:
        """The expires parameter of a Contact in seconds; None when absent or malformed (RFC 3261 10.3)."""
        value = (self.params.get("expires") or "").strip()
        return min(int(value), 2**32 - 1) if value.isdecimal() and value.isascii() and len(value) < 20 else None

    def has_feature(self, name: str) -> bool:
        """Whether a feature tag such as ``+sip.src`` is there and not said to be false (RFC 3840 9)."""
        return name in self.params and unquote(self.params[name] or "TRUE").upper() != "FALSE"

    def __str__(self) -> str:
        name = f"{quote(self.display_name)} " if self.display_name else ""
        return f"{name}<{self.uri_text}>{self._rest or format_params(self.params)}"


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
        if " " in value or not value.isprintable():
            value = "/".join(map(str.strip, value.split("/")))
        return cls(value.lower(), parse_params(rest) if rest else {})

    def param(self, name: str) -> str:
        """A parameter's value without quotes, or an empty string."""
        return unquote(self.params.get(name) or "")

    def __str__(self) -> str:
        return f"{self.value}{format_params(self.params)}"
