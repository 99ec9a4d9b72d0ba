"""`siprec serve` as a service: reload on SIGHUP, drain on SIGTERM, what systemd hears of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.client import ApiClient, ApiError
from siprec.cli.phone import Phone, PhoneError
from siprec.server.notify import Notifier
from tests.interop.calls.harness import HOST, Command, until

DOMAIN = "example.test"
TOKEN = "0123456789abcdef"
UNITS = Path(__file__).parents[3] / "packaging"


def configuration(*, reply: int = 0, drain: float = 30.0, more: str = "") -> str:
    action = f"reply = {reply}" if reply else "registrar = true"
    return f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
domains = ["{DOMAIN}"]
[media]
use = "never"
[[route]]
method = "INVITE"
{action}
[api]
listen = "{HOST}:0"
tokens = {{ "{TOKEN}" = "control" }}
[service]
drain = {drain}
{more}
"""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd would listen at; `recv` waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield listener


def heard(manager: socket.socket, wanted: str) -> str:
    """The next message with `wanted` in it; signs of life come between."""
    while wanted not in (text := manager.recv(4096).decode()):
        pass
    return text


@asynccontextmanager
async def phones(port: int) -> AsyncIterator[tuple[Phone, Phone]]:
    pair = (
        Phone("alice", "Alice", DOMAIN, HOST, (HOST, port), caller_melody(30.0, 8000)),
        Phone("bob", "Bob", DOMAIN, HOST, (HOST, port), callee_melody(30.0, 8000)),
    )
    try:
        for phone in pair:
            await phone.start()
            await phone.register()
        yield pair
    finally:
        for phone in pair:
            await phone.close()


async def refused(port: int) -> str:
    """What another caller is told."""
    carol = Phone("carol", "Carol", DOMAIN, HOST, (HOST, port), caller_melody(1.0, 8000))
    await carol.start()
    try:
        with pytest.raises(PhoneError) as error:
            await carol.dial("bob")
        return str(error.value)
    finally:
        await carol.close()


def test_sigterm_drains_and_the_service_manager_hears_of_it(tmp_path: Path, manager: socket.socket) -> None:
    async def scenario(proxy: Command) -> None:
        async with phones(proxy.port()) as (alice, bob):
            await alice.dial("bob")
            proxy.child.send_signal(signal.SIGTERM)
            text = await asyncio.to_thread(heard, manager, "STOPPING=1")
            assert "STATUS=draining: 1 calls left" in text
            assert "EXTEND_TIMEOUT_USEC=" in text
            assert "503" in await refused(proxy.port())
            assert proxy.child.poll() is None
            await alice.hang_up()
            await asyncio.wait_for(bob.ended_, 30)
            assert await asyncio.to_thread(proxy.child.wait, 30) == 0

    with Command("serve", configuration(), tmp_path / "serve") as proxy:
        assert f"STATUS=udp:{HOST}:{proxy.port()}" in heard(manager, "READY=1")
        heard(manager, "WATCHDOG=1")
        asyncio.run(scenario(proxy))


@pytest.mark.parametrize("how", ["limit", "again"])
def test_a_drain_ends_at_its_limit_or_at_another_signal(tmp_path: Path, how: str) -> None:
    async def scenario(proxy: Command) -> None:
        async with phones(proxy.port()) as (alice, _bob):
            await alice.dial("bob")
            proxy.child.send_signal(signal.SIGTERM)
            if how == "again":
                assert await asyncio.to_thread(until, lambda: "draining: 1 calls left" in proxy.text)
                assert proxy.child.poll() is None
                proxy.child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(proxy.child.wait, 30) == 0
            assert "ending with 1 calls left" in proxy.text

    drain = 0.5 if how == "limit" else 3600
    with Command("serve", configuration(drain=drain), tmp_path / "serve") as proxy:
        asyncio.run(scenario(proxy))


def test_sighup_reads_the_rules_again_while_a_call_goes_on(tmp_path: Path, manager: socket.socket) -> None:
    async def scenario(proxy: Command, file: Path) -> None:
        async with phones(proxy.port()) as (alice, bob):
            await alice.dial("bob")
            # A file that cannot be used changes nothing, whoever asks.
            file.write_text("[sip]\nnonsense = 1\n")
            proxy.child.send_signal(signal.SIGHUP)
            assert await asyncio.to_thread(until, lambda: "the configuration stays as it is" in proxy.text)
            assert await asyncio.to_thread(heard, manager, "READY=1")
            file.write_text(configuration(reply=480, more="[relay]\npreroll = 2.0"))
            proxy.child.send_signal(signal.SIGHUP)
            assert await asyncio.to_thread(until, lambda: "configuration read again" in proxy.text)
            assert "in effect: route; after a restart: relay.preroll" in proxy.text
            assert "480" in await refused(proxy.port())
            await alice.hang_up()
            await asyncio.wait_for(bob.ended_, 30)

    with Command("serve", configuration(), tmp_path / "serve") as proxy:
        heard(manager, "READY=1")
        asyncio.run(scenario(proxy, tmp_path / "serve" / "serve.toml"))


def test_the_api_reloads_and_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPREC_TOKEN", TOKEN)
    with Command("serve", configuration(), tmp_path / "serve") as proxy:
        file = tmp_path / "serve" / "serve.toml"
        api = ApiClient(f"http://{HOST}:{proxy.port('http')}")
        assert api.send("POST", "/reload", {}) == {"changed": [], "restart": []}
        file.write_text(configuration(more='[log]\nlevel = "loud"'))
        with pytest.raises(ApiError, match=r"log\.level: 'loud' is none of"):
            api.send("POST", "/reload", {})
        other = "another-token-of-16"
        file.write_text(configuration().replace(TOKEN, other))
        assert api.send("POST", "/reload", {}) == {"changed": ["api.tokens"], "restart": []}
        with pytest.raises(ApiError, match="token"):
            api.get("/calls")
        monkeypatch.setenv("SIPREC_TOKEN", other)
        assert ApiClient(api.url).get("/calls")["total"] == 0


