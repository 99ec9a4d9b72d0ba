"""A small DNS server on loopback: real packets from a few lines of zone data."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SOA = "ns.test. admin.test. 1 3600 600 86400 {minimum}"


class DnsServer(asyncio.DatagramProtocol):
    """Answers from `zone`: {("name", "A"): ["192.0.2.1", ...]}; other names do not exist.

    `asked` counts the questions; a name in `silent` is not answered, one in `broken` with SERVFAIL.
    """

    def __init__(self, zone: dict[tuple[str, str], list[str]], *, ttl: int = 60, minimum: int = 30) -> None:
        self.zone = zone
        self.ttl = ttl
        self.minimum = minimum
        self.asked: dict[tuple[str, str], int] = {}
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.address = ""
        self.soa = True
        """Whether negative answers have one."""
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self, port: int = 0) -> str:
        """Listen; returns address:port."""
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", port)
        )
        host, port = self._transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"
        return self.address

    def stop(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """A question."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[(name, kind)] = self.asked.get((name, kind), 0) + 1
        if name in self.silent:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if name in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif (records := self.zone.get((name, kind))) is not None:
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *records))
        else:
            if not any(known == name for known, _ in self.zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
            if not self.soa:
                self._reply(response, addr)
                return
            soa = SOA.format(minimum=self.minimum)
            response.authority.append(dns.rrset.from_text("test.", 3600, "IN", "SOA", soa))
        self._reply(response, addr)

    def _reply(self, response: dns.message.Message, addr: Any) -> None:
        assert self._transport is not None
        self._transport.sendto(response.to_wire(want_shuffle=False), addr)
