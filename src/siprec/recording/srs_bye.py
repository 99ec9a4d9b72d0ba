"""What a BYE of an SRS means: its decision, or a failure that another SRS should make up for.

A recorder that stops, or whose disk is full, says so in the Reason of its BYE (RFC 3326): a SIP status from 500 to 599,
or one of the Q.850 causes for networks and equipment in trouble.
"""

from __future__ import annotations

from typing import Final, Literal

from siprec.recording.events import ENDED_BY_SRS
from siprec.recording.participants import reasons
from siprec.sip.message import SipRequest

OnSrsBye = Literal["by-reason", "failover", "end"]
Q850_FAILURES: Final = frozenset({38, 41, 42})
"""Network out of order, temporary failure, switching equipment congestion."""


def judged(request: SipRequest | None, policy: OnSrsBye) -> tuple[int, str]:
    """Status and reason of the end of a recording session by the SRS's BYE. Status 0: the recording is over; else
    (500 to 599) the next SRS takes it."""
    found = reasons(request)
    status = 0
    for reason in found:
        protocol, cause = reason.protocol.upper(), reason.cause or 0
        if protocol == "SIP" and 500 <= cause <= 599:
            status = cause
        elif protocol == "Q.850" and cause in Q850_FAILURES:
            status = status or 503
    if policy != "by-reason":
        status = (status or 503) if policy == "failover" else 0
    said = "; ".join(f"{reason.protocol} {reason.cause} {reason.text}".rstrip() for reason in found)[:200]
    return status, f"{ENDED_BY_SRS}: {said}" if said else ENDED_BY_SRS
