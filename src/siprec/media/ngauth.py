"""ng over a network: messages whose sender proves that it knows a shared secret.

A signed message has ``COOKIE~TIME~MAC`` in the place of its cookie, the reply ``COOKIE~MAC``: TIME in seconds since the
epoch, MAC the first 128 bits of an HMAC-SHA-256 (RFC 2104) in hexadecimal over all of the message, and over the
request's MAC for a reply. A server takes messages that are no older than a minute by its clock, each of them once.
Nothing is encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from siprec.media.request_tracker import Connection, Opener

TOLERANCE: Final = 60.0
"""Seconds that the clocks of both ends may differ, with the time on the way."""
SHORTEST: Final = 16
"""Characters of a secret."""
_WINDOW: Final = 4096  # requests of one client that may overtake each other
_CLIENTS: Final = 256
_SIZE: Final = 32


def _mac(secret: bytes, *parts: bytes) -> bytes:
    return hmac.digest(secret, b"\0".join(parts), hashlib.sha256).hex()[:_SIZE].encode()


def check_secret(secret: str) -> bytes:
    """The secret as octets; raises ValueError when it is too short to be one."""
    if len(secret) < SHORTEST:
        raise ValueError(f"secret: {len(secret)} characters, at least {SHORTEST} are needed")
    return secret.encode("utf-8", "surrogateescape")


class Signing:
    """A connection that signs what it sends, and takes only replies that are signed."""

    def __init__(
        self,
        opener: Opener,
        secret: bytes,
        wall: Callable[[], float],
        on_message: Callable[[bytes], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._secret = secret
        self._wall = wall
        self._on_message = on_message
        self._sent: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._connection: Connection = opener(self._arrived, on_error)
        self.reliable = self._connection.reliable

    def send(self, message: bytes) -> None:
        cookie, _, body = message.partition(b" ")
        time = b"%d" % self._wall()
        mac = _mac(self._secret, b"request", cookie, time, body)
        macs = self._sent.setdefault(cookie, [])
        if mac not in macs:
            macs.append(mac)
        while len(self._sent) > _WINDOW:
            self._sent.popitem(last=False)
        self._connection.send(b"%b~%b~%b %b" % (cookie, time, mac, body))

    def close(self) -> None:
        self._connection.close()

    def _arrived(self, message: bytes) -> None:
        signed, _, body = message.partition(b" ")
        cookie, _, mac = signed.partition(b"~")
        for request in self._sent.get(cookie, ()):
            if hmac.compare_digest(_mac(self._secret, b"reply", cookie, request, body), mac):
                del self._sent[cookie]
                self._on_message(cookie + b" " + body)
                return


def signing(opener: Opener, secret: str, wall: Callable[[], float]) -> Opener:
    """`opener` with messages signed; `wall` in seconds since the epoch. Raises ValueError for a secret that is none."""
    octets = check_secret(secret)

    def signed(on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
        return Signing(opener, octets, wall, on_message, on_error)

    return signed


class Refused(Exception):
    """A message that is not taken; the text says why."""


class Stale(Refused):
    """A message of another time. Its sender knows the secret, so it may be told: `answer` seals what is said."""

    def __init__(self, reason: str, answer: Opened) -> None:
        super().__init__(reason)
        self.answer = answer


class Opened:
    """A message whose signature is right. `message` is what was signed."""

    __slots__ = ("_cookie", "_mac", "_secret", "message")

    def __init__(self, secret: bytes, cookie: bytes, mac: bytes, body: bytes) -> None:
        self._secret = secret
        self._cookie = cookie
        self._mac = mac
        self.message = cookie + b" " + body

    def sealed(self, reply: bytes) -> bytes:
        """A reply (``COOKIE SP BODY``) as it is sent."""
        body = reply.partition(b" ")[2]
        return b"%b~%b %b" % (self._cookie, _mac(self._secret, b"reply", self._cookie, self._mac, body), body)


class Verifier:
    """The server's end. `wall` in seconds since the epoch."""

    def __init__(self, secret: bytes, wall: Callable[[], float]) -> None:
        self._secret = secret
        self._wall = wall
        self._clients: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def open(self, message: bytes) -> tuple[Opened, bool]:
        """The message, and whether it is the first of its cookie. Raises :class:`Refused`."""
        signed, _, body = message.partition(b" ")
        parts = signed.split(b"~")
        if len(parts) != 3:
            raise Refused("not signed")
        cookie, time, mac = parts
        expected = _mac(self._secret, b"request", cookie, time, body)
        if not hmac.compare_digest(expected, mac) or not time.isdigit() or len(time) > 15:
            raise Refused("signed with another secret")
        opened = Opened(self._secret, cookie, mac, body)
        apart = int(time) - self._wall()
        if abs(apart) > TOLERANCE:
            raise Stale(f"the clocks of client and relay are {abs(apart):.0f} s apart", opened)
        return opened, self._first(cookie)

    def _first(self, cookie: bytes) -> bool:
        """Note a cookie, ``CLIENT_NUMBER``; false for one that came before, or too late to say."""
        client, _, text = cookie.rpartition(b"_")
        if not text.isdigit() or len(text) > 15:
            raise Refused("its cookie has no number")
        number = int(text)
        highest, seen = self._clients.pop(client, (number - 1, 0))
        if number > highest:
            seen = (seen << min(number - highest, _WINDOW) | 1) & ((1 << _WINDOW) - 1)
            first, highest = True, number
        else:
            bit = 1 << (highest - number)
            first = highest - number < _WINDOW and not seen & bit
            seen |= bit if first else 0
        self._clients[client] = highest, seen
        while len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        return first
