"""RTPProxy's control protocol: words, commands, replies, capabilities."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from siprec.media.engine import MediaError, MediaFlags, Result
from siprec.media.request_tracker import Malformed, RequestTracker
from siprec.sdp import MediaDescription

COPIES: Final = "20071218"
"""Capability: copies to a socket."""
ENDS_COPIES: Final = "20200226"
"""Capability: the end of a copy."""
UNKNOWN: Final = "E50"
_ERRORS: Final = {
    "E0": "unknown command",
    "E1": "wrong number of arguments",
    "E36": "no address of that family there",
    "E37": "an address it cannot resolve",
    "E50": "unknown call",
    "E60": "no such prompt",
    "E65": "a target it cannot copy to",
    "E71": "no port left",
    "E72": "out of memory, or no port left",
    "E98": "overloaded",
    "E99": "going down",
}
_SAFE: Final = "!#$&'()*+-./:<=>?@[]^_`{|}~\""
_PLAIN: Final = re.compile(r"[A-Za-z0-9@._-]+")

Told = Callable[["str | MediaError"], None]


class RtpProxyClient(RequestTracker[str]):
    """Commands to one RTPProxy; a reply is the text after the cookie."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._known: dict[str, bool] = {}

    def read(self, body: bytes) -> str | MediaError:
        """What came after the cookie as a value, or as the refusal it is."""
        try:
            text = body.decode("ascii").strip()
        except UnicodeDecodeError:
            raise Malformed("not ASCII") from None
        if not text:
            raise Malformed("empty")
        if text[0] == "E":
            return MediaError(f"{text}: {_ERRORS.get(text, 'refused')}", server=self.name)
        return text

    def capable(self, version: str, done: Callable[[bool | MediaError], None]) -> None:
        """Whether the server knows a feature by the date it is named after; asked once."""
        known = self._known.get(version)
        if known is not None:
            self._clock.call_later(0, done, known)
            return

        def replied(reply: str | MediaError) -> None:
            if isinstance(reply, MediaError):
                done(reply)
                return
            self._known[version] = reply == "1"
            done(self._known[version])

        self.send(f"VF {version}", "", replied)

    def send(self, command: str, call_id: str, done: Told) -> None:
        """Send one command."""
        self.submit(command.partition(" ")[0], command.encode("ascii"), done, call_id=call_id)

    def send_all(
        self, commands: Mapping[int, str], call_id: str, done: Callable[[Mapping[int, str] | MediaError], None]
    ) -> None:
        """Send several commands at once; `done` gets every reply, or the first refusal when all have come."""
        replies: dict[int, str] = {}
        failure: MediaError | None = None
        left = len(commands)

        def replied(index: int, reply: str | MediaError) -> None:
            nonlocal failure, left
            left -= 1
            if isinstance(reply, MediaError):
                failure = failure or reply
            else:
                replies[index] = reply
            if left == 0:
                done(failure if failure is not None else replies)

        if not commands:
            self._clock.call_later(0, done, replies)
        for index, command in commands.items():
            self.send(command, call_id, partial(replied, index))


def nobody(error: MediaError | None) -> None:
    pass


def settled(done: Result | None) -> Told:
    """For commands after which the call need not be there: that it is unknown is no error."""

    def replied(reply: str | MediaError) -> None:
        if done is not None:
            done(reply if isinstance(reply, MediaError) and not reply.reason.startswith(UNKNOWN) else None)

    return replied


def word(text: str) -> str:
    """One word of a command: nothing that separates words, tags or commands."""
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE, errors="replace")


def modifiers(*wishes: MediaFlags) -> str:
    """``ie``: from the first (internal) of two addresses it listens on to the second (external) one; ``a`` asymmetric,
    ``w`` symmetric, ``r`` the address in the description is to be trusted."""
    found = ""
    for wish in wishes:
        if len(wish.direction) == 2 and all(each[:1] in "ei" for each in wish.direction):
            found = "".join(each[0] for each in wish.direction)
    flags = {flag for wish in wishes for flag in wish.flags}
    known = (("asymmetric", "a"), ("symmetric", "w"), ("trust-address", "r"))
    return found + "".join(letter for flag, letter in known if flag in flags)


def numeric(media: MediaDescription) -> str:
    """Where the party wants its media; the null address for a name, so that the first packet tells."""
    address = media.connection.address if media.connection is not None else ""
    if address.replace(".", "").isdigit() or ":" in address:
        return address
    return "::" if media.connection is not None and media.connection.family == "IP6" else "0.0.0.0"


def place(reply: str) -> tuple[str, int]:
    """``PORT ADDRESS [6]`` as address and port; ValueError: neither."""
    words = reply.split()
    if len(words) >= 2 and len(words[0]) < 6 and words[0].isdecimal() and 0 < int(words[0]) < 65536:
        return words[1], int(words[0])
    if words[:1] == ["0"]:
        raise ValueError("no session of that call")
    raise ValueError(f"a reply that makes no sense: {reply[:60]!r}")


def counts(reply: str) -> dict[str, int]:
    pairs = (word.partition("=") for word in reply.split())
    return {name: int(value) for name, _, value in pairs if value.isdecimal() and len(value) < 20}
