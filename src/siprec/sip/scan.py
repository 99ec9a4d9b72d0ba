"""One pass over the head of a message: header lines, and what every element looks at (RFC 3261 8.1.1, 16.3, 18).

:func:`scan_head` reads a head as nearly all are written and checks it on the way. It gives up, rather than decide, when
anything is odd: folded lines, double headers, a malformed value. The slower, thorough reader of
:mod:`siprec.sip.message` then says what is wrong, and :func:`problem_of` whether an element may act on the message.

A peer writes its headers in the same order each time, so what follows from the names alone (:class:`_Layout`) is
remembered. No expression tries anything twice that a stranger wrote.

Where its twin in C was built (``csrc/scan.c``; ``SIPREC_NATIVE=0`` in the environment forbids it), that makes the pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from siprec import compiled
from siprec.sip.errors import SipError
from siprec.sip.header_list import MAX_CACHED, field_value, header_key, header_name
from siprec.sip.headers import CSeq, NameAddr, Via, parse_sent_by, sent_bys, split_commas

MAX_HEADERS: Final = 256
MAX_VIAS: Final = 70

METHODS: Final = frozenset(
    {
        "INVITE",
        "ACK",
        "BYE",
        "CANCEL",
        "OPTIONS",
        "REGISTER",
        "UPDATE",
        "INFO",
        "PRACK",
        "MESSAGE",
        "NOTIFY",
        "SUBSCRIBE",
    }
)
"""No list of what is allowed: these need no look at their letters."""
_SINGLE: Final = frozenset({"call-id", "cseq", "from", "to", "max-forwards", "content-type", "expires", "min-expires"})
_LIMITED_BROADCAST: Final = "255.255.255.255"
_MAGIC_COOKIE: Final = "z9hg4bk"

_VERSION: Final = 1
"""Of the twin in C: one that was built from other sources is left alone."""

_names = re.compile(r"\r\n([^\r\n:]*+:|)").findall
# The groups are greedy, not possessive (CPython 3.11.2 loses matches of those with a lookahead inside): each round of
# theirs begins with ";", which is in no round, so nothing is tried twice either.
_via = re.compile(
    r"[^:]*+:[ \t]*+(SIP/2\.0/[A-Za-z]++ [^;,\"\s]++)"
    r"(?:;(?![ \t]*+[bB][rR][aA][nN][cC][hH][ \t]*+(?:=|;|\Z))[^;,\"\s]*+)*"
    r";branch=([^;,\"\s]++)(?:;[^;,\"\s]*+)*\Z"
).match
_address = re.compile(
    r"[^:]*+:[ \t]*+(?:\"[^\"\\\r\n]*+(?:\\[^\r\n][^\"\\\r\n]*+)*+\"[ \t]*+|[^\"<,\r\n]*+)<[^>\s][^>\r\n]*+>"
    r"(?:;tag=([^;\"\s]++)(?:;[^\"\r\n]*+)?+)?+\Z"
).match
_cseq = re.compile(r"[^:]*+:[ \t]*+([0-9]{1,10}+)[ \t]++([A-Z]++)\Z").match
new_tuple: Final = tuple.__new__
_NUMBERS: Final = {str(number): number for number in range(2048)}
_HOPS: Final = {f"Max-Forwards: {number}": number for number in range(256)}
_STATUS: Final = {str(status): status for status in range(100, 700)}


class _Layout(NamedTuple):
    """What follows from the names of the header lines: canonical keys, and where those are that everybody reads."""

    keys: list[str]
    vias: tuple[int, ...]
    from_: int
    to: int
    call_id: int
    cseq: int
    max_forwards: int
    """-1: there is none; so below."""
    content_length: int


_layouts: dict[tuple[str, ...], _Layout] = {}
_MAX_LAYOUT: Final = 64


def _layout(names: tuple[str, ...]) -> _Layout | None:
    """The layout for names with their colons; None for one that :func:`scan_head` leaves to others."""
    keys = [header_key(name[:-1]) for name in names]
    if any(not key or name[0] in " \t" for key, name in zip(keys, names, strict=True)):
        return None  # no header, or a folded line
    if any(keys.count(key) > 1 for key in (*_SINGLE, "content-length")) or len(keys) > _MAX_LAYOUT:
        return None
    if any(key not in keys for key in ("via", "from", "to", "call-id", "cseq")):
        return None
    layout = _Layout(
        keys,
        tuple(at for at, key in enumerate(keys) if key == "via"),
        *(keys.index(key) for key in ("from", "to", "call-id", "cseq")),
        *(keys.index(key) if key in keys else -1 for key in ("max-forwards", "content-length")),
    )
    if sum(map(len, names)) <= 1024:
        if len(_layouts) >= MAX_CACHED // 8:
            _layouts.clear()
        _layouts[names] = layout
    return layout


Head = tuple[
    int,  # the status of a response; 0: a request
    str,  # its reason phrase, or the method of a request
    str,  # the Request-URI, empty for a response
    list[str],  # keys and
    list[str],  # lines of the headers
    str,  # the branch of the top Via, and
    str,  # its sent-by: host or host:port, in lower case
    str,  # From tag, empty when absent
    str,  # To tag
    str,  # Call-ID
    CSeq,
    int | None,  # Max-Forwards
    int | None,  # Content-Length
]


def scan_head_in_python(head: bytes) -> Head | None:
    """Start line and headers of a message that is in order (everything before the empty line), MAX_LINE octets at most.

    None: something is odd, the thorough reader has to look.
    """
    text = head.decode("utf-8", "surrogateescape")
    names = tuple(_names(text))
    layout = _layouts[names] if names in _layouts else _layout(names)
    if layout is None:
        return None
    keys, vias, from_, to, at_call_id, at_cseq, at_hops, at_length = layout
    start, *lines = text.split("\r\n")
    count = len(lines)
    if count != len(keys) or text.count("\n") != count or text.count("\r") != count:
        return None  # a line end inside a line
    via = _via(lines[vias[0]])
    sender = _address(lines[from_])
    receiver = _address(lines[to])
    cseq = _cseq(lines[at_cseq])
    if via is None or sender is None or receiver is None or cseq is None:
        return None
    for at in vias:
        if "," in lines[at]:
            return None
    sent_by, branch = via.groups()
    if sent_by in sent_bys:
        sent_by = sent_bys[sent_by][3]
    else:
        try:
            sent_by = parse_sent_by(sent_by)[3]
        except SipError:
            return None
    call_id = lines[at_call_id].partition(":")[2].strip(" \t")
    number = int(cseq[1])
    if not call_id or number >= 2**32:
        return None
    max_forwards = content_length = None
    if at_hops >= 0:
        line = lines[at_hops]
        if line in _HOPS:
            max_forwards = _HOPS[line]
        else:
            value = line.partition(":")[2].strip(" \t")
            if value not in _NUMBERS or _NUMBERS[value] > 255:
                return None
            max_forwards = _NUMBERS[value]
    if at_length >= 0:
        value = lines[at_length].partition(":")[2].strip(" \t")
        if value in _NUMBERS:
            content_length = _NUMBERS[value]
        elif value.isdecimal() and value.isascii() and len(value) <= 9:
            content_length = int(value)
        else:
            return None
    try:
        word, uri, reason = start.split(" ", 2)
    except ValueError:
        return None
    if reason == "SIP/2.0" and word in METHODS:
        # A branch of nothing but the magic cookie, or from before RFC 3261, is looked at more closely.
        if not uri or uri[0] == "<" or "\t" in uri or cseq[2] != word or not branch[7:]:
            return None
        status, reason = 0, word
    elif word == "SIP/2.0" and uri in _STATUS and _LIMITED_BROADCAST not in text:
        status, uri = _STATUS[uri], ""
    else:
        return None
    return (
        status,
        reason,
        uri,
        [*keys],
        lines,
        branch,
        sent_by,
        sender[1] or "",
        receiver[1] or "",
        call_id,
        new_tuple(CSeq, (number, cseq[2])),
        max_forwards,
        content_length,
    )


_module = compiled.module("siprec.sip._scan", _VERSION)
NATIVE: Final = _module is not None
scan_head: Final[Callable[[bytes], Head | None]] = scan_head_in_python if _module is None else _module.scan_head


def problem_of(keys: list[str], lines: list[str], request: str) -> tuple[str, int] | None:
    """What keeps an element from acting on a message (RFC 3261 16.3, 8.2, 18.1.2): reason and status. None: nothing.

    `request` is the method of a request, empty for a response. Via, From, To, Call-ID and CSeq must be there, once, and
    in order; their URIs are of no concern to who only compares tags.
    """
    try:
        vias = keys.count("via")
        if len(set(keys)) < len(keys) or (vias and "," in lines[keys.index("via")]):
            vias = _check_repeated(keys, lines, vias)
        if vias > MAX_VIAS:
            raise SipError("too many Via values", 513)
        via = top_via(keys, lines)
        if not only(keys, lines, "call-id"):
            raise SipError("Call-ID is empty")
        NameAddr.parse(only(keys, lines, "from"))
        NameAddr.parse(only(keys, lines, "to"))
        cseq = CSeq.parse(only(keys, lines, "cseq"))
        if request:
            if cseq.method != request:
                raise SipError("CSeq names another method than the request line")
            if via.branch.lower() == _MAGIC_COOKIE:
                raise SipError("branch is nothing but the magic cookie")
        else:
            for key, line in zip(keys, lines, strict=True):
                if key == "via" and _LIMITED_BROADCAST in line:
                    raise SipError("Via with the broadcast address")
    except SipError as error:
        return error.reason, error.status
    return None


def top_via(keys: list[str], lines: list[str]) -> Via:
    """The first Via value. Raises SipError when missing or malformed."""
    if "via" not in keys:
        raise SipError("Via is missing")
    value = field_value(lines[keys.index("via")])
    if "," in value:
        value = next(iter(split_commas(value)), "")
    return Via.parse(value)


def only(keys: list[str], lines: list[str], key: str) -> str:
    """The value of a header that must occur exactly once. Raises SipError when missing or double."""
    if key not in keys:
        raise SipError(f"{header_name(key)} is missing")
    if keys.count(key) > 1:
        raise SipError(f"{header_name(key)} occurs twice")
    return field_value(lines[keys.index(key)])


def _check_repeated(keys: list[str], lines: list[str], vias: int) -> int:
    """The headers of which there must be one; the number of Via values."""
    seen: set[str] = set()
    for key, line in zip(keys, lines, strict=True):
        if key == "via":
            if "," in line:
                # An empty value among others is an error of the list, not of a header nobody needs.
                values = split_commas(line.partition(":")[2])
                vias += len(values) - 1
                if vias <= MAX_VIAS:
                    for value in values:
                        Via.parse(value)
        elif key in _SINGLE:
            if key in seen:
                raise SipError(f"{header_name(key)} occurs twice")
            seen.add(key)
    return vias
