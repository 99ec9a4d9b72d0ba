"""What response contexts say is to be done: plain tuples, carried out by :class:`siprec.proxy.driver.Driver`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Literal

from siprec.proxy.branch import Branch
from siprec.proxy.routes import Target
from siprec.sip.message import SipResponse
from siprec.sip.transaction import ClientTransaction, ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

Headers = Iterable[tuple[str, str]]

Action = (
    tuple[Literal["resolve"], Branch, Uri]
    | tuple[Literal["offer"], Branch]
    | tuple[Literal["send"], Branch]
    | tuple[Literal["pass"], Branch, ClientTransaction, SipResponse]
    | tuple[Literal["respond"], SipResponse]
    | tuple[Literal["forward"], SipResponse, bytes | None]
    | tuple[Literal["cancel"], ClientTransaction, Headers]
    | tuple[Literal["forwarded"], Branch, SipResponse, bool]
    | tuple[Literal["refused"], SipResponse]
    | tuple[Literal["final"], SipResponse]
)
"""``resolve``: find the hops of a URI, then `resolved`. ``offer``: pass the description in the branch's request through
the media server, then `offer_passed`. ``send``: the branch's request to its next hop. ``pass``: pass the description in
a response, then `passed`. ``respond``: send a response of our own upstream. ``forward``: one
that came, with another body, or None: its own. ``cancel``: CANCEL a client transaction. ``forwarded``: a 1xx or
2xx of a branch went upstream (true: the first 2xx). ``refused``: a final response that is no 2xx did. ``final``: tell
who waits."""


class Choices:
    """What a deployment has chosen for branches; shared by all contexts, changed by a reload."""

    __slots__ = ("max_branches", "recurse", "serves", "silence_timeout", "timer_c", "trusts")

    def __init__(self, serves: Callable[[Uri], bool], trusts: Callable[[Hop], bool]) -> None:
        self.serves = serves
        self.trusts = trusts
        self.max_branches = 60
        self.recurse = False
        self.timer_c = 185.0
        self.silence_timeout = 4.0


def our_tag(transaction: ServerTransaction) -> str:
    """The To tag of our own responses to one request: always the same."""
    tag = transaction.to_tag
    if not tag:
        tag = transaction.to_tag = secrets.token_hex(5)
    return tag


def by_preference(targets: Iterable[Target]) -> list[list[Target]]:
    """Groups of equal q, the highest first (RFC 3261 16.6)."""
    groups: dict[float, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.q, []).append(target)
    return [groups[q] for q in sorted(groups, reverse=True)]
