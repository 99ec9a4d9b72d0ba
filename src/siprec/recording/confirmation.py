"""What an SRS says it has recorded: the header of our recorder, in its answer to our BYE or in its own BYE.

See :mod:`siprec.recorder.tally`, which writes it. It comes from the network: what cannot be read is not there.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from siprec.sip.message import SipMessage

HEADER: Final = "x-siprec-recorded"
_MOST: Final = 64
_DIGITS: Final = 15
State = Literal["complete", "pending", "failed"]


class Recorded(msgspec.Struct, frozen=True):
    """Packets of one label, as the SRS counted them.

    `packets` came to it, `lost` did not by their numbers; `undecoded` are of payload types that it does not take,
    `unwritten` are not in the recording. `state`: whether the rest is.
    """

    packets: int
    lost: int = 0
    undecoded: int = 0
    unwritten: int = 0
    state: State = "pending"


def read(message: SipMessage) -> dict[str, Recorded]:
    """What a message says by label, empty if it says nothing; of values that cannot be read, nothing."""
    found: dict[str, Recorded] = {}
    for value in message.values(HEADER)[:_MOST]:
        label, *params = (part.strip() for part in value.split(";")[:16])
        said = dict(part.split("=", 1) for part in params if "=" in part)
        state = said.pop("state", "")
        numbers = {name: int(text) for name, text in said.items() if _is_number(text)}
        if label and "packets" in numbers and state in ("complete", "pending", "failed"):
            found[label] = Recorded(
                numbers["packets"],
                numbers.get("lost", 0),
                numbers.get("undecoded", 0),
                numbers.get("unwritten", 0),
                state,  # type: ignore[arg-type]  # just checked
            )
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS
