"""Commands that cannot do what they are asked say why, and what to do about it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from siprec.cli import client_commands as commands
from siprec.cli import client_service as service
from tests.interop.api.apiworld import CONTROL, HOST, READ, phones, proxy, until

TOKENS = f'tokens = {{ "{READ}" = "read", "{CONTROL}" = "control" }}'


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command: what it says on standard error; it has to fail."""

    def run(command: Callable[..., int], *arguments: object, **options: object) -> str:
        capsys.readouterr()
        assert command(*arguments, **options) == 1
        out, error = capsys.readouterr()
        assert out == ""
        assert any(line.startswith("siprec: ") for line in error.splitlines()), error  # the server may log beside it
        assert "Errno" not in error
        assert "Traceback" not in error
        return error

    return run


def test_each_mistake_is_told_what_to_do(
    tmp_path: Path, say: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The server of this process would log the TLS hello it does not understand into what is looked at here.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)

    async def scenario() -> None:
        async with (
            proxy(tmp_path, "sip:127.0.0.1:9", api=TOKENS) as process,
            phones(process) as (alice, _),
        ):
            assert process.api is not None
            url = process.api.url

            async def mistake(command: Callable[..., int], *arguments: object, **options: object) -> str:
                return await asyncio.to_thread(say, command, *arguments, api=url, **options)

            monkeypatch.delenv("SIPREC_TOKEN", raising=False)
            assert "SIPREC_TOKEN in the environment" in await mistake(commands.ls)
            monkeypatch.setenv("SIPREC_TOKEN", "wrong-token-0123456789")
            assert "not known" in await mistake(commands.ls)
            monkeypatch.setenv("SIPREC_TOKEN", READ)
            assert "takes a token with the role control; the one in SIPREC_TOKEN has less" in await mistake(
                service.drain
            )
            assert "`siprec ls` lists them" in await mistake(commands.show, "nobody")
            assert "`siprec ls` lists those" in await mistake(service.trace, "nobody")
            monkeypatch.setenv("SIPREC_TOKEN", CONTROL)
            assert "Give its id" in await mistake(commands.pause)
            assert "`siprec ls` lists the calls" in await mistake(commands.pause, all=True)
            assert "which level for siprec.sip?" in await mistake(service.log_level, room="siprec.sip")

            await alice.dial("bob")
            await until(lambda: [call.state for call in process.core.calls.values()] == ["confirmed"])
            [first] = process.core.calls.values()
            # The beginning is enough.
            assert await asyncio.to_thread(commands.show, first.call_id[:10], api=url) == 0
            assert first.dlg_id in capsys.readouterr().out
            assert "which call?" in await mistake(commands.show, "")
            assert "not possible for instance 'other'" in await mistake(commands.stop, first.dlg_id, instance="other")
            assert "no TLS is spoken there" in await asyncio.to_thread(
                say, commands.ls, api=url.replace("http", "https")
            )

    asyncio.run(scenario())
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        gone = f"http://{HOST}:{nobody.getsockname()[1]}"
        assert "Is `siprec serve` running" in say(commands.ls, api=gone)
    assert "no URL of an API" in say(commands.ls, api="ftp://x")
    assert "needs a terminal" in say(service.top, api=gone)
