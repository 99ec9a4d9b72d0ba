"""Messages as octets to be sent: received ones with patches, responses to requests, requests of our own.

No message object is made or copied: header lines that do not change are joined as they came. A proxy

* forwards a request (RFC 3261 16.6) with :func:`forward_request`: the result is the request without our Via, as it
  goes to any hop. When the transport is known, :func:`push_via` puts the Via on top. A second try elsewhere pushes
  another Via onto the same octets;
* forwards a response (RFC 3261 16.7) with :func:`forward_response`, which removes the top Via;
* answers with :func:`build_response`.

::

    octets = forward_request(request, uri=target, record_route=("<sip:192.0.2.9;lr>",), body=sdp)
    transport.send(push_via(octets, "SIP/2.0/UDP 192.0.2.9;rport;branch=z9hG4bK..."), hop)
    transport.send(forward_response(response, body=sdp), hop)

A user agent joins a compiled block of header lines (:func:`compile_headers`, once per configuration) with those of the
dialog, and :func:`build_request` makes the request. Every value that is written is checked: a line end raises
`UnsafeText`, other control characters become blanks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from siprec.sip.header_list import header_key, header_name, known_names, safe, without_first, write
from siprec.sip.message import SipMessage, SipRequest, SipResponse, reason_phrase

MAX_FORWARDS: Final = 70
NO_CHANGES: Final[Mapping[str, str | None]] = {}


def forward_request(
    request: SipRequest,
    *,
    uri: str = "",
    route: Sequence[str] | None = None,
    record_route: Sequence[str] = (),
    changes: Mapping[str, str | None] = NO_CHANGES,
    body: bytes | None = None,
    content_type: str = "",
) -> bytes:
    """A request as a proxy passes it on (RFC 3261 16.6), without the proxy's own Via: :func:`push_via` adds that.

    Max-Forwards goes down by one, or is set to 70 where there is none (step 3).

    Arguments:
        uri: the new Request-URI (step 2); empty: it stays.
        route: all Route values from now on, topmost first: popped, pushed, or reordered for a strict router (steps 6
            and 7). Empty: no Route is left; None: Route lines stay as they came.
        record_route: values that go on top of Record-Route, uppermost first (step 4).
        changes: single headers, by lower-case long name: a value replaces all occurrences, in the place of the first
            or at the end; None removes them.
        body: a new body (octets); Content-Length follows. Empty: no body and no Content-Type. None: it stays.
        content_type: the type of the new body, where that changes.

    Raises:
        SipError: malformed Max-Forwards.
        UnsafeText: a line end in a value.
    """
    left = request.max_forwards
    wanted: dict[str, str | None] = {"max-forwards": str(MAX_FORWARDS if left is None else left - 1)}
    on_top = ""
    if route is not None:
        if route and "route" not in request.keys:
            on_top = f"Route: {_checked(', '.join(route), 'Route')}"
        else:
            wanted["route"] = _checked(", ".join(route), "Route") or None
    start = f"{request.method} {uri or request.uri} SIP/2.0"
    if uri and not uri.isprintable():
        start = f"{request.method} {safe(uri, 'Request-URI')} SIP/2.0"
    if changes:
        wanted |= _all_checked(changes)
    return _patched(request, start, wanted, body, content_type, record_route, on_top)


def forward_response(
    response: SipResponse,
    *,
    changes: Mapping[str, str | None] = NO_CHANGES,
    body: bytes | None = None,
    content_type: str = "",
) -> bytes:
    """A response as a proxy passes it on (RFC 3261 16.7 step 9): without its top Via. Arguments as above.

    Raises:
        UnsafeText: a line end in a value.
    """
    return _patched(
        response, response.start_line, _all_checked(changes) if changes else {}, body, content_type, pop_via=True
    )


def push_via(octets: bytes, via: str) -> bytes:
    """`octets` of a message with a Via value on top of all headers (RFC 3261 16.6 step 8).

    Raises:
        UnsafeText: a line end in the value.
    """
    if not via.isprintable():
        via = safe(via, "Via")
    start, end, rest = octets.partition(b"\r\n")
    return b"%b\r\nVia: %b%b%b" % (start, via.encode(), end, rest)


def _patched(
    message: SipMessage,
    start: str,
    wanted: dict[str, str | None],
    body: bytes | None,
    content_type: str,
    record_route: Sequence[str] = (),
    on_top: str = "",
    pop_via: bool = False,
) -> bytes:
    """The message with another start line, and `wanted` headers, whose values are in order, set or removed."""
    keys = message.keys
    if body is None:
        body = message.body
        if "content-length" not in keys:
            wanted["content-length"] = str(len(body))
    else:
        wanted["content-length"] = str(len(body))
        if not body:
            wanted["content-type"] = None
        elif content_type:
            wanted["content-type"] = _checked(content_type, "Content-Type")
    lines = [start, *message.lines]
    holes = False
    for key, value in wanted.items():
        if value is not None:
            value = f"{known_names[key] if key in known_names else header_name(key)}: {value}"
        if key not in keys:
            if value is not None:
                lines.append(value)
            continue
        at = keys.index(key) + 1
        lines[at] = value or ""
        holes = holes or value is None
        if keys.count(key) > 1:
            holes = True
            for other in range(at, len(keys)):
                if keys[other] == key:
                    lines[other + 1] = ""
    if pop_via and "via" in keys:
        at = keys.index("via") + 1
        if "," in lines[at]:
            lines[at] = without_first(lines[at])
            holes = True
        else:
            del lines[at]
    if record_route:
        at = keys.index("record-route") + 1 if "record-route" in keys else 1
        for value in record_route:
            lines.insert(at, f"Record-Route: {value if value.isprintable() else safe(value, 'Record-Route')}")
            at += 1
    if on_top:
        lines.insert(1, on_top)
    if holes:
        lines = list(filter(None, lines))
    return write(lines, body)


def build_response(
    request: SipRequest,
    status: int,
    reason: str = "",
    *,
    to_tag: str = "",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    content_type: str = "",
) -> bytes:
    """A response as a UAS or proxy makes it (RFC 3261 8.2.6): Via, From, To, Call-ID, CSeq copied, raw and in order.

    `to_tag` is added to To when To has none; Record-Route is copied when a dialog may result (12.1.1), Timestamp into
    a 100. `reason` is the phrase, the usual one when empty.

    Raises:
        UnsafeText: a line end in a value.
    """
    parts = [f"SIP/2.0 {status} {_checked(reason, 'reason phrase') if reason else reason_phrase(status)}"]
    parts += request.copied(status, to_tag)[1]
    parts += [f"{_spelled(name)}: {_checked(value, name)}" for name, value in headers]
    if body and content_type:
        parts.append(f"Content-Type: {_checked(content_type, 'Content-Type')}")
    parts.append(f"Content-Length: {len(body)}")
    return write(parts, body)


def compile_headers(headers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Header lines for :func:`build_request` of what is the same in many requests: checked and written once.

    Raises:
        UnsafeText: a line end in a name or value.
    """
    return tuple(f"{_spelled(_checked(name, 'header name'))}: {_checked(value, name)}" for name, value in headers)


def build_request(
    method: str, uri: str, lines: Iterable[str], body: bytes = b"", content_type: str = "", via: str = ""
) -> bytes:
    """A request of our own from whole header lines without line ends: ``("From: <sip:a@b>;tag=1", *block)``.

    Content-Type and Content-Length follow the lines. `via` goes on top; without it :func:`push_via` adds one later.

    Raises:
        UnsafeText: a line end in a line, the URI or the content type.
    """
    parts = [f"{method} {uri} SIP/2.0"]
    if via:
        parts.append(f"Via: {via}")
    parts += lines
    if content_type:
        parts.append(f"Content-Type: {content_type}")
    parts.append(f"Content-Length: {len(body)}")
    if not "".join(parts).isprintable():
        parts = [_checked(part, "header line") for part in parts]
    return write(parts, body)


def _all_checked(changes: Mapping[str, str | None]) -> dict[str, str | None]:
    return {key: value if value is None else _checked(value, key) for key, value in changes.items()}


def _spelled(name: str) -> str:
    return header_name(header_key(name)) if name.islower() else name


def _checked(value: str, what: str) -> str:
    return value if value.isprintable() else safe(value, what)
