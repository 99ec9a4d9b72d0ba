"""Our own user agent: calls as UAC and UAS on a transaction layer (RFC 3261 8, 12 to 15).

The SRC uses it for recording sessions, the recorder to take them, the demo phones to call each other. In a process
that is also a proxy it is asked first (:meth:`UserAgent.request_received`); alone, :class:`Endpoint` is the
transaction user.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from siprec.sip.call_handler import Call, CallHandler, Reply, Result, session_description
from siprec.sip.clock import Clock
from siprec.sip.dialog import Dialog, dialog_key
from siprec.sip.digest import CredentialStore
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.incoming_call import IncomingCall, OnInvite
from siprec.sip.message import SipRequest
from siprec.sip.multipart import SDP_TYPE
from siprec.sip.outgoing_call import Invitation, OutgoingCall
from siprec.sip.session_timer import Agreement
from siprec.sip.transaction import ServerTransaction, TransactionLayer
from siprec.sip.transport import Hop, Race
from siprec.sip.uac_request import UacRequest
from siprec.sip.uri import Uri
from siprec.sip.useragent_base import ALLOW, Resolve, UserAgentBase
from siprec.sip.useragent_call import UserAgentCall
from siprec.sip.values import MIN_SE, session_expires

__all__ = [
    "ALLOW",
    "Call",
    "CallHandler",
    "Endpoint",
    "IncomingCall",
    "OutgoingCall",
    "Reply",
    "Resolve",
    "Result",
    "UserAgent",
    "session_description",
]


class UserAgent(UserAgentBase):
    """Calls of our own.

    Arguments:
        clock, layer: time and the transaction layer.
        resolve: RFC 3263.
        contact: the Contact URI for messages that go to a hop.
        on_invite: gets each new call; without it INVITEs outside a dialog are not ours.
        prepare: gets each new INVITE and its source before anything is made of it, and may mend it.
        accept: says whether a request outside a dialog is for us at all (default: all of them).
        on_request: gets requests outside a dialog other than INVITE and OPTIONS; returns whether it took them.
        user_agent: for User-Agent and Server headers; empty: none.
        extensions: option tags that may be asked for in Require, besides ``timer``.
        allow: the Allow header.
        accept_types: for the Accept header of OPTIONS responses.
        ring_timeout: seconds an INVITE, ours or the peer's, may go without a final response.
        race: connects to several hops before an INVITE is sent to one of them; None: the hops are tried in turn.
        rng: source of tags, Call-IDs and delays; hand in a seeded one for reproducible tests.
    """

    def __init__(
        self,
        clock: Clock,
        layer: TransactionLayer,
        resolve: Resolve,
        *,
        contact: Callable[[Hop], str],
        on_invite: OnInvite | None = None,
        prepare: Callable[[SipRequest, Hop], None] | None = None,
        accept: Callable[[SipRequest], bool] | None = None,
        on_request: Callable[[ServerTransaction], bool] | None = None,
        user_agent: str = "siprec",
        extensions: Collection[str] = (),
        allow: str = ALLOW,
        accept_types: str = "application/sdp",
        ring_timeout: float = 185.0,
        race: Race | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(
            clock,
            layer,
            resolve,
            contact=contact,
            user_agent=user_agent,
            extensions=extensions,
            allow=allow,
            ring_timeout=ring_timeout,
            race=race,
            rng=rng,
        )
        self.on_invite = on_invite
        self.prepare = prepare
        self.accept = accept
        self.on_request = on_request
        self.accept_types = accept_types
        self._pending: dict[tuple[str, str, int], ServerTransaction] = {}

    def counts(self) -> dict[str, int]:
        """Live calls and dialogs: for leak checks."""
        return {"calls": len({*self._calls.values(), *self._outgoing}), "dialogs": len(self._calls)}

    def calls(self) -> list[Call]:
        """All live calls."""
        return list({*self._calls.values(), *self._outgoing})

    # -- what we ask -----------------------------------------------------------------------------------------------

    def invite(
        self,
        target: Uri,
        *,
        from_: NameAddr,
        to: NameAddr,
        handler: CallHandler,
        headers: Iterable[tuple[str, str]] = (),
        contact_params: str = "",
        body: bytes = b"",
        content_type: str = SDP_TYPE,
        call_id: str = "",
        hop: Hop | None = None,
        route: Iterable[str] = (),
        setup_timeout: float | None = None,
        credentials: CredentialStore | None = None,
        session_expires: int | None = None,
        supported: Iterable[str] = ("timer",),
        allow: str = "",
        resolve: Resolve | None = None,
        avoid_silent: float = 0.0,
    ) -> OutgoingCall:
        """Make a call; everything else comes by `handler`, never from inside this method.

        Arguments:
            target: the Request-URI; resolved unless `hop` or `route` is given.
            from_, to: From (its tag is replaced by ours) and To.
            headers: more headers, in order.
            contact_params: parameters of the Contact header, such as ``+sip.src``.
            body, content_type: the offer; without SDP in it the offer is expected in the 2xx.
            call_id: made up when empty.
            hop: where to send to instead of resolving; `route`: preloaded Route values (outbound proxy).
            setup_timeout: seconds for each hop to answer finally; then the next hop if it was silent, else the call has
                failed with ``timeout`` at once (the INVITE is cancelled behind the scenes).
            credentials: for 401 and 407.
            session_expires: session timer to ask for, in seconds (RFC 4028).
            supported, allow: those headers, unless `headers` has them.
            resolve: finds the ways of all requests of this call, in place of the agent's.
            avoid_silent: seconds for which a hop that kept silent is tried after the others, by later calls too.
        """
        lines = list(headers)
        if allow:
            lines.append(("Allow", allow))
        invitation = Invitation(
            target,
            from_,
            to,
            lines,
            contact_params,
            body,
            content_type if body else "",
            hop,
            setup_timeout,
            session_expires or 0,
            tuple(dict.fromkeys(supported)),
            tuple(route),
            avoid_silent,
        )
        call = OutgoingCall(
            self, handler, call_id or self.new_token(), invitation, credentials, resolve or self.resolve
        )
        self._outgoing.add(call)
        call.start()
        return call

    def request(
        self,
        request: SipRequest,
        target: Uri,
        done: Callable[[Result], None],
        *,
        hop: Hop | None = None,
        credentials: CredentialStore | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        """Send a request outside of any dialog (OPTIONS, REGISTER, MESSAGE, ...) to `target`, or to `hop`.

        `request` needs From, To, Call-ID and CSeq only if they matter; what is missing is added. It comes without Via.
        """
        if "max-forwards" not in request.keys:
            request.add("Max-Forwards", "70")
        if "from" not in request.keys:
            request.add("From", f"<{target.aor}>;tag={self.new_token()}")
        if "to" not in request.keys:
            request.add("To", f"<{target.aor}>")
        if "call-id" not in request.keys:
            request.add("Call-ID", self.new_token())
        if "cseq" not in request.keys:
            request.add("CSeq", f"{self.random.randint(1, 2**16)} {request.method}")
        self.identify(request)
        UacRequest(
            self,
            request,
            target,
            lambda _, result: done(result),
            hop=hop,
            credentials=credentials,
            prepare=self._add_contact,
            resolve=resolve,
        )

    def _add_contact(self, request: SipRequest, hop: Hop) -> None:
        if request.method in ("REGISTER", "SUBSCRIBE", "OPTIONS") and "contact" not in request.keys:
            request.add("Contact", f"<{self.contact(hop)}>")

    def restore(self, stored: Mapping[str, Any], handler: CallHandler) -> Call:
        """Go on with a call stored by :meth:`Call.to_dict`, in this or another process .

        Raises:
            KeyError, TypeError: not what :meth:`Call.to_dict` returned.
        """
        dialog = Dialog.from_dict(stored["dialog"])
        call = UserAgentCall(self, handler, dialog.call_id)
        call.dialog = dialog
        call.state = "confirmed"
        call.contact = stored["contact"]
        call.remote_allow = frozenset(stored["remote_allow"])
        text, content_type = stored["session"]
        call.local_session = (text.encode("utf-8", "surrogateescape"), content_type)
        self.register(call, dialog.key)
        call.start_timer(Agreement(*stored["timer"]) if stored["timer"] is not None else None)
        return call

    # -- what peers ask --------------------------------------------------------------------------------------------

    def request_received(self, transaction: ServerTransaction) -> bool:
        """A new server transaction; true if it was for us and has been, or will be, answered."""
        request = transaction.request
        if request.to_tag:
            call = self._calls.get(dialog_key(request))
            if call is None:
                return False
            call.receive(transaction)
            return True
        if self.accept is not None and not self.accept(request):
            return False
        if request.method == "INVITE":
            return self._invited(transaction)
        if request.method == "OPTIONS" and self.on_invite is not None:
            headers = [("Allow", self.allow), ("Accept", self.accept_types), ("Supported", self.supported)]
            headers.append(("Contact", f"<{self.contact(transaction.source)}>"))
            self._respond(transaction, 200, headers)
            return True
        return self.on_request is not None and self.on_request(transaction)

    def _invited(self, transaction: ServerTransaction) -> bool:
        if self.on_invite is None:
            return False
        request = transaction.request
        merged = (request.call_id, request.from_tag, request.cseq.number)
        unsupported = [tag for tag in request.values("require") if tag.lower() not in self.extensions | {"timer"}]
        expires = session_expires(request)
        twin = self._pending.get(merged)
        if twin is not None and twin.state in ("proceeding", "accepted"):
            self._respond(transaction, 482)  # RFC 3261 8.2.2.2: it came by another way already
        elif unsupported:
            self._respond(transaction, 420, [("Unsupported", ", ".join(unsupported))])
        elif expires is not None and expires.interval < MIN_SE and "timer" in request.tokens("supported"):
            self._respond(transaction, 422, [("Min-SE", str(MIN_SE))])
        else:
            if self.prepare is not None:
                self.prepare(request, transaction.source)
            try:
                call = IncomingCall(self, transaction)
                call.next_hop()
            except SipError as error:
                self._respond(transaction, error.status, reason=error.reason)
                return True
            self._pending[merged] = transaction
            transaction.on_end = lambda reason: self._invite_ended(merged, transaction)
            self.register(call, (request.call_id, call.local_tag, request.from_tag))
            self.on_invite(call)
        return True

    def _invite_ended(self, merged: tuple[str, str, int], transaction: ServerTransaction) -> None:
        if self._pending.get(merged) is transaction:
            del self._pending[merged]

    def _respond(
        self, transaction: ServerTransaction, status: int, headers: Iterable[tuple[str, str]] = (), reason: str = ""
    ) -> None:
        response = transaction.request.response(status, reason, to_tag=self.new_token(), headers=headers)
        self.identify_response(response)
        transaction.respond(response)

    def ack_received(self, request: SipRequest, source: Hop) -> bool:
        """An ACK for a 2xx; true if it was for us."""
        call = self._calls.get(dialog_key(request))
        return call is not None and call.ack_received(request)


class Endpoint:
    """The transaction user of a process that is nothing but a user agent (recorder, phone).

    Make it first, hand it to the layer, then set `agent`::

        endpoint = Endpoint()
        layer = TransactionLayer(clock, transport, endpoint)
        endpoint.agent = UserAgent(clock, layer, resolve, contact=...)
    """

    def __init__(self) -> None:
        self.agent: UserAgent | None = None

    def request_received(self, transaction: ServerTransaction) -> None:
        """A new server transaction."""
        agent = self.agent
        if agent is not None and agent.request_received(transaction):
            return
        request = transaction.request
        known = agent.allow if agent is not None else ""
        if request.to_tag:
            status = 481
        elif request.method not in known.split(", "):
            status = 405
        else:
            status = 403
        headers = [("Allow", known)] if status == 405 else []
        transaction.respond(request.response(status, to_tag=secrets.token_hex(5), headers=headers))

    def ack_received(self, request: SipRequest, source: Hop) -> None:
        """An ACK that no INVITE server transaction waits for."""
        if self.agent is not None and not self.agent.ack_received(request, source):
            self.agent.layer.dropped["ACK"] += 1

    def cancel_received(self, request: SipRequest, source: Hop) -> None:
        """RFC 3261 9.2: 481."""
        if self.agent is not None:
            self.agent.layer.reply(request, source, request.response(481, to_tag=secrets.token_hex(5)))

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        """The layer has answered."""
