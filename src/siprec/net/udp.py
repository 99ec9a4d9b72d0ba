"""One UDP socket: a drain loop, a send queue for when the kernel's is full, and ICMP errors (RFC 3261 18).

The socket is read by ``loop.add_reader`` and not by an asyncio transport, which costs several times as much per packet.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from siprec.net.address import ListenAddress, bound_socket
from siprec.net.counters import Counters
from siprec.net.datagrams import watch_again
from siprec.sip.transport import Hop, SendFailed

log = logging.getLogger(__name__)

BATCH: Final = 64  # datagrams per wake-up, so that timers and streams get their turn
RECEIVE_BUFFER: Final = 4 << 20
SEND_QUEUE: Final = 2 << 20  # octets that wait at most
ERROR_WINDOW: Final = 4.0  # an ICMP error is matched with what was sent in the last 4 to 8 seconds

# From <linux/in.h>, <linux/in6.h> and <linux/errqueue.h>; the socket module has no names for them.
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_ORIGIN_ICMP: Final = 2
_ORIGIN_ICMP6: Final = 3
_SOCK_EXTENDED_ERR: Final = struct.Struct("=IBBBBII")
_MSG_ERRQUEUE: Final = getattr(socket, "MSG_ERRQUEUE", 0x2000)
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8
_MAX_HOPS: Final = 4096
_BLOCKED: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)


class UdpListener:
    """One bound UDP socket.

    `received(data, Hop)` is called for each datagram that may be SIP. `address` has the real port.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: ListenAddress,
        received: Callable[[bytes, Hop], None],
        counters: Counters,
    ) -> None:
        self._loop = loop
        self._received = received
        self._counters = counters
        self._socket = sock = bound_socket(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RECEIVE_BUFFER)
        try:
            if address.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        except OSError:  # not Linux: time-outs do the work of ICMP
            pass
        host, port = sock.getsockname()[:2]
        self.address = ListenAddress("udp", host, port)
        self.local = (host, port)
        self._queue: deque[tuple[bytes, tuple[str, int], SendFailed | None]] = deque()
        self._queued = 0
        self._hops: dict[tuple[str, int], Hop] = {}  # of those that sent something lately: one object for each
        # Two generations of what was sent with a `failed` callback, by destination.
        self._young: dict[tuple[str, int], list[tuple[bytes, SendFailed]]] = {}
        self._old: dict[tuple[str, int], list[tuple[bytes, SendFailed]]] = {}
        self._ageing: asyncio.TimerHandle | None = None
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def overflowed(self) -> int:
        """Datagrams that the kernel dropped because the socket's buffer was full (0 where the kernel does not say)."""
        try:
            sizes = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        except OSError:
            return 0
        at = 4 * _MEMINFO_DROPS
        return int(struct.unpack_from("=I", sizes, at)[0]) if len(sizes) >= at + 4 else 0

    def close(self) -> None:
        """Close the socket; what is queued is dropped."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        if self._queue:
            self._loop.remove_writer(self._socket.fileno())
            self._queue.clear()
        if self._ageing is not None:
            self._ageing.cancel()
        self._young = {}
        self._old = {}
        self._socket.close()

    # -- in --------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        recvfrom, hops = self._socket.recvfrom, self._hops
        for number in range(BATCH):
            try:
                data, source = recvfrom(65536)
            except BlockingIOError:
                if number == 0:  # woken by an error that a send took off
                    self._watch_again()
                return
            except InterruptedError:
                continue
            except OSError:
                # The socket's pending error: an ICMP message for something we sent.
                if not self._drain_errors():
                    self._watch_again()
                continue
            # A SIP message starts with a letter or another token character; keep-alives (CRLF, zero octets) and STUN
            # (0..3) do not.
            if len(data) < 16 or not 0x21 <= data[0] < 0x7F:
                stripped = data.lstrip(b"\r\n")
                if len(stripped) < 16 or not 0x21 <= stripped[0] < 0x7F:
                    self._counters.ignored += 1
                    continue
                data = stripped
            hop = hops.get(source[:2])
            if hop is None:
                if len(hops) >= _MAX_HOPS:
                    hops.clear()
                hop = hops[source[:2]] = Hop("udp", source[0], source[1], self.local)
            self._received(data, hop)
            if self._socket.fileno() < 0:
                return  # closed by what the message led to

    # -- out -------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, host: str, port: int, failed: SendFailed | None) -> None:
        """Send one datagram to a numeric address. `failed(reason)` comes later, if at all."""
        to = (host, port)
        if failed is not None:
            self._remember(to, data, failed)
        if self._queue:
            self._enqueue(data, to, failed)
            return
        error = self._try(data, to)
        if error is None:
            return
        if error.errno in _BLOCKED:
            self._counters.send_blocked += 1
            self._enqueue(data, to, failed)
            if self._queue:
                self._loop.add_writer(self._socket.fileno(), self._writable)
        else:
            self._failed(failed, to, data, error.strerror or str(error))

    def _try(self, data: bytes, to: tuple[str, int]) -> OSError | None:
        """Send; errors of earlier datagrams, which the kernel reports here, are taken off first."""
        error: OSError | None = None
        for _ in range(4):
            try:
                self._socket.sendto(data, to)
            except OSError as caught:
                error = caught
                if caught.errno in _BLOCKED or not self._drain_errors():
                    return error
            else:
                return None
        return error

    def _enqueue(self, data: bytes, to: tuple[str, int], failed: SendFailed | None) -> None:
        if self._queued + len(data) > SEND_QUEUE:
            self._failed(failed, to, data, "send queue full")
            return
        self._queued += len(data)
        self._queue.append((data, to, failed))

    def _writable(self) -> None:
        queue = self._queue
        while queue:
            data, to, failed = queue[0]
            error = self._try(data, to)
            if error is not None and error.errno in _BLOCKED:
                return
            queue.popleft()
            self._queued -= len(data)
            if error is not None:
                self._failed(failed, to, data, error.strerror or str(error))
        self._loop.remove_writer(self._socket.fileno())

    def _failed(self, failed: SendFailed | None, to: tuple[str, int], data: bytes, reason: str) -> None:
        self._counters.send_errors += 1
        if failed is not None:
            self._take(to, data)
            self._loop.call_soon(failed, reason)

    # -- ICMP ------------------------------------------------------------------------------------------------------

    def _remember(self, to: tuple[str, int], data: bytes, failed: SendFailed) -> None:
        sent = self._young.get(to)
        if sent is None:
            self._young[to] = [(data, failed)]
        elif len(sent) < 256:
            sent.append((data, failed))
        if self._ageing is None:
            self._ageing = self._loop.call_later(ERROR_WINDOW, self._age)

    def _age(self) -> None:
        self._old, self._young = self._young, {}
        self._ageing = self._loop.call_later(ERROR_WINDOW, self._age) if self._old else None

    def _take(self, to: tuple[str, int], payload: bytes) -> list[SendFailed]:
        """Callbacks for what was sent to `to` and begins with `payload` (an ICMP error quotes but the beginning)."""
        found: list[SendFailed] = []
        for generation in (self._old, self._young):
            sent = generation.get(to)
            if sent:
                found += [failed for data, failed in sent if data.startswith(payload)]
                rest = [item for item in sent if not item[0].startswith(payload)]
                if rest:
                    generation[to] = rest
                else:
                    del generation[to]
        return list(dict.fromkeys(found))  # retransmissions are one message

    def _drain_errors(self) -> bool:
        """Read the socket's error queue; whether there was something in it."""
        any_read = False
        for _ in range(BATCH):
            try:
                payload, ancillary, _, to = self._socket.recvmsg(2048, 512, _MSG_ERRQUEUE)
            except OSError:
                break
            any_read = True
            self._icmp(payload, ancillary, to)
        if any_read:
            self._watch_again()
        return any_read

    def _watch_again(self) -> None:
        """Be told of the next datagram, and of room to send (:mod:`siprec.net.datagrams`)."""
        watch_again(self._loop, self._socket, self._readable)
        if self._queue and self._socket.fileno() >= 0:
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _icmp(self, payload: bytes, ancillary: list[tuple[int, int, bytes]], to: Any) -> None:
        for _level, _type, content in ancillary:
            if len(content) < _SOCK_EXTENDED_ERR.size:
                continue
            code, origin, icmp_type, _icmp_code, _, _, _ = _SOCK_EXTENDED_ERR.unpack_from(content)
            # Fatal are unreachable and parameter problem; source quench, too big and time exceeded are not (RFC 3261
            # 18.4).
            if origin == _ORIGIN_ICMP:
                fatal = icmp_type in (3, 12) and code != errno.EMSGSIZE
            elif origin == _ORIGIN_ICMP6:
                fatal = icmp_type in (1, 4)
            else:
                continue
            self._counters.icmp_errors += 1
            if fatal and to and len(payload) >= 8:
                reason = errno.errorcode.get(code, str(code))
                for failed in self._take((to[0], to[1]), payload):
                    self._counters.send_errors += 1
                    self._loop.call_soon(failed, f"ICMP: {reason}")
