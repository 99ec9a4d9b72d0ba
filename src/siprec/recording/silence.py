"""Streams that were negotiated with the SRS and carry nothing: told once, some seconds after the recording began."""

from __future__ import annotations

from typing import Final

from siprec import sdp
from siprec.media.engine import MediaStatistics, Subscription
from siprec.recording.call_metadata import RecordedCall
from siprec.sdp import MediaDescription, SdpError, SessionDescription

AFTER: Final = 5.0
"""Seconds from the start of the recording."""
_SENDS: Final = ("sendrecv", "sendonly")
_RECEIVES: Final = ("sendrecv", "recvonly")


def silent(
    call: RecordedCall,
    subscription: Subscription,
    labels: dict[tuple[str, int], str],
    answer: SessionDescription,
    statistics: MediaStatistics,
    since: float,
) -> list[str]:
    """What carries nothing, in words. `labels` are those of the streams (their m-lines in `answer`, from 1), `since` is
    when the recording began, in seconds since the epoch.

    Left out are streams that the SRS or the call does not want now (inactive, held, refused), those that the media
    server does not count, and pauses of a party that may leave out silence.
    """
    lines = _lines(call)
    found = []
    for stream in subscription.streams:
        key = stream.from_tag, stream.source_index
        label = labels.get(key, "")
        place = int(label) - 1 if label.isdecimal() and len(label) < 4 else len(answer.media)
        wanted = answer.media[place] if place < len(answer.media) else None
        if wanted is None or wanted.rejected or wanted.direction not in _RECEIVES:
            continue
        party = "caller" if stream.from_tag == call.from_tag else "callee"
        own, peer = lines[party], lines["callee" if party == "caller" else "caller"]
        if max(len(own), len(peer)) <= stream.source_index or not _flows(
            own[stream.source_index], peer[stream.source_index]
        ):
            continue
        counted = next((each for each in statistics.streams if (each.tag, each.index) == key), None)
        if counted is None:
            continue
        copies = [
            fork.packets
            for fork in statistics.forks
            if fork.tag == subscription.tag and (fork.from_tag, fork.source_index) == key
        ]
        what = f"{stream.kind} of the {party} (label {label})"
        spare = _leaves_out_silence(own[stream.source_index], peer[stream.source_index])
        if not counted.packets:
            found.append(f"{what}: no packet came")
        elif counted.last_packet and counted.last_packet + 1 < since and not spare:
            found.append(f"{what}: no packet came since the recording began")
        elif copies == [0]:
            found.append(f"{what}: none of its {counted.packets} packets was copied")
    return found


def _lines(call: RecordedCall) -> dict[str, list[MediaDescription]]:
    try:
        return {
            "caller": sdp.parse(call.caller_sdp).media,
            "callee": sdp.parse(call.callee_sdp).media,
        }
    except SdpError:
        return {"caller": [], "callee": []}


def _flows(own: MediaDescription, peer: MediaDescription) -> bool:
    """Whether media are to go from `own` to `peer`."""
    where = peer.connection
    held = where is not None and where.is_zero
    sends = not own.rejected and own.direction in _SENDS
    return sends and not peer.rejected and peer.direction in _RECEIVES and not held


def _leaves_out_silence(own: MediaDescription, peer: MediaDescription) -> bool:
    """Whether a party may send nothing while it is silent: comfort noise (RFC 3389), DTX, G.729 with Annex B."""
    for line in (own, peer):
        names = {number: meaning.encoding.upper() for number, meaning in line.rtpmaps.items()}
        if "CN" in names.values() or any("usedtx=1" in value for value in line.fmtp.values()):
            return True
        for number, name in names.items():
            if name == "G729" and "annexb=no" not in line.fmtp.get(str(number), "").replace(" ", ""):
                return True
            if name.startswith(("AMR", "EVS")):
                return True
    return False
