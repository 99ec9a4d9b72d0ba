"""Which of several final responses is passed on (RFC 3261 16.7 steps 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from siprec.sip.message import SipRequest, SipResponse

_PREFERRED: Final = frozenset({401, 407, 415, 420, 484})
_CHALLENGES: Final = frozenset({"www-authenticate", "proxy-authenticate"})
# Say nothing about the user: everything else in their class does.
_WEAK: Final = frozenset({408, 487})


class Result(Protocol):
    """What came of a branch: a response, or a status made up for silence (408) or a broken way (503)."""

    @property
    def status(self) -> int: ...

    @property
    def response(self) -> SipResponse | None: ...


def choose(request: SipRequest, results: Sequence[Result], to_tag: str, cancelled: bool) -> SipResponse:
    """The response to forward. `request` is as received, `to_tag` for responses of our own."""
    best = min(results, key=_rank, default=None)
    if best is None:
        return request.response(487 if cancelled else 480, to_tag=to_tag)
    if cancelled and best.response is None:
        return request.response(487, to_tag=to_tag)  # RFC 3261 9.2
    if best.status == 503:
        return request.response(500, to_tag=to_tag)  # others are not to think that we are overloaded
    if best.response is None:
        return request.response(best.status, to_tag=to_tag)
    if best.status in (401, 407):
        for result in results:
            other = result.response
            if other is not None and other is not best.response and other.status in (401, 407):
                for key, line in zip(other.keys, other.lines, strict=True):
                    if key in _CHALLENGES:
                        best.response.write_line(key, line)  # RFC 3261 16.7 step 7: unmodified
    return best.response


def _rank(result: Result) -> tuple[int, int, int]:
    status = result.status
    if status >= 600:
        return (0, 0, status)
    if status in _PREFERRED:
        return (status // 100, 0, status)
    return (status // 100, 2 if status in _WEAK else 1, 0 if result.response is not None else 1)
