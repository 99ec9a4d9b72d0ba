"""The messages of RFC 4475 and RFC 5118 against parser, proxy checks and endpoint checks, as their index says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siprec.sip.digest import AuthValue
from siprec.sip.errors import SipError
from siprec.sip.message import MalformedRequest, SipMessage, SipRequest, SipResponse, parse_datagram
from siprec.sip.multipart import parts_of
from siprec.sip.validate import (
    check_for_endpoint,
    check_for_proxy,
    check_request,
    check_response,
    unsupported_options,
)
from tests.paths import DATA

# What an element owes beyond the syntax (method, extension, body type, dialog) is decided elsewhere.
NOT_SYNTAX = {404, 405, 406, 415, 420, 481, 501}


def load(name: str) -> list[dict[str, Any]]:
    index = DATA / name / "index.json"
    messages = json.loads(index.read_text())["messages"]
    for message in messages:
        message["path"] = DATA / name / message["file"]
    return list(messages)


CASES = load("rfc4475") + load("rfc5118")
each = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def octets(case: dict[str, Any]) -> bytes:
    path: Path = case["path"]
    appended: str = case.get("wire_fixup", {}).get("append", "")
    return path.read_bytes() + appended.encode()


def outcome(case: dict[str, Any], check: Callable[[SipRequest], None]) -> SipError | None:
    try:
        message = parse_datagram(octets(case))
        if isinstance(message, SipRequest):
            check(message)
        else:
            check_response(message)
    except SipError as error:
        return error
    return None


def test_all_messages_are_there() -> None:
    assert len(CASES) == 49 + 12


@each
def test_parser(case: dict[str, Any]) -> None:
    error = outcome(case, check_request)
    action = case["parser"]["action"]
    if action == "reject":
        # What the lazy parser leaves to a typed view is found by the check, or with the Request-URI.
        assert error is not None or outcome(case, check_for_proxy) is not None
    elif action == "accept":
        assert isinstance(parse_datagram(octets(case)), SipRequest if case["kind"] == "request" else SipResponse)
        if case["valid"]:
            assert error is None or case["name"] == "bcast"


@each
def test_proxy(case: dict[str, Any]) -> None:
    error = outcome(case, check_for_proxy)
    expected = case["proxy"]
    action = expected["action"]
    if action == "forward":
        assert error is None, error
    elif action == "either":
        assert error is None or error.status in expected["codes"]
    elif action == "reject":
        assert error is not None
        assert error.status in expected["codes"]
    else:
        # A 100 is valid, but ends in its transaction; any other response to be dropped is found here.
        assert error is not None or case["facts"]["status"] == 100


@each
def test_endpoint(case: dict[str, Any]) -> None:
    error = outcome(case, check_for_endpoint)
    expected = case["endpoint"]
    action = expected["action"]
    if action == "process":
        assert error is None, error
    elif action == "either":
        assert error is None or error.status in expected["codes"]
    elif action == "reject":
        if NOT_SYNTAX.isdisjoint(expected["codes"]):
            assert error is not None
        assert error is None or error.status in expected["codes"]
    else:
        assert error is not None


@each
def test_error_can_be_answered_and_the_rest_is_forwarded_unchanged(case: dict[str, Any]) -> None:
    data = octets(case)
    error: MalformedRequest | None
    try:
        message: SipMessage = parse_datagram(data)
    except MalformedRequest as malformed:
        error = malformed
    except SipError:
        assert case["kind"] == "response"
        return
    else:
        error = None
    if error is not None:
        answer = error.request.response(error.status, to_tag="t")
        assert parse_datagram(answer.to_bytes()).get_all("via") == error.request.get_all("via")
        return
    written = message.to_bytes()
    if message.has("content-length"):
        assert data.startswith(written)
    else:
        head, _, body = data.partition(b"\r\n\r\n")
        assert written == head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def request_fact(name: str) -> Callable[[SipMessage], object]:
    def read(message: SipMessage) -> object:
        assert isinstance(message, SipRequest)
        return {
            "method": message.method,
            "request_uri": message.uri,
            "host": lambda: message.ruri.host,
            "host_corrected": lambda: message.ruri.host,
            "port": lambda: message.ruri.port,
            "user_decoded": lambda: message.ruri.user_unescaped,
            "embedded_header": lambda: message.ruri.headers.partition("=")[0],
        }[name]

    def resolve(message: SipMessage) -> object:
        value = read(message)
        return value() if callable(value) else value

    return resolve


def sdp_addresses(message: SipMessage) -> list[str]:
    return [line.split()[2].decode() for line in message.body.splitlines() if line.startswith(b"c=")]


def status(message: SipMessage) -> int:
    assert isinstance(message, SipResponse)
    return message.status


def reason(message: SipMessage) -> str:
    assert isinstance(message, SipResponse)
    return message.reason


FACTS: dict[str, Callable[[SipMessage], object]] = {
    **{
        name: request_fact(name)
        for name in ("method", "request_uri", "host", "host_corrected", "port", "user_decoded", "embedded_header")
    },
    "accept": lambda m: m.get("accept"),
    "authorization_scheme": lambda m: AuthValue.parse(m.get("authorization") or "").scheme,
    "body_length": lambda m: len(m.body),
    "call_id": lambda m: m.call_id,
    "contact_count": lambda m: len(m.contacts),
    "contact_params": lambda m: list(m.contacts[0].params),
    "contact_uri": lambda m: m.contacts[0].uri_text,
    "contact_users_decoded": lambda m: [contact.uri.user_unescaped for contact in m.contacts],
    "content_type": lambda m: m.get("content-type"),
    "cseq": lambda m: [m.cseq.number, m.cseq.method],
    "date": lambda m: m.get("date"),
    "from_display": lambda m: m.from_.display_name,
    "from_tag": lambda m: m.from_.tag or None,
    "from_uri": lambda m: m.from_.uri_text,
    "from_user_decoded": lambda m: m.from_.uri.user_unescaped,
    "max_forwards": lambda m: m.max_forwards,
    "media_addresses": sdp_addresses,
    "message_octets": lambda m: len(m.to_bytes()),
    "part_count": lambda m: len(parts_of(m)),
    "proxy_require": lambda m: unsupported_options(m, "Proxy-Require", ()) if isinstance(m, SipRequest) else None,
    "reason": reason,
    "require": lambda m: unsupported_options(m, "Require", ()) if isinstance(m, SipRequest) else None,
    "sdp_c": lambda m: sdp_addresses(m)[0],
    "status": status,
    "subject": lambda m: m.get("subject"),
    "to_display": lambda m: m.to.display_name,
    "to_tag": lambda m: m.to.tag,
    "to_uri": lambda m: m.to.uri_text,
    "to_user_decoded": lambda m: m.to.uri.user_unescaped,
    "top_via_branch": lambda m: m.top_via.branch,
    "total_octets": lambda m: len(m.to_bytes()),
    "via_count": lambda m: len(m.vias),
    "via_host": lambda m: m.top_via.host,
    "via_hosts": lambda m: [via.host for via in m.vias],
    "via_ports": lambda m: [via.port for via in m.vias],
    "via_received": lambda m: m.top_via.received,
    "via_transports": lambda m: [via.transport for via in m.vias],
    "duplicated": lambda m: [
        name for name in ("Max-Forwards", "CSeq", "Call-ID", "From", "To") if len(m.get_all(name)) > 1
    ],
    "content_length_text": lambda m: m.get("content-length"),
    "content_length": lambda m: int(m.get("content-length") or "0") or None,
    "content_lengths": lambda m: [int(value) for value in m.get_all("content-length")],
}
# Facts about the datagram rather than the message.
OF_THE_DATAGRAM = {"octets_after_headers", "trailing_octets", "sip_version", "status_text"}


@each
def test_facts(case: dict[str, Any]) -> None:
    data = octets(case)
    facts = case.get("facts", {})
    try:
        message: SipMessage | None = parse_datagram(data)
    except MalformedRequest as error:
        message = error.request
    except SipError:
        message = None
    for name, expected in facts.items():
        if name in OF_THE_DATAGRAM:
            head, _, body = data.partition(b"\r\n\r\n")
            found: object = {
                "octets_after_headers": len(body),
                "trailing_octets": len(data) - len(message.to_bytes() if message else b""),
                "sip_version": head.splitlines()[0].split()[-1].decode(),
                "status_text": head.split()[1].decode(),
            }[name]
        else:
            assert message is not None
            found = FACTS[name](message)
        assert found == expected, name
