"""One recording of one call: carries out what the machines decide, and tells them what comes of it.

The machines (:mod:`siprec.recording.session_machine`) know neither media servers nor SIP; here the two meet. Events are
handled one after the other, also those that come from inside an action.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from siprec.media.engine import (
    MediaError,
)
from siprec.metadata.document import Reason
from siprec.proxy.forward import MAX_BREADTH
from siprec.recording import srtp_sdp
from siprec.recording.offered_streams import OfferedStreams
from siprec.recording.refused_streams import RefusedStreams, refused
from siprec.recording.rs_dialog import RsDialog
from siprec.recording.rs_peer import Body, Outcome, PeerOffer, RsPeer
from siprec.recording.session_events import (
    Action,
    AnswerPeer,
    Bye,
    Cancel,
    Connect,
    Event,
    Exchange,
    Finished,
    Fork,
    Gate,
    Invite,
    Kind,
    Notify,
    Release,
    SetTimer,
    State,
)
from siprec.recording.signalling_security import is_secure_call, is_secure_way
from siprec.sdp import SdpError, SessionDescription
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.useragent import Result

log = logging.getLogger(__name__)


def _max_breadth(invite: SipRequest) -> int | None:
    value = (invite.get("max-breadth") or "").strip()
    return min(int(value), MAX_BREADTH) if value.isdecimal() and len(value) < 6 else None


class CallRecording(OfferedStreams):
    """A recording instance of a call, from its wish to its end."""

    __slots__ = ()

    def begin(self, since: float | None = None) -> None:
        """Fork and call the SRS. Media that came before `since` (monotonic) are not recorded; None: all there are."""
        self._since = since
        self.targets = self.context.health.order(self.targets)
        self._post(Event(Kind.START))

    def changed(self, media: bool) -> None:
        """The call is not what it was: its parties, hold, or (`media`) its streams and codecs."""
        self._post(Event(Kind.CHANGED, self._document(), media=media))

    def stop(self, reason: str = "stopped") -> None:
        """End this recording; the call goes on."""
        wall = self._wall()
        self._post(Event(Kind.STOP, self._document().detached(wall), reason=reason, wall=wall))

    def hurry(self) -> None:
        """Where it is ending: do not wait for the SRS's answer to the last metadata."""
        if self.machine.state is State.ENDING:
            self._timed_out()

    def call_ended(self, wall: float, reasons: tuple[Reason, ...], reason: str) -> None:
        """The call ended at `wall`: what there is to tell goes to the SRS, then BYE."""
        self._post(Event(Kind.STOP, self._document().stopped(wall, reasons), reason=reason, wall=wall))

    def lost(self, status: int, reason: str) -> None:
        """The SRS is gone, as far as can be told: the RS is given up, and set up again (RFC 7865 6.4)."""
        log.warning("SRS %s: %s (call %s)", self.server, reason, self.call.call_id, extra=self._fields)
        self.context.health.mark_down(self.server, self.profile, status if status != 481 else 0, reason)
        self._failed_at_srs(status)
        if self._dialog is not None:
            self._dialog.abandon(reason)
        self._post(Event(Kind.LOST, status=status, reason=reason))

    def _failed_at_srs(self, status: int) -> None:
        """The SRS is down, as far as `status` says."""
        if status == 408 or 500 <= status < 600:
            self._unavailable = True

    def offer_again(self) -> None:
        """Repeat the offer: the media do not arrive although the SRS answers (RFC 7866 8.1.1)."""
        self._post(Event(Kind.OFFER_AGAIN))

    def media_lost(self, reason: str) -> None:
        """The media server that copies the streams is gone."""
        self._post(Event(Kind.MEDIA_LOST, reason=reason))

    def media_moved(self) -> None:
        """Another media server carries the call: copies begin there anew, for the same streams."""
        self._moves += 1
        self._tag = ""
        if self.machine.state in (State.ACTIVE, State.PAUSED, State.INVITING):
            self.changed(media=True)
        elif self.machine.state is State.FORKING:
            self._fork()

    def send(
        self,
        method: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        content_type: str,
        done: Callable[[Result], None],
    ) -> bool:
        """A request of the script's own inside the RS dialog; false when there is no dialog."""
        return self._dialog is not None and self._dialog.send(method, headers, body, content_type, done)

    def _do(self, action: Action) -> None:
        match action:
            case Fork():
                self._fork()
            case Invite():
                self._invite(action)
            case Cancel() if self._refused is not None and self._refused.pending:
                self._refused.pending = False
                self._later(Event(Kind.ANSWERED))  # there is a 2xx already: BYE
            case Cancel() if self._dialog is not None:
                self._dialog.cancel()
            case Connect(withheld):
                self._connect(withheld, self._done(Kind.CONNECTED, Kind.CONNECT_FAILED))
            case Gate(closed):
                self._gate(closed)
            case Exchange():
                self._exchange(action)
            case AnswerPeer(status, withheld):
                self._answer_peer(status, withheld)
            case Bye() if self._dialog is not None:
                self._dialog.bye(self._bye_done)
            case Release():
                self._release()
            case SetTimer(delay):
                self._set_timer(delay)
            case Notify():
                self._notify(action)
            case Finished():
                self._finished()
            case _:
                pass

    def _bye_done(self, result: Result) -> None:
        """What became of the BYE. Without a 2xx nobody knows when the SRS ceased to record."""
        status, reason = 0, ""
        if isinstance(result, SipResponse):
            if result.status >= 300:
                status, reason = result.status, f"BYE: {result.status} {result.reason}"
        elif result != "ended":
            status, reason = 408, f"BYE: {result}"
        if status:
            log.warning("SRS %s: %s (call %s)", self.server, reason, self.call.call_id, extra=self._fields)
            self.context.health.mark_down(self.server, self.profile, 408 if status == 408 else 0, reason)
        self._post(Event(Kind.BYE_DONE, status=status, reason=reason))

    def _invite(self, action: Invite) -> None:
        if self._description is None or self._description.version:
            self._new_description()  # an SRS has seen that one
        self._answer, self._answered = None, b""
        if self._refused is not None:
            self._refused.begin()
        server = self.targets[action.target]
        why = ""
        if self.profile.signalling == "as-call" and is_secure_call(self.call):
            safe = is_secure_way(server, self.profile, self.settings)
            why = "" if safe else "not reached by TLS, as the call is (signalling)"
        self._dialog = dialog = self._peer_at(server) if not why else None
        if dialog is None:
            target, reason = self._fallback(), why or "no recording session to join"
            self._later(Event(Kind.REFUSED, status=503, reason=reason, again=target >= 0, target=target))
            return
        try:
            body = self._body(action.document, True, action.inactive)
        except SdpError as error:
            self._later(Event(Kind.REFUSED, status=500, reason=f"offer: {error.reason}"))
            return
        for hear in self.context.observers.srs_called:
            hear(self)
        dialog.invite(body)

    def _peer_at(self, server: str) -> RsPeer | None:
        """A recording session of this call's own with `server`, or its place in one that is shared."""
        context = self.context
        if self.profile.session != "per-call":
            return context.shared_sessions.join(self.instance, self.profile, self.settings, server, self)
        breadth = _max_breadth(self.call.invite)
        return RsDialog(context.agent, server, self.profile, self.settings, context.from_uri, self, breadth)

    def _exchange(self, action: Exchange) -> None:
        dialog = self._dialog
        if dialog is None:
            self._later(Event(Kind.EXCHANGE_FAILED, reason="ended"))
            return

        def compose(with_sdp: bool) -> Body:
            return self._body(action.document, with_sdp, action.inactive)

        dialog.exchange(compose, partial(self._exchanged, dialog), offer=action.offer)

    def _exchanged(self, dialog: RsPeer, outcome: Outcome) -> None:
        if dialog is not self._dialog or outcome.ended:
            return  # the dialog is over, which is told by itself (`rs_ended`)
        status, reason = outcome.status, outcome.reason
        if outcome.lost:
            self._silent(reason)
        elif status < 300:
            if outcome.answer is not None:
                self._take_answer(outcome.answer)
            self._post(Event(Kind.EXCHANGED, media=outcome.with_sdp))
            if outcome.with_sdp:
                self._check_streams(dialog)
        elif outcome.with_sdp and status in srtp_sdp.DECLINED and self._becomes_secure:
            if self._srtp.falls_back(self.server, status, self._description):
                self._post(Event(Kind.EXCHANGE_FAILED, status=status, reason="SRTP declined"))
                self.changed(media=True)
            else:
                self.lost(status, "SRTP declined")
        else:
            wait = outcome.retry_after
            self._post(Event(Kind.EXCHANGE_FAILED, status=status, reason=reason, retry_after=wait))

    def _finished(self) -> None:
        """All is given back. What is said of the recording to the end is known now; no cycle is left behind."""
        self.context.watch.discard(self)
        for hear in self.context.observers.recording_over:
            hear(self)
        if isinstance(self._dialog, RsDialog):
            self._dialog.disown()
        self._dialog = None

    @property
    def _becomes_secure(self) -> bool:
        """Whether SRTP is offered for what the SRS gets as plain RTP: the call is SRTP now."""
        description, answer = self._description, self._their_answer()
        return description is not None and answer is not None and description.declined(answer)

    def _silent(self, result: str) -> None:
        if self.machine.state in (State.ACTIVE, State.PAUSED):
            self.context.watch.discard(self)
            self.lost(408, f"no answer: {result}")
        else:
            self._post(Event(Kind.EXCHANGE_FAILED, status=408, reason=result))

    def _answer_peer(self, status: int, withheld: bool) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        if status != 200:
            peer.refuse(status)
            return
        description = self._description
        if peer.description is None or description is None:
            self._offer_peer(peer, withheld)
            return
        before = self._their_answer()
        try:
            answer = description.answer(peer.description, withheld)
        except SdpError as error:
            why, call_id = error.reason, self.call.call_id
            log.info("offer of the SRS refused: %s (call %s, SRS %s)", why, call_id, self.server, extra=self._fields)
            peer.refuse(488)
            self._later(Event(Kind.PEER_DONE))
            return
        self._answer, self._answered = peer.description, b""
        wished = frozenset(refused(description, peer.description))
        if wished or self._refused is not None:
            self._refused = self._refused or RefusedStreams(self.profile.on_refused_stream)
            self._refused.wished(wished)

        def connected(error: MediaError | None) -> None:
            if error is None:
                if peer.description is not None:
                    description.took(peer.description)
                peer.answer(Body(answer))
            else:
                self._answer, self._answered = before, b""
                peer.refuse(500)
            self._post(Event(Kind.PEER_DONE))

        self._connect(withheld, connected)

    def _offer_peer(self, peer: PeerOffer, withheld: bool) -> None:
        """An offerless re-INVITE: our offer and all metadata go in the 200, the answer comes in the ACK."""
        try:
            peer.answer(self._body(self.machine.wanted.document, True, withheld))
        except SdpError:
            peer.refuse(500)
        self._later(Event(Kind.PEER_DONE))

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS takes the recording."""
        if dialog is self._dialog:
            description = self._description
            refusal = self._srtp.refusal(description, answer) if description is not None else ""
            if refusal and self.machine.state is State.INVITING:
                dialog.bye(lambda result: None)
                self.rs_refused(dialog, 488, refusal)
                return
            if self.machine.state is State.INVITING and self._asks_again(dialog, answer):
                return
            self._srtp.check_way(self.server, description, dialog.hop)
            self._take_answer(answer)
            self.context.health.mark_up(self.server, self.profile, took=True)
            self._post(Event(Kind.ANSWERED))
            if self.machine.state in (State.ACTIVE, State.PAUSED):
                self.context.watch.add(self)

    def _check_streams(self, dialog: RsPeer) -> None:
        """The SRS answered an offer in mid-call: what it leaves out is offered once more, and then elsewhere."""
        found, taken = self._not_taken(self._their_answer()), self._refused
        if taken is None or not found or self.machine.state is not State.ACTIVE:
            return
        if taken.offer_again(found):
            self.offer_again()
        elif taken.leave(self.server, found, self.targets):
            reason = f"streams not taken: {'; '.join(found.values())}"
            log.warning("%s (call %s, SRS %s)", reason, self.call.call_id, self.server, extra=self._fields)
            self.context.watch.discard(self)
            dialog.bye(lambda result: None)
            self._post(Event(Kind.LOST, status=488, reason=reason))
        else:
            taken.accept(found)

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The SRS does not take it."""
        if dialog is self._dialog:
            if self.machine.state is not State.ENDING:
                self.context.health.mark_down(self.server, self.profile, status, reason, dialog.retry_after)
                self._failed_at_srs(status)
            inviting = self.machine.state is State.INVITING
            again = inviting and self._srtp.falls_back(self.server, status, self._description)
            other = self._srtp.afresh(self._description)
            target = self._fallback() if inviting and not again else -1
            again |= target >= 0
            self._post(Event(Kind.REFUSED, status=status, reason=reason, again=again, media=other, target=target))

    def rs_offer(self, dialog: RsPeer, offer: PeerOffer) -> None:
        """The SRS changes the session, or asks for our offer."""
        if dialog is not self._dialog or self.machine.state in (State.ENDED, State.FORKING, State.INVITING):
            offer.refuse(491 if self._refused is not None and self._refused.pending else 481)
            return
        if self._peer is not None:
            self._peer.refuse(491)
        self._peer = offer
        self._post(Event(Kind.PEER_OFFER))

    def rs_answer_in_ack(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS's answer to the offer it had asked for."""
        if dialog is self._dialog:
            self._take_answer(answer)
            self._post(Event(Kind.PEER_ANSWER))

    def rs_snapshot(self, dialog: RsPeer) -> None:
        """The SRS wants a full snapshot."""
        if dialog is self._dialog:
            self._post(Event(Kind.SNAPSHOT))

    def rs_key_frame(self, dialog: RsPeer) -> None:
        """The SRS wants a key frame of the video (RFC 5168)."""
        media, session = self._media, self._media_session
        if dialog is self._dialog and media is not None and session is not None and self._tag:
            media.key_frame(session, self._tag, self._key_frame_asked)

    def rs_ended(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The dialog is over."""
        if dialog is self._dialog and self._refused is not None and self._refused.pending:
            self._refused.pending = False
            self.rs_refused(dialog, status or 480, reason)
        elif dialog is self._dialog:
            self.context.watch.discard(self)
            self._failed_at_srs(status)
            if status == 408:
                self.context.health.mark_down(self.server, self.profile, status, reason)
            elif status >= 500:
                # It is there, and others should be tried first: nothing to be found out about its other sessions.
                self.context.health.mark_down(self.server, self.profile, status, reason, probe=False)
            self._post(Event(Kind.LOST if status else Kind.PEER_BYE, status=status, reason=reason))
