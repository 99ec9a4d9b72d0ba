"""What the calls of a user agent share: its settings, and the table of its dialogs."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from siprec.sip.clock import Clock
from siprec.sip.dialog import DialogKey
from siprec.sip.errors import SipError
from siprec.sip.forwarding import compile_headers
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.response_routing import Resolve as Resolve
from siprec.sip.silent_hops import SilentHops
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop, Race
from siprec.sip.uri import Uri

ALLOW: Final = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, NOTIFY, MESSAGE"


class UserAgentBase:
    """What calls need of :class:`siprec.sip.useragent.UserAgent`, which says what the arguments are."""

    def __init__(
        self,
        clock: Clock,
        layer: TransactionLayer,
        resolve: Resolve,
        *,
        contact: Callable[[Hop], str],
        user_agent: str,
        extensions: Collection[str],
        allow: str,
        ring_timeout: float,
        race: Race | None,
        rng: random.Random | None,
    ) -> None:
        self.clock = clock
        self.layer = layer
        self.resolve = resolve
        self.contact = contact
        self.user_agent = user_agent
        self.identity = compile_headers([("User-Agent", user_agent)])[0] if user_agent else ""
        self.extensions = frozenset(extensions)
        self.supported = ", ".join(sorted({"timer", *extensions}))
        self.allow = allow
        self.ring_timeout = ring_timeout
        self.race = race
        self.silent = SilentHops(clock)
        self.random = rng or random.SystemRandom()
        self._calls: dict[DialogKey, Any] = {}
        self._outgoing: set[Any] = set()

    def new_token(self) -> str:
        """An unpredictable token, for tags and Call-IDs."""
        return f"{self.random.getrandbits(64):016x}"

    def identify(self, request: SipRequest) -> None:
        """Add User-Agent."""
        if self.identity and "user-agent" not in request.keys:
            request.keys.append("user-agent")
            request.lines.append(self.identity)

    def identify_response(self, response: SipResponse) -> None:
        """Add Server."""
        if self.user_agent and response.status > 100:
            response.add("Server", self.user_agent)

    def send_ack(self, ack: bytes, next_hop: Uri, resolve: Resolve) -> None:
        """Send the ACK for a 2xx, with a branch of its own, straight to the transport (RFC 3261 13.2.2.4)."""
        resolve(next_hop, partial(self._ack_resolved, ack))

    def _ack_resolved(self, ack: bytes, result: list[Hop] | SipError) -> None:
        # Lost or undeliverable: the next 2xx asks for it again.
        if not isinstance(result, SipError) and result:
            self.layer.send_stateless(ack, result[0], add_via=self.layer.new_branch())

    def confirm(self, call: Any, key: DialogKey) -> None:
        """`key` names the only dialog of `call` from now on."""
        self._outgoing.discard(call)
        for each in call.keys:
            del self._calls[each]
        call.keys = (key,)
        self._calls[key] = call

    def register(self, call: Any, key: DialogKey) -> None:
        """`key` names a dialog of `call`."""
        if key not in call.keys:
            call.keys += (key,)
        self._calls[key] = call

    def forget(self, call: Any) -> None:
        """The call's dialogs are no more."""
        for key in call.keys:
            self._calls.pop(key, None)
        call.keys = ()
        self._outgoing.discard(call)
