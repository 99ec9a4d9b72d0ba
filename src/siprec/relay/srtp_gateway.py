"""SRTP with one party and plain RTP with the other (ng's ``transport protocol`` in an offer; keys by SDP, RFC 4568).

A pair of m-lines is bridged when its two sides differ in that, or where that is asked for (``re-key``): then keys end
here, and what passes is decrypted from the one side and encrypted for the other. All else passes untouched, encrypted
or not. As in RTPEngine, what was said for a party stays until that or the other party itself changes its protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from siprec.relay.rtp_stream import Address, Flow
from siprec.relay.secure import Security, agree, cryptos, fork_keys
from siprec.rtp import srtp
from siprec.rtp.srtp import Decryptor, Encryptor
from siprec.sdp import MediaDescription
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto

PROTOCOLS = frozenset({"RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF"})
"""What can be turned into one another."""


class BridgeError(ValueError):
    """The two sides cannot be brought together; the text says why."""


class Terminal:
    """Our end of the SRTP with one party on one m-line: our keys, by suite. A key is never begun anew, since that would
    repeat its key stream: what it has encrypted is remembered as long as the m-line."""

    def __init__(self, security: Security) -> None:
        self._security = security  # what the party encrypts with
        self._own: dict[str, Crypto] = {}
        self._encryptors: dict[str, Encryptor] = {}
        self._decryptor = Decryptor()
        self._encryptor: Encryptor | None = None

    def offer(self, words: frozenset[str]) -> list[Crypto]:
        """The lines to offer to the party. `words`: ng's ``SDES``. Raises `BridgeError`: none is left."""
        lines = [self._line(line.tag, line.suite.name) for line in fork_keys((), words).offered]
        if not lines:
            raise BridgeError("No crypto suite is left to offer")
        return lines

    def answer(self, offered: MediaDescription) -> tuple[Crypto, Crypto]:
        """The party's line that is taken and our answer to it (RFC 4568 5.1.2). Raises `BridgeError`: none can be."""
        remote = srtp.choose(offered.attributes("crypto"))
        if remote is None:
            raise BridgeError("Offer without a key that can be used")
        return remote, self._line(remote.tag, remote.suite.name)

    def answered(self, answer: MediaDescription) -> tuple[Crypto, Crypto]:
        """The party's line in its answer, and ours that it takes. Raises `BridgeError`: it takes none."""
        for remote in cryptos(answer):
            own = self._own.get(remote.suite.name)
            if own is not None and not remote.mki_length:
                return remote, own
        raise BridgeError("Answer without a key that fits the offered ones")

    def use(self, own: Crypto) -> None:
        """Encrypt with this key of ours from now on."""
        name = own.suite.name
        if name not in self._encryptors:
            self._encryptors[name] = Encryptor(own)
        self._encryptor = self._encryptors[name]

    def _line(self, tag: int, suite: str) -> Crypto:
        own = self._own.get(suite)
        if own is None:
            own = self._own[suite] = sdp_crypto.generate(tag, suite)
        return Crypto(tag, own.suite, own.key)

    def decrypted(self, packet: bytes, rtcp: bool) -> bytes | None:
        """What came from the party; None: it is not authentic."""
        if self._security.keys != self._decryptor.cryptos:
            self._decryptor.rekey(*self._security.keys)
        return self._decryptor.rtcp(packet) if rtcp else self._decryptor.rtp(packet)

    def encrypted(self, packet: bytes, rtcp: bool) -> bytes | None:
        """What goes to the party; None: it cannot be encrypted."""
        if self._encryptor is None:
            return None
        return self._encryptor.rtcp(packet) if rtcp else self._encryptor.rtp(packet)


@dataclass(eq=False, slots=True)
class Transport:
    """How one party speaks RTP on one m-line: `proto` as it or we said last, `ends` if its keys end here, instead of
    being those of the other party, `rekey` if that is to be although both speak SRTP."""

    security: Security
    proto: str = ""
    ends: bool = False
    rekey: bool = False
    terminal: Terminal | None = None
    crossings: dict[Flow, Crossing] = field(default_factory=dict)

    def end(self) -> Terminal:
        """Our end, made on first need."""
        if self.terminal is None:
            self.terminal = Terminal(self.security)
        return self.terminal

    @property
    def present(self) -> Terminal | None:
        """Our end where it is in use."""
        return self.terminal if self.ends else None

    @property
    def clear(self) -> bool:
        """Whether what the party says, or hears, is in the clear here."""
        return self.ends or not self.security.secure


