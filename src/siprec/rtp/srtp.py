"""SRTP and SRTCP (RFC 3711, 6188, 7714) with keys from SDP (:mod:`siprec.sdp.crypto`): packets encrypted and decrypted.

What comes from the network never raises: a packet that cannot be used is None, and counted. The ciphers are libsrtp's.

A receiver that joins a stream late does not know its rollover counter (ROC), which no packet carries (RFC 3711 3.3.1):
the first packet that fails is tried with others, the authentication tag says which is right.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Protocol

from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto

__all__ = ["SUPPORTED", "Decryptor", "Encryptor", "choose", "is_secure", "offer_lines", "plain", "secured"]


def _load() -> Any:
    try:
        return importlib.import_module("pylibsrtp")
    except ImportError:  # no wheel for this machine: SRTP is declined, all else works
        return None


_LIBRARY: Final = _load()
_PROFILES: Final = {
    "AES_CM_128_HMAC_SHA1_80": "SRTP_PROFILE_AES128_CM_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32": "SRTP_PROFILE_AES128_CM_SHA1_32",
    "AEAD_AES_256_GCM": "SRTP_PROFILE_AEAD_AES_256_GCM",
    "AEAD_AES_128_GCM": "SRTP_PROFILE_AEAD_AES_128_GCM",
    "AES_256_CM_HMAC_SHA1_80": "SRTP_PROFILE_AES128_CM_SHA1_80",
    "AES_256_CM_HMAC_SHA1_32": "SRTP_PROFILE_AES128_CM_SHA1_32",
}
_LONG: Final = frozenset({"AES_256_CM_HMAC_SHA1_80", "AES_256_CM_HMAC_SHA1_32"})
_KNOWN: Final = bytes.fromhex(  # header, 16 octets 0, and both encrypted with their tag (RFC 6188)
    "800000010000000200000003" + 32 * "0" + "6a26232962624ef571119305c291db04cb0b63d8e16b3fe40367"
)
_OUT, _IN = "SSRC_ANY_OUTBOUND", "SSRC_ANY_INBOUND"
_Refused: Final[type[Exception]] = _LIBRARY.Error if _LIBRARY is not None else ValueError
MAX_SSRCS: Final = 64
"""Sources that one key encrypts for: each costs memory that cannot be given back without repeating its key stream."""
ROC_SEARCH: Final = 256
"""Rollover counters tried for a stream joined late: 93 hours at 50 packets a second."""
_SEARCHES: Final = 8
_WINDOW: Final = 1024  # packets out of order; libsrtp's own 128 is 2 s of Opus, less than a burst of kept packets
_HEADER: Final = struct.Struct("!BBHII")
_STEP: Final = 0x4000  # less than 2**15, so that the index is estimated as meant (RFC 3711 3.3.1)


def choose(values: Iterable[str]) -> Crypto | None:
    """The first of the ``a=crypto`` values of an offer that can be used here; None: none. Never raises."""
    return sdp_crypto.choose(values, SUPPORTED)


def is_secure(proto: str) -> bool:
    """Whether a transport of an m-line is SRTP keyed by its SDP (not by DTLS)."""
    return proto.upper() in ("RTP/SAVP", "RTP/SAVPF")


def secured(proto: str) -> str:
    """The SRTP form of ``RTP/AVP`` or ``RTP/AVPF``."""
    return {"RTP/AVP": "RTP/SAVP", "RTP/AVPF": "RTP/SAVPF"}.get(proto.upper(), proto)


def plain(proto: str) -> str:
    """The plain form of ``RTP/SAVP`` or ``RTP/SAVPF``."""
    return {"RTP/SAVP": "RTP/AVP", "RTP/SAVPF": "RTP/AVPF"}.get(proto.upper(), proto)


def offer_lines(
    like: Crypto | None = None, *, only: Collection[str] = (), without: Collection[str] = ()
) -> tuple[Crypto, ...]:
    """What is offered: fresh keys for the suites that everybody knows; `like` puts the equal of that one first, so that
    a copy is no weaker than what it is a copy of (RFC 7866 12.2). `only` these suites where there are any, `without`
    those."""
    suites = ["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"]
    if like is not None and like.suite.name not in suites:
        name = like.suite.name
        suites[:0] = dict.fromkeys((name.replace("SHA1_32", "SHA1_80"), name))
    if only:
        suites = [name for name in SUPPORTED if name in only]
    suites = [name for name in suites if name in SUPPORTED and name not in without]
    return tuple(sdp_crypto.generate(tag, suite) for tag, suite in enumerate(suites, 1))


class _Session(Protocol):
    def protect(self, packet: bytes) -> bytes: ...
    def protect_rtcp(self, packet: bytes) -> bytes: ...
    def unprotect(self, packet: bytes) -> bytes: ...
    def unprotect_rtcp(self, packet: bytes) -> bytes: ...


def _lengthen(policy: Any) -> None:
    """Have AES-256 instead of AES-128 in a policy (libsrtp 2: srtp_crypto_policy_t, six words)."""
    ffi = importlib.import_module("pylibsrtp._binding").ffi
    for each in (policy._policy.rtp, policy._policy.rtcp):
        words = ffi.cast("uint32_t *", ffi.addressof(each))
        if ffi.sizeof(ffi.typeof(each)) != 24 or [words[i] for i in range(4)] != [1, 30, 3, 20]:
            raise sdp_crypto.CryptoError("AES-256 in counter mode is not supported by this library")
        words[0], words[1] = 5, 46  # SRTP_AES_ICM_256, octets of key and salt


def _make(crypto: Crypto, direction: str) -> _Session:
    known = _LIBRARY.Policy
    profile = getattr(known, _PROFILES[crypto.suite.name])
    policy = known(key=crypto.key, ssrc_type=getattr(known, direction), srtp_profile=profile)
    policy.window_size = _WINDOW
    if crypto.suite.name in _LONG:
        _lengthen(policy)
    found: _Session = _LIBRARY.Session(policy)
    return found


def _long_keys() -> bool:
    """Whether AES-256 in counter mode can be had: the library has it, its binding no name for it, so the policy is
    made from that of AES-128, if it looks as expected, and a known packet has to come out right."""
    if _LIBRARY is None:
        return False
    try:
        suite = sdp_crypto.SUITES["AES_256_CM_HMAC_SHA1_80"]
        session = _make(Crypto(1, suite, bytes(range(suite.material_length))), _OUT)
        return session.protect(_KNOWN[:28]) == _KNOWN[:12] + _KNOWN[28:]
    except (_Refused, sdp_crypto.CryptoError, ImportError, AttributeError):
        return False


SUPPORTED: Final = () if _LIBRARY is None else tuple(name for name in _PROFILES if name not in _LONG or _long_keys())
"""Suites that can be used here."""


def _session(crypto: Crypto, direction: str) -> _Session:
    if crypto.suite.name not in SUPPORTED:
        raise sdp_crypto.CryptoError(f"{crypto.suite.name} is not supported")
    return _make(crypto, direction)


class Encryptor:
    """Encrypts with one key. Raises :class:`~siprec.sdp.crypto.CryptoError` for a suite that is not `SUPPORTED`.

    `failed` counts packets that could not be: no RTP, a sequence number that was used before (which would repeat the
    key stream), too many sources.
    """

    __slots__ = ("_session", "_ssrcs", "crypto", "failed")

    def __init__(self, crypto: Crypto) -> None:
        self.crypto = crypto
        self.failed = 0
        self._session = _session(crypto, _OUT)
        self._ssrcs: set[bytes] = set()

    def rtp(self, packet: bytes) -> bytes | None:
        """The SRTP packet."""
        return self._protect(self._session.protect, packet, packet[8:12])

    def rtcp(self, packet: bytes) -> bytes | None:
        """The SRTCP packet."""
        return self._protect(self._session.protect_rtcp, packet, packet[4:8])

    def _protect(self, protect: Callable[[bytes], bytes], packet: bytes, ssrc: bytes) -> bytes | None:
        if ssrc not in self._ssrcs:
            if len(self._ssrcs) >= MAX_SSRCS:
                self.failed += 1
                return None
            self._ssrcs.add(ssrc)
        try:
            return protect(packet)
        except (_Refused, ValueError):  # ValueError: longer than the library takes
            self.failed += 1
            return None


class Decryptor:
    """Decrypts with one key, or with several while a change of keys is under way: the newest comes first.

    Raises :class:`~siprec.sdp.crypto.CryptoError` for a suite that is not `SUPPORTED`. `failed` counts packets that
    were not authentic (the wrong key, damage, forgery) or no SRTP at all, `replayed` those that had come before.
    """

    __slots__ = ("_late", "_search_at", "_searches", "_sessions", "cryptos", "failed", "replayed")

    def __init__(self, *cryptos: Crypto) -> None:
        self.cryptos = cryptos
        self.failed = 0
        self.replayed = 0
        self._sessions = [_session(crypto, _IN) for crypto in cryptos]
        self._late: dict[bytes, tuple[Crypto, _Session]] = {}
        self._searches = 0
        self._search_at = 1

    def rekey(self, *cryptos: Crypto) -> None:
        """Other keys from now on; what is known of streams under one that stays is kept."""
        known = {(old.suite, old.key): session for old, session in zip(self.cryptos, self._sessions, strict=True)}
        self._sessions = [known.get((c.suite, c.key)) or _session(c, _IN) for c in cryptos]
        self.cryptos = cryptos
        self._late = {ssrc: late for ssrc, late in self._late.items() if late[0] in cryptos}
        self._searches, self._search_at = 0, self.failed + 1

    def rtp(self, packet: bytes, *, search: bool = True) -> bytes | None:
        """The RTP packet. Without `search` a stream joined late is not looked for: for packets of unknown senders."""
        ssrc = packet[8:12]
        late = self._late.get(ssrc) if self._late else None
        again = False
        for session in (late[1], *self._sessions) if late is not None else self._sessions:
            try:
                return session.unprotect(packet)
            except _Refused as error:
                again = again or "replay" in str(error)
            except ValueError:
                break
        if again:
            self.replayed += 1
            return None
        self.failed += 1
        if search and self._searches < _SEARCHES and self.failed >= self._search_at and 12 < len(packet) <= 1500:
            # The doubling leaves a flood of forgeries little to gain.
            self._searches += 1
            self._search_at = self.failed + (1 << self._searches)
            for crypto in self.cryptos:
                found = _joined_late(crypto, packet)
                if found is not None:
                    self.failed -= 1
                    self._late[ssrc] = crypto, found[0]
                    return found[1]
        return None

    def rtcp(self, packet: bytes) -> bytes | None:
        """The RTCP packet."""
        for session in self._sessions:
            try:
                return session.unprotect_rtcp(packet)
            except (_Refused, ValueError) as error:
                if "replay" in str(error):
                    self.replayed += 1
                    return None
        self.failed += 1
        return None


def _joined_late(crypto: Crypto, packet: bytes) -> tuple[_Session, bytes] | None:
    """A session whose ROC fits `packet`, and the packet decrypted; None if there is no such ROC.

    The library lets no ROC be set: packets of our own, as only we can make them, take the session there.
    """
    sequence, ssrc = struct.unpack_from("!H4xI", packet, 2)
    sender, receiver = _session(crypto, _OUT), _session(crypto, _IN)
    start = (sequence - _WINDOW) & 0xFFFF  # short of the packet, which would else be a replay
    for step in range(4 * ROC_SEARCH):
        index = start + step * _STEP
        try:
            receiver.unprotect(sender.protect(_HEADER.pack(0x80, 0, index & 0xFFFF, 0, ssrc)))
            if step % 4 == 0:
                return receiver, receiver.unprotect(packet)
        except _Refused:
            pass
    return None
