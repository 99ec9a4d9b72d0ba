"""Draining: no new calls, those that exist go on to their end."""

from __future__ import annotations

import secrets

from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest
from siprec.sip.transaction import ServerTransaction, TransactionUser
from siprec.sip.transport import Hop


class DrainGate(TransactionUser):
    """Stands before a transaction user. While `draining`, an INVITE outside a dialog is answered 503 with
    Retry-After (`retry_after` seconds); everything else passes."""

    def __init__(self, user: TransactionUser) -> None:
        self._user = user
        self.draining = False
        self.retry_after = 30
        self.refused = 0

    def request_received(self, transaction: ServerTransaction) -> None:
        """See :class:`siprec.sip.transaction.TransactionUser`."""
        if self.draining and transaction.method == "INVITE" and _begins_call(transaction.request):
            self.refused += 1
            headers = [("Retry-After", str(self.retry_after))]
            transaction.respond(transaction.request.response(503, to_tag=secrets.token_hex(5), headers=headers))
        else:
            self._user.request_received(transaction)

    def ack_received(self, request: SipRequest, source: Hop) -> None:
        """See :class:`siprec.sip.transaction.TransactionUser`."""
        self._user.ack_received(request, source)

    def cancel_received(self, request: SipRequest, source: Hop) -> None:
        """See :class:`siprec.sip.transaction.TransactionUser`."""
        self._user.cancel_received(request, source)

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        """See :class:`siprec.sip.transaction.TransactionUser`."""
        self._user.malformed(error, request, source)


def _begins_call(request: SipRequest) -> bool:
    try:
        return not request.to.tag
    except SipError:
        return False  # a broken To gets its 400 from the user
