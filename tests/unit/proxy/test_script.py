"""Routing scripts: loading, what handlers can do, what they cannot break."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siprec import Call, Reply, Request
from siprec.proxy.call import RecordingUnavailable
from siprec.proxy.script import Handler, Script, ScriptError, load_script
from siprec.recording.events import EVENTS
from siprec.recording.settings import SiprecVariable
from siprec.sip.message import SipResponse, parse_datagram
from tests.simulation.phones import SDP
from tests.simulation.proxyworld import PROXY, ProxyWorld


def world(handlers: dict[str, Handler], **options: Any) -> ProxyWorld:
    return ProxyWorld(script=Script(handlers), **options)


def statuses(w: ProxyWorld) -> list[str]:
    return [sent.line.split()[1] for sent in w.sent("SIP/2.0", "10.0.0.1")]


# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def request(r): pass", "request must be 'async def'"),
        ("async def request(): pass", "request must take one argument"),
        ("x = 1", "no handler in it"),
        ("async def E_SIPREC_STRAT(e): pass", "no event E_SIPREC_STRAT; there are E_SIPREC_FAILED, E_"),
        ("def E_SIPREC_START(e): pass", "E_SIPREC_START must be 'async def'"),
        ("async def request(r)\n  pass", r"route.py:1: expected ':'"),
        ("x = 1\nimport nothing_like_that", r"route.py:2: ModuleNotFoundError"),
    ],
)
def test_mistakes_in_a_script_are_named_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "route.py"
    path.write_text(text)
    with pytest.raises(ScriptError, match=message):
        load_script(path, EVENTS)


def test_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="no such Python file"):
        load_script(tmp_path / "absent.py")


def test_the_example_works() -> None:
    script = load_script(Path(__file__).parents[3] / "examples" / "route.py")
    assert script.handler("on_invite") is not None
    w = ProxyWorld(script=script, settings=SiprecVariable)
    w.hosts["pbx.example.com"] = []
    w.call("sip:9001@example.com")
    w.clock.run_for(1)
    assert statuses(w) == ["100", "403"]
    w.call("sip:x@pbx.example.com")
    w.clock.run_for(0.005)
    w.clock.run_for(0.02)
    assert w.journal.calls[1].recordings == ["default"]
    w.clock.run_for(60)
    w.finish()


# -- requests ----------------------------------------------------------------------------------------------------------


def test_script_forwards_records_and_rewrites_headers() -> None:
    seen: list[object] = []

    async def on_invite(request: Request) -> None:
        seen.append((request.method, request.user, request.domain, request.source.host, request.trusted))
        request.call.record("main")
        request.call.record("main")
        request.set_header("X-Via-Script", "yes")
        request.remove_header("Allow")
        request.siprec.group = "sales"
        request.siprec["second"].group = "more"
        request.forward("sip:10.0.0.2")

    w = world({"on_invite": on_invite}, settings=SiprecVariable)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert seen == [("INVITE", "bob", "example.com", "10.0.0.1", True)]
    forwarded = parse_datagram(w.sent("INVITE", "10.0.0.2")[0].data)
    assert forwarded.get("x-via-script") == "yes"
    assert not forwarded.has("allow")
    call = w.journal.calls[0]
    assert call.recordings == ["main"]
    assert (call.settings["default"].group, call.settings["second"].group) == ("sales", "more")
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_handler_that_decides_nothing_leaves_the_request_to_the_defaults() -> None:
    async def request(request: Request) -> None:
        """Nothing."""

    w = world({"request": request})
    w.call()
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    w.alice.agent.calls()[0].bye()
    w.finish()


def broken(request: Request) -> None:
    raise ZeroDivisionError


def twice(request: Request) -> None:
    request.reply(404)
    request.forward()


def bad_uri(request: Request) -> None:
    request.forward("nonsense")


def injected(request: Request) -> None:
    request.set_header("X-A", "b\r\nEvil: yes")


def wrong_status(request: Request) -> None:
    request.reply(200)


@pytest.mark.parametrize("do", [broken, bad_uri, injected, wrong_status])
def test_error_in_a_script_is_500_for_that_request_only(
    do: Callable[[Request], None], caplog: pytest.LogCaptureFixture
) -> None:
    fail = [True]

    async def request(request: Request) -> None:
        if fail.pop() if fail else False:
            do(request)

    w = world({"request": request})
    call = w.call()
    w.clock.run_for(1)
    assert statuses(w) == ["100", "500"]
    assert call.call_id in caplog.text
    assert w.core.counters["script_errors"] == 1
    w.call()
    w.clock.run_for(1)
    assert w.journal.events[-1] == "answered"
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_deciding_twice_is_an_error_and_the_first_decision_stands() -> None:
    async def request(request: Request) -> None:
        twice(request)

    w = world({"request": request})
    w.call()
    w.clock.run_for(1)
    assert statuses(w) == ["100", "404"]
    assert w.core.counters["script_errors"] == 1
    w.finish()


def test_provisional_reply_then_forward() -> None:
    async def request(request: Request) -> None:
        request.reply(181, headers=[("X-Note", "wait")])
        request.forward()

    w = world({"request": request})
    w.call()
    w.clock.run_for(1)
    assert statuses(w) == ["100", "181", "200"]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_in_dialog_handler_sees_requests_and_they_go_on() -> None:
    seen: list[str] = []

    async def in_dialog(request: Request) -> None:
        seen.append(request.method)
        assert request.has_call
        if request.method == "INFO":
            request.reply(488)

    w = world({"in_dialog": in_dialog})
    call = w.call()
    w.clock.run_for(1)
    call.request("INFO")
    w.clock.run_for(1)
    assert not w.sent("INFO", "10.0.0.2")
    call.bye()
    w.clock.run_for(1)
    assert seen == ["INFO", "BYE"]
    assert w.journal.events[-1] == "ended bye"
    w.finish()


def test_reply_handler_sees_and_changes_responses() -> None:
    seen: list[int] = []

    async def reply(reply: Reply) -> None:
        seen.append(reply.status)
        reply.set_header("X-Seen", "1")
        assert isinstance(reply.call, Call)

    w = world({"reply": reply})
    w.call()
    w.clock.run_for(1)
    w.bob.take = lambda call: call.answer(486)
    w.call()
    w.clock.run_for(1)
    assert seen == [200, 486]
    assert parse_datagram(w.sent("SIP/2.0 486", "10.0.0.1")[0].data).get("x-seen") == "1"
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_error_in_a_reply_handler_does_not_stop_the_reply() -> None:
    async def reply(reply: Reply) -> None:
        raise RuntimeError("oops")

    w = world({"reply": reply})
    w.call()
    w.clock.run_for(1)
    assert statuses(w) == ["100", "200"]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_recording_without_a_recorder_is_a_clear_error() -> None:
    errors: list[str] = []

    async def request(request: Request) -> None:
        try:
            request.call.siprec_start_recording("sip:srs.test")
        except RecordingUnavailable as error:
            errors.append(str(error))

    w = world({"request": request})
    call = w.call()
    w.clock.run_for(1)
    assert errors == [f"no recording service is set up (Call-ID {call.call_id})"]
    w.alice.agent.calls()[0].bye()
    w.finish()


# -- handlers that wait ------------------------------------------------------------------------------------------------


def drive(w: ProxyWorld, condition: Callable[[], object]) -> None:
    """Virtual time and the event loop take turns until the condition holds."""

    async def main() -> None:
        for _ in range(2000):
            w.clock.run_for(0.01)
            await asyncio.sleep(0.001)
            if condition():
                return
        raise AssertionError("the condition did not come true")

    w.call(body=SDP)
    asyncio.run(main())


def test_handler_that_never_waits_costs_no_task() -> None:
    script = Script({})
    done: list[bool] = []

    async def quick(value: object) -> None:
        done.append(True)

    script.run(quick(None), "c", lambda error: None)
    assert done == [True]
    assert script.tasks == 0


def test_handler_may_wait_and_forward_later() -> None:
    tasks: list[int] = []

    async def request(request: Request) -> None:
        await asyncio.sleep(0.01)
        tasks.append(script.tasks)
        request.forward()

    script = Script({"request": request})
    w = ProxyWorld(script=script)
    drive(w, lambda: w.journal.events == ["created", "answered"])
    assert tasks == [1]
    assert script.tasks == 0


def test_handler_may_await_the_outcome() -> None:
    outcomes: list[int] = []

    async def request(request: Request) -> None:
        response: SipResponse = await request.forward()
        outcomes.append(response.status)

    w = world({"request": request})
    drive(w, lambda: outcomes == [200])
    gc.collect()


def test_error_after_waiting_is_500_too() -> None:
    async def request(request: Request) -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    w = world({"request": request})
    drive(w, lambda: statuses(w) == ["100", "500"])
    assert not w.sent("INVITE", "10.0.0.2")


def test_error_thrown_into_a_waiting_handler_can_be_caught_there() -> None:
    async def request(request: Request) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, OSError("lookup failed"))
        try:
            await future
        except OSError:
            request.reply(480)

    w = world({"request": request})
    drive(w, lambda: statuses(w) == ["100", "480"])


def test_call_that_is_cancelled_while_the_handler_waits_is_487() -> None:
    gate: list[asyncio.Event] = []

    async def request(request: Request) -> None:
        gate.append(asyncio.Event())
        await gate[0].wait()
        request.forward()

    w = world({"request": request})
    call = w.call()

    async def main() -> None:
        w.clock.run_for(0.1)
        call.cancel()
        w.clock.run_for(0.1)
        gate[0].set()
        await asyncio.sleep(0.01)
        w.clock.run_for(1)

    async def started() -> None:
        await main()

    asyncio.run(started())
    assert statuses(w) == ["100", "200", "487"]
    assert not w.sent("INVITE", "10.0.0.2")
    assert PROXY in {sent.source[0] for sent in w.network.trace}
    w.finish()
