"""Who gets in: tokens, roles, foreign pages, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from pathlib import Path

import pytest

from siprec.api.protocol import Protocol
from siprec.api.routes import OPERATIONS
from siprec.recording.events import START, STOP, SiprecEvent
from siprec.server.config_file import ConfigError, parse
from siprec.server.proxy_process import ProxyProcess
from tests.interop.api.apiworld import CONTROL, READ, Client, client, proxy, until
from tests.interop.api.test_events import Listener

TOKENS = f'tokens = {{ "{READ}" = "read", "{CONTROL}" = "control" }}'


def _path(path: str) -> str:
    return path.replace("{dlg_id}", "x").replace("{instance}", "y")


def test_each_operation_takes_the_role_it_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9", api=TOKENS) as process:
            for operation in OPERATIONS:
                path = _path(operation.path)
                body = None if operation.body is None else {"nonsense": 1}
                nobody = await client(process).ask(operation.method, path, body)
                if operation.role is None:
                    assert nobody.status == 200, path
                    continue
                assert nobody.status == 401, path
                assert nobody.headers["www-authenticate"].startswith("Bearer")
                for wrong in ("x", READ[:-1], READ + "x", "\N{SNOWMAN}".encode().decode("latin-1")):
                    stranger = await client(process, wrong).ask(operation.method, path, body)
                    assert stranger.status == 401, path
                if operation.path == "/events":
                    continue
                reader = await client(process, READ).ask(operation.method, path, body)
                assert (reader.status == 403) == (operation.role in ("listen", "control")), path
                controller = await client(process, CONTROL).ask(operation.method, path, body)
                assert controller.status not in (401, 403), path

    asyncio.run(scenario())


def test_a_basic_password_is_no_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9", api=TOKENS) as process:
            reply = await client(process).get("/calls", Authorization=f"Basic {CONTROL}")
            assert reply.status == 401

    asyncio.run(scenario())


def test_an_event_stream_ends_when_its_token_is_taken_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9", api=TOKENS) as process:
            assert process.api is not None
            address = client(process).address
            async with (
                Listener().listen(address, token=READ) as gone,
                Listener().listen(address, token=CONTROL) as stays,
            ):
                process.api.set_tokens({CONTROL: "control"})
                await until(lambda: gone.ended)
                process.events.emit(SiprecEvent(START, "d", "c", "r", "s", "sip:srs", "default", 1.0, ""))
                await until(lambda: stays.events)
                assert not gone.events
                assert not stays.ended
                # Demoted is not revoked: reading takes the least role.
                process.api.set_tokens({CONTROL: "read"})
                process.events.emit(SiprecEvent(STOP, "d", "c", "r", "s", "sip:srs", "default", 1.0, ""))
                await until(lambda: len(stays.events) == 2)

    asyncio.run(scenario())


def test_a_token_that_is_tried_is_logged_with_its_source_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9", api=TOKENS) as process:
            for number in range(5):
                assert (await client(process, f"guess-{number}-0123456789").get("/calls")).status == 401

    with caplog.at_level("WARNING", "siprec.api.auth"):
        asyncio.run(scenario())
    told = [record.getMessage() for record in caplog.records if record.name == "siprec.api.auth"]
    assert told == ["API: unknown token from source=127.0.0.1"]


def test_pages_of_others_get_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            api = client(process)
            assert (await api.get("/calls")).status == 200
            assert (await api.get("/calls", Origin="https://evil.example")).status == 403
            own = f"http://127.0.0.1:{api.address[1]}"
            assert (await api.get("/calls", Origin=own)).status == 200
            for broken in ("null", "http://[::1", "//", "http://127.0.0.1:1"):
                assert (await api.get("/calls", Origin=broken)).status == 403
            for broken in ("", "[::1", "127.0.0.1:x", "127.0.0.1.evil.example", "evil.example:80:80"):
                assert (await api.get("/calls", Host=broken)).status == 403, broken
            # A name of theirs that points here.
            assert (await api.get("/calls", Host="evil.example")).status == 403
            assert (await api.get("/calls", Host=f"localhost:{api.address[1]}")).status == 200

    asyncio.run(scenario())


def test_it_is_served_over_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate, "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )

    async def scenario() -> None:
        tls = f'tls_certificate = "{certificate}"\ntls_key = "{key}"'
        async with proxy(tmp_path, "sip:127.0.0.1:9", api=tls) as process:
            assert process.api is not None
            assert process.api.ready.startswith("https:127.0.0.1:")
            context = ssl.create_default_context(cafile=str(certificate))
            reply = await Client(process.api.address, context=context).get("/calls")
            assert reply.json["calls"] == []
            # As strict as SIP: no TLS 1.1, no cipher without forward secrecy.
            for weak in ("old", "cipher"):
                context = ssl.create_default_context(cafile=str(certificate))
                if weak == "old":
                    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
                    context.maximum_version = ssl.TLSVersion.TLSv1_1
                    context.set_ciphers("ALL:@SECLEVEL=0")
                else:
                    context.maximum_version = ssl.TLSVersion.TLSv1_2
                    context.set_ciphers("AES128-GCM-SHA256:AES256-SHA:ECDHE-ECDSA-AES128-SHA")
                with pytest.raises(OSError):
                    await Client(process.api.address, context=context).get("/calls")
            process.api.refresh_tls()
            await half_handshakes(process, ssl.create_default_context(cafile=str(certificate)))

    asyncio.run(scenario())


async def half_handshakes(process: ProxyProcess, context: ssl.SSLContext) -> None:
    """They neither keep others out nor stay."""
    assert process.api is not None
    assert process.api._server is not None
    handshakes = process.api._server._handshakes
    handshakes._per_source, handshakes.seconds = 8, 0.5
    held = [await asyncio.open_connection(*process.api.address, local_addr=("127.0.0.9", 0)) for _ in range(40)]
    assert len(handshakes) <= 8
    assert (await Client(process.api.address, context=context).get("/health/live")).status == 200
    for reader, writer in held:
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


def test_without_listen_there_is_no_api() -> None:
    async def scenario() -> None:
        process = ProxyProcess(parse('[sip]\nlisten = ["udp:127.0.0.1:0"]'))
        assert process.api is None
        await process.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('listen = "0.0.0.0:8060"', "tokens: needed when listening on 0.0.0.0"),
        ('listen = "[::]:8060"', "tokens: needed"),
        ('listen = "localhost"', "not of the form address:port"),
        ('listen = "127.0.0.1"', "not of the form address:port"),
        ('tokens = { short = "read" }', "at least 16 characters"),
        ('tokens = { "0123456789abcdef" = "admin" }', "admin"),
        ('tokens = { "0123456789 abcdef" = "read" }', "printable"),
        ('tls_key = "x"', "go together"),
        ('webhooks = [{url = "ftp://x", secret = "s"}]', "no http: or https: URL"),
        ('webhooks = [{url = "http://u:p@x", secret = "s"}]', "user names"),
        ('webhooks = [{url = "http://x", secret = ""}]', "a secret is needed"),
        ('webhooks = [{url = "http://x", secret = "s", events = ["E"]}]', "unknown 'E'"),
        ('tokens = { "env:SIPREC_TEST_UNSET" = "read" }', "SIPREC_TEST_UNSET is not set"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"siprec.toml: ") as caught:
        parse(f"[api]\n{text}")
    assert told in str(caught.value)


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPREC_TEST_TOKEN", CONTROL)
    config = parse('[api]\nlisten = "0.0.0.0:0"\ntokens = { "env:SIPREC_TEST_TOKEN" = "control" }')
    assert config.api.tokens == {CONTROL: "control"}


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            taken = f"127.0.0.1:{process.api.address[1]}"
            other = ProxyProcess(parse(f'[sip]\nlisten = ["udp:127.0.0.1:0"]\n[api]\nlisten = "{taken}"'))
            try:
                with pytest.raises(OSError, match=f"api: {taken}: .*in use"):
                    await other.start()
            finally:
                await other.stop()
            assert (await client(process).get("/health/live")).status == 200

    asyncio.run(scenario())


def test_a_certificate_that_is_missing_is_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        text = '[api]\nlisten = "127.0.0.1:0"\ntls_certificate = "/nowhere"\ntls_key = "/nowhere"'
        other = ProxyProcess(parse('[sip]\nlisten = ["udp:127.0.0.1:0"]\n' + text))
        try:
            with pytest.raises(OSError, match=r"api: 127.0.0.1:0: No such file"):
                await other.start()
        finally:
            await other.stop()

    asyncio.run(scenario())


def test_a_client_that_sends_no_request_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "head_time", 0.6)

    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            for begun in (b"", b"GET /calls HTTP/1.1\r\nHost: loc"):
                reader, writer = await asyncio.open_connection(*process.api.address)
                writer.write(begun)
                # Well before the default, which is ten seconds.
                assert await asyncio.wait_for(_rest(reader), 6) == b""
                writer.close()
            # A response that goes on is not cut; the next request of a connection has its time, too.
            reader, writer = await asyncio.open_connection(*process.api.address)
            writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.8)
            process.events.emit(SiprecEvent(START, "d", "c", "r", "s", "sip:srs", "default", 1.0, ""))
            await asyncio.wait_for(reader.readuntil(b"E_SIPREC_START"), 20)
            writer.close()
            reader, writer = await asyncio.open_connection(*process.api.address)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"}")
            writer.write(b"GET /hea")
            assert await asyncio.wait_for(_rest(reader), 6) == b""
            writer.close()

    asyncio.run(scenario())


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection is closed or reset."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def _stream(process: ProxyProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with a request that is not over."""
    assert process.api is not None
    reader, writer = await asyncio.open_connection(*process.api.address)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    return reader, writer


