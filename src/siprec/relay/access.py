"""Who may command the relay. Over a UNIX socket: whoever the file system lets in. Over a network: listed peers, and who
knows the secret; on loopback only, everybody on this host, where neither is configured."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import Final

from siprec.media.ngauth import Opened, Refused, Stale, Verifier, check_secret
from siprec.sip.addresses import is_loopback
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)


LOCAL: Final = "unix"
"""In the place of an address: by a UNIX socket."""


def is_local(host: str) -> bool:
    """Can only this host reach it? A UNIX socket (a path) is one such."""
    return not host or host.startswith("/") or is_loopback(host)


def check_access(host: str, secret: str, peers: Sequence[str]) -> None:
    """Raises ValueError: a secret that is too short, peers that are no addresses, or a `host` to listen on that others
    reach with neither."""
    if secret:
        check_secret(secret)
    _networks(peers)
    if not is_local(host) and not secret and not peers:
        raise ValueError(
            f"whoever reaches {host} could command the relay and hear every call: "
            "set a secret or list the peers, or listen on a loopback address or a UNIX socket"
        )


def _networks(peers: Sequence[str]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in peers)
    except ValueError as error:
        raise ValueError(f"peers: {error}") from None


class Access:
    """Lets messages in or refuses them. `counters` has ``refused`` (messages), and ``connections`` that were."""

    def __init__(self, secret: str, peers: Sequence[str], now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._verifier = Verifier(check_secret(secret), wall) if secret else None
        self._networks = _networks(peers)
        self.log = SourceLog(log, now=now)
        self.counters = {"refused": 0, "refused connections": 0}

    def listed(self, host: str) -> bool:
        """Needs `host` no secret? Who comes by a UNIX socket (:data:`LOCAL`) was let in by the file system."""
        if host == LOCAL or (self._verifier is None and not self._networks):
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def welcome(self, host: str) -> bool:
        """May `host` connect? Who knows the secret comes from anywhere."""
        if self._verifier is not None or self.listed(host):
            return True
        self.counters["refused connections"] += 1
        self.log.warning(host, "ng connection of %s refused: it is not listed", host)
        return False

    def open(self, message: bytes, host: str) -> tuple[bytes, Opened | None, bool] | None:
        """The message itself, what seals its reply, and whether it may be carried out (else only answered again, as it
        came before); None: it is refused. Raises :class:`~siprec.media.ngauth.Stale`."""
        reason = "it is not listed"
        if self._verifier is not None and b"~" in message.partition(b" ")[0]:
            try:
                opened, first = self._verifier.open(message)
            except Stale as error:
                self.log.warning(host, "ng of %s refused: %s", host, error)
                raise
            except Refused as error:
                reason = str(error)
            else:
                return opened.message, opened, first
        elif self._verifier is not None:
            reason = "it is neither listed nor signed" if self._networks else "it is not signed"
        if self.listed(host):
            return message, None, True
        self.counters["refused"] += 1
        self.log.warning(host, "ng of %s refused: %s", host, reason)
        return None
