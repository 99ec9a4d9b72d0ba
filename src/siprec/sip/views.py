"""What is read from the headers of a message when it is first asked for: see :class:`siprec.sip.message.SipMessage`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from siprec.sip.errors import SipError
from siprec.sip.header_list import HeaderList
from siprec.sip.headers import CSeq, NameAddr, ParameterValue
from siprec.sip.scan import only, problem_of, top_via


def _call_id(message: HeaderList) -> str:
    value = only(message.keys, message.lines, "call-id")
    if not value:
        raise SipError("Call-ID is empty")
    return value


def _max_forwards(message: HeaderList) -> int | None:
    value = message.get("max-forwards")
    if value is None:
        return None
    if not value.isdecimal() or len(value) > 10 or int(value) > 255:
        raise SipError("malformed Max-Forwards")
    return int(value)


def _content_length(message: HeaderList) -> int | None:
    found: int | None = None
    for value in message.get_all("content-length"):
        if not value.isdecimal() or not value.isascii() or len(value) > 9:
            raise SipError("malformed Content-Length")
        if found is not None and found != int(value):
            raise SipError("Content-Length occurs twice")
        found = int(value)
    return found


def _contact(message: HeaderList) -> NameAddr | None:
    keys = message.keys
    if "contact" not in keys:
        return None
    line = message.lines[keys.index("contact")]
    if "," not in line and "\n" not in line and keys.count("contact") == 1:
        value = line.partition(":")[2].strip(" \t")
        return NameAddr.parse(value) if value and value != "*" else None
    values = message.values("contact")
    return NameAddr.parse(values[0]) if values and values[0] != "*" else None


def _content_type(message: HeaderList) -> ParameterValue | None:
    value = message.get("content-type")
    return ParameterValue.parse(value) if value is not None else None


READERS: Final[dict[str, Callable[[Any], object]]] = {
    "branch": lambda message: message.top_via.branch,
    "call_id": _call_id,
    "contact": _contact,
    "content_length": _content_length,
    "content_type": _content_type,
    "cseq": lambda message: CSeq.parse(only(message.keys, message.lines, "cseq")),
    "from_": lambda message: NameAddr.parse(only(message.keys, message.lines, "from")),
    "from_tag": lambda message: message.from_.tag,
    "max_forwards": _max_forwards,
    "problem": lambda message: problem_of(message.keys, message.lines, getattr(message, "method", "")),
    "sdp_part": lambda message: None,
    "sent_by": lambda message: message.top_via.sent_by,
    "to": lambda message: NameAddr.parse(only(message.keys, message.lines, "to")),
    "to_tag": lambda message: message.to.tag,
    "top_via": lambda message: top_via(message.keys, message.lines),
}
"""How each view is read; SipError says what is wrong with the header."""
