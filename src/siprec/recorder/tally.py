"""What a recording session received, and what became of it: told to the recording client in the answer to its BYE.

One header value for each label of the session::

    X-Siprec-Recorded: 1;packets=1500;lost=0;undecoded=0;unwritten=0;state=complete

`packets` RTP packets came from the client on that stream; `lost` did not come, by their numbers; `undecoded` are of a
format that was not agreed on and is only kept raw; `unwritten` were not written. `state` is ``complete`` (all is on the
disk), ``pending`` (it is being written) or ``failed`` (the disk refused).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from siprec.recorder.media_stream import ReceivedStream

HEADER: Final = "X-Siprec-Recorded"


@dataclass(slots=True)
class Counts:
    """Packets of one label."""

    packets: int = 0
    lost: int = 0
    undecoded: int = 0
    unwritten: int = 0


class Tally:
    """Counts of the streams of a recording session that are over."""

    def __init__(self) -> None:
        self._labels: dict[str, Counts] = {}

    def add(self, line: ReceivedStream, *, kept: bool) -> None:
        """`line` is over; `kept`: it belonged to a recording."""
        total = line.receiver.total()
        counts = self._labels.setdefault(line.label, Counts())
        counts.packets += line.arrived
        counts.lost += total.lost
        counts.undecoded += sum(line.not_decodable.values())
        counts.unwritten += line.dropped_disk + total.probation if kept else line.arrived

    def headers(self, state: str) -> list[tuple[str, str]]:
        """The header that says so; none when there is nothing to tell, or a label that no header can hold."""
        values = [
            f"{label};packets={c.packets};lost={c.lost};undecoded={c.undecoded};unwritten={c.unwritten};state={state}"
            for label, c in self._labels.items()
            if label and label.isascii() and all(mark.isalnum() or mark in "-._~" for mark in label)
        ]
        return [(HEADER, ", ".join(values))] if values else []
