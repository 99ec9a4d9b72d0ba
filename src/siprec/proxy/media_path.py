"""Offer/answer on its way through the proxy: what is what, and when the media server is asked (OA-01 to OA-09)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from msgspec.structs import replace

from siprec.media.engine import NO_FLAGS, MediaError, MediaFlags, MediaServer, MediaSession
from siprec.proxy import session_timer
from siprec.proxy.call import Call
from siprec.proxy.call_media_session import CallMedia, MediaTimes, put_sdp, sdp_of
from siprec.proxy.dialogs import OTHER, EndedDialog, Exchange, ProxiedDialog, Side
from siprec.proxy.peers import REFRESHING, above_ours
from siprec.proxy.record_attribute import RECORD_AWARE, SentSdp, State, essence, preference, whereabouts
from siprec.sdp.repair import fitted
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction
from siprec.sourcelog import SourceLog

if TYPE_CHECKING:
    from siprec.proxy.branch import Branch
    from siprec.proxy.core import ProxyCore
    from siprec.proxy.response_context import ResponseContext

log = logging.getLogger(__name__)

PickMedia = Callable[[Call], "MediaServer | None"]
_OFFERS: Final = frozenset({"INVITE", "UPDATE", "PRACK"})
MAX_AHEAD: Final = 8
"""Descriptions of our own to one party at the most, where its peer answers each of them from elsewhere."""


class Negotiation:
    """Sees every request and response that may carry a session description, before it is forwarded.

    `pick` chooses the media server of a call (None: there is none); `use` is ``recorded``, ``always`` or ``never``;
    `on_failure` ``pass`` or ``reject``.
    """

    def __init__(
        self,
        core: ProxyCore,
        pick: PickMedia | None,
        *,
        use: Literal["recorded", "always", "never"] = "recorded",
        on_failure: Literal["pass", "reject"] = "pass",
        times: MediaTimes | None = None,
        flags: MediaFlags = NO_FLAGS,
    ) -> None:
        self._core = core
        self._lines = SourceLog(log, now=core.clock.now)
        self._pick = pick
        self.use = use
        self.on_failure = on_failure
        self.times = times or MediaTimes()
        self.flags = flags
        self.on_trouble: Callable[[Call, MediaServer, MediaError], MediaServer | None] | None = None
        """Hears of each request of a call that failed; says which other media server a new call may go to."""
        self.on_unanswered: Callable[[Call, MediaServer, MediaError], bool] = lambda call, server, error: False
        """Hears of offers in mid-call that failed; true: the call is to be moved to another media server."""
        self.load: Counter[MediaServer] = Counter()
        """Calls by the media server that carries them."""
        self._busy: dict[tuple[str, str], Call] = {}

    @property
    def sessions(self) -> int:
        """Calls that have a media session: for leak checks."""
        return len(self._busy)

    def _path(self, call: Call) -> CallMedia | None:
        """The media path of a call that is to have one, made on first need."""
        path = call.media_path
        if path is not None or call.state != "early" or call.media_error or call.media_bypassed:
            return path
        use = call.media_use or self.use
        if (
            self._pick is None
            or use == "never"
            or (
                use == "recorded"
                and not call.recordings
                and not call.transport_protocol
                and call.media_flags is NO_FLAGS
            )
        ):
            return None
        key = (call.call_id, call.from_tag)
        if key in self._busy:
            return None  # a spiral: the media server knows this call by the same name already
        server = self._pick(call)
        if server is None:
            self._failed(call, "no media server")
            return None
        session = MediaSession(call.call_id, call.from_tag)
        flags, indicator = self.flags, self._core.indicator
        if indicator is not None and indicator.tones(call):
            # Into SRTP that only passes, nothing can be mixed.
            flags = replace(flags, flags=(*flags.flags, "re-key"))
        path = CallMedia(
            self._core.clock,
            server,
            session,
            self.times,
            lambda reason: self._failed(call, reason),
            flags,
            call.transport_protocol,
            call.media_flags,
            lambda server, error: self._trouble(call, server, error),
            self._carried,
            lambda error: self.on_unanswered(call, call.media_path.server, error) if call.media_path else False,
        )
        call.media_path = path
        call.media = server
        call.media_session = session
        self._busy[key] = call
        return path

    def choose(self, call: Call) -> MediaServer | None:
        """A media server for a call that has to leave its own."""
        return self._pick(call) if self._pick is not None else None

    def _carried(self, server: MediaServer, change: int) -> None:
        self.load[server] += change
        if not self.load[server]:
            del self.load[server]

    def _trouble(self, call: Call, server: MediaServer, error: MediaError) -> MediaServer | None:
        other = self.on_trouble(call, server, error) if self.on_trouble is not None else None
        if other is not None and call.media_path is not None and not call.media_path.answered:
            log.info("media server %s: %s, Call-ID %s goes to %s", server.name, error.reason, call.call_id, other.name)
        return other

    def _failed(self, call: Call, reason: str) -> None:
        call.media_error = reason
        call.media = None
        call.media_session = None
        self._core.counters["media_failures"] += 1
        host = call.source.partition(":")[2].rpartition(":")[0]
        self._lines.warning(host, "no media server for a call: %s, Call-ID %s", reason, call.call_id)
        self._core.observers.tell("call_media_failed", call, reason)
        for dialog in self._core.dialogs.of(call):
            self.settle(dialog)

    def release(self, call: Call) -> None:
        """The call is over (or never was): its media goes."""
        path = call.media_path
        if path is not None:
            path.end()
            if self._busy.get((call.call_id, call.from_tag)) is call:
                del self._busy[call.call_id, call.from_tag]

    # -- requests ------------------------------------------------------------------------------------------------------

    def request_out(
        self, context: ResponseContext, branch: Branch, request: SipRequest, passed: Callable[[int], None]
    ) -> None:
        """Before a request is sent; `passed(0)` lets it go, `passed(status)` ends the branch."""
        dialog = context.dialog
        if dialog is not None:
            sdp = sdp_of(request) if request.method in _OFFERS else b""
            if sdp:
                sender = context.transaction.source.host
                self._in_dialog(dialog, context.side, request, sdp, lambda: passed(0), sender)
            else:
                passed(0)
            return
        call = context.call
        if call is None:
            passed(0)
            return
        sdp = sdp_of(request)
        path = self._path(call) if sdp else None
        if path is None:
            call.media_bypassed |= bool(sdp)
            rejected = bool(call.media_error) and self.on_failure == "reject"
            passed(503 if rejected else 0)
            return
        session = MediaSession(call.call_id, call.from_tag, "", branch.via_branch, context.transaction.source.host)

        def offered(result: bytes | None) -> None:
            if call.media is not None:
                call.media = path.server  # it may have gone to another one
            if result is not None:
                branch.told = SentSdp()
                result = branch.told.passing(result, self._state(call))
            if result is not None and not put_sdp(request, result):
                branch.told = None
                path.fail("the description cannot be put in place")
            without = path.state == "failed" or bool(path.lost)
            passed(503 if without and self.on_failure == "reject" else 0)

        path.offer(session, sdp, offered)

    def ack_out(self, dialog: ProxiedDialog, side: Side, ack: SipRequest, go_on: Callable[[], None]) -> None:
        """The ACK for a 2xx: the answer to a late offer may be inside (OA-04)."""
        sdp = sdp_of(ack)
        if sdp:
            self._in_dialog(dialog, side, ack, sdp, go_on)
            return
        # RFC 3261 13.2.1: a 2xx without a description, after one in an unreliable response, which was the answer.
        unanswered = self._core.dialogs.acknowledged(dialog, side, ack.cseq.number)
        go_on()
        if unanswered:
            self.settle(dialog)

    def _in_dialog(
        self,
        dialog: ProxiedDialog,
        side: Side,
        request: SipRequest,
        sdp: bytes,
        go_on: Callable[[], None],
        sender: str = "",
    ) -> None:
        was_open = dialog.open is not None
        kind = self._core.dialogs.offered(dialog, side, request, sdp)
        completed = kind == "answer" and was_open
        call = dialog.call
        if kind == "answer":
            sdp = self._fitted(dialog, OTHER[side], sdp)
        if completed:
            self.take(dialog)

        def finish() -> None:
            go_on()
            if completed:
                self._changed(dialog, OTHER[side])

        mine, theirs = dialog.tag(side), dialog.tag(OTHER[side])
        self._through(
            call,
            kind,
            mine if kind == "offer" else theirs,
            theirs if kind == "offer" else mine,
            "",
            request,
            sdp,
            finish,
            dialog,
            OTHER[side],
            sender,
        )

    def _through(
        self,
        call: Call,
        kind: str,
        offerer: str,
        answerer: str,
        via_branch: str,
        message: SipMessage,
        sdp: bytes,
        go_on: Callable[[], None],
        dialog: ProxiedDialog,
        receiver: Side,
        sender: str = "",
    ) -> None:
        path = self._path(call)
        before = dialog.told.get(receiver)
        if kind == "offer" and dialog.open is not None and before is not None:
            dialog.open.told = before.copy()
        if path is None or path.state != "active":
            call.media_bypassed = True
            self._around(dialog, receiver, message, sdp)
            go_on()
            if kind == "answer":
                self.settle(dialog)
            return
        if kind == "answer":
            self._prefer(dialog)

        def passed(result: bytes | None) -> None:
            if result is not None:
                told = dialog.told.setdefault(receiver, SentSdp())
                result = told.passing(result, self._state(call) if receiver in dialog.aware else "")
                if not put_sdp(message, result):
                    path.lost = path.lost or "the description cannot be put in place"
                    result = None
            if result is None:
                self._around(dialog, receiver, message, sdp_of(message))
            go_on()
            if kind == "answer":
                self.settle(dialog)

        session = MediaSession(call.call_id, offerer, answerer, via_branch, sender)
        if kind == "offer":
            path.offer(session, sdp, passed)
        else:
            path.answer(session, sdp, passed)

    def _around(self, dialog: ProxiedDialog, receiver: Side, message: SipMessage, sdp: bytes) -> None:
        """A description goes on as it came, but for its version where descriptions of ours went before."""
        if dialog.call.media_path is None:
            return
        told = dialog.told.setdefault(receiver, SentSdp())
        if not sdp:
            told.relayed = told.next_relayed = False
            return
        result = told.passing(sdp, "", relayed=False)
        if result != sdp:
            put_sdp(message, result)

    def _fitted(self, dialog: ProxiedDialog, offerer: Side, answer: bytes) -> bytes:
        """The answer to what `offerer` offered, mended where it does not fit; what was agreed says the same."""
        if dialog.call.media_path is None:
            return answer
        result = fitted(dialog.sdp.get(offerer, b""), answer)
        if result is not answer:
            self._core.counters["answers_mended"] += 1
            log.info("the %s's answer does not fit the offer: mended, Call-ID %s", OTHER[offerer], dialog.call.call_id)
            if dialog.sdp.get(OTHER[offerer]) == answer:
                dialog.sdp[OTHER[offerer]] = result
        return result

    def settle(self, dialog: ProxiedDialog) -> None:
        """See to it that the parties were told the same: either both send to the media server, or each to the other.

        An answer that did not pass the media server leaves one party with its addresses and the other with those of its
        peer. Then the call is moved, to another media server or anew to this one; where that cannot be, the offer is
        taken back: its receiver gets what the offerer said, by a re-INVITE. So do both when the server is gone."""
        path, core = dialog.call.media_path, self._core
        if path is None or dialog.state == "terminated" or path.state == "ended":
            return
        sides = dialog.relaying
        if path.state == "active":
            if len(sides) == 1:
                core.failover.move(dialog.call, path.lost or "the parties were told different things")
            elif path.lost and not core.failover.moves(dialog.call):
                path.fail(path.lost)
        elif len(sides) == 1 or path.gone:
            said = {side: dialog.sdp.get(OTHER[side], b"") for side in sides}
            if said and all(said.values()):
                core.midcall.relocated(dialog, said, relayed=False)
        if path.state == "failed" and not any(told.relayed for told in dialog.told.values()):
            path.unused()

    def rolled_back(self, dialog: ProxiedDialog, offer: Exchange) -> None:
        """An offer within the dialog was refused: the session stays as it was (RFC 3264 8), at the media server too."""
        call, side, other = dialog.call, offer.offerer, OTHER[offer.offerer]
        path, before, theirs = call.media_path, dialog.sdp.get(side, b""), dialog.sdp.get(other, b"")
        if offer.told is not None:
            dialog.told[other] = offer.told
        if path is None or path.state != "active" or path.lost or not before or not theirs:
            return
        if essence(before) != essence(offer.sdp):
            session = MediaSession(call.call_id, dialog.tag(side), dialog.tag(other))
            path.offer(session, before, lambda result: path.answer(session, theirs, lambda result: None))

    def _changed(self, dialog: ProxiedDialog, who: Side) -> None:
        """An exchange within a dialog, begun by `who`, is complete and forwarded."""
        call, observers = dialog.call, self._core.observers
        if call.state == "confirmed" and dialog.callee_tag == call.to_tag:
            observers.tell("call_media_changed", call, who)
        elif call.state == "early" and call.early is not None and call.early.to_tag == dialog.callee_tag:
            observers.tell("call_early_media", call)
            call.early_media = True

    def take(self, dialog: ProxiedDialog) -> None:
        """What was agreed in the dialog is what the call has."""
        call = dialog.call
        if not call.to_tag or call.to_tag == dialog.callee_tag:
            call.caller_sdp = dialog.sdp.get("caller", call.caller_sdp)
            call.callee_sdp = dialog.sdp.get("callee", call.callee_sdp)

    # -- responses -----------------------------------------------------------------------------------------------------

    def response_back(
        self,
        context: ResponseContext,
        branch: Branch,
        transaction: ClientTransaction,
        response: SipResponse,
        go_on: Callable[[], None],
    ) -> None:
        """Before a 1xx or 2xx is forwarded; follows dialogs and passes descriptions."""
        core = self._core
        dialog, call, side = context.dialog, context.call, context.side
        request = context.transaction.request
        initial = dialog is None and call is not None
        if call is not None and initial and call.talk_began is None and response.status >= 200:
            call.talk_began = core.clock.now()
        if call is not None and initial:
            if call.state == "terminated" or (context.final and response.status < 200):
                if response.status >= 200 and response.to_tag:
                    self._learn(core.dialogs.late(call, response, request), context, branch, transaction, response)
                go_on()  # too late for anybody: nothing is followed that nothing would end
                return
            dialog = core.dialogs.early(call, response, request)
            side = "caller"
            if dialog is not None and "caller" not in dialog.flow and context.caller_flow is not None:
                dialog.flow["caller"] = context.caller_flow
            if dialog is not None:
                self._learn(dialog, context, branch, transaction, response)
            if dialog is not None:
                if branch.told is not None and "callee" not in dialog.told:
                    dialog.told["callee"] = branch.told.copy()
                if RECORD_AWARE in request.tokens("supported"):
                    dialog.aware.add("caller")
                if RECORD_AWARE in response.tokens("supported"):
                    dialog.aware.add("callee")
            if dialog is not None and branch.target.flow is not None:
                dialog.flow["callee"] = branch.target.flow
        elif dialog is not None and request.method in REFRESHING:
            other = OTHER[side]
            dialog.peers[other].answered(response, transaction.hop.host, dialog.contact.get(other, ""))
        if dialog is None or request.method not in _OFFERS:
            go_on()
            return
        if initial and core.options.session_expires and 200 <= response.status < 300 and request.method == "INVITE":
            session_timer.confirm(request, response, core.options.session_expires)
        sdp = sdp_of(response)
        kind, complete = core.dialogs.response(dialog, side, request, response, sdp)
        if kind == "answer":
            sdp = self._fitted(dialog, side, sdp)
        if kind:
            self.take(dialog)
        call = dialog.call

        def finish() -> None:
            go_on()
            if complete and not initial:
                self._changed(dialog, side)

        if not sdp and response.status < 300 and b"v=0" in response.body and dialog.open is not None:
            self._around(dialog, side, response, b"")  # an answer that only the parties can read
        if not sdp or not kind or (initial and call.state == "confirmed" and dialog.callee_tag != call.to_tag):
            finish()  # of two that answered, the second does not take the media away from the first
            return
        mine, theirs = dialog.tag(side), dialog.tag(OTHER[side])
        via_branch = branch.via_branch if initial and kind == "answer" else ""
        offerer, answerer = (mine, theirs) if kind == "answer" else (theirs, mine)
        sender = transaction.hop.host
        self._through(call, kind, offerer, answerer, via_branch, response, sdp, finish, dialog, side, sender)

    def _learn(
        self,
        dialog: ProxiedDialog | EndedDialog,
        context: ResponseContext,
        branch: Branch,
        transaction: ClientTransaction,
        response: SipResponse,
    ) -> None:
        """Where the parties of a new dialog can be reached."""
        peers, received = dialog.peers, context.transaction
        if not peers.caller.hosts:
            peers.caller.host(received.source.host)
            peers.caller.given_by = "" if self._core.is_trusted(received.source) else received.source.host
            peers.callee.given_by = branch.target.given_by
            if not peers.caller.last:  # no Contact: where it came from, named as it names itself
                peers.caller.contact(received.request.from_.uri_text)
                dialog.flow.setdefault("caller", received.source)
        peers.callee.answered(response, transaction.hop.host)
        peers.callee.route(above_ours(response, dialog.dlg_id))
        if not peers.callee.last:
            peers.callee.contact(transaction.request.uri)
            if response.status >= 200:
                dialog.flow.setdefault("callee", transaction.hop)

    @staticmethod
    def progress(call: Call, response: SipResponse) -> None:
        """A provisional response is about to be forwarded: with a description in it, its branch has the early media."""
        if call.state == "early" and response.to_tag and sdp_of(response):
            call.early = response

    def again(self, dialog: ProxiedDialog, side: Side, answer: bytes) -> None:
        """A party answered an offer of our own, made as the party on `side`: where it says anything new, the media
        server has to hear it."""
        call, other = dialog.call, OTHER[side]
        path, before, offer = call.media_path, dialog.sdp.get(other, b""), dialog.sdp.get(side, b"")
        answer = fitted(offer, answer)
        if path is None or not offer or essence(answer) == essence(before):
            return
        dialog.sdp[other] = answer
        self.take(dialog)
        if path.state != "active" or path.lost:
            told = dialog.told.get(side)
            elsewhere = whereabouts(answer) != whereabouts(before)
            if told is not None and path.state == "failed" and elsewhere and told.ahead < MAX_AHEAD:
                # It receives elsewhere now, and its peer sends there by itself.
                self._core.midcall.relocated(dialog, {side: answer}, relayed=False)
            return
        session = MediaSession(call.call_id, dialog.tag(side), dialog.tag(other))

        def answered(result: bytes | None) -> None:
            if call.state == "confirmed":
                self._core.observers.tell("call_media_changed", call, side)

        path.offer(session, offer, lambda result: path.answer(session, answer, answered))

    # -- what the parties are told, and prefer (RFC 7866 7.1) ----------------------------------------------------------

    def _state(self, call: Call) -> State:
        indicator = self._core.indicator
        return indicator.state(call) if indicator is not None else ""

    def _prefer(self, dialog: ProxiedDialog) -> None:
        indicator = self._core.indicator
        if indicator is not None:
            for side in ("caller", "callee"):
                wanted = preference(dialog.sdp.get(side, b""))
                if wanted:
                    indicator.preference(dialog.call, side, wanted)
