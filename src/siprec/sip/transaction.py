"""The transaction layer: matches messages to transactions and makes new ones (RFC 3261 17, RFC 6026).

One way in: :meth:`TransactionLayer.receive`. What is new or belongs to no transaction goes to the
:class:`TransactionUser`. The machines themselves are in :mod:`siprec.sip.transaction_client` and
:mod:`siprec.sip.transaction_server`.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import Final, Protocol

from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.headers import Via
from siprec.sip.message import MalformedRequest, SipMessage, SipRequest, SipResponse, encode
from siprec.sip.sentby import Resolve, ResponseDelivery
from siprec.sip.transaction_client import (
    ClientTransaction,
    InviteClientTransaction,
    NonInviteClientTransaction,
    OnFailure,
    OnResponse,
)
from siprec.sip.transaction_server import InviteServerTransaction, NonInviteServerTransaction, ServerTransaction
from siprec.sip.transport import Hop, SendFailed, Transport
from siprec.sip.validate import check_request, check_response
from siprec.sourcelog import SourceLog

__all__ = [
    "COOKIE",
    "ClientTransaction",
    "ServerTransaction",
    "TransactionLayer",
    "TransactionUser",
    "branch_source",
    "response_hop",
]

log = logging.getLogger(__name__)

COOKIE: Final = "z9hG4bK"
_COOKIE_LOWER: Final = COOKIE.lower()
_TRYING: Final = b"SIP/2.0 100 "


class TransactionUser(Protocol):
    """What is above the layer: a proxy core or a user agent (RFC 3261 17, "TU")."""

    def request_received(self, transaction: ServerTransaction) -> None:
        """A new server transaction: INVITE or any other method, but ACK and CANCEL."""

    def ack_received(self, request: SipRequest, source: Hop) -> None:
        """An ACK that belongs to no INVITE server transaction that waits for one: the ACK for a 2xx (TXN-08)."""

    def cancel_received(self, request: SipRequest, source: Hop) -> None:
        """A CANCEL without an INVITE server transaction; there is no transaction for it (CAN-02)."""

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        """Something that is no proper message came; it has been answered if that was possible."""


def branch_source() -> Callable[[], str]:
    """A source of branches: cookie and 20 hex digits, unique in this process and not to be guessed."""
    key = secrets.token_bytes(16)
    numbers = count(1)

    def branch() -> str:
        return COOKIE + blake2b(next(numbers).to_bytes(8, "big"), digest_size=10, key=key).hexdigest()

    return branch


def response_hop(request: SipRequest, source: Hop) -> Hop | None:
    """Where responses to a request go (RFC 3261 18.2.2, RFC 3581 4; TRN-03), None if nowhere (TRN-11).

    Raises:
        SipError: Via missing or malformed.
    """
    return _response_hop(request.top_via, source)


def _response_hop(via: Via, source: Hop) -> Hop | None:
    if source.reliable:
        return source
    params = via.params
    port = source.port if "rport" in params else via.effective_port
    if port == 0:
        return None
    maddr = params.get("maddr")
    if not maddr:
        return source if port == source.port else replace(source, port=port)
    host = maddr.strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if address.is_multicast or address.is_unspecified or host == "255.255.255.255":
        return None
    # Any other address belongs to somebody who has asked for nothing: maddr is for multicast.
    return source if port == source.port else replace(source, port=port)


class TransactionLayer:
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
        self.clock = clock
        self._lines = SourceLog(log, now=clock.now)
        self.transport = transport
        self.user = user
        self.t1 = t1
        self.t2 = t2
        self.t4 = t4
        self.new_branch = branch or branch_source()
        self.resolve: Resolve | None = None
        """RFC 3263, for responses that cannot be delivered otherwise (DNS-06)."""
        self.on_response: Callable[[int, Hop], None] | None = None
        """Told of responses that are sent: status, and where to."""
        self.dropped: Counter[str] = Counter()
        """Messages that got no answer and went nowhere, by reason."""
        self._delivery = ResponseDelivery(transport)
        self._invite_clients: dict[str, ClientTransaction] = {}
        self._clients: dict[str, ClientTransaction] = {}
        self._invite_servers: dict[tuple[str, ...], InviteServerTransaction] = {}
        self._servers: dict[tuple[str, ...], NonInviteServerTransaction] = {}

    def counts(self) -> dict[str, int]:
        """Live transactions per machine."""
        return {
            "invite_client": len(self._invite_clients),
            "client": len(self._clients),
            "invite_server": len(self._invite_servers),
            "server": len(self._servers),
        }

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self, message: SipRequest | SipResponse, source: Hop) -> None:
        """A message from the transport. Never raises."""
        try:
            if isinstance(message, SipRequest):
                self._receive_request(message, source)
            else:
                self._receive_response(message, source)
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
                self._stamp(request, request.top_via, source)
            except SipError:
                pass
        self._refuse(error, request, source)

    def _refuse(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        try:
            if request is not None and request.method != "ACK" and request.has("via"):
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
        via = request.top_via
        try:
            check_request(request)
        finally:
            self._stamp(request, via, source)
        method = request.method
        key = _server_key(request, via)
        if method == "INVITE":
            invite = self._invite_servers.get(key)
            if invite is not None:
                invite.retransmitted()
                return
            invite = InviteServerTransaction(self, request, source, _response_hop(via, source), key)
            self._invite_servers[key] = invite
            self._start(invite)
        elif method == "ACK":
            invite = self._find_invite(request, key)
            if invite is not None and invite.state != "proceeding":
                invite.acknowledged(request)
            else:
                self.user.ack_received(request, source)
        else:
            self._receive_other(request, via, key, source)

    def _receive_other(self, request: SipRequest, via: Via, invite_key: tuple[str, ...], source: Hop) -> None:
        key = (*invite_key, request.method)
        transaction = self._servers.get(key)
        if transaction is not None:
            transaction.retransmitted()
            return
        invite = None
        if request.method == "CANCEL":
            invite = self._find_invite(request, invite_key)
            if invite is None:
                self.user.cancel_received(request, source)
                return
        transaction = NonInviteServerTransaction(self, request, source, _response_hop(via, source), key)
        self._servers[key] = transaction
        if invite is None:
            self._start(transaction)
            return
        # RFC 3261 9.2: 200 at once, with the To tag of the INVITE's responses.
        invite.to_tag = invite.to_tag or secrets.token_hex(5)
        transaction.start()
        transaction.respond(request.response(200, to_tag=invite.to_tag))
        invite.cancelled(request)

    def _start(self, transaction: ServerTransaction) -> None:
        transaction.start()
        try:
            self.user.request_received(transaction)
        except Exception:
            # The peer gets an answer, and the transaction an end, whatever went wrong above us.
            request = transaction.request
            log.exception("error while handling %r, Call-ID %s", request, request.call_id)
            transaction.respond(request.response(500, to_tag=secrets.token_hex(5)))

    def _stamp(self, request: SipRequest, via: Via, source: Hop) -> None:
        """`received` and `rport` (RFC 3261 18.2.1, RFC 3581 4; TRN-02)."""
        params = via.params
        if "rport" in params:
            params["rport"] = str(source.port)
        elif via.host == source.host and "received" not in params:
            return
        params["received"] = source.host
        request.replace_first_value("via", str(via))

    def _receive_response(self, response: SipResponse, source: Hop) -> None:
        via = response.top_via
        cseq = response.cseq
        branch = via.branch.lower()
        transactions = self._invite_clients if cseq.method == "INVITE" else self._clients
        transaction = transactions.get(branch)
        # Matching no transaction: dropped (RFC 6026 7.3, TXN-05); sent-by not ours: dropped (RFC 3261 18.1.2, TRN-07).
        if transaction is None or transaction.method != cseq.method or transaction.sent_by != via.sent_by:
            self.dropped["stray response"] += 1
            return
        check_response(response)
        transaction.received(response)

    def find_invite(self, request: SipRequest) -> ServerTransaction | None:
        """The INVITE server transaction a CANCEL or ACK belongs to (RFC 3261 9.2, 17.2.3).

        Raises:
            SipError: malformed headers.
        """
        return self._find_invite(request, _server_key(request, request.top_via))

    def _find_invite(self, request: SipRequest, key: tuple[str, ...]) -> InviteServerTransaction | None:
        invite = self._invite_servers.get(key)
        if invite is None and not key[0] and request.method == "ACK":
            # RFC 2543: the INVITE had no To tag, its ACK has the one of our response (RFC 3261 17.2.3).
            invite = self._invite_servers.get((*key[:-1], ""))
            if invite is not None and invite.to_tag != key[-1]:
                return None
        return invite

    # -- out -------------------------------------------------------------------------------------------------------

    def send_request(
        self, request: SipRequest, hop: Hop, *, on_response: OnResponse, on_failure: OnFailure, branch: str = ""
    ) -> ClientTransaction:
        """Start a client transaction for any request but ACK.

        `request` comes without our Via and belongs to the transaction from now on. A request too large for UDP goes
        over TCP (TRN-04), and back to UDP if that fails. Callbacks are never called from inside.
        """
        branch = branch or self.new_branch()
        routed = self.transport.route(hop, _size(request) + len(branch) + 64)
        transaction = _client_class(request)(self, request, routed, branch, on_response, on_failure)
        via = self._via(routed, branch)
        transaction.sent_by = via.sent_by
        request.prepend("via", str(via))
        self._remember_client(transaction)
        transaction.start(None if routed.transport == hop.transport else self.transport.route(hop, 0))
        return transaction

    def start_cancel(
        self, invite: ClientTransaction, request: SipRequest, ignore: tuple[OnResponse, OnFailure]
    ) -> None:
        """Send the CANCEL of an INVITE client transaction: same branch, same way."""
        transaction = NonInviteClientTransaction(self, request, invite.hop, invite.branch, *ignore)
        transaction.sent_by = invite.sent_by
        self._remember_client(transaction)
        transaction.start(None)

    def change_hop(self, transaction: ClientTransaction, hop: Hop) -> None:
        """Rewrite the Via for another transport; nothing but a failed attempt was made so far."""
        transaction.hop = hop
        via = self._via(hop, transaction.branch)
        transaction.sent_by = via.sent_by
        transaction.request.replace_first_value("via", str(via))

    def send_stateless(
        self, message: SipMessage, hop: Hop, *, add_via: str = "", failed: SendFailed | None = None
    ) -> None:
        """Send without a transaction: the ACK for a 2xx, a stray CANCEL.

        `add_via` is the branch of a Via to be put on top; without it the caller has written Via and the message goes
        to `hop` as it is. `failed(reason)` is called later on a transport error.
        """
        if not add_via:
            self.transport.send(message.to_bytes(), hop, failed)
            return
        routed = self.transport.route(hop, _size(message) + len(add_via) + 64)
        message.prepend("via", str(self._via(routed, add_via)))
        if routed.transport != hop.transport:

            def by_udp(reason: str) -> None:
                udp = self.transport.route(hop, 0)
                message.replace_first_value("via", str(self._via(udp, add_via)))
                self.transport.send(message.to_bytes(), udp, failed)

            self.transport.send(message.to_bytes(), routed, by_udp)
        else:
            self.transport.send(message.to_bytes(), routed, failed)

    def reply(self, request: SipRequest, source: Hop, response: SipResponse) -> None:
        """Send a response without a transaction, to where TRN-03 says.

        Raises:
            SipError: the request has no usable Via.
        """
        self.send_response(response.to_bytes(), request, response_hop(request, source), None)

    def send_response(self, data: bytes, request: SipRequest, hop: Hop | None, failed: SendFailed | None) -> None:
        """Send a response's octets to `hop` (as :func:`response_hop` found it; None: drop)."""
        if hop is None:
            return
        if self.on_response is not None:
            self.on_response(int(data[8:11]), hop)
        if data.startswith(_TRYING):
            pass  # nobody waits for it: not worth another way
        elif hop.reliable:
            # RFC 3261 18.2.2: a new connection.
            failed = partial(self._delivery.connection_gone, data, request.top_via, hop, failed, self.resolve)
        elif self.resolve is not None:
            failed = partial(self._delivery.by_name, data, request.top_via, hop, failed, self.resolve)
        self.transport.send(data, hop, failed)

    # -- for the machines ------------------------------------------------------------------------------------------

    def _via(self, hop: Hop, branch: str) -> Via:
        host, port = self.transport.sent_by(hop)
        return Via(hop.transport.upper(), host, port, {"rport": None, "branch": branch})

    def _remember_client(self, transaction: ClientTransaction) -> None:
        table = self._invite_clients if transaction.method == "INVITE" else self._clients
        table[transaction.branch.lower()] = transaction

    def forget_client(self, transaction: ClientTransaction) -> None:
        """A client transaction has ended."""
        table = self._invite_clients if transaction.method == "INVITE" else self._clients
        table.pop(transaction.branch.lower(), None)

    def forget_server(self, transaction: ServerTransaction) -> None:
        """A server transaction has ended."""
        if transaction.method == "INVITE":
            self._invite_servers.pop(transaction.key, None)
        else:
            self._servers.pop(transaction.key, None)


def _client_class(request: SipRequest) -> type[ClientTransaction]:
    return InviteClientTransaction if request.method == "INVITE" else NonInviteClientTransaction


def _server_key(request: SipRequest, via: Via) -> tuple[str, ...]:
    """What tells server transactions apart, the method aside (RFC 3261 17.2.3)."""
    branch = via.branch.lower()
    if branch.startswith(_COOKIE_LOWER):
        return (branch, via.sent_by)
    # A client of RFC 2543; the To tag comes last, see _find_invite.
    cseq = str(request.cseq.number)
    return ("", branch, via.sent_by, request.uri, request.from_.tag, request.call_id, cseq, request.to.tag)


def _size(message: SipMessage) -> int:
    """Octets of a message, without building it."""
    size = len(message.start_line) + len(message.body) + 4
    for line in message.lines:
        size += (len(line) if line.isascii() else len(encode(line))) + 2
    return size


def _reason(error: SipError) -> str:
    return "" if error.status != 400 else "".join(c for c in error.reason if c.isprintable())[:80]
