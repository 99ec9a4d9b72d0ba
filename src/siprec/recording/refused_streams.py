"""Streams that were offered to an SRS and that its answer does not take: what follows (`on_refused_stream`).

The SRS gets the same offer once more. If it takes no more then, the next SRS of the list is tried, or the recording
goes on with the streams that are taken. An SRS that left out streams is not left for that a second time: where no other
SRS is to be had, it is better than none.
"""

from __future__ import annotations

from typing import Final, Literal

from siprec.recording.rs_sdp import RecordingSdp, StreamKey
from siprec.sdp import MediaDescription, SessionDescription

OnRefusedStream = Literal["failover-audio", "failover", "accept"]
_TAKES: Final = ("recvonly", "sendrecv")


def refused(description: RecordingSdp, answer: SessionDescription) -> dict[StreamKey, str]:
    """Why each stream that was offered `sendonly`, and that the answer does not take, is not taken."""
    found = {}
    for index, (key, kind) in enumerate(description.offered):
        why = _why(answer.media[index]) if index < len(answer.media) else "no m-line"
        if key is not None and why:
            found[key] = f"{kind} (label {index + 1}): {why}"
    return found


def _why(line: MediaDescription) -> str:
    if line.rejected:
        return "port 0"
    if line.direction not in _TAKES:
        return line.direction
    where = line.connection
    return "null address" if where is not None and where.is_zero else ""


class RefusedStreams:
    """What the SRSs of one recording did not take. Made when an SRS leaves out a stream for the first time."""

    def __init__(self, policy: OnRefusedStream) -> None:
        self._policy = policy
        self._offered_again: frozenset[StreamKey] = frozenset()
        self._wish: frozenset[StreamKey] = frozenset()
        self._left: list[str] = []
        self._fell_back = False
        self.pending = False
        """The offer was made again before the recording began, and is not answered yet."""

    def begin(self) -> None:
        """Another SRS is called."""
        self._offered_again = self._wish = frozenset()
        self.pending = False

    def wished(self, keys: frozenset[StreamKey]) -> None:
        """The SRS offered of itself not to get these streams (RFC 7245 3.2.3): that is a pause, and no refusal."""
        self._wish = keys

    def judged(self, found: dict[StreamKey, str]) -> dict[StreamKey, str]:
        """Of what is not taken, what the SRS did not ask for itself."""
        self._wish &= found.keys()
        return {key: why for key, why in found.items() if key not in self._wish}

    def offer_again(self, found: dict[StreamKey, str]) -> bool:
        """Whether the offer is to be made once more: once for each stream."""
        new = found.keys() - self._offered_again
        self._offered_again |= found.keys()
        return bool(new)

    def leave(self, server: str, found: dict[StreamKey, str], targets: tuple[str, ...]) -> bool:
        """Whether another SRS of `targets` is to be tried in place of `server`, which is remembered then."""
        if self._policy == "accept" or (
            self._policy == "failover-audio" and not any(why.startswith("audio ") for why in found.values())
        ):
            return False
        others = [target for target in targets if target != server and target not in self._left]
        if self._fell_back or server in self._left or not others:
            return False
        self._left.append(server)
        return True

    def accept(self, found: dict[StreamKey, str]) -> None:
        """The recording goes on without these streams."""
        self._wish |= found.keys()

    def fallback(self, server: str, targets: tuple[str, ...]) -> int:
        """No other SRS took the recording, `server` being the last: the first one that would have, for some streams;
        -1: there is none, or that was tried."""
        best = next((each for each in self._left if each in targets), "")
        if self._fell_back or best in ("", server):
            return -1
        self._fell_back = True
        return targets.index(best)