def test_a_file_that_has_nothing_of_what_runs_is_refused_unless_it_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIPREC_TOKEN", TOKEN)
    recorded = configuration(more='[recording.default]\nsrs = "sip:127.0.0.1:9"').replace(
        "[[route]]", '[[route]]\nname = "sales"\nrecord = "default"'
    )
    with Command("serve", recorded, tmp_path / "serve") as proxy:
        file = tmp_path / "serve" / "serve.toml"
        api = ApiClient(f"http://{HOST}:{proxy.port('http')}")
        bare = f'[api]\nlisten = "{HOST}:0"\ntokens = {{ "{TOKEN}" = "control" }}\n'
        for text in ("", bare):
            file.write_text(text)
            with pytest.raises(ApiError, match=r"no route and no recording profile.*--force"):
                api.send("POST", "/reload", {})
            seen = proxy.text.count("the configuration stays as it is")
            proxy.child.send_signal(signal.SIGHUP)
            assert until(lambda: proxy.text.count("the configuration stays as it is") > seen)  # noqa: B023
        assert "recording" in api.send("POST", "/reload", {"force": True})["changed"]
        assert "route sales is gone: it recorded with default" in proxy.text
        assert "recording profiles are gone: default" in proxy.text
        assert any("WARNING" in line for line in proxy.text.splitlines() if "route sales is gone" in line)


@pytest.mark.parametrize("policy", ["warn", "not-ready"])
def test_proofs_that_cannot_be_written_are_known_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setenv("SIPREC_TOKEN", TOKEN)
    (tmp_path / "serve").mkdir()
    place = tmp_path / "serve" / "proof"
    place.write_text("a file where the directory should be")
    with Command("serve", configuration(more=f'[proof]\non_failure = "{policy}"'), tmp_path / "serve") as proxy:
        assert "proofs of recording are not written" in proxy.text
        url = f"http://{HOST}:{proxy.port('http')}"

        def ready() -> int:
            try:
                with urllib.request.urlopen(f"{url}/health/ready", timeout=20) as reply:
                    return int(reply.status)
            except urllib.error.HTTPError as error:
                return error.code if b"no proofs of recording" in error.read() else 0

        def writable() -> bool:
            request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
            with urllib.request.urlopen(request, timeout=20) as reply:
                return b"siprec_proof_writable 1.0" in reply.read()

        assert ready() == (200 if policy == "warn" else 503)
        assert not writable()
        place.unlink()
        assert until(writable, 60)
        assert ready() == 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
def test_a_renewed_certificate_is_shown_after_a_reload(tmp_path: Path) -> None:
    def issue(name: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "own.pem")
        command = ["openssl", "req", "-x509", *key, "-out", "cert.pem", "-days", "2", "-subj", f"/CN={name}"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)

    def shown() -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((HOST, proxy.port("tls")), 20) as plain,
            context.wrap_socket(plain) as connection,
        ):
            return connection.getpeercert(binary_form=True) or b""

    issue("first.test")
    listen = f'listen = ["udp:{HOST}:0", "tls:{HOST}:0"]\n'
    tls = f'tls_certificate = "{tmp_path}/cert.pem"\ntls_key = "{tmp_path}/own.pem"\n'
    text = configuration().replace(f'listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]\n', listen + tls)
    with Command("serve", text, tmp_path / "serve") as proxy:
        assert b"first.test" in shown()
        issue("second.test")
        proxy.child.send_signal(signal.SIGHUP)
        assert until(lambda: "configuration read again" in proxy.text)
        assert b"second.test" in shown()
        (tmp_path / "cert.pem").write_text("broken")
        proxy.child.send_signal(signal.SIGHUP)
        assert until(lambda: "the configuration stays as it is" in proxy.text)
        assert b"second.test" in shown()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in sorted(UNITS.glob("*.service")):
        # The command is looked for: let it be one that exists.
        text = unit.read_text().replace("/opt/siprec/bin/siprec", shutil.which("true") or "/bin/true")
        (tmp_path / unit.name).write_text(text)
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stderr) == (0, ""), unit.name


def test_the_death_of_the_relay_neither_ends_the_service_nor_keeps_systemd_from_starting_it_again() -> None:
    for name in ("siprec", "siprec-relay", "siprec-recorder"):
        text = (UNITS / f"{name}.service").read_text()
        assert "\nRestart=always\n" in text
        assert "\nStartLimitIntervalSec=0\n" in text.partition("[Service]")[0]
    # The default, stop, ends the whole service when the kernel kills one of its processes.
    assert "\nOOMPolicy=continue\n" in (UNITS / "siprec.service").read_text()


def test_a_relay_whose_packet_loops_stand_still_gives_no_sign_of_life(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = Notifier()
    ticks: list[Any] = []

    class Ticking:
        def call_later(self, delay: float, callback: Any, *args: Any) -> Any:
            ticks.append(callback)

    alive = iter([True, False, True])
    notifier.keep_alive(cast(Any, Ticking()), lambda: next(alive))
    manager.setblocking(False)
    assert manager.recv(64) == b"WATCHDOG=1"
    ticks[-1]()
    with pytest.raises(BlockingIOError):
        manager.recv(64)
    ticks[-1]()
    assert manager.recv(64) == b"WATCHDOG=1"
    notifier.close()
