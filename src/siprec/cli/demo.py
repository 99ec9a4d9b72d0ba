"""``siprec demo``: everything on loopback, one real call, and the proof that its recording holds what was said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from siprec.audio.melody import Floats, callee_melody, caller_melody, match
from siprec.cli.child_process import Child, ChildError
from siprec.cli.phone import Phone, PhoneError
from siprec.logs import setup_logging
from siprec.server.oserror_hints import why
from siprec.server.process import run, wait_for_signal

HOST: Final = "127.0.0.1"
DOMAIN: Final = "siprec.demo"
RATE: Final = 8000
LONG: Final = 600.0
GOOD: Final = 0.9
"""A recorded channel is what was sent when their correlation exceeds this (PCMU's own noise costs less than 0.01)."""


@dataclass(slots=True)
class Channel:
    """One side of the call: what it sent, and how well the recording holds it."""

    name: str
    sent: int
    received: int
    lost: int
    file: str
    score: float
    delay: float

    @property
    def good(self) -> bool:
        """Nothing lost, and the recording is what was sent."""
        return self.lost == 0 and self.received == self.sent and self.score >= GOOD


def main(*, once: bool, seconds: float, directory: Path) -> int:
    """Run the demo; returns the exit status."""
    setup_logging("warning")
    console = Console()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return run(_demo(console, once=once, seconds=max(2.0, min(seconds, 600.0)), directory=directory.resolve()))
    except (ChildError, PhoneError, OSError) as error:
        console.print(f"[red]siprec demo:[/red] {why(error)}", highlight=False)
        return 1


def _free_port(wanted: int) -> int:
    """`wanted` if it is free on UDP and TCP, else 0 (any)."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, wanted))
            except OSError:
                return 0
    return wanted


def _configuration(port: int, srs: int, recorder: int, directory: Path, api: int = 0) -> str:
    return f"""# Written by `siprec demo`.
[sip]
listen = ["udp:{HOST}:{port}", "tcp:{HOST}:{port}"]
domains = ["{DOMAIN}"]

[recording.default]
srs = ["sip:{HOST}:{srs}"]

[[route]]
method = "INVITE"
registrar = true
record = "default"

[recorder]
listen = ["udp:{HOST}:{recorder}", "tcp:{HOST}:{recorder}"]
directory = {json.dumps(str(directory))}

[api]
listen = "{HOST}:{api}"
library = {json.dumps(str(directory.absolute()))}

[service]
drain = 0

[log]
level = "warning"
"""


async def _demo(console: Console, *, once: bool, seconds: float, directory: Path) -> int:
    recorder, proxy = Child("recorder"), Child("proxy")
    phones: list[Phone] = []
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="siprec-demo-")))
        stack.push_async_callback(recorder.stop)
        file = folder / "recorder.toml"
        file.write_text(_configuration(0, 0, _free_port(5090), directory))
        await recorder.start("recorder", "--config", str(file))
        console.print(f"recorder  listens on [bold]{recorder.ready['udp']}[/bold] and tcp", highlight=False)
        stack.push_async_callback(proxy.stop)
        file = folder / "siprec.toml"
        file.write_text(_configuration(_free_port(5060), recorder.address()[1], 0, directory, _free_port(8060)))
        await proxy.start("serve", "--config", str(file))
        console.print(f"proxy     listens on [bold]{proxy.ready['udp']}[/bold] and tcp", highlight=False)

        signals = {"alice": caller_melody(seconds, RATE), "bob": callee_melody(seconds, RATE)}
        alice = Phone("alice", "Alice", DOMAIN, HOST, proxy.address(), signals["alice"])
        bob = Phone("bob", "Bob", DOMAIN, HOST, proxy.address(), signals["bob"])
        for phone in (alice, bob):
            stack.push_async_callback(phone.close)
            await phone.start()
            phones.append(phone)
            await phone.register()
            console.print(f"{phone.user:<9} registered at the proxy", highlight=False)

        known = set(_recordings(directory))
        await alice.dial("bob")
        assert alice.call is not None
        console.print("alice     calls bob; bob answers; each plays its own melody", highlight=False)
        await _show_progress(console, alice, bob, seconds)
        await alice.hang_up()
        console.print("alice     hangs up", highlight=False)
        path = await _finished(directory, known, 20.0)
        if path is None:
            console.print("[red]no recording appeared[/red]; the processes said:")
            for line in [*proxy.errors, *recorder.errors]:
                console.print(f"  {line}", highlight=False, markup=False)
            return 1
        channels, recording = _check(path, alice, bob, signals)
        _report(console, path, recording, channels, alice)
        good = all(channel.good for channel in channels)
        if once:
            return 0 if good else 1
        for phone in phones:
            await phone.register(0)
        host, port = proxy.address()
        page = f"http://{HOST}:{proxy.address('http')[1]}"
        caller, callee = await _long_call(stack, (host, port))
        console.print(
            f"\n{caller} talks to {callee} now, for ten minutes. See the call, pause its recording, hear recordings:\n"
            f"  [bold]{page}[/bold]     or     siprec ls --api {page}",
            highlight=False,
            soft_wrap=True,
        )
        console.print(
            f"\nRunning. Register softphones at [bold]{host}:{port}[/bold] (UDP or TCP, domain {DOMAIN}, any user,"
            f" no password)\nand call each other: each call is recorded into {directory}. Ctrl-C ends it.",
            highlight=False,
            soft_wrap=True,
        )
        await wait_for_signal()
        return 0 if good else 1


async def _long_call(stack: contextlib.AsyncExitStack, proxy: tuple[str, int]) -> tuple[str, str]:
    """A call that goes on, so that there is one to look at; returns who talks to whom."""
    pair = (
        Phone("carol", "Carol", DOMAIN, HOST, proxy, caller_melody(LONG, RATE)),
        Phone("dave", "Dave", DOMAIN, HOST, proxy, callee_melody(LONG, RATE)),
    )
    for phone in pair:
        stack.push_async_callback(phone.close)
        await phone.start()
        await phone.register(int(LONG))
    await pair[0].dial("dave")

    async def hang_up() -> None:
        with contextlib.suppress(PhoneError):
            await pair[0].hang_up()

    async def talk() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            await hang_up()

    talking = asyncio.create_task(talk())

    async def end() -> None:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)

    stack.push_async_callback(end)
    return pair[0].user, pair[1].user


async def _show_progress(console: Console, alice: Phone, bob: Phone, seconds: float) -> None:
    assert alice.media is not None
    columns = (TextColumn("call     "), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=alice.media.frames)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds + 5
        while loop.time() < end:
            assert bob.media is not None
            progress.update(
                task,
                completed=alice.media.sent,
                description=f"alice hears {alice.media.received}, bob {bob.media.received} packets",
            )
            if alice.media.sent >= alice.media.frames and bob.media.sent >= bob.media.frames:
                # The last packets are still on their way.
                await asyncio.sleep(0.2)
                return
            await asyncio.sleep(0.1)


def _recordings(directory: Path) -> list[Path]:
    return list(directory.rglob("recording.json"))


async def _finished(directory: Path, known: set[Path], limit: float) -> Path | None:
    """The new recording's JSON once it is complete."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while loop.time() < end:
        for path in _recordings(directory):
            if path not in known and json.loads(path.read_text()).get("state") == "complete":
                return path
        await asyncio.sleep(0.1)
    return None


def _check(path: Path, alice: Phone, bob: Phone, signals: dict[str, Floats]) -> tuple[list[Channel], dict[str, Any]]:
    """Compare each recorded stream with what the phone of its participant sent."""
    recording: dict[str, Any] = json.loads(path.read_text())
    names = {p["participant_id"]: p["names"][0]["aor"] for p in recording["participants"] if p["names"]}
    channels = []
    for phone in (alice, bob):
        assert phone.media is not None
        stream = next(
            (
                stream
                for stream in recording["streams"]
                if any(f":{phone.user}@" in names.get(member, "") for member in stream["participants"])
            ),
            None,
        )
        if stream is None or not stream["file"]:
            channels.append(Channel(phone.user, phone.media.sent, 0, phone.media.sent, "(no file)", 0.0, 0.0))
            continue
        samples, rate = soundfile.read(path.parent / stream["file"], dtype="float32", always_2d=True)
        score, delay = match(samples.mean(axis=1), signals[phone.user].astype(np.float32), rate)
        packets = stream["packets"]
        channels.append(
            Channel(phone.user, phone.media.sent, packets["received"], packets["lost"], stream["file"], score, delay)
        )
    return channels, recording


def _report(console: Console, path: Path, recording: dict[str, Any], channels: list[Channel], alice: Phone) -> None:
    assert alice.call is not None
    session = recording["recording_session"]
    console.print(f"\ncall       Call-ID {alice.call.call_id}", highlight=False)
    console.print(f"recording  Call-ID {session['call_id']}, from {session['from']}", highlight=False)
    for communication in recording["communication_sessions"]:
        console.print(f"session    {communication['uuid']}, {len(recording['metadata'])} metadata documents")
    table = Table(box=None, pad_edge=False)
    for title in ("stream", "sent", "recorded", "lost"):
        table.add_column(title, justify="left" if title == "stream" else "right")
    table.add_column("recorded audio is what was sent", justify="right")
    table.add_column("file")
    for channel in channels:
        verdict = f"[green]yes, {channel.score:.3f}[/green]" if channel.good else f"[red]NO, {channel.score:.3f}[/red]"
        table.add_row(channel.name, str(channel.sent), str(channel.received), str(channel.lost), verdict, channel.file)
    console.print(table)
    mix = recording.get("mix")
    if mix:
        console.print("\nListen (caller left, callee right):")
        console.print(f"  {_shown(path.parent / mix['file'])}", soft_wrap=True, highlight=False, style="bold")
    console.print(f"Who, when, which file:\n  {_shown(path)}", soft_wrap=True, highlight=False)


def _shown(path: Path) -> Path:
    """Relative to where we are, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
