"""SRTP of one m-line of a recording session (RFC 7866 12.2; RFC 4568 5.1): whom its offer lets in, and with which
keys."""

from __future__ import annotations

from typing import Literal

from siprec.rtp import srtp
from siprec.sdp import MediaDescription
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto

SrtpPolicy = Literal["off", "allow", "require"]
"""``off``: SRTP is declined; ``allow``: what is offered is taken; ``require``: plain RTP is declined."""

_PLAIN = frozenset({"RTP/AVP", "RTP/AVPF"})


def acceptable(media: MediaDescription, policy: SrtpPolicy) -> bool:
    """Whether the transport of an m-line can be taken: for SRTP one of its ``a=crypto`` lines has to be usable."""
    if media.proto in _PLAIN:
        return policy != "require"
    if policy == "off" or not srtp.is_secure(media.proto):
        return False
    return srtp.choose(media.attributes("crypto")) is not None


class LineKeys:
    """The keys of one m-line: the sender's, and ours for RTCP. :meth:`offered` takes each offer."""

    __slots__ = ("decryptor", "encryptor", "remote")

    def __init__(self, remote: Crypto) -> None:
        self.remote = remote
        self.decryptor = srtp.Decryptor(remote)
        self.encryptor = srtp.Encryptor(sdp_crypto.answer(remote))  # RFC 4568 5.1.2

    @property
    def answer(self) -> str:
        """The value of our ``a=crypto`` line. A key: for the wire, never for a log."""
        return self.encryptor.crypto.value()

    def offered(self, remote: Crypto) -> LineKeys:
        """The keys after another offer: these, unless it changes suite, tag or key.

        Packets under the key before may still be on their way and are taken.
        """
        if (remote.suite, remote.key, remote.tag) == (self.remote.suite, self.remote.key, self.remote.tag):
            return self
        keys = LineKeys(remote)
        keys.decryptor = self.decryptor
        if remote.key != self.remote.key or remote.suite != self.remote.suite:
            keys.decryptor.rekey(remote, self.remote)
        return keys


def keys_for(media: MediaDescription, present: LineKeys | None) -> LineKeys | None:
    """The keys that an :func:`acceptable` m-line asks for, None for plain RTP; `present` are those so far."""
    remote = srtp.choose(media.attributes("crypto")) if srtp.is_secure(media.proto) else None
    if remote is None:
        return None
    return present.offered(remote) if present is not None else LineKeys(remote)
