"""Descriptions on their way through the proxy: what each is, and whether the media server is asked (RFC 3264).

Every request and response that may carry a session description comes by here before it is forwarded. It goes on at
once, or when the media server has answered: then as a :class:`~siprec.proxy.passage.Passage`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from siprec.media.engine import MediaServer, MediaSession
from siprec.proxy import offer_answer, session_timer
from siprec.proxy.branch import Branch
from siprec.proxy.call import Call
from siprec.proxy.call_media_session import Waiting
from siprec.proxy.dialog import EndedDialog, OpenOffer, ProxiedDialog
from siprec.proxy.media_sessions import MediaSessions
from siprec.proxy.passage import Ack, OwnExchange, Passage
from siprec.proxy.peers import OTHER, REFRESHING, SIDES, Side, above_ours
from siprec.proxy.record_attribute import RECORD_AWARE, SentSdp, State, essence, preference, whereabouts
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.sdp_body import sdp_of, with_sdp
from siprec.sdp.repair import fitted
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction

log = logging.getLogger(__name__)

MAX_AHEAD: Final = 8
"""Descriptions of our own to one party at the most, where its peer answers each of them from elsewhere."""


class MediaPath(MediaSessions):
    """Of one proxy."""

    # -- requests ------------------------------------------------------------------------------------------------------

    def request_out(self, context: ResponseContext, branch: Branch) -> None:
        """Before a request is sent: it goes on at once, or `Proxy.passed` is called when its description has passed."""
        request, dialog, call = context.base, context.dialog, context.call
        sdp = sdp_of(request) if request.body and (dialog is None or request.method in offer_answer.OFFERS) else b""
        if dialog is not None and sdp:
            passage = Passage(dialog.call, request, "offer", context, branch)
            self._in_dialog(passage, dialog, context.side, request, sdp, context.transaction.source.host)
            return
        if dialog is not None or call is None:
            context.offer_passed(branch, 0)
            return
        path = self._session(call) if sdp else None
        if path is None:
            call.media_bypassed |= bool(sdp)
            rejected = call.media_error and self.on_failure == "reject"
            context.offer_passed(branch, 503 if rejected else 0)
            return
        sender = context.transaction.source.host
        session = MediaSession(call.call_id, call.from_tag, "", context.via_branch(branch), sender)
        self._do(call, path.offer(session, sdp, Passage(call, request, "offer", context, branch)))

    def _offered(self, passage: Passage, result: bytes | None) -> None:
        """The offer of an INVITE outside a dialog has passed, or goes as it came."""
        call, branch = passage.call, passage.branch
        path = call.media_path
        assert path is not None
        assert branch is not None
        if call.media is not None:
            call.media = path.server  # it may have gone to another one
        if result is not None:
            branch.sent_sdp = SentSdp()
            result = branch.sent_sdp.passing(result, self._state(call))
            passage.body = with_sdp(passage.message, result)
            if passage.body is None:
                branch.sent_sdp = None
                self.fail(call, "the description cannot be put in place")
        if self.on_failure == "reject" and (path.state == "failed" or path.lost):
            passage.reject = 503
        self._core.passed(passage)

    def ack_out(self, ack: Ack) -> None:
        """The ACK for a 2xx: the answer to a late offer may be inside (RFC 3261 13.2.2.4)."""
        dialog, message = ack.dialog, ack.message
        sdp = sdp_of(message)
        passage = Passage(dialog.call, message, "answer", ack=ack)
        if sdp:
            self._in_dialog(passage, dialog, ack.side, message, sdp)
            return
        # RFC 3261 13.2.1: a 2xx without a description, after one in an unreliable response, which was the answer.
        unanswered = dialog.open is not None and offer_answer.acknowledged(dialog, ack.side, message.cseq.number)
        self._core.passed(passage)
        if unanswered:
            self.settle(dialog)

    def _in_dialog(
        self,
        passage: Passage,
        dialog: ProxiedDialog,
        side: Side,
        request: SipRequest,
        sdp: bytes,
        sender: str = "",
    ) -> None:
        was_open, other = dialog.open is not None, OTHER[side]
        kind = passage.kind = offer_answer.in_request(dialog, side, request, sdp)
        passage.dialog, passage.receiver = dialog, other
        mine, theirs = dialog.tag(side), dialog.tag(other)
        if kind == "answer":
            mine, theirs = theirs, mine
            sdp = self._fitted(dialog, other, sdp)
            if was_open:
                offer_answer.take(dialog)
                passage.changed_by = other
        self._through(passage, dialog, MediaSession(dialog.call.call_id, mine, theirs, "", sender), sdp)

    # -- through the media server --------------------------------------------------------------------------------------

    def _through(self, passage: Passage, dialog: ProxiedDialog, session: MediaSession, sdp: bytes) -> None:
        call, receiver = passage.call, passage.receiver
        path = self._session(call)
        if passage.kind == "offer" and dialog.open is not None:
            before = dialog[receiver].sent_sdp
            if before is not None:
                dialog.open.sent_before = before.copy()
        if path is None or path.state != "active":
            call.media_bypassed = True
            passage.body = self._around(dialog, receiver, passage.message, sdp)
            self._go_on(passage, dialog)
        elif passage.kind == "offer":
            self._do(call, path.offer(session, sdp, passage))
        else:
            self._prefer(dialog)
            self._do(call, path.answer(session, sdp, passage))

    def _passed(self, waiting: Waiting, result: bytes | None) -> None:
        if isinstance(waiting, Passage):
            self._message_passed(waiting, result)
        elif isinstance(waiting, OwnExchange):
            self._heard(waiting, result)

    def _message_passed(self, passage: Passage, result: bytes | None) -> None:
        dialog, receiver, message = passage.dialog, passage.receiver, passage.message
        if dialog is None:
            self._offered(passage, result)
            return
        path = passage.call.media_path
        assert path is not None
        if result is not None:
            peer = dialog.caller if receiver == "caller" else dialog.callee
            sent = peer.sent_sdp = peer.sent_sdp or SentSdp()
            result = sent.passing(result, self._state(passage.call) if peer.is_aware else "")
            passage.body = with_sdp(message, result)
            if passage.body is None:
                path.lost = path.lost or "the description cannot be put in place"
                result = None
        if result is None:
            passage.body = self._around(dialog, receiver, message, sdp_of(message))
        self._go_on(passage, dialog)

    def _go_on(self, passage: Passage, dialog: ProxiedDialog) -> None:
        passage.went_on = True
        self._core.passed(passage)
        if passage.changed_by is not None:
            self._changed(dialog, passage.changed_by)
        if passage.kind == "answer":
            self.settle(dialog)

    def _around(
        self, dialog: ProxiedDialog, receiver: Side, message: SipRequest | SipResponse, sdp: bytes
    ) -> bytes | None:
        """A description goes on as it came (None), but for its version where descriptions of ours went before."""
        if dialog.call.media_path is None:
            return None
        sent = dialog.sent(receiver)
        if not sdp:
            sent.relayed = sent.next_relayed = False
            return None
        result = sent.passing(sdp, "", relayed=False)
        return with_sdp(message, result) if result != sdp else None

    def _fitted(self, dialog: ProxiedDialog, offerer: Side, answer: bytes) -> bytes:
        """The answer to what `offerer` offered, mended where it does not fit; what was agreed says the same."""
        if dialog.call.media_path is None:
            return answer
        result = fitted(dialog[offerer].sdp, answer)
        if result is not answer:
            answerer = OTHER[offerer]
            self._core.counters["answers_mended"] += 1
            log.info("the %s's answer does not fit the offer: mended, Call-ID %s", answerer, dialog.call.call_id)
            if dialog[answerer].sdp == answer:
                dialog[answerer].sdp = result
        return result

    def settle(self, dialog: ProxiedDialog) -> None:
        """Make sure that the parties were told the same: either both send to the media server, or each to the other.

        An answer that did not pass the media server leaves one party with its addresses and the other with those of its
        peer. Then the call is moved, to another media server or anew to this one; where that cannot be, the offer is
        taken back: its receiver gets what the offerer said, by a re-INVITE. So do both when the server is gone."""
        call, core = dialog.call, self._core
        path = call.media_path
        if path is None or dialog.state == "terminated" or path.state == "ended":
            return
        sides = dialog.relaying
        if path.state == "active":
            if len(sides) == 1:
                core.failover.move(call, path.lost or "the parties were told different things")
            elif path.lost and not core.failover.moves(call):
                self.fail(call, path.lost)
        elif len(sides) == 1 or path.gone:
            said = {side: dialog[OTHER[side]].sdp for side in sides}
            if said and all(said.values()):
                core.midcall.relocated(dialog, said, relayed=False)
        if path.state == "failed" and not any(
            sent.relayed for sent in (dialog.caller.sent_sdp, dialog.callee.sent_sdp) if sent is not None
        ):
            self._do(call, path.unused())

    # -- what the media server has to hear besides ---------------------------------------------------------------------

    def rolled_back(self, dialog: ProxiedDialog, offer: OpenOffer) -> None:
        """An offer within the dialog was refused: the session stays as it was (RFC 3264 8), at the media server too."""
        call, side = dialog.call, offer.offerer
        mine, other = dialog[side], dialog[OTHER[side]]
        if offer.sent_before is not None:
            other.sent_sdp = offer.sent_before
        path = call.media_path
        if path is None or path.state != "active" or path.lost or not mine.sdp or not other.sdp:
            return
        if essence(mine.sdp) != essence(offer.sdp):
            session = MediaSession(call.call_id, dialog.tag(side), dialog.tag(OTHER[side]))
            own = OwnExchange("rolled back", dialog, session, other.sdp, side)
            self._do(call, path.offer(session, mine.sdp, own))

    def answered_ours(self, dialog: ProxiedDialog, side: Side, answer: bytes) -> None:
        """A party answered an offer of our own, made as the party on `side`: where it says anything new, the media
        server has to hear it."""
        call, other = dialog.call, dialog[OTHER[side]]
        path, before, offer = call.media_path, other.sdp, dialog[side].sdp
        answer = fitted(offer, answer)
        if path is None or not offer or essence(answer) == essence(before):
            return
        other.sdp = answer
        offer_answer.take(dialog)
        if path.state != "active" or path.lost:
            sent = dialog[side].sent_sdp
            elsewhere = whereabouts(answer) != whereabouts(before)
            if sent is not None and path.state == "failed" and elsewhere and sent.ahead < MAX_AHEAD:
                # It receives elsewhere now, and its peer sends there by itself.
                self._core.midcall.relocated(dialog, {side: answer}, relayed=False)
            return
        session = MediaSession(call.call_id, dialog.tag(side), dialog.tag(OTHER[side]))
        self._do(call, path.offer(session, offer, OwnExchange("changed", dialog, session, answer, side)))

    def move(self, dialog: ProxiedDialog, server: MediaServer) -> None:
        """Take an established call to another media server; `Failover.moved` is told what the parties have to be told
        then."""
        call = dialog.call
        if call.media_path is not None:
            session = MediaSession(call.call_id, call.from_tag, call.to_tag)
            own = OwnExchange("moved", dialog, session, call.callee_sdp, "caller")
            self._do(call, call.media_path.move(server, session, call.caller_sdp, own))

    def _heard(self, own: OwnExchange, result: bytes | None) -> None:
        """The offer or the answer of an exchange without messages has passed, or not."""
        call = own.dialog.call
        path = call.media_path
        assert path is not None
        answer, own.answer = own.answer, None
        if answer is not None and (result is not None or own.why != "moved"):
            own.offer = result or b""
            self._do(call, path.answer(own.session, answer, own))
        elif own.why == "moved":
            path.moved()
            if result is not None and call.state == "confirmed":
                call.media, call.media_session = path.server, own.session
                self._core.failover.moved(own.dialog, own.offer, result)
        elif own.why == "changed" and call.state == "confirmed":
            self._core.observers.tell("call_media_changed", call, own.side)

    def _changed(self, dialog: ProxiedDialog, who: Side) -> None:
        """An exchange within a dialog, begun by `who`, is complete and forwarded."""
        call, observers = dialog.call, self._core.observers
        if call.state == "confirmed" and dialog.callee_tag == call.to_tag:
            observers.tell("call_media_changed", call, who)
        elif call.state == "early" and call.early is not None and call.early.to_tag == dialog.callee_tag:
            observers.tell("call_early_media", call)
            call.early_media = True

    # -- responses -----------------------------------------------------------------------------------------------------

    def response_back(
        self, context: ResponseContext, branch: Branch, transaction: ClientTransaction, response: SipResponse
    ) -> bool:
        """Before a 1xx or 2xx is forwarded: dialogs are followed here. True: it goes on at once; false: `Proxy.passed`
        is called for it when its description has passed."""
        core = self._core
        dialog, side, status = context.dialog, context.side, response.status
        request = context.transaction.request
        initial = dialog is None and context.call is not None
        if dialog is None and (call := context.call) is not None:
            if call.talk_began is None and status >= 200:
                call.talk_began = core.clock.now()
            if call.state == "terminated" or (context.final and status < 200):
                if status >= 200 and response.to_tag:
                    self._learn(core.dialogs.late(call, response, request), context, branch, transaction, response)
                return True  # too late for anybody: nothing is followed that nothing would end
            dialog = core.dialogs.early(call, response, request)
            side = "caller"
            if dialog is not None:
                self._met(dialog, context, branch, transaction, response)
        elif dialog is not None and request.method in REFRESHING:
            dialog[OTHER[side]].answered(response, transaction.hop.host)
        if dialog is None or request.method not in offer_answer.OFFERS:
            return True
        if initial and core.session_expires and 200 <= status < 300 and request.method == "INVITE":
            session_timer.confirm(request, response, core.session_expires)
        core.dialogs.response(dialog, side, request, response)
        sdp = sdp_of(response) if response.body else b""
        kind, complete = offer_answer.in_response(dialog, side, request, response, sdp)
        if kind == "answer":
            sdp = self._fitted(dialog, side, sdp)
        if kind:
            offer_answer.take(dialog)
        call = dialog.call
        if not sdp and status < 300 and b"v=0" in response.body and dialog.open is not None:
            self._around(dialog, side, response, b"")  # an answer that only the parties can read
        if not sdp or not kind or (initial and call.state == "confirmed" and dialog.callee_tag != call.to_tag):
            return True  # of two that answered, the second does not take the media away from the first
        passage = Passage(call, response, kind, context, branch)
        passage.transaction, passage.dialog, passage.receiver = transaction, dialog, side
        if complete and not initial:
            passage.changed_by = side
        mine, theirs = dialog.tag(side), dialog.tag(OTHER[side])
        via_branch = context.via_branch(branch) if initial and kind == "answer" else ""
        offerer, answerer = (mine, theirs) if kind == "answer" else (theirs, mine)
        session = MediaSession(call.call_id, offerer, answerer, via_branch, transaction.hop.host)
        self._through(passage, dialog, session, sdp)
        if not passage.went_on and branch.queue is None:
            branch.queue = deque()
        return False

    def _met(
        self,
        dialog: ProxiedDialog,
        context: ResponseContext,
        branch: Branch,
        transaction: ClientTransaction,
        response: SipResponse,
    ) -> None:
        """A response to the INVITE of a call, for its dialog."""
        caller, callee = dialog.caller, dialog.callee
        if caller.flow is None:
            caller.flow = context.caller_flow
        self._learn(dialog, context, branch, transaction, response)
        if branch.sent_sdp is not None and callee.sent_sdp is None:
            callee.sent_sdp = branch.sent_sdp.copy()
        caller.is_aware = caller.is_aware or RECORD_AWARE in context.transaction.request.tokens("supported")
        callee.is_aware = callee.is_aware or RECORD_AWARE in response.tokens("supported")
        if branch.target.flow is not None:
            callee.flow = branch.target.flow

    def _learn(
        self,
        dialog: ProxiedDialog | EndedDialog,
        context: ResponseContext,
        branch: Branch,
        transaction: ClientTransaction,
        response: SipResponse,
    ) -> None:
        """Where the parties of a new dialog can be reached."""
        caller, callee, received = dialog.caller, dialog.callee, context.transaction
        if not caller.hosts:
            caller.host(received.source.host)
            caller.given_by = "" if self._core.is_trusted(received.source) else received.source.host
            callee.given_by = branch.target.given_by
            if not caller.contacts:  # no Contact: where it came from, named as it names itself
                caller.contact(received.request.from_.uri_text)
                caller.flow = caller.flow or received.source
        callee.answered(response, transaction.hop.host)
        if "record-route" in response.keys:
            callee.route(above_ours(response, dialog.dlg_id))
        if not callee.contacts:
            callee.contact(branch.aim.uri if branch.aim is not None else "")
            if response.status >= 200:
                callee.flow = callee.flow or transaction.hop

    # -- what the parties are told, and prefer (RFC 7866 7.1) ----------------------------------------------------------

    def _state(self, call: Call) -> State:
        indicator = self._core.indicator
        return indicator.state(call) if indicator is not None else ""

    def _prefer(self, dialog: ProxiedDialog) -> None:
        indicator = self._core.indicator
        if indicator is not None:
            for side in SIDES:
                sdp = dialog.caller.sdp if side == "caller" else dialog.callee.sdp
                wanted = preference(sdp) if b"recordpref" in sdp else ""
                if wanted:
                    indicator.preference(dialog.call, side, wanted)
