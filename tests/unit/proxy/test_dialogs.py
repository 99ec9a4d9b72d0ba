"""Offer/answer as the dialog table sees it, with reliable provisional responses and PRACK (RFC 3262 5)."""

from __future__ import annotations

import pytest

from siprec.proxy.call import Call
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.dialogs import DialogTable
from siprec.proxy.offer_answer import in_request, in_response
from siprec.proxy.peers import Side
from siprec.proxy.session_timer import ask, confirm
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from tests.simulation.network import VirtualClock
from tests.simulation.proxyworld import raw_request

OFFER, ANSWER, OTHER = b"v=0\r\noffer\r\n", b"v=0\r\nanswer\r\n", b"v=0\r\nother\r\n"


class Table:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.ended: list[str] = []
        self.table = DialogTable(self.clock, self._ended)
        self.invite = raw_request("INVITE", "sip:bob@example.com", contact="<sip:a@10.0.0.1>")
        self.call = Call("d1", self.invite, "udp:10.0.0.1:5060", 0.0, 0.0)

    def _ended(self, dialog: ProxiedDialog, reason: str, message: SipMessage | None, side: str) -> None:
        self.ended.append(reason)

    def offer(self, sdp: bytes = OFFER) -> None:
        self.invite.set_body(sdp, "application/sdp")

    def response(self, status: int, sdp: bytes = b"", tag: str = "b", rseq: str = "") -> ProxiedDialog:
        response = self.invite.response(status, to_tag=tag, headers=[("RSeq", rseq)] if rseq else [])
        dialog = self.table.early(self.call, response, self.invite)
        assert dialog is not None
        self.last = self.answer(dialog, "caller", self.invite, response, sdp)
        return dialog

    def answer(
        self, dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse, sdp: bytes
    ) -> tuple[str, bool]:
        self.table.response(dialog, side, request, response)
        return in_response(dialog, side, request, response, sdp)


def agreed(dialog: ProxiedDialog) -> tuple[bytes, bytes]:
    return dialog.caller.sdp, dialog.callee.sdp


def in_dialog(method: str, number: int) -> SipRequest:
    return raw_request(method, "sip:bob@example.com", cseq=f"{number} {method}", to="<sip:bob@example.com>;tag=b")


def ok(request: SipRequest, status: int = 200) -> SipResponse:
    return request.response(status)


def test_unreliable_early_answer_is_replaced_by_the_2xx() -> None:
    t = Table()
    t.offer()
    dialog = t.response(183, OTHER)
    assert t.last == ("answer", False)
    assert dialog.callee.sdp == OTHER
    t.response(200, ANSWER)
    assert t.last == ("answer", True)
    assert agreed(dialog) == (OFFER, ANSWER)
    assert dialog.state == "confirmed"


def test_reliable_answer_counts_and_prack_may_offer_again() -> None:
    t = Table()
    t.offer()
    dialog = t.response(183, ANSWER, rseq="1")
    assert t.last == ("answer", True)
    prack = in_dialog("PRACK", 2)
    assert in_request(dialog, "caller", prack, OTHER) == "offer"
    assert t.answer(dialog, "caller", prack, ok(prack), ANSWER) == ("answer", True)
    assert agreed(dialog) == (OTHER, ANSWER)
    t.response(200, ANSWER)
    assert t.last == ("answer", False), "came before in this transaction"


def test_offer_in_a_reliable_provisional_is_answered_in_prack() -> None:
    t = Table()
    dialog = t.response(183, OFFER, rseq="1")
    assert t.last == ("offer", False)
    assert in_request(dialog, "caller", in_dialog("PRACK", 2), ANSWER) == "answer"
    assert agreed(dialog) == (ANSWER, OFFER)
    assert dialog.open is None


def test_unreliable_provisional_cannot_offer() -> None:
    t = Table()
    dialog = t.response(180, OFFER)
    assert t.last == ("", False)
    assert dialog.open is None


