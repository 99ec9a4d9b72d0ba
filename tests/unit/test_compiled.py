"""What is done where a part in C is missing, forbidden, or was built from other sources. Each in a process of its own:
the choice is made when modules are loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MODULES = ("siprec.sip._scan", "siprec.media._bencode", "siprec.relay._native")
USE = """
import asyncio
from siprec import compiled
from siprec.media import bencode
from siprec.relay.native import packet_loop
from siprec.sip.message import parse_datagram

async def main():
    loop = packet_loop(asyncio.get_running_loop(), lambda: 0.0)
    loop.close()
    return loop.name

name = asyncio.run(main())
assert bencode.decode(bencode.encode({"a": 1})) == {"a": 1}
message = parse_datagram(
    b"BYE sip:a@b SIP/2.0\\r\\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\\r\\nFrom: <sip:a@b>;tag=1\\r\\n"
    b"To: <sip:c@d>;tag=2\\r\\nCall-ID: 1\\r\\nCSeq: 2 BYE\\r\\n\\r\\n"
)
assert (message.branch, message.to_tag, message.cseq.number) == ("z9hG4bKx", "2", 2)
print(compiled.used(), name)
"""
STALE = """
import sys, types
for name in {names}:
    stale = types.ModuleType(name)
    stale.__file__ = name + ".so"
    {version}
    sys.modules[name] = stale
"""


def run(code: str, native: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "SIPREC_NATIVE": native},
    )
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize("version", ["pass", "stale.VERSION = 0"])
def test_a_module_of_other_sources_is_left_alone(version: str) -> None:
    words, errors = run(STALE.format(names=MODULES, version=version) + USE, "")
    assert words == ["none", "python"]
    for name in MODULES:
        assert f"{name}.so was built from other sources" in errors


def test_a_module_that_is_missing_is_done_without() -> None:
    code = f"import sys\nfor name in {MODULES}: sys.modules[name] = None\n"
    assert run(code + USE, "") == (["none", "python"], "")


def test_native_modules_can_be_forbidden() -> None:
    assert run(USE, "0") == (["none", "python"], "")


def test_what_is_used_is_said() -> None:
    words, _ = run(USE, "")
    for name, choice in (("sip._scan", words[0]), ("media._bencode", words[0])):
        try:
            __import__(f"siprec.{name}")
        except ImportError:
            continue
        assert name in choice
