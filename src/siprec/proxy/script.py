"""Routing scripts: a Python file with ``async def`` handlers, and the objects they get.

Handlers, all optional::

    async def request(request: Request) -> None      # each request outside a dialog that no [[route]] has decided about
    async def on_invite(request: Request) -> None    # the same for one method; comes before `request`
    async def in_dialog(request: Request) -> None    # each request within a dialog; it is routed by itself afterwards
    async def reply(reply: Reply) -> None            # each response before it is forwarded (not 100)
    async def E_SIPREC_START(event) -> None          # recording events, by their names (siprec.recording.script_events)

A handler runs inside a task from its first step, so that any asyncio library works. One that never really waits runs to
its end on the spot. A handler of a request may wait; a handler of a response that waits does not hold the response up.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from siprec.proxy import handler_task
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import Target
from siprec.proxy.routing import Routing
from siprec.proxy.script_failure import handler_failed
from siprec.proxy.script_request import NotAuthenticated, Outcome, Reply, Request, ScriptError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sourcelog import SourceLog

__all__ = ["Handler", "NotAuthenticated", "Outcome", "Reply", "Request", "Script", "ScriptError", "load_script"]

log = logging.getLogger(__name__)

Handler = Callable[[Any], Coroutine[Any, Any, None]]
_HANDLERS = ("request", "in_dialog", "reply")
#: Seconds that a handler has to decide about a request that is no INVITE; for an INVITE it is Timer C.
HANDLER_SECONDS: Final = 20.0


class Script:
    """The handlers of a routing script."""

    def __init__(self, handlers: dict[str, Handler], name: str = "script") -> None:
        self.name = name
        self._handlers = handlers
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines = SourceLog(log)

    def handler(self, name: str) -> Handler | None:
        """A handler by name, for what others call (events)."""
        return self._handlers.get(name)

    @property
    def tasks(self) -> int:
        """Handlers that are waiting for something."""
        return len(self._tasks)

    def outside(self, routing: Routing, context: ResponseContext) -> None:
        """A request outside a dialog."""
        handler = self._handlers.get(f"on_{context.base.method.lower()}") or self._handlers.get("request")
        self._handle(routing, context, handler, Request(routing, context))

    def in_dialog(self, routing: Routing, context: ResponseContext, target: Target) -> None:
        """A request within a dialog, which is to go to `target`."""
        self._handle(routing, context, self._handlers.get("in_dialog"), Request(routing, context, target))

    def _handle(self, routing: Routing, context: ResponseContext, handler: Handler | None, request: Request) -> None:
        on_reply = self._handlers.get("reply")
        if on_reply is not None:
            context.reply_hook = partial(self._replied, on_reply, request, context)
        if handler is None:
            request.finish()
            return
        # A CANCEL may come while the handler waits.
        context.transaction.on_cancel = partial(self._cancelled, routing, context, request)
        failed = partial(self._failed, routing, context, request)
        task = self.run(handler(request), context.call_id, failed, request.finish)
        if task is not None and not request.handled:
            core = routing.core
            seconds = core.timer_c if request.method == "INVITE" else HANDLER_SECONDS
            timer = core.clock.call_later(seconds, _give_up, task, request)
            task.add_done_callback(lambda task: timer.cancel())

    def _replied(self, on_reply: Handler, request: Request, context: ResponseContext, response: SipResponse) -> None:
        self.run(on_reply(Reply(request, context, response)), context.call_id, self._reply_failed)

    @staticmethod
    def _failed(routing: Routing, context: ResponseContext, request: Request, error: Exception) -> None:
        refused = isinstance(error, NotAuthenticated)
        routing.core.counters["script_errors"] += not refused
        decided, request.handled = request.handled, True
        handler_failed(routing, context, request.target, decided=decided, asked=request.asked or refused)

    @staticmethod
    def _cancelled(routing: Routing, context: ResponseContext, request: Request, cancel: SipRequest) -> None:
        context.cancelled = True
        if not request.handled:
            request.handled = True
            context.fail(487)
            routing.core.run(context)

    def _reply_failed(self, error: Exception) -> None:
        """Logged; the response goes on."""

    def run(
        self,
        coroutine: Coroutine[Any, Any, None],
        call_id: str,
        failed: Callable[[Exception], None],
        done: Callable[[], None] = lambda: None,
    ) -> asyncio.Task[None] | None:
        """Run a handler: at once until it waits for the first time, from there on as the event loop has it. It always
        runs inside a task, unless there is no event loop: then it must not wait. The task, if it waits."""
        loop = handler_task.running_loop()
        if loop is None:
            self._ended(_by_hand(coroutine), call_id, failed, done)
            return None
        task = handler_task.run(coroutine, loop)
        if task.done():
            self._ended(_error_of(task), call_id, failed, done)
            return None

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._ended(_error_of(task), call_id, failed, done)

        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _ended(
        self,
        error: BaseException | None,
        call_id: str,
        failed: Callable[[Exception], None],
        done: Callable[[], None],
    ) -> None:
        """A handler is through, or has raised `error`."""
        if error is None:
            done()
            return
        if isinstance(error, NotAuthenticated):
            failed(error)
            return
        # Whoever finds a request that it stumbles over could fill the log with tracebacks.
        self._lines.write(
            logging.ERROR, self.name, "routing script %s failed, Call-ID %s", self.name, call_id, exc_info=error
        )
        failed(error if isinstance(error, Exception) else ScriptError("the handler was cancelled"))


def _give_up(task: asyncio.Task[None], request: Request) -> None:
    if not request.handled:
        task.cancel("it took too long")


def _by_hand(coroutine: Coroutine[Any, Any, None]) -> Exception | None:
    try:
        coroutine.send(None)
    except StopIteration:
        return None
    except Exception as error:
        return error
    coroutine.close()
    return ScriptError("the handler waits, and no event loop is running")


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def load_script(path: Path | str, events: Collection[str] | None = None) -> Script:
    """Load a routing script. `events`: names of the events that there are; None: not checked here.

    Raises:
        ScriptError: no such file, an error while it is run, no handler in it, one that is not ``async def``, or one of
            an event that there is not.
    """
    path = Path(path)
    name = f"siprec_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ScriptError(f"{path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ScriptError(f"{path}:{error.lineno}: {error.msg}") from None
    except Exception as error:
        raise ScriptError(f"{path}:{_line_of(error, path)}: {type(error).__name__}: {error}") from error
    return Script(_handlers_of(module, path, events), str(path))


def _handlers_of(module: ModuleType, path: Path, events: Collection[str] | None) -> dict[str, Handler]:
    handlers: dict[str, Handler] = {}
    for name, value in vars(module).items():
        if not (name in _HANDLERS or name.startswith(("on_", "E_"))) or not callable(value):
            continue
        if events is not None and name.startswith("E_") and name not in events:
            raise ScriptError(f"{path}: there is no event {name}; there are {', '.join(sorted(events))}")
        if not inspect.iscoroutinefunction(value):
            raise ScriptError(f"{path}: {name} must be 'async def'")
        if len(inspect.signature(value).parameters) != 1:
            raise ScriptError(f"{path}: {name} must take one argument")
        handlers[name] = value
    if not handlers:
        raise ScriptError(f"{path}: no handler in it: 'async def request(request)' is what is looked for")
    return handlers


def _line_of(error: BaseException, path: Path) -> int:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
