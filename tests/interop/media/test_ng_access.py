"""Who may command a relay: only its parent, listed peers, and clients that know the secret; it never listens to others
without either."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from siprec.media import sockets
from siprec.media.engine import MediaError
from siprec.media.ngauth import signing
from siprec.media.request_tracker import Opener
from siprec.media.rtpengine import RtpEngine
from siprec.relay.child import RelayFailed, RelayProcess, start_relay
from siprec.relay.process import LoopClock
from tests.interop.media.rig import relay_options

SECRET = "correct horse battery staple"


async def pinged(opener: Opener, timeout: float = 10.0) -> MediaError | None:
    loop = asyncio.get_running_loop()
    engine = RtpEngine(LoopClock(loop), opener, timeout=timeout)
    answered: asyncio.Future[MediaError | None] = loop.create_future()
    engine.ping(answered.set_result)
    try:
        return await answered
    finally:
        engine.close()


async def counted(opener: Opener) -> dict[str, int]:
    loop = asyncio.get_running_loop()
    engine = RtpEngine(LoopClock(loop), opener, timeout=10.0)
    answered: asyncio.Future[Any] = loop.create_future()
    engine.load(answered.set_result, 10.0)
    try:
        found = await answered
        assert not isinstance(found, MediaError)
        return dict(found)
    finally:
        engine.close()


def listening(pid: int) -> set[str]:
    """UDP and TCP sockets that a process has: as the kernel lists them."""
    inodes = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    found = set()
    for name in ("udp", "udp6", "tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            if f"socket:[{line.split()[9]}]" in inodes:
                found.add(f"{name} {line.split()[1]}")
    return found


def test_the_relay_of_a_parent_has_a_unix_socket_of_its_own_and_no_other() -> None:
    async def scenario() -> None:
        relay = await start_relay(relay_options(listen=("", 0)))
        path = Path(relay.ng_address[0])
        try:
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert listening(relay.pid) == set()
            assert await pinged(sockets.tcp(asyncio.get_running_loop(), relay.ng_address)) is None
        finally:
            await relay.stop()
        assert not path.parent.exists()

    asyncio.run(scenario())


def test_nothing_is_left_of_the_socket_when_the_relay_or_its_parent_is_killed() -> None:
    async def scenario() -> None:
        relay = await start_relay(relay_options(listen=("", 0)))
        path = Path(relay.ng_address[0])
        relay.kill()
        await relay.wait()
        assert not path.parent.exists()

    asyncio.run(scenario())
    script = (
        "import asyncio\n"
        "from siprec.relay.child import start_relay\n"
        "from tests.interop.media.rig import relay_options\n"
        "async def main():\n"
        "    relay = await start_relay(relay_options(listen=('', 0)))\n"
        "    print(relay.ng_address[0], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    path = Path(parent.stdout.readline().strip())
    assert stat.S_ISSOCK(path.stat().st_mode)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 30
    while path.parent.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("listen", ["0.0.0.0", "::", "127.0.0.1"])
@pytest.mark.parametrize("access", [{}, {"secret": SECRET}, {"peers": ("192.0.2.0/24",)}])
def test_others_are_listened_to_only_with_a_secret_or_a_list(listen: str, access: dict[str, Any]) -> None:
    async def scenario() -> None:
        options = relay_options(listen=(listen, 0), **access)
        if not access and listen != "127.0.0.1":
            with pytest.raises(RelayFailed):
                await start_relay(options)
            return
        relay = await start_relay(options)
        await relay.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('listen = "0.0.0.0:0"', "set a secret or list the peers"),
        ('listen = "[::]:0"', "set a secret or list the peers"),
        ('listen = "0.0.0.0:0"\nsecret = "short"', "at least 16"),
        ('listen = "0.0.0.0:0"\npeers = ["10.0.0.1/8"]', "has host bits set"),
        ('listen = "0.0.0.0:0"\npeers = ["phone"]', "peers: 'phone'"),
    ],
)
def test_the_command_says_why_it_does_not_start(tmp_path: Path, config: str, says: str) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(f"[relay]\n{config}\n")
    command = [sys.executable, "-m", "siprec", "relay", "--config", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


async def _relay(**access: Any) -> RelayProcess:
    return await start_relay(relay_options(**access))


@pytest.mark.parametrize("transport", [sockets.udp, sockets.tcp])
def test_a_secret_lets_in_who_knows_it_and_nobody_else(transport: Any) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        relay = await _relay(secret=SECRET)
        opener = transport(loop, relay.ng_address)
        right, wrong = (signing(opener, text, time.time) for text in (SECRET, SECRET.upper()))
        late = signing(opener, SECRET, lambda: time.time() - 300)
        try:
            assert await pinged(right) is None
            for stranger in (opener, wrong):
                error = await pinged(stranger, 1.0)
                assert error is not None
                assert error.timeout
            error = await pinged(late)
            assert error is not None
            assert "the clocks of client and relay are 30" in error.reason
            assert (await counted(right))["refused"] >= 2
        finally:
            await relay.stop()

    asyncio.run(scenario())


def test_listed_peers_need_no_secret_and_others_are_not_even_connected() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        relay = await _relay(peers=("127.0.0.0/30",))
        try:
            for transport in (sockets.udp, sockets.tcp):
                assert await pinged(transport(loop, relay.ng_address)) is None
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind(("127.0.0.9", 0))
                stranger.settimeout(1.0)
                stranger.sendto(b"1 d7:command4:pinge", relay.ng_address)
                with pytest.raises(TimeoutError):
                    stranger.recv(2048)
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stranger:
                stranger.bind(("127.0.0.9", 0))
                stranger.settimeout(30.0)
                stranger.connect(relay.ng_address)
                try:
                    assert stranger.recv(2048) == b""
                except ConnectionResetError:
                    pass
            found = await counted(sockets.udp(loop, relay.ng_address))
            assert (found["refused"], found["refused connections"]) == (1, 1)
        finally:
            await relay.stop()
        relay = await _relay(peers=("127.0.0.0/30",), secret=SECRET)
        try:
            assert await pinged(sockets.udp(loop, relay.ng_address)) is None
            assert await pinged(signing(sockets.udp(loop, relay.ng_address), SECRET, time.time)) is None
        finally:
            await relay.stop()

    asyncio.run(scenario())


def test_a_socket_that_nobody_listens_on_any_more_is_taken_over_and_one_in_use_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "ng")
        relay = await _relay(listen=(path, 0), secret=SECRET, peers=("192.0.2.1",))  # those are for others
        assert await pinged(sockets.tcp(asyncio.get_running_loop(), (path, 0))) is None
        with pytest.raises(RelayFailed):
            await _relay(listen=(path, 0))
        relay.kill()
        await relay.wait()
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        relay = await _relay(listen=(path, 0))
        try:
            assert await pinged(sockets.tcp(asyncio.get_running_loop(), (path, 0))) is None
        finally:
            await relay.stop()
        assert not os.path.exists(path)

    asyncio.run(scenario())
