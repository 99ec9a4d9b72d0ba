"""How recordings are made: the settings of a recorder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from siprec.recorder import headers
from siprec.recorder.files import Format
from siprec.recorder.latch import Learn
from siprec.recorder.secure import SrtpPolicy

Kept = Literal["documents", "names", "extensions", "digits"]
"""What of the metadata a recorder may or may not need (RFC 7865 10): the documents as they came, names and addresses of
the parties, extension elements, DTMF digits."""
EVERYTHING: Final[frozenset[Kept]] = frozenset(("documents", "names", "extensions", "digits"))


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """How recordings are made.

    `advertised` is the address in answers where it differs from the one bound; `mix_rate` in Hz (None: the highest of
    the streams); `max_lines` the streams a recording session may have at a time; `kinds` the media that are accepted
    (all but audio is kept as raw RTP); `reject_bad_metadata` refuses requests whose metadata cannot be read, instead of
    recording without it; `srtp` says which transports are taken, `keep` what of the metadata is written down (RFC 7865
    10); `min_free` octets have to be free on the disk for a session to be accepted; `offerless_streams` audio streams
    are offered to a client that offers none; `max_sessions_per_client` sessions a client may have at a time (0: any
    number); `headers` of the INVITE are kept with the recording; `learn` and
    `relearn` (seconds) are the rules of :class:`~siprec.recorder.latch.Latch`.
    """

    audio_format: Format = "wav"
    advertised: str = ""
    max_sessions: int = 1000
    max_lines: int = 256
    mix_rate: int | None = None
    kinds: frozenset[str] = frozenset({"audio", "video", "text"})
    reject_bad_metadata: bool = False
    strict_metadata: bool = False
    srtp: SrtpPolicy = "allow"
    min_free: int = 0
    offerless_streams: int = 2
    max_sessions_per_client: int = 0
    headers: tuple[str, ...] = headers.DEFAULT
    keep: frozenset[Kept] = EVERYTHING
    learn: Learn = "any"
    relearn: float = 1.0
