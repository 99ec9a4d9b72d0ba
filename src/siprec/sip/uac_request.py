"""One request of ours until its final response: next hops, credentials (RFC 3261 22.2), session interval (RFC 4028)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from siprec.sip.call_handler import Result
from siprec.sip.clock import Timer
from siprec.sip.digest import CredentialStore, authorize, unanswered
from siprec.sip.errors import SipError
from siprec.sip.headers import SessionExpires
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent_base import Resolve, UserAgentBase
from siprec.sip.values import min_se, session_expires

log = logging.getLogger(__name__)

_MAX_ATTEMPTS: Final = 16
_MARGIN: Final = 400
"""Octets that Via, Contact and the like add to a request."""
UDP_AFTER: Final = 1.0
"""Seconds after which a request that is too large for UDP goes over UDP all the same, when no connection is up."""
CONNECT_LIMIT: Final = 3.5
"""Seconds for a connection where there is no other way."""


def _ignore(request: UacRequest, result: Result) -> None:
    """Nobody waits for it any more."""


class UacRequest:
    """Sends `request` when it is made and calls `on_done(request, result)` once, never from inside.

    `request` has neither Via nor, where the hop decides it, Contact: `prepare(request, hop)` puts in what depends on
    the hop. `next_cseq()` gives the number for a request that has to be sent again with credentials or another
    interval (None: one more). For INVITE, `on_provisional` gets every 1xx but 100 of the current attempt, and `on_late`
    every 2xx after the first, and those of attempts that had been given up. `resolve` finds the hops in place of the
    agent's. A hop that keeps silent comes last for `avoid_silent` seconds.

    Where an INVITE may go over streams to several hops, connections race (RFC 8305), never INVITEs: the first that is
    up gets the INVITE.
    """

    __slots__ = (
        "_agent",
        "_attempts",
        "_avoid_silent",
        "_cancel_headers",
        "_credentials",
        "_hops",
        "_limit",
        "_next_cseq",
        "_on_done",
        "_on_late",
        "_on_provisional",
        "_prepare",
        "_race",
        "ack",  # octets of the ACK for its 2xx, to be sent again when that is
        "done",
        "heard",
        "request",
        "transaction",
    )

    def __init__(
        self,
        agent: UserAgentBase,
        request: SipRequest,
        uri: Uri | None,
        on_done: Callable[[UacRequest, Result], None],
        *,
        next_cseq: Callable[[], int] | None = None,
        hop: Hop | None = None,
        credentials: CredentialStore | None = None,
        prepare: Callable[[SipRequest, Hop], None] | None = None,
        on_provisional: Callable[[UacRequest, SipResponse], None] | None = None,
        on_late: Callable[[UacRequest, SipResponse], None] | None = None,
        resolve: Resolve | None = None,
        avoid_silent: float = 0.0,
    ) -> None:
        self._agent = agent
        self._avoid_silent = avoid_silent
        self._race: Callable[[], None] | None = None
        self.request = request
        self._on_done = on_done
        self._next_cseq = next_cseq
        self._hops = [hop] if hop is not None else []
        self._credentials = credentials
        self._prepare = prepare
        self._on_provisional = on_provisional
        self._on_late = on_late
        self._attempts = 0
        self._cancel_headers: tuple[tuple[str, str], ...] | None = None
        self._limit: Timer | None = None
        self.transaction: ClientTransaction | None = None
        self.ack = b""
        self.heard = False
        self.done = False
        if request.method == "INVITE":
            # A callee that rings for ever is not waited for (as Timer C does at a proxy).
            self._limit = agent.clock.call_later(agent.ring_timeout, self.cancel)
        if hop is not None:
            self._send()
        elif uri is not None:
            (resolve or agent.resolve)(uri, self._resolved)

    def _resolved(self, result: list[Hop] | SipError) -> None:
        if self.done or self._cancel_headers is not None:
            return
        if isinstance(result, SipError) or not result:
            reason = result.reason if isinstance(result, SipError) else "no address"
            # The resolver may answer at once, and whoever started us has not got us in hand yet.
            self._agent.clock.call_later(0, self._finish, f"resolve: {reason}")
            return
        silent = self._agent.silent
        self._hops = silent.last(result) if silent.until else list(result)
        race = self._agent.race
        if race is None or self.request.method != "INVITE":
            self._send()
            return
        route, size = self._agent.layer.transport.route, len(self.request.to_bytes()) + _MARGIN
        ways = [route(hop, size) for hop in self._hops]
        streams = list(dict.fromkeys(way for way in ways if way.reliable))
        if not ways[0].reliable:
            self._send()
            return
        # Where UDP is a way too, it does not wait long for connections (RFC 3261 18.1.1).
        limit = UDP_AFTER if any(not hop.reliable for hop in self._hops) else CONNECT_LIMIT
        self._race = race(streams, limit, self._raced)

    def _raced(self, winner: Hop | None, reason: str) -> None:
        """A connection is up, or none."""
        self._race = None
        if self.done or self.cancelled:
            return
        if winner is not None:
            # The hop itself, and not the one that was to go over UDP if it were smaller: once something is written,
            # another transport would make a second session of it.
            others = [hop for hop in self._hops if (hop.host, hop.port) != (winner.host, winner.port)]
            self._hops = [replace(winner, connection=0), *others]
            self._send()
            return
        self._hops = [hop for hop in self._hops if not hop.reliable]
        if self._hops:
            self._send()
        else:
            self._finish(f"transport: {reason}")

    def silent(self) -> None:
        """The present hop has not answered in time."""
        if not self.heard and self._hops and self.transaction is not None:
            self._agent.silent.add(self._hops[0], self._avoid_silent)

    def _send(self) -> None:
        self._attempts += 1
        self.heard = False
        hop = self._hops[0]
        if self._prepare is not None:
            self._prepare(self.request, hop)
        self.transaction = self._agent.layer.send_request(
            self.request, hop, on_response=self._response, on_failure=self._failure
        )

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancel_headers is not None

    def cancel(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """CANCEL an INVITE; the result is then its final response, or ``cancelled`` if nothing was sent yet."""
        if self.done or self.cancelled:
            return
        self._cancel_headers = tuple(headers)
        self._end_race()
        if self.transaction is None:
            self._agent.clock.call_later(0, self._finish, "cancelled")
        else:
            self.transaction.cancel(self._cancel_headers)

    def abandon(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """As :meth:`cancel`, but without waiting: `on_done` is not called any more, a late 2xx goes to `on_late`."""
        self.cancel(headers)
        self._on_done = _ignore
        self._finish("abandoned")

    def _end_race(self) -> None:
        race, self._race = self._race, None
        if race is not None:
            race()

    @property
    def has_next_hop(self) -> bool:
        """Whether :meth:`next_hop` would try another hop."""
        return len(self._hops) > 1 and not self.cancelled and not self.done and self._attempts < _MAX_ATTEMPTS

    def next_hop(self) -> bool:
        """Give up the present hop and try the next one; false if there is none."""
        if not self.has_next_hop:
            return False
        self._end_race()
        if self.transaction is not None:
            self.transaction.cancel()
        del self._hops[0]
        self._send()
        return True

    def _finish(self, result: Result) -> None:
        if self.done:
            return
        self.done = True
        if self._race is not None:
            self._end_race()
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        self._on_done(self, result)

    def _failure(self, transaction: ClientTransaction, reason: str) -> None:
        if transaction is not self.transaction or self.done:
            return
        if reason == "timeout":
            self.silent()
        # RFC 3263 4.3: only silence and transport errors mean that another host may do better.
        if self.heard or not self.next_hop():
            self._finish(reason)

    def _response(self, transaction: ClientTransaction, response: SipResponse) -> None:
        status = response.status
        # RFC 3261 8.1.3.3: more than one Via means that it is not for us.
        plain = response.keys.count("via") == 1 and "," not in response.lines[response.keys.index("via")]
        misrouted = not plain and len(response.values("via")) != 1
        if transaction is not self.transaction or self.done:
            if 200 <= status < 300 and self._on_late is not None and not misrouted:
                self._on_late(self, response)
            return
        if not self.heard:
            self.heard = True
            if self._agent.silent.until:
                self._agent.silent.discard(self._hops[0])
        if status < 200:
            if status > 100 and self._on_provisional is not None and not misrouted:
                self._on_provisional(self, response)
        elif misrouted:
            self._finish("misrouted response")
        elif status >= 300 and not self.cancelled and self._again(status, response):
            return
        else:
            self._finish(response)

    def _again(self, status: int, response: SipResponse) -> bool:
        """Whether the request was sent again because of a failure response."""
        if status == 503:
            return self.next_hop()
        if self._attempts >= _MAX_ATTEMPTS:
            return False
        request = self.request.copy()
        if status in (401, 407):
            if self._credentials is None:
                return False
            if not authorize(request, response, self._credentials):
                why = unanswered(response, self._credentials) or "the credentials were refused"
                log.warning("%s to %s: %d, %s, Call-ID %s", request.method, request.uri, status, why, request.call_id)
                return False
        elif status == 422:
            asked, least = session_expires(request), min_se(response)
            if asked is None or asked.interval >= least:
                return False
            request.set("session-expires", str(SessionExpires(least, asked.refresher)))
            request.set("min-se", str(least))
        else:
            return False
        number = self._next_cseq() if self._next_cseq is not None else request.cseq.number + 1
        request.set("cseq", f"{number} {request.method}")
        self.request = request
        self._send()
        return True
