"""Settings of a recording: what a routing script sets per call and instance, and the profiles of the configuration."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Final

from siprec.proxy.call import Call
from siprec.recording.xmlcheck import check_extension, check_participant, extension, with_namespace
from siprec.sip.errors import SipError
from siprec.sip.header_list import has_control
from siprec.sip.headers import TOKEN
from siprec.sip.message import header_key
from siprec.sip.uri import Uri

log = logging.getLogger(__name__)

#: Headers of the RS INVITE that are ours to write; a script must not set them.
_RESERVED: Final = re.compile(
    "via|from|to|call-id|cseq|contact|max-forwards|content-length|content-type|route|record-route|require"
    "|session-expires|min-se|authorization|proxy-authorization|mime-version"
)
_HEADER: Final = re.compile(r"([^\s:]++)[ \t]*+:[ \t]*+(.*)\Z")
_SOCKET: Final = re.compile(r"(udp|tcp|tls):(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):(\d{1,5})\Z")


class SettingError(ValueError):
    """A recording setting that cannot work; the text names the field and what is wrong."""


def check_headers(text: str, also: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """Header lines, each ended by CRLF, as name and value. `also`: reserved headers (lower case) allowed all the same.

    Raises:
        SettingError: no header line, or a header which the SRC itself writes.
    """
    result = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip():
            continue
        match = _HEADER.match(line)
        if match is None or TOKEN.match(match[1]) is None:
            raise SettingError(f"headers: not a header line: {line[:60]!r}")
        key = header_key(match[1])
        if _RESERVED.fullmatch(key) and key not in also:
            raise SettingError(f"headers: {match[1]} is written by the recording client itself")
        if has_control(match[2]):
            raise SettingError(f"headers: control character in {match[1]}")
        result.append((match[1], match[2].strip()))
    return tuple(result)


def check_uri(text: str, field: str) -> Uri:
    """A SIP or SIPS URI with a host.

    Raises:
        SettingError: anything else; `field` is named in the text.
    """
    try:
        uri = Uri.parse(text.strip())
    except SipError as error:
        raise SettingError(f"{field}: {error.reason}") from None
    if not uri.is_sip or " " in uri.text:
        raise SettingError(f"{field}: a sip: or sips: URI is needed, not {text[:60]!r}")
    return uri


def check_socket(text: str) -> tuple[str, str, int]:
    """``transport:address:port`` as transport, address without brackets, port.

    Raises:
        SettingError: not of that form.
    """
    match = _SOCKET.match(text.strip().lower())
    if match is None or not 0 < int(match[3]) < 65536:
        raise SettingError(f"socket: {text[:60]!r} is not of the form transport:address:port")
    return match[1], match[2].strip("[]"), int(match[3])


def check_srs(text: str) -> tuple[str, ...]:
    """A comma-separated list of SRS URIs, in order.

    Raises:
        SettingError: empty, or one is no SIP URI.
    """
    found = tuple(part.strip().strip("<>") for part in text.split(",") if part.strip())
    if not found:
        raise SettingError("srs: no SRS given")
    for uri in found:
        check_uri(uri, "srs")
    return found


def checked(name: str, value: str) -> str:
    """The value of a field as it is used, mended where that is possible."""
    if not isinstance(value, str):
        raise SettingError(f"{name}: text is needed, not {type(value).__name__}")
    try:
        if name == "headers":
            check_headers(value)
        elif name in ("from_uri", "to_uri"):
            check_uri(value, name)
        elif name == "socket":
            check_socket(value)
        elif name in ("caller", "callee"):
            check_participant(value)
        elif name in ("group_custom_extension", "session_custom_extension"):
            return check_extension(with_namespace(value))
        elif name == "media" and re.search(r"[\x00-\x1f\x7f]", value):
            raise SettingError("media: control characters")
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None
    return value


FIELDS: Final = (
    "group",
    "caller",
    "callee",
    "media",
    "headers",
    "socket",
    "from_uri",
    "to_uri",
    "group_custom_extension",
    "session_custom_extension",
)


class RecordingSettings:
    """What the ``$siprec`` variable of the reference holds for one instance (reference.md). All fields are text, empty
    where not set; each is checked when it is set.

    Fields: `group` (classifies the call), `caller`, `callee` (XML in place of what is built for that participant),
    `media` (address or flags for the media server), `headers` (extra headers for the INVITE, each ending in CRLF),
    `socket` (``transport:address:port`` to send from), `from_uri`, `to_uri` (of the RS dialog),
    `group_custom_extension`, `session_custom_extension` (XML under ``group`` and ``session``).

    Raises:
        SettingError: on assignment of a value that cannot work, and AttributeError for an unknown field.
    """

    __slots__ = FIELDS

    group: str
    caller: str
    callee: str
    media: str
    headers: str
    socket: str
    from_uri: str
    to_uri: str
    group_custom_extension: str
    session_custom_extension: str

    def __init__(self, **fields: str) -> None:
        for name in FIELDS:
            setattr(self, name, fields.pop(name, ""))
        if fields:
            raise SettingError(f"unknown setting {next(iter(fields))!r}; known: {', '.join(FIELDS)}")

    def __setattr__(self, name: str, value: str | None) -> None:
        if value in (None, ""):
            value = ""
        elif name in FIELDS:
            value = checked(name, value)
        object.__setattr__(self, name, value)

    def over(self, base: RecordingSettings) -> RecordingSettings:
        """These settings, with those of `base` where nothing is set here."""
        if not self.as_dict():
            return base
        result = RecordingSettings.__new__(RecordingSettings)
        for name in FIELDS:
            object.__setattr__(result, name, getattr(self, name) or getattr(base, name))
        return result

    def as_dict(self) -> dict[str, str]:
        """The fields that are set."""
        return {name: value for name in FIELDS if (value := getattr(self, name))}

    def __repr__(self) -> str:
        return f"RecordingSettings({', '.join(f'{k}={v!r}' for k, v in self.as_dict().items())})"


class SiprecVariable:
    """The ``$siprec`` variable: settings per instance as ``variable[instance].field``, and those of the instance
    ``default`` as ``variable.field``.

    Raises:
        SettingError: see `RecordingSettings`.
    """

    __slots__ = ("_instances",)

    _instances: dict[str, RecordingSettings]

    def __init__(self) -> None:
        object.__setattr__(self, "_instances", {})

    def __getitem__(self, instance: str) -> RecordingSettings:
        return self._instances.setdefault(instance, RecordingSettings())

    def __getattr__(self, name: str) -> str:
        if name not in FIELDS:
            raise AttributeError(f"no setting {name!r}; known: {', '.join(FIELDS)}")
        value: str = getattr(self["default"], name)
        return value

    def __setattr__(self, name: str, value: str | None) -> None:
        setattr(self["default"], name, value)

    def given(self, instance: str) -> RecordingSettings | None:
        """What was set for an instance, if anything was."""
        return self._instances.get(instance)

    def for_script(self, call: Call) -> ScriptSettings:
        """These settings as a routing script of `call` gets them."""
        return ScriptSettings(call, self)


class ScriptSettings:
    """``request.siprec`` of a routing script: a `SiprecVariable` whose bad values are ignored. The recorder of the call
    is told of each, and the call goes on."""

    __slots__ = ("_call", "_instance", "_variable")

    _call: Call
    _instance: str
    _variable: SiprecVariable

    extension = staticmethod(extension)

    def __init__(self, call: Call, variable: SiprecVariable, instance: str = "default") -> None:
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "_variable", variable)
        object.__setattr__(self, "_instance", instance)

    def __getitem__(self, instance: str) -> ScriptSettings:
        return ScriptSettings(self._call, self._variable, instance)

    def __getattr__(self, name: str) -> str:
        if name not in FIELDS:
            raise AttributeError(f"no setting {name!r}; known: {', '.join(FIELDS)}")
        value: str = getattr(self._variable[self._instance], name)
        return value

    def __setattr__(self, name: str, value: str | None) -> None:
        try:
            if name not in FIELDS:
                raise SettingError(f"{name}: no such setting; known: {', '.join(FIELDS)}")
            setattr(self._variable[self._instance], name, value)
        except Exception as error:
            recorder = self._call.recorder
            if recorder is not None:
                recorder.setting_ignored(self._call, self._instance, str(error))
            else:
                log.warning("setting ignored: %s, Call-ID %s", error, self._call.call_id)
