"""Damaged and hostile messages never raise, never stop a call, and leave nothing behind."""

from __future__ import annotations

import logging
import random

import pytest

from siprec.sip.transport import Hop
from siprec.sip.useragent import IncomingCall
from tests.paths import DATA
from tests.simulation.phones import ANSWER, SDP, TwoPhones


def damage(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    kind = rng.randrange(6)
    at = rng.randrange(len(lines))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 2:
        name, colon, _ = lines[at].partition(b":")
        lines[at] = name + colon
    elif kind == 3:
        line = bytearray(lines[at] or b"x")
        line[rng.randrange(len(line))] = rng.randrange(256)
        lines[at] = bytes(line)
    elif kind == 4:
        lines[at] = lines[at].replace(b"sip:", b"tel:").replace(b"tag=", b"gat=")
    else:
        cut = rng.randrange(len(data))
        return data[:cut]
    return b"\r\n".join(lines)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_copies_of_every_message_harm_nothing(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    w = TwoPhones(seed=seed)

    def take(call: IncomingCall) -> None:
        call.answer(180)
        w.clock.call_later(0.5, call.answer, 200, ANSWER)

    w.bob.take = take
    spread = True

    def noise() -> None:
        if not spread:
            return
        for sent in rng.sample(w.network.trace, min(4, len(w.network.trace))):
            phone = w.alice if sent.destination[0] == "10.0.0.1" else w.bob
            source = Hop("udp", sent.source[0], sent.source[1], sent.destination)
            phone.node.deliver(damage(sent.data, rng), source)
        w.clock.call_later(0.05, noise)

    with caplog.at_level(logging.WARNING, "siprec"):
        call = w.call(session_expires=600)
        noise()
        w.clock.run_for(1)
        call.reinvite(SDP)
        call.request("INFO", b"1", "text/plain")
        w.clock.run_for(1)
        call.bye()
        w.clock.run_for(1)
        spread = False
        for incoming in list(w.bob.agent.calls()):
            # Copies with another Call-ID or tag are calls in their own right.
            incoming.bye()
        w.clock.run_for(1500)
    assert not [record for record in caplog.records if record.exc_info]
    w.finish()


@pytest.mark.parametrize("name", ["rfc4475", "rfc5118"])
def test_torture_messages_harm_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    files = sorted(path for path in (DATA / name).rglob("*") if path.suffix in (".dat", ".sip", ".bin", ".txt"))
    assert files
    with caplog.at_level(logging.WARNING, "siprec"):
        for path in files:
            w = TwoPhones()
            for transport in ("udp", "tcp"):
                w.bob.node.deliver(path.read_bytes(), Hop(transport, "192.0.2.7", 5060, ("10.0.0.2", 5060), 5))
            w.clock.run_for(1500)
            w.finish()
    assert not [record for record in caplog.records if record.exc_info]