@pytest.mark.parametrize(
    "begun", [b"", b"GET /calls HTTP/1.1\r\nHost: loc", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_one_source_keeps_no_other_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr("siprec.api.protocol.MAX_CONNECTIONS", 5)
    monkeypatch.setattr("siprec.api.protocol.MOST", 8)

    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            own = await asyncio.open_connection(*process.api.address)
            held = []
            for _ in range(12):
                reader, writer = await asyncio.open_connection(*process.api.address, local_addr=("127.0.0.2", 0))
                writer.write(begun)
                held.append((reader, writer))
            assert process.api._server is not None
            connections = process.api._server.server_state.connections
            await until(lambda: len(connections) == 5)
            assert (await client(process).get("/calls")).status == 200
            own[1].write(b"GET /calls HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await asyncio.wait_for(own[0].readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 200")
            assert await asyncio.wait_for(_rest(held[0][0]), 20) is not None, "the one that was quiet for longest"
            for _, writer in (own, *held):
                writer.close()

    asyncio.run(scenario())


def test_health_is_answered_while_the_api_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.api.protocol.MAX_CONNECTIONS", 5)
    monkeypatch.setattr("siprec.api.protocol.MOST", 8)

    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            held = [await _stream(process) for _ in range(5)]
            assert (await client(process).get("/calls")).status == 503
            assert (await client(process).get("/health/live")).status == 200
            held += [await _stream(process) for _ in range(3)]
            held.append(await asyncio.open_connection(*process.api.address))
            assert await asyncio.wait_for(_rest(held[-1][0]), 20) == b"", "closed at once"
            for _, writer in held:
                writer.close()
            await until(lambda: not process.api._server.server_state.connections)  # type: ignore[union-attr]
            assert (await client(process).get("/calls")).status == 200

    asyncio.run(scenario())


def test_what_is_no_http_is_logged_once_a_minute_with_its_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            for _ in range(20):
                reader, writer = await asyncio.open_connection(*process.api.address, local_addr=("127.0.0.77", 0))
                writer.write(b"\x16\x03\x01\r\n\r\n")
                assert (await asyncio.wait_for(_rest(reader), 20)).startswith(b"HTTP/1.1 400")
                writer.close()

    asyncio.run(scenario())
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING" and "HTTP" in each.getMessage()]
    assert told == ["API: source=127.0.0.77: Invalid HTTP request received."]
