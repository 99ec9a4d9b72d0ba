"""SRTP in the relay: what a party's packets are encrypted with, and copies that are encrypted for a recorder.

The packet loops know nothing of it. Copies that need a cipher leave the loop through an :class:`Exit`, a pair of local
sockets of which this side decrypts what the party encrypted and encrypts for the recorder with a key of its own
(RFC 7866 12.2); so the call's own packets wait for none of it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from siprec.relay.fork_sink import renumbered
from siprec.relay.loop import PacketLoop
from siprec.relay.sink import Sink
from siprec.rtp import srtp
from siprec.rtp.srtp import Decryptor, Encryptor
from siprec.sdp import MediaDescription
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto, CryptoError

KEYS_KEPT = 4
"""Keys of one party that packets may still come under: of the branches of a forked call, and before a change."""
_BATCH = 64
_QUEUE = 1 << 20  # octets that wait for a busy event loop


@dataclass(eq=False, slots=True)
class Security:
    """How one party encrypts what it sends on one m-line.

    `secure`: it does; `readable`: with keys that SDP tells (SDES) and suites known here; `keys`: those agreed on,
    the newest first, none before the answer; `settled`: there was one.
    """

    secure: bool = False
    readable: bool = True
    keys: tuple[Crypto, ...] = ()
    settled: bool = False
    _judge: Decryptor | None = None

    def authentic(self, packet: bytes) -> bool:
        """Whether the party has the key that `packet` is encrypted with; for packets before they are taken."""
        if self._judge is None or self._judge.cryptos != self.keys:
            self._judge = Decryptor(*self.keys)
        return self._judge.rtp(packet) is not None

    def offered(self, media: MediaDescription) -> None:
        """What will be, as long as nothing is agreed on: an offer in mid-call changes nothing before its answer."""
        if not self.settled:
            self.secure = is_encrypted(media)
            lines = media.attributes("crypto")
            self.readable = not self.secure or (srtp.is_secure(media.proto) and srtp.choose(lines) is not None)

    def agreed(self, secure: bool, crypto: Crypto | None) -> None:
        """Offer and answer say whether the party encrypts, and with what."""
        self.settled, self.secure = True, secure
        self.readable = not secure or (crypto is not None and crypto.suite.name in srtp.SUPPORTED)
        if secure and crypto is not None and self.readable:
            same = (crypto.suite, crypto.key)
            self.keys = (crypto, *(k for k in self.keys if (k.suite, k.key) != same))[:KEYS_KEPT]


def is_encrypted(media: MediaDescription) -> bool:
    """Whether an m-line is SRTP, whatever its keys come from."""
    return "/SAVP" in media.proto.upper()


def cryptos(media: MediaDescription) -> list[Crypto]:
    """The ``a=crypto`` lines of an m-line that can be read, whatever their suite."""
    found = []
    for value in media.attributes("crypto")[:32]:
        try:
            found.append(sdp_crypto.parse(value))
        except CryptoError:
            continue
    return found


def agree(offerer: Security, offered: MediaDescription, answerer: Security, answered: MediaDescription) -> None:
    """Both ends of SRTP that passes through here: each sends with its own line of the pair with one tag and suite.

    ``RTP/AVP`` is SRTP as well where both have keys (opportunistic, RFC 8643 3).
    """
    answer = next(iter(cryptos(answered)), None) if srtp.is_secure(srtp.secured(answered.proto)) else None
    secure = is_encrypted(answered) or (answer is not None and sdp_crypto.matches(cryptos(offered), answer) is not None)
    offerer.agreed(secure, sdp_crypto.matches(cryptos(offered), answer) if answer is not None else None)
    answerer.agreed(secure, answer)


class Exit:
    """The way of copies through a cipher: `inner` takes what a :class:`~siprec.relay.sink.Sink` sends, and `out`, which
    is connected, sends it on. Raises OSError when there are no sockets left."""

    def __init__(self, packets: PacketLoop, security: Security, copies: Sink, out: socket.socket) -> None:
        self._packets = packets
        self._security = security
        self._copies = copies
        self._out = out
        self._decryptor = Decryptor()
        self.encryptor: Encryptor | None = None
        self.inner, self._outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.inner, self._outer):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE)
        self.shift = 0
        """By how much sequence numbers are lowered: an encrypted packet can only be renumbered in here."""
        copies.renumber(False)
        self.lost = 0
        """Packets that could not be decrypted or encrypted."""
        self.lost_octets = 0
        packets.add(self._outer, self._arrived)

    def _arrived(self, _now: float) -> None:
        self.flush()

    def flush(self) -> bool:
        """Send what waits; false: not all of it yet."""
        security = self._security
        for _ in range(_BATCH):
            try:
                packet = self._outer.recv(65536)
            except OSError:
                return True
            size = len(packet)
            clear: bytes | None = packet
            if security.secure:
                if security.keys != self._decryptor.cryptos:
                    self._decryptor.rekey(*security.keys)
                clear = self._decryptor.rtp(packet)
            if clear is not None and self.shift:
                clear = bytes(renumbered(clear, self.shift))
            secured = self.encryptor.rtp(clear) if clear is not None and self.encryptor is not None else clear
            if secured is None:
                self.lost += 1
                self.lost_octets += size
                continue
            try:
                self._out.send(secured)
            except OSError as error:
                self._copies.failed(error.errno or 0, size)
        return False

    def drain(self) -> None:
        """Send all that waits."""
        while not self.flush():
            pass

    def close(self) -> None:
        """Send what waits, and close."""
        self.flush()
        self._packets.remove(self._outer)
        self._outer.close()
        self.inner.close()


@dataclass(eq=False, slots=True)
class ForkKeys:
    """Keys towards one recorder: the lines `offered` to it, and what came of them."""

    offered: tuple[Crypto, ...]
    encryptor: Encryptor | None = None
    decryptor: Decryptor | None = None

    def answered(self, media: MediaDescription) -> bool:
        """Take the recorder's answer; false if it accepts none of our lines. One that was accepted before keeps its
        counters: they must never begin again under the same key."""
        for remote in cryptos(media):
            local = sdp_crypto.matches(self.offered, remote)
            if local is None or remote.mki_length:
                continue
            if self.encryptor is None or self.encryptor.crypto != local:
                self.encryptor = Encryptor(local)
            if self.decryptor is None:
                self.decryptor = Decryptor(remote)
            elif self.decryptor.cryptos[0] != remote:
                self.decryptor.rekey(remote)
            return True
        return False


def fork_keys(sources: Sequence[Crypto], words: frozenset[str]) -> ForkKeys:
    """Keys to offer for a copy: no weaker than those of the stream (RFC 7866 12.2). `words` are ng's ``SDES`` flags
    (``no-SUITE``, ``only-SUITE``)."""
    only = {word.removeprefix("only-") for word in words if word.startswith("only-")}
    without = {word.removeprefix("no-") for word in words if word.startswith("no-")}
    return ForkKeys(srtp.offer_lines(next(iter(sources), None), only=only, without=without))
