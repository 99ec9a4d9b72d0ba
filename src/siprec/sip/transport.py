"""What the SIP core needs of a transport; :mod:`siprec.net` fulfils it, tests do it on a simulated network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(init=False, slots=True, unsafe_hash=True)
class Hop:
    """One way to a peer, or from it: where a message goes to or came from. A value: nobody changes it.

    `transport` is ``udp``, ``tcp`` or ``tls``; `host` numeric, IPv6 without brackets; `local` is the address and port
    of the listening socket used (empty host: let the transport choose); `connection` names a stream connection (0: any
    open one to that address, else a new one); `server_name` is the name to verify with TLS; `tls` says with which
    certificates and trust, in a form that the transport knows (None: its own). Connections are shared where all of this
    is the same. `reliable`: the transport retransmits by itself.
    """

    transport: str
    host: str
    port: int
    local: tuple[str, int]
    connection: int
    server_name: str
    tls: Hashable
    reliable: bool = field(init=False, compare=False, repr=False)

    # Written out: a frozen class pays a function call for each field, and every message makes a hop.
    def __init__(
        self,
        transport: str,
        host: str,
        port: int,
        local: tuple[str, int] = ("", 0),
        connection: int = 0,
        server_name: str = "",
        tls: Hashable = None,
    ) -> None:
        self.transport = transport
        self.host = host
        self.port = port
        self.local = local
        self.connection = connection
        self.server_name = server_name
        self.tls = tls
        self.reliable = transport != "udp"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}:{host}:{self.port}"


SendFailed = Callable[[str], None]

Connected = Callable[["Hop | None", str], None]
"""``connected(hop, "")``: a connection to `hop` is up; ``connected(None, reason)``: there is none."""

Race = Callable[["Sequence[Hop]", float, Connected], Callable[[], None]]
"""``race(hops, limit, connected)`` connects to the first of `hops`, 250 ms later (or as soon as that has failed) to the
next one too, and so on (RFC 8305). The first connection that is up wins; the others are given up, and all of them after
`limit` seconds. `connected` is called once and never from inside; what is returned ends the race without a word."""


class Transport(Protocol):
    """Sending, as the transaction layer sees it."""

    def route(self, hop: Hop, size: int) -> Hop:
        """The hop really to be used for a request of `size` octets: `local` filled in, and UDP turned into TCP when
        the request would exceed 1300 octets (RFC 3261 18.1.1). Called before Via is written."""
        ...

    def sent_by(self, hop: Hop) -> tuple[str, int]:
        """Host and port for the Via of a request sent to `hop` (advertised name if configured)."""
        ...

    def send(self, data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        """Send octets. `failed(reason)` is called later, never from inside, on a transport error that is known."""
        ...
