"""Handlers of a script run inside a task from their first step: any asyncio library works at once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from siprec.proxy.script import Script, ScriptError

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

pytestmark = pytest.mark.parametrize("kind", LOOPS)


def handle(kind: str, handler: Callable[[], Coroutine[Any, Any, None]]) -> list[Exception | None]:
    """Run a handler as the proxy does, from a callback of the loop; what came of it, one entry."""
    came: list[Exception | None] = []
    script = Script({})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: script.run(handler(), "call", came.append, lambda: came.append(None)))
        async with asyncio.timeout(30):
            while not came:
                await asyncio.sleep(0.001)
        assert script.tasks == 0

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())
    assert len(came) == 1
    return came


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()
    writer.close()


async def with_httpx(url: str) -> str:
    import httpx

    async with httpx.AsyncClient(timeout=20) as client:
        return str((await client.get(url)).text)


async def with_aiohttp(url: str) -> str:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return str(await response.text())


@pytest.mark.parametrize("library", [with_httpx, with_aiohttp])
@pytest.mark.parametrize("kind_of_call", ["outside of tasks", "within a task"])
def test_an_http_client_may_be_the_first_thing_a_handler_waits_for(
    kind: str, library: Callable[[str], Awaitable[str]], kind_of_call: str
) -> None:
    said: list[str] = []
    failures: list[Exception] = []

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        script = Script({})

        async def handler() -> None:
            said.append(await library(f"http://127.0.0.1:{port}/"))

        if kind_of_call == "within a task":
            script.run(handler(), "call", failures.append)
        else:
            asyncio.get_running_loop().call_soon(lambda: script.run(handler(), "call", failures.append))
        async with asyncio.timeout(30):
            while not said and not failures:
                await asyncio.sleep(0.001)
        server.close()

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())
    assert (said, failures) == (["hello"], [])


def test_time_limits_and_groups_may_stand_around_the_first_await(kind: str) -> None:
    seen: list[str] = []

    async def handler() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(30)
        except TimeoutError:
            seen.append("timeout")
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        assert await asyncio.wait_for(asyncio.sleep(0, "done"), 5) == "done"
        seen.append("group")

    assert handle(kind, handler) == [None]
    assert seen == ["timeout", "group"]


def test_the_task_is_the_same_at_each_step_and_has_what_tasks_have(kind: str) -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def handler() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0.001)
        tasks.append(asyncio.current_task())
        assert tasks[0] in asyncio.all_tasks()
        assert tasks[0] is not None
        assert tasks[0].get_name()
        assert tasks[0].get_loop() is asyncio.get_running_loop()

    assert handle(kind, handler) == [None]
    assert tasks[0] is not None
    assert tasks[0] is tasks[1] is tasks[2]


def test_a_handler_that_never_waits_is_through_before_the_call_returns(kind: str) -> None:
    steps: list[str] = []
    script = Script({})

    async def handler() -> None:
        assert asyncio.current_task() is not None
        steps.append("handler")

    async def main() -> None:
        outer = asyncio.current_task()
        script.run(handler(), "call", lambda error: steps.append(repr(error)), lambda: steps.append("done"))
        steps.append("returned")
        assert script.tasks == 0
        assert asyncio.current_task() is outer
        assert asyncio.all_tasks() == {outer}

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(main())
    assert steps == ["handler", "done", "returned"]


def test_a_handler_may_have_another_one_called(kind: str) -> None:
    steps: list[str] = []
    script = Script({})

    async def inner() -> None:
        steps.append("inner")
        await asyncio.sleep(0)
        steps.append("inner again")

    async def handler() -> None:
        mine = asyncio.current_task()
        script.run(inner(), "call", lambda error: steps.append(repr(error)))
        assert asyncio.current_task() is mine
        await asyncio.sleep(0.01)
        steps.append("outer")

    assert handle(kind, handler) == [None]
    assert steps == ["inner", "inner again", "outer"]


@pytest.mark.parametrize("waits", [False, True])
def test_errors_and_cancelling_reach_whoever_called_the_handler(kind: str, waits: bool) -> None:
    async def fails() -> None:
        if waits:
            await asyncio.sleep(0)
        raise KeyError("x")

    async def cancels() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0 if waits else 5)

    (error,) = handle(kind, fails)
    assert isinstance(error, KeyError)
    (error,) = handle(kind, cancels)
    assert isinstance(error, ScriptError)


def test_nothing_of_a_handler_is_kept(kind: str) -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    async def quick() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))

    async def slow() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        await asyncio.sleep(0)

    handle(kind, quick)
    handle(kind, slow)
    gc.collect()
    assert [thing() for thing in things] == [None, None]
