"""Capture files and Homer's packets, as tshark understands them."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from siprec.sip.transport import Hop
from siprec.trace import hep, pcap
from siprec.trace.ring import Step

tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is missing: apt-get install tshark")
INVITE = (
    b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx\r\nMax-Forwards: 70\r\n"
    b"From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: call\r\nCSeq: 1 INVITE\r\n"
    b"Content-Length: 0\r\n\r\n"
)
US = ("192.0.2.9", 5060)


def decoded(path: Path, *arguments: str) -> list[dict[str, Any]]:
    ran = subprocess.run(
        ["tshark", "-r", str(path), "-T", "json", *arguments], capture_output=True, timeout=60, check=True
    )
    return [packet["_source"]["layers"] for packet in json.loads(ran.stdout)]


@tshark
def test_a_capture_has_udp_tcp_and_tls_messages_over_ipv4_and_ipv6(tmp_path: Path) -> None:
    long = INVITE.replace(b"Content-Length: 0\r\n\r\n", b"Content-Length: 40000\r\n\r\n" + b"x" * 40_000)
    steps = [
        Step(1700000000.25, "in", "sip", "udp", US, ("192.0.2.1", 5070), INVITE),
        Step(1700000001.0, "out", "sip", "tcp", US, ("192.0.2.2", 5060), long),
        Step(1700000001.5, "in", "sip", "tcp", US, ("192.0.2.2", 5060), b"SIP/2.0 200 OK\r\n\r\n"),
        Step(1700000002.0, "out", "sip", "udp", ("::", 5060), ("2001:db8::2", 5060), INVITE),
        Step(1700000003.0, "out", "sip", "tls", US, ("192.0.2.3", 5061), INVITE),
        Step(1700000004.0, "out", "media", "", ("", 0), ("relay", 0), b"1_1 d7:command4:pinge"),
    ]
    file = tmp_path / "call.pcap"
    file.write_bytes(pcap.export(steps))
    packets = decoded(file, "-d", "udp.port==5061,sip")
    assert len(packets) == 6
    first = packets[0]
    assert first["frame"]["frame.time_epoch"].startswith("1700000000.25")
    assert (first["ip"]["ip.src"], first["ip"]["ip.dst"]) == ("192.0.2.1", "192.0.2.9")
    assert first["ip"]["ip.checksum.status"] in ("1", "2")
    assert (first["udp"]["udp.srcport"], first["udp"]["udp.dstport"]) == ("5070", "5060")
    assert "INVITE" in first["sip"]["sip.Request-Line"]
    assert "sip" not in packets[1]
    assert "INVITE" in packets[2]["sip"]["sip.Request-Line"]
    assert packets[3]["sip"]["sip.Status-Line"] == "SIP/2.0 200 OK"
    assert packets[4]["ipv6"]["ipv6.dst"] == "2001:db8::2"
    assert "INVITE" in packets[5]["sip"]["sip.Request-Line"]
    assert not any("_ws.malformed" in packet for packet in packets)


def chunks(packet: bytes) -> dict[int, bytes]:
    """A HEPv3 packet, read by the letter of its specification: chunks of vendor 0."""
    assert packet[:4] == b"HEP3"
    assert struct.unpack("!H", packet[4:6])[0] == len(packet)
    found, at = {}, 6
    while at < len(packet):
        vendor, kind, length = struct.unpack("!HHH", packet[at : at + 6])
        assert vendor == 0
        assert length >= 6
        found[kind] = packet[at + 6 : at + length]
        at += length
    assert at == len(packet)
    return found


def test_homer_is_sent_who_said_what_when_and_to_which_call_it_belongs() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(10)
        sender = hep.HepSender(collector.getsockname(), node=77, password="secret")
        sender.sip(1700000000.5, "in", Hop("udp", "192.0.2.1", 5070, US), INVITE, "call")
        sender.sip(1700000001.0, "out", Hop("tls", "2001:db8::1", 5061, ("2001:db8::9", 5071)), INVITE, "")
        v4, v6 = (chunks(collector.recv(65536)) for _ in range(2))
        assert (sender.sent, sender.dropped) == (2, 0)
        sender.close()
    assert v4 == {
        1: bytes([2]),
        2: bytes([17]),
        3: socket.inet_aton("192.0.2.1"),
        4: socket.inet_aton("192.0.2.9"),
        7: struct.pack("!H", 5070),
        8: struct.pack("!H", 5060),
        9: struct.pack("!I", 1700000000),
        10: struct.pack("!I", 500_000),
        11: bytes([1]),
        12: struct.pack("!I", 77),
        14: b"secret",
        15: INVITE,
        17: b"call",
    }
    assert (v6[1], v6[2]) == (bytes([10]), bytes([6]))
    assert v6[5] == socket.inet_pton(socket.AF_INET6, "2001:db8::9")
    assert v6[6] == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert (v6[7], v6[8]) == (struct.pack("!H", 5071), struct.pack("!H", 5061))
    assert 17 not in v6


def test_a_packet_of_hep_says_how_long_it_is_and_mixed_families_do_not_break_it() -> None:
    for source, target in ((("0.0.0.0", 1), ("2001:db8::1", 2)), (("nonsense", 1), ("192.0.2.1", 2))):
        packet = hep.encode(1.0, "udp", source, target, b"x" * 100_000, node=1)
        assert len(packet) <= 65507
        assert chunks(packet)[15] == b"x" * 64_000


def test_nobody_at_the_collector_costs_nothing_but_a_count() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    sender = hep.HepSender(address, node=1)
    for _ in range(10):
        sender.sip(1.0, "in", Hop("udp", "192.0.2.1", 5070, US), INVITE, "call")
    assert sender.sent + sender.dropped == 10
    assert sender.refused > 0
    sender.close()
