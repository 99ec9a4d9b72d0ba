"""The transaction layer: matches messages to transactions and makes new ones (RFC 3261 17, RFC 6026).

One way in: :meth:`TransactionLayer.receive`. What is new or belongs to no transaction goes to the
:class:`TransactionUser`. The machines themselves are in :mod:`siprec.sip.transaction_client` and
:mod:`siprec.sip.transaction_server`.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import Final, Protocol

from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.message import MalformedRequest, SipMessage, SipRequest, SipResponse
from siprec.sip.response_routing import response_hop, stamp
from siprec.sip.transaction_base import TransactionServices
from siprec.sip.transaction_client import (
    ClientTransaction,
    InviteClientTransaction,
    NonInviteClientTransaction,
    OnFailure,
    OnResponse,
)
from siprec.sip.transaction_server import InviteServerTransaction, NonInviteServerTransaction, ServerTransaction
from siprec.sip.transport import Hop, SendFailed, Transport
from siprec.sourcelog import SourceLog

__all__ = [
    "COOKIE",
    "ClientTransaction",
    "ServerTransaction",
    "TransactionLayer",
    "TransactionUser",
    "branch_source",
]

log = logging.getLogger(__name__)

COOKIE: Final = "z9hG4bK"
_COOKIE_LOWER: Final = COOKIE.lower()
_VIA_SIZE: Final = 64
"""Octets of our Via besides the branch, at most."""


class TransactionUser(Protocol):
    """What is above the layer: a proxy core or a user agent (RFC 3261 17, "TU")."""

    def request_received(self, transaction: ServerTransaction) -> None:
        """A new server transaction: INVITE or any other method, but ACK and CANCEL."""

    def ack_received(self, request: SipRequest, source: Hop) -> None:
        """An ACK that no INVITE server transaction waits for: that for a 2xx (RFC 3261 17)."""

    def cancel_received(self, request: SipRequest, source: Hop) -> None:
        """A CANCEL without an INVITE server transaction; there is no transaction for it (RFC 3261 9.2)."""

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        """Something that is no proper message came; it has been answered if that was possible."""


def branch_source() -> Callable[[], str]:
    """A source of branches: cookie and 20 hex digits, unique in this process and not to be guessed."""
    key = secrets.token_bytes(16)
    numbers = count(1)

    def branch() -> str:
        return COOKIE + blake2b(next(numbers).to_bytes(8, "big"), digest_size=10, key=key).hexdigest()

    return branch


class TransactionLayer(TransactionServices):
    """All transactions of a process.

    Arguments: `clock` and `transport` are handed in; `user` gets what is new; `t1`, `t2`, `t4` in seconds (RFC 3261 17,
    table 4); `branch` makes branches (default: :func:`branch_source`).
    """

    def __init__(
        self,
        clock: Clock,
        transport: Transport,
        user: TransactionUser,
        *,
        t1: float = 0.5,
        t2: float = 4.0,
        t4: float = 5.0,
        branch: Callable[[], str] | None = None,
    ) -> None:
        super().__init__(clock, transport, t1, t2, t4)
        self._lines = SourceLog(log, now=clock.now)
        self.user = user
        self.new_branch = branch or branch_source()
        self.dropped: Counter[str] = Counter()
        """Messages that got no answer and went nowhere, by reason."""
        self.invite_clients: dict[str, InviteClientTransaction] = {}
        self.clients: dict[str, NonInviteClientTransaction] = {}
        self.invite_servers: dict[tuple[str, ...], InviteServerTransaction] = {}
        self.servers: dict[tuple[str, ...], NonInviteServerTransaction] = {}

    def counts(self) -> dict[str, int]:
        """Live transactions per machine."""
        return {
            "invite_client": len(self.invite_clients),
            "client": len(self.clients),
            "invite_server": len(self.invite_servers),
            "server": len(self.servers),
        }

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self, message: SipRequest | SipResponse, source: Hop) -> None:
        """A message from the transport. Never raises."""
        try:
            if isinstance(message, SipRequest):
                self._receive_request(message, source)
                return
            method = message.cseq.method
            branch = message.branch.lower()
            transaction: ClientTransaction | None
            transaction = self.invite_clients.get(branch) if method == "INVITE" else self.clients.get(branch)
            # No transaction (RFC 6026 7.3), or a sent-by that is not ours (RFC 3261 18.1.2): dropped.
            if transaction is None or transaction.method != method or transaction.sent_by != message.sent_by:
                self.dropped["stray response"] += 1
                return
            if message.problem is not None:
                raise SipError(*message.problem)
            transaction.fire(transaction.events[message.status // 100], message)
        except SipError as error:
            self._refuse(error, message if isinstance(message, SipRequest) else None, source)
        except Exception:
            self._lines.exception(
                source.host, "error while handling %r from %s, Call-ID %s", message, source, message.get("call-id")
            )

    def receive_malformed(self, error: SipError, source: Hop) -> None:
        """Something the transport could not parse. Answers it statelessly if it can be answered. Never raises."""
        request = error.request if isinstance(error, MalformedRequest) else None
        if request is not None:
            try:
                stamp(request, source)
            except SipError:
                pass
        self._refuse(error, request, source)

    def _refuse(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        try:
            if request is not None and request.method != "ACK" and "via" in request.keys:
                tag = secrets.token_hex(5)
                self.reply(
                    request, source, request.response(error.status, _reason(error), to_tag=tag, headers=error.headers)
                )
            elif request is not None:
                self.dropped["malformed ACK" if request.method == "ACK" else "no Via"] += 1
            else:
                self.dropped["malformed"] += 1
            self.user.malformed(error, request, source)
        except SipError:
            self.dropped["no Via"] += 1  # none that can be used: nobody can be told
        except Exception:
            self._lines.exception(source.host, "error while refusing a message from %s", source)

    def _receive_request(self, request: SipRequest, source: Hop) -> None:
        branch = request.branch.lower()
        hop = stamp(request, source)
        if request.problem is not None:
            raise SipError(*request.problem)
        method = request.method
        key = (branch, request.sent_by) if branch.startswith(_COOKIE_LOWER) else old_key(request)
        if method == "ACK":
            invite = self._find_invite(request, key)
            if invite is not None:
                invite.fire("ack", (request, source))
            else:
                self.user.ack_received(request, source)
            return
        known: ServerTransaction | None
        if method == "INVITE":
            known = self.invite_servers.get(key)
        else:
            key = (*key, method)
            known = self.servers.get(key)
        if known is not None:
            known.fire("request")
            return
        if method == "CANCEL":
            self._cancel(request, source, hop, key)
            return
        transaction: ServerTransaction
        if method == "INVITE":
            transaction = InviteServerTransaction(self, request, source, hop, key)
        else:
            transaction = NonInviteServerTransaction(self, request, source, hop, key)
        try:
            self.user.request_received(transaction)
        except Exception:
            # The peer gets an answer, and the transaction an end, whatever went wrong above us.
            log.exception("error while handling %r, Call-ID %s", request, request.call_id)
            transaction.respond(request.response(500, to_tag=secrets.token_hex(5)))

    def _cancel(self, request: SipRequest, source: Hop, hop: Hop | None, key: tuple[str, ...]) -> None:
        invite = self._find_invite(request, key[:-1])
        if invite is None:
            self.user.cancel_received(request, source)
            return
        transaction = NonInviteServerTransaction(self, request, source, hop, key)
        # RFC 3261 9.2: 200 at once, with the To tag of the INVITE's responses.
        invite.to_tag = invite.to_tag or secrets.token_hex(5)
        transaction.respond(request.response(200, to_tag=invite.to_tag))
        invite.fire("cancel", request)

    def _find_invite(self, request: SipRequest, key: tuple[str, ...]) -> InviteServerTransaction | None:
        """The INVITE server transaction a CANCEL or ACK belongs to (RFC 3261 9.2, 17.2.3)."""
        invite = self.invite_servers.get(key)
        if invite is None and not key[0] and request.method == "ACK":
            # RFC 2543: the INVITE had no To tag, its ACK has the one of our response (RFC 3261 17.2.3).
            invite = self.invite_servers.get((*key[:-1], ""))
            if invite is not None and invite.to_tag != key[-1]:
                return None
        return invite

    def pass_ack(self, request: SipRequest, source: Hop) -> None:
        """An ACK that no transaction waits for goes to the transaction user."""
        self.user.ack_received(request, source)

    # -- out -------------------------------------------------------------------------------------------------------

    def send_request(
        self,
        request: SipRequest,
        hop: Hop,
        *,
        on_response: OnResponse,
        on_failure: OnFailure,
        branch: str = "",
        octets: bytes = b"",
    ) -> ClientTransaction:
        """Start a client transaction for any request but ACK.

        `request` comes without our Via and is not changed; nobody may change it while the transaction lives. A request
        too large for UDP goes over TCP (RFC 3261 18.1.1), and back to UDP if that fails. Callbacks are never called
        from inside. `octets` are what is sent, without our Via, where that is not `request` as it is: a request that is
        forwarded with changes, say.
        """
        branch = branch or self.new_branch()
        data = octets or request.to_bytes()
        transport = self.transport
        routed = transport.route(hop, len(data) + len(branch) + _VIA_SIZE)
        fallback = None if routed.transport == hop.transport else transport.route(hop, 0)
        data, sent_by = self.with_via(data, routed, branch)
        machine = InviteClientTransaction if request.method == "INVITE" else NonInviteClientTransaction
        return machine(self, request, routed, branch, sent_by, data, on_response, on_failure, fallback)

    def send_stateless(
        self, message: SipMessage | bytes, hop: Hop, *, add_via: str = "", failed: SendFailed | None = None
    ) -> None:
        """Send without a transaction: the ACK for a 2xx, a stray CANCEL.

        `add_via` is the branch of a Via to be put on top; without it the caller has written Via and the message goes
        to `hop` as it is. `failed(reason)` is called later on a transport error.
        """
        data = message if isinstance(message, bytes) else message.to_bytes()
        transport = self.transport
        if not add_via:
            transport.send(data, hop, failed)
            return
        routed = transport.route(hop, len(data) + len(add_via) + _VIA_SIZE)
        if routed.transport != hop.transport:

            def by_udp(reason: str) -> None:
                udp = transport.route(hop, 0)
                transport.send(self.with_via(data, udp, add_via)[0], udp, failed)

            transport.send(self.with_via(data, routed, add_via)[0], routed, by_udp)
        else:
            transport.send(self.with_via(data, routed, add_via)[0], routed, failed)

    def reply(self, request: SipRequest, source: Hop, response: SipResponse) -> None:
        """Send a response without a transaction, to where RFC 3261 18.2.2 says.

        Raises:
            SipError: the request has no usable Via.
        """
        via = request.top_via
        hop = response_hop(via, source)
        if hop is None:
            return
        if self.on_response is not None:
            self.on_response(response.status, hop)
        data = response.to_bytes()
        failed: SendFailed = partial(self.delivery.elsewhere, data, via, hop, None, self.resolve)
        self.transport.send(data, hop, failed)


def old_key(request: SipRequest) -> tuple[str, ...]:
    """What tells server transactions with a client of RFC 2543 apart, the method aside (RFC 3261 17.2.3).

    The To tag comes last: an ACK has one that its INVITE does not have.
    """
    number = str(request.cseq.number)
    uri, branch = request.uri, request.branch.lower()
    return ("", branch, request.sent_by, uri, request.from_tag, request.call_id, number, request.to_tag)


def _reason(error: SipError) -> str:
    return "" if error.status != 400 else "".join(c for c in error.reason if c.isprintable())[:80]
