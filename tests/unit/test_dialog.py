"""Dialog state: routes, targets, sequence numbers (RFC 3261 12)."""

from __future__ import annotations

import json

import pytest

from siprec.sip.dialog import Dialog, dialog_key
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse


def invite(uri: str = "sip:bob@example.com") -> SipRequest:
    request = SipRequest("INVITE", uri)
    request.add("From", '"Alice A." <sip:alice@example.com;x=1>;tag=a1;foo=bar')
    request.add("To", "Bob <sip:bob@example.com>")
    request.add("Call-ID", "c1")
    request.add("CSeq", "41 INVITE")
    request.add("Contact", "<sip:alice@10.0.0.1:5062;transport=tcp>;+sip.src")
    request.add("Record-Route", "<sip:p1.example.com;lr>, <sip:p2.example.com;lr>")
    request.add("Record-Route", "<sip:p3.example.com;lr>")
    return request


def answer(request: SipRequest, *routes: str, contact: str = "<sip:bob@10.0.0.2>", status: int = 200) -> SipResponse:
    response = request.response(status, to_tag="b1")
    response.remove("record-route")
    for route in routes:
        response.add("Record-Route", route)
    if contact:
        response.add("Contact", contact)
    return response


def test_caller_reverses_the_record_route_and_callee_keeps_it() -> None:
    request = invite()
    response = answer(request, "<sip:p1.example.com;lr>, <sip:p2.example.com;lr>", "<sip:p3.example.com;lr>")
    uac = Dialog.from_response(request, response)
    uas = Dialog.from_request(request, "b1")
    assert uac.route_set == ["<sip:p3.example.com;lr>", "<sip:p2.example.com;lr>", "<sip:p1.example.com;lr>"]
    assert uas.route_set == list(reversed(uac.route_set))
    assert uac.key == ("c1", "a1", "b1")
    assert uas.key == ("c1", "b1", "a1")
    assert (uac.local_cseq, uac.remote_cseq) == (41, -1)
    assert (uas.local_cseq, uas.remote_cseq) == (0, 41)
    assert uac.remote_target == "sip:bob@10.0.0.2"
    assert uas.remote_target == "sip:alice@10.0.0.1:5062;transport=tcp"
    assert uac.owner
    assert not uas.owner


def test_loose_routing_keeps_the_target_in_the_request_uri() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request, "<sip:p1.example.com;lr>", "<sip:p2.example.com;lr>"))
    bye = dialog.request("BYE", headers=[("Reason", "SIP;cause=200")])
    assert bye.uri == "sip:bob@10.0.0.2"
    assert bye.values("route") == ["<sip:p2.example.com;lr>", "<sip:p1.example.com;lr>"]
    assert dialog.next_hop.host == "p2.example.com"
    assert str(bye.cseq) == "42 BYE"
    assert bye.from_.tag == "a1"
    assert bye.from_.display_name == "Alice A."
    assert bye.from_.params["foo"] == "bar"
    assert bye.to.tag == "b1"
    assert bye.get("content-length") == "0"


def test_strict_router_is_addressed_itself() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request, "<sip:p1.example.com;lr>", "<sip:p2.example.com;method=X>"))
    bye = dialog.request("BYE")
    assert bye.uri == "sip:p2.example.com"
    assert bye.values("route") == ["<sip:p1.example.com;lr>", "<sip:bob@10.0.0.2>"]
    assert dialog.next_hop.host == "p2.example.com"


def test_without_routes_the_target_is_the_next_hop() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request))
    assert dialog.request("INFO").values("route") == []
    assert dialog.next_hop.text == "sip:bob@10.0.0.2"


def test_ack_takes_the_number_of_its_invite_and_other_requests_the_next() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request))
    assert str(dialog.request("ACK", cseq=41).cseq) == "41 ACK"
    assert [dialog.request("INFO").cseq.number for _ in range(3)] == [42, 43, 44]


def test_target_is_refreshed_by_contact_only() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request, "<sip:p1.example.com;lr>"))
    dialog.refresh_target(answer(request, "<sip:other.example.com;lr>", contact="<sip:bob@10.0.0.9>"))
    assert dialog.remote_target == "sip:bob@10.0.0.9"
    assert dialog.route_set == ["<sip:p1.example.com;lr>"], "RR-09"
    dialog.refresh_target(answer(request, contact=""))
    dialog.refresh_target(answer(request, contact="<tel:123>"))
    assert dialog.remote_target == "sip:bob@10.0.0.9"


def test_early_dialog_without_contact_is_possible_and_confirmed_by_the_2xx() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request, contact="", status=180))
    assert dialog.remote_target == "sip:bob@example.com"
    dialog.confirm(answer(request, "<sip:p1.example.com;lr>", "<sip:p2.example.com;lr>"))
    assert dialog.remote_target == "sip:bob@10.0.0.2"
    assert dialog.route_set == ["<sip:p2.example.com;lr>", "<sip:p1.example.com;lr>"]


@pytest.mark.parametrize("contact", ["", "<sip:bob@10.0.0.2:99999>", "nonsense"])
def test_2xx_without_usable_contact_makes_no_dialog(contact: str) -> None:
    request = invite()
    with pytest.raises(SipError):
        Dialog.from_response(request, answer(request, contact=contact))


def test_request_without_contact_makes_no_dialog() -> None:
    request = invite()
    request.remove("contact")
    with pytest.raises(SipError):
        Dialog.from_request(request, "b1")


def test_sips_dialogs_are_marked() -> None:
    request = invite("sips:bob@example.com")
    assert Dialog.from_response(request, answer(request)).secure
    assert Dialog.from_request(request, "b1", secure=True).secure
    assert not Dialog.from_request(request, "b1").secure


def test_dialog_survives_storing() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request, "<sip:p1.example.com;lr>"))
    again = Dialog.from_dict(json.loads(json.dumps(dialog.to_dict())))
    assert again == dialog
    assert again.request("BYE").to_bytes() == dialog.request("BYE").to_bytes()


def test_key_of_a_received_request_is_the_receivers() -> None:
    request = invite()
    dialog = Dialog.from_response(request, answer(request))
    assert dialog_key(dialog.request("BYE")) == ("c1", "b1", "a1")