def test_late_offer_repeated_with_the_2xx_and_answer_repeated_with_the_ack() -> None:
    t = Table()
    dialog = t.response(200, OFFER)
    t.response(200, OFFER)
    assert t.last == ("offer", False)
    ack = in_dialog("ACK", 1)
    assert in_request(dialog, "caller", ack, ANSWER) == "answer"
    assert in_request(dialog, "caller", ack, ANSWER) == "answer"
    assert dialog.open is None
    assert agreed(dialog) == (ANSWER, OFFER)


def test_forks_have_sessions_of_their_own() -> None:
    t = Table()
    t.offer()
    one, two = t.response(183, ANSWER, tag="b"), t.response(183, OTHER, tag="c")
    assert (one.callee.sdp, two.callee.sdp) == (ANSWER, OTHER)
    t.response(200, OTHER, tag="c")
    t.table.end_early(t.call, "c")
    assert t.table.all() == [two]


def test_failed_update_and_update_without_answer_leave_the_session() -> None:
    t = Table()
    t.offer()
    dialog = t.response(200, ANSWER)
    for status in (488, 200):
        update = in_dialog("UPDATE", 3)
        in_request(dialog, "callee", update, OTHER)
        t.answer(dialog, "callee", update, ok(update, status), b"")
        assert dialog.open is None
    assert agreed(dialog) == (OFFER, ANSWER)


def test_targets_follow_accepted_refreshes_only() -> None:
    t = Table()
    dialog = t.response(200)
    assert dialog.caller.target == "sip:a@10.0.0.1"
    for status, expected in ((488, "sip:a@10.0.0.1"), (200, "sip:a@10.0.0.9")):
        update = in_dialog("UPDATE", 3)
        update.add("Contact", "<sip:a@10.0.0.9>")
        t.answer(dialog, "caller", update, ok(update, status), b"")
        assert dialog.caller.target == expected


def test_bye_ends_the_dialog_only_with_an_answer_that_says_so() -> None:
    t = Table()
    dialog = t.response(200)
    bye = in_dialog("BYE", 2)
    for status in (401, 503, 500):
        t.table.bye_answered(dialog, bye, "caller", status)
        assert len(t.table) == 1
    t.table.bye_answered(dialog, bye, "caller", 481)
    assert t.ended == ["bye"]
    assert len(t.table) == 0
    assert t.table.is_over(bye.response(200, to_tag="b"), "d1")
    t.clock.run_until_idle()
    assert not t.table.is_over(bye.response(200, to_tag="b"), "d1")


# -- RFC 4028 as a proxy may ask for it --------------------------------------------------------------------------------


def asked(seconds: int, **headers: str) -> SipRequest:
    request = raw_request("INVITE", "sip:b@c", **headers)
    ask(request, seconds)
    return request


def test_session_expires_is_inserted_or_lowered_never_raised_nor_below_min_se() -> None:
    assert asked(1800).get("session-expires") == "1800"
    assert asked(1800, session_expires="600;refresher=uac").get("session-expires") == "600;refresher=uac"
    assert asked(600, session_expires="1800;refresher=uas").get("session-expires") == "600;refresher=uas"
    assert asked(600, session_expires="1800", min_se="900").get("session-expires") == "900"
    assert asked(20).get("session-expires") == "90"


def test_too_small_session_expires_is_422_or_raised_where_timers_are_unknown() -> None:
    with pytest.raises(SipError) as refused:
        asked(1800, session_expires="30", supported="timer")
    assert (refused.value.status, refused.value.headers) == (422, (("Min-SE", "90"),))
    old = asked(1800, session_expires="30")
    assert (old.get("session-expires"), old.get("min-se")) == ("90", "90")


def test_uac_is_made_refresher_when_the_uas_knows_no_timers() -> None:
    request = raw_request("INVITE", "sip:b@c", supported="timer")
    response = ok(request)
    confirm(request, response, 1800)
    assert (response.get("session-expires"), response.get("require")) == ("1800;refresher=uac", "timer")
    without = raw_request("INVITE", "sip:b@c")
    response = ok(without)
    confirm(without, response, 1800)
    assert not response.has("session-expires")
