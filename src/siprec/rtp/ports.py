"""Pairs of UDP ports: RTP on an even port, RTCP on the next (RFC 3550 11)."""

from __future__ import annotations

import errno
import socket
from typing import Final, NamedTuple

TAKEN: Final = (errno.EADDRINUSE, errno.EACCES)
"""Why a port cannot be bound that is somebody else's."""


class Pair(NamedTuple):
    """Two bound, non-blocking sockets."""

    rtp: socket.socket
    rtcp: socket.socket


def bind_pair(address: str, port: int, *, dscp: int = 0, receive_buffer: int = 0) -> Pair | None:
    """The pair on `port` and `port` + 1 of a local `address`; None if one of them is somebody else's.

    `dscp` (RFC 2474, 0 to 63) marks what is sent, `receive_buffer` is in octets (0: the system's).

    Raises:
        OSError: the address is not there, or there are no descriptors.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened: list[socket.socket] = []
    try:
        for number in (port, port + 1):
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            opened.append(sock)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            # Beside the class are the two bits of ECN (RFC 3168 5).
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
            sock.bind((address, number))
    except OSError as error:
        for sock in opened:
            sock.close()
        if opened and error.errno in TAKEN:
            return None
        raise
    return Pair(*opened)