def offer(
    sender: Transport,
    receiver: Transport,
    was: MediaDescription,
    out: MediaDescription,
    wanted: str,
    words: frozenset[str],
    rekey: bool = False,
) -> None:
    """Make `out`, a copy of the offered m-line `was`, what the receiver shall see: in the protocol `wanted`, "" for
    what was agreed on before. `rekey`: with keys of ours on both sides, if possible. Raises `BridgeError`."""
    proto = was.proto.upper()
    if proto != sender.proto:
        sender.proto, receiver.proto = proto, ""
    if proto not in PROTOCOLS:
        receiver.proto = proto
    elif wanted.upper() in PROTOCOLS:
        receiver.proto = wanted.upper()
    else:
        receiver.proto = receiver.proto or proto
    if receiver.proto != proto:
        out.proto = receiver.proto
    here, there = srtp.is_secure(proto), srtp.is_secure(receiver.proto)
    rekey = here and there and (rekey or (sender.ends and receiver.ends))
    rekey = rekey and srtp.choose(was.attributes("crypto")) is not None
    sender.rekey = receiver.rekey = rekey
    if here != there or rekey:
        out.remove_attributes("crypto")
        if here:
            sender.end().answer(was)  # only to know now rather than too late
        if there:
            out.lines += [f"a=crypto:{line.value()}" for line in receiver.end().offer(words)]
    sender.security.offered(was)
    receiver.security.offered(out)


def answer(
    offerer: Transport, answerer: Transport, offered: MediaDescription, was: MediaDescription, out: MediaDescription
) -> None:
    """Make `out`, a copy of the answered m-line `was`, the answer to `offered`; both sides are agreed on then. Raises
    `BridgeError`."""
    here, there = srtp.is_secure(offerer.proto), srtp.is_secure(answerer.proto)
    ends = here != there or (here and offerer.rekey)
    if ends and srtp.is_secure(was.proto) != there:
        raise BridgeError("Answer in another protocol than was offered")
    answerer.proto = was.proto.upper()
    if offerer.proto != answerer.proto:
        out.proto = offered.proto
    if not ends:
        agree(offerer.security, offered, answerer.security, was)
        offerer.ends = answerer.ends = False
        return
    theirs = answerer.end().answered(was) if there else None
    ours = offerer.end().answer(offered) if here else None
    out.remove_attributes("crypto")
    if ours is not None:
        out.lines.append(f"a=crypto:{ours[1].value()}")
    for side, pair in ((offerer, ours), (answerer, theirs)):
        side.security.agreed(pair is not None, pair[0] if pair is not None else None)
        side.ends = pair is not None
        if pair is not None:
            side.end().use(pair[1])


class Crossing:
    """Takes what `flow` sends on: decrypts what ends here (`source`), encrypts what begins here (`sink`)."""

    def __init__(self, flow: Flow, source: Terminal | None, sink: Terminal | None) -> None:
        self._flow = flow
        self.ends = (source, sink)
        self.change: Callable[[bytes], bytes] | None = None
        """What is done to RTP packets while they are in the clear."""
        self._plain: Callable[[memoryview, Address], int] | None = flow.send
        self._wrapper = self._send
        flow.send = self._wrapper

    def close(self) -> None:
        """Let packets pass as they are."""
        if self._flow.send is self._wrapper:
            self._flow.send = self._plain

    @property
    def installed(self) -> bool:
        """Whether nobody has taken it out."""
        return self._flow.send is self._wrapper

    def _send(self, packet: memoryview, target: Address) -> int:
        if self._plain is None:
            return 0
        found: bytes | None = bytes(packet)
        source, sink = self.ends
        if found is not None and len(found) >= 8 and found[0] >> 6 == 2:
            rtcp = 192 <= found[1] <= 223  # RFC 5761 4
            if source is not None:
                found = source.decrypted(found, rtcp)
            if self.change is not None and found is not None and not rtcp:
                found = self.change(found)
            if sink is not None and found is not None:
                found = sink.encrypted(found, rtcp)
            if found is None:
                self._flow.drop("srtp")
                self._flow.unsent += not rtcp
                return 0
        return self._plain(memoryview(found or b""), target)


def cross(flow: Flow, source: Transport, sink: Transport) -> None:
    """Have what `flow` receives from `source` reach `sink` as agreed on."""
    present, wanted = source.crossings.get(flow), (source.present, sink.present)
    if present is not None and present.ends == wanted and present.installed:
        return
    if present is not None:
        present.close()
        del source.crossings[flow]
    if any(end is not None for end in wanted):
        source.crossings[flow] = Crossing(flow, *wanted)
