"""The parties of a call at the relay, and their streams."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from siprec.relay.ports import Interface, PortPair
from siprec.relay.rtp_stream import Flow, Role
from siprec.relay.secure import Security
from siprec.relay.sink import Sink
from siprec.relay.srtp_gateway import Transport
from siprec.sdp import SessionDescription


@dataclass(eq=False, slots=True)
class Keeper:
    """Pre-roll that no subscription has asked for yet; `since` in monotonic seconds."""

    copies: Sink
    since: float


@dataclass(eq=False, slots=True)
class Stream:
    """One m-line as it faces one party."""

    kind: str
    pair: PortPair
    rtp: Flow
    rtcp: Flow
    role: Role = "rtp"
    keeper: Keeper | None = None
    key_asked: float = -math.inf
    key_number: int = 0
    """When this party was asked for a key frame (monotonic), and how often."""
    security: Security = field(default_factory=Security)
    transport: Transport = field(init=False)

    def __post_init__(self) -> None:
        self.transport = Transport(self.security)

    def authentic(self, packet: bytes) -> bool:
        """Is it SRTP of this party?"""
        return self.security.authentic(packet)


@dataclass(eq=False, slots=True)
class Party:
    """A participant, by its tag ("" until it is known). `mistrusted`: the address in its description is not to be
    trusted (ng's flag ``SIP source address``)."""

    tag: str
    created: float
    interface: Interface
    streams: list[Stream | None] = field(default_factory=list)
    replaced: dict[int, Stream] = field(default_factory=dict)
    """What an m-line was before an offer of other media: it goes on until that is answered."""
    description: SessionDescription | None = None
    answered: bool = False
    label: str = ""
    public: str = ""
    received_from: str = ""
    via_branch: str = ""
    mistrusted: bool = False
