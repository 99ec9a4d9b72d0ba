"""Which recording clients are let in (SRS-25, RFC 5922)."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.recorder.client_access import Admission, certificate_names
from siprec.sip.digest import Credentials, CredentialStore, authorize
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transport import Hop
from tests.unit.recorder.recorder_harness import VirtualClock

INVITE = (
    b"INVITE sip:srs@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKa\r\nFrom: <sip:src@h>;tag=a\r\nTo: <sip:srs@h>\r\n"
    b"Call-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:src@h>;+sip.src\r\nRequire: siprec\r\n\r\n"
)


def invite(data: bytes = INVITE) -> SipRequest:
    request = parse_datagram(data)
    assert isinstance(request, SipRequest)
    return request


def status(admission: Admission, host: str = "192.0.2.1", transport: str = "udp") -> int:
    try:
        admission.check(invite(), Hop(transport, host, 5060))
    except SipError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        ({"subjectAltName": (("URI", "sip:src.example"), ("DNS", "other.example"))}, {"src.example"}),
        ({"subjectAltName": (("URI", "sip:alice@src.example"), ("DNS", "Host.Example"))}, {"host.example"}),
        ({"subjectAltName": (("URI", "http://x"), ("URI", "::"), ("DNS", "a"), ("DNS", "b"))}, {"a", "b"}),
        ({"subjectAltName": (("IP Address", "1.2.3.4"),), "subject": ((("commonName", "cn"),),)}, set()),
        ({"subject": ((("organizationName", "o"),), (("commonName", "Src.Example"),))}, {"src.example"}),
        ({}, set()),
    ],
)
def test_the_names_of_a_certificate_are_those_of_rfc_5922(certificate: dict[str, Any], names: set[str]) -> None:
    assert certificate_names(certificate) == names


def test_addresses_are_compared_by_network() -> None:
    admission = Admission(VirtualClock(), networks=["192.0.2.0/24", "2001:db8::1"])
    assert [status(admission, host) for host in ("192.0.2.9", "2001:db8::1", "::ffff:192.0.2.7")] == [200] * 3
    assert [status(admission, host) for host in ("192.0.3.1", "2001:db8::2", "no-address")] == [403] * 3
    assert status(Admission(VirtualClock())) == 200


def test_a_name_counts_only_over_tls() -> None:
    certificate = {"subjectAltName": (("DNS", "src.example"),)}
    admission = Admission(VirtualClock(), names=["SRC.example"], certificate=lambda hop: certificate)
    assert status(admission, transport="tls") == 200
    assert status(admission, transport="tcp") == 403
    other = Admission(VirtualClock(), names=["*.example"], certificate=lambda hop: certificate)
    assert status(other, transport="tls") == 403


def test_a_password_is_asked_for_once_and_known_afterwards() -> None:
    admission = Admission(VirtualClock(), users={"src": "secret"})
    source = Hop("udp", "192.0.2.1", 5060)
    with pytest.raises(SipError) as asked:
        admission.check(invite(), source)
    assert asked.value.status == 401
    for password, wanted in (("secret", 200), ("wrong", 401)):
        challenge = invite().response(401, to_tag="t", headers=asked.value.headers)
        assert isinstance(challenge, SipResponse)
        request = invite()
        assert authorize(request, challenge, CredentialStore([Credentials("src", password)]))
        try:
            admission.check(request, source)
            got = 200
        except SipError as error:
            got = error.status
        assert got == wanted
