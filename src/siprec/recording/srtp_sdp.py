"""SRTP of a recording session (RFC 7866 12.2; RFC 4568): what is asked of the media server, what an SRS agreed to.

Keys are the media server's and the SRS's. Here their lines are only passed on, chosen from, and given the right tag.
"""

from __future__ import annotations

from typing import Final, Literal

from siprec.sdp import MediaDescription
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto, CryptoError

SrtpPolicy = Literal["off", "as-call", "always"]
"""``off``: plain RTP, also of calls that are SRTP; ``as-call``: SRTP for what is SRTP (RFC 7866 12); ``always``:
SRTP."""

DECLINED: Final = frozenset({488, 606})
"""What an SRS says to an offer that it cannot take (RFC 3261 21.4.26, 21.6.4)."""
PLAIN: Final = "RTP/AVP"
SECURE: Final = "RTP/SAVP"


def transport(policy: SrtpPolicy, plain: bool) -> str:
    """What the media server is asked to offer, "" for what it finds right. `plain`: the SRS does not know SRTP."""
    if policy == "off" or plain:
        return PLAIN
    return SECURE if policy == "always" else ""


def is_secure(line: MediaDescription) -> bool:
    """Whether an m-line is SRTP with keys in the SDP."""
    return line.proto.upper() in ("RTP/SAVP", "RTP/SAVPF")


def is_plain(line: MediaDescription) -> bool:
    """Whether an m-line is RTP that is not encrypted."""
    return not line.rejected and line.proto.upper() in ("RTP/AVP", "RTP/AVPF")


def is_dtls(line: MediaDescription) -> bool:
    """Whether an m-line is SRTP keyed by DTLS, which this SRC does not offer (RFC 5763 5)."""
    return not line.rejected and line.proto.upper().startswith("UDP/TLS/RTP/")


def keys(line: MediaDescription) -> list[Crypto]:
    """The keys of an m-line. Suites that encrypt nothing or that are not known are left out, and MKIs."""
    found = []
    for value in line.attributes("crypto")[:32]:
        try:
            crypto = sdp_crypto.parse(value)
        except CryptoError:
            continue
        if not crypto.mki_length:
            found.append(crypto)
    return found


def lines_of(section: MediaDescription) -> list[str]:
    """The ``a=crypto`` lines of our offer, from what the media server offers."""
    return [f"a=crypto:{crypto.value()}" for crypto in keys(section)] if is_secure(section) else []


def agreed(ours: MediaDescription, theirs: MediaDescription) -> tuple[Crypto, Crypto] | None:
    """The pair of keys, ours and the SRS's; None: no SRTP came of our offer, or of its own.

    Their line names ours by tag and suite in an answer; in an offer it has a tag of its own.
    """
    if not is_secure(ours) or not is_secure(theirs) or theirs.rejected:
        return None
    offered, answered = keys(ours), keys(theirs)
    for their in answered:
        mine = sdp_crypto.matches(offered, their) or next((key for key in offered if key.suite == their.suite), None)
        if mine is not None:
            return mine, their
    return None


def replaced(line: MediaDescription, tag: int, key: Crypto) -> None:
    """Have `key` under `tag` as the only key of `line`."""
    line.remove_attributes("crypto")
    line.lines.append(f"a=crypto:{Crypto(tag, key.suite, key.key).value()}")


def declines(ours: MediaDescription, theirs: MediaDescription) -> bool:
    """Whether SRTP was offered and not agreed to: rejected, answered in the clear, or with a key that fits none."""
    return is_secure(ours) and agreed(ours, theirs) is None
