"""Routing scripts: a Python file with ``async def`` handlers, and the objects they get.

Handlers, all optional::

    async def request(request: Request) -> None      # each request outside a dialog that no [[route]] has decided about
    async def on_invite(request: Request) -> None    # the same for one method; comes before `request`
    async def in_dialog(request: Request) -> None    # each request within a dialog; it is routed by itself afterwards
    async def reply(reply: Reply) -> None            # each response before it is forwarded (not 100)
    async def E_SIPREC_START(event) -> None          # recording events, by their names (siprec.recording.scripting)

A handler that never really waits runs to its end on the spot and costs no task. A handler of a request may wait; a
handler of a response that waits does not hold the response up.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from siprec.proxy.context import ResponseContext
from siprec.proxy.routes import Target, target_for
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

if TYPE_CHECKING:
    import asyncio

    from siprec.proxy.call import Call
    from siprec.proxy.core import ProxyCore

log = logging.getLogger(__name__)

Handler = Callable[[Any], Coroutine[Any, Any, None]]
_HANDLERS = ("request", "in_dialog", "reply")


class ScriptError(Exception):
    """A routing script cannot be loaded, or uses the API wrongly; the text names the file and what is wrong."""


class Outcome:
    """What ``request.forward()`` returns: await it for the final response, or leave it alone."""

    __slots__ = ("_future", "response")

    def __init__(self, context: ResponseContext) -> None:
        self.response: SipResponse | None = None
        self._future: asyncio.Future[SipResponse] | None = None
        context.on_final = self._final

    def _final(self, status: int, response: SipResponse) -> None:
        self.response = response
        if self._future is not None and not self._future.done():
            self._future.set_result(response)

    def __await__(self) -> Generator[Any, None, SipResponse]:
        if self.response is not None:
            return self.response
        import asyncio

        self._future = asyncio.get_running_loop().create_future()
        return (yield from self._future.__await__())


class Request:
    """A request in a routing script. Header changes are made on what is forwarded; `message` is that copy."""

    __slots__ = ("_context", "_core", "_target", "handled", "message")

    def __init__(self, core: ProxyCore, context: ResponseContext, target: Target | None = None) -> None:
        self._core = core
        self._context = context
        self._target = target
        self.message: SipRequest = context.base
        self.handled = False

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """The method."""
        return self.message.method

    @property
    def uri(self) -> Uri:
        """The Request-URI."""
        return self.message.ruri

    @uri.setter
    def uri(self, value: str | Uri) -> None:
        self.message.uri = Uri.parse(value).text if isinstance(value, str) else value.text

    @property
    def user(self) -> str:
        """The user part of the Request-URI, escapes resolved."""
        return self.message.ruri.user_unescaped

    @property
    def domain(self) -> str:
        """The host of the Request-URI."""
        return self.message.ruri.host

    @property
    def source(self) -> Hop:
        """Where it came from."""
        return self._context.transaction.source

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self._context.call_id

    @property
    def trusted(self) -> bool:
        """Whether it came from a trusted network."""
        return self._core.is_trusted(self.source)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return self.message.get(name)

    def set_header(self, name: str, value: str) -> None:
        """Replace or add a header. Raises ScriptError for a line end in it."""
        _check_line(name, value)
        self.message.set(name, value)

    def add_header(self, name: str, value: str) -> None:
        """Add a header line. Raises ScriptError for a line end in it."""
        _check_line(name, value)
        self.message.add(name, value)

    def remove_header(self, name: str) -> None:
        """Remove all lines of a header."""
        self.message.remove(name)

    @property
    def has_call(self) -> bool:
        """Whether it belongs to a call: an INVITE, or a request within the dialog of one."""
        return self._call() is not None

    @property
    def call(self) -> Call:
        """The call it belongs to. Raises ScriptError when there is none."""
        call = self._call()
        if call is None:
            raise ScriptError(f"{self.method} outside of a call has no call (Call-ID {self.call_id})")
        return call

    @property
    def siprec(self) -> Any:
        """Recording settings: ``request.siprec.group = ...``, ``request.siprec["second"].caller = ...``."""
        settings = self.call.settings
        if settings is None:
            raise ScriptError("no recording service is set up")
        return settings

    def _call(self) -> Call | None:
        context = self._context
        return context.dialog.call if context.dialog is not None else context.call

    # -- what becomes of it --------------------------------------------------------------------------------------------

    def forward(self, uri: str = "") -> Outcome:
        """Send it on: to `uri` (see `RouteRule.targets` for what it means), or where the Request-URI says.

        Raises:
            ScriptError: something was done with it already, or `uri` is malformed.
        """
        return self.fork([uri] if uri else [])

    def fork(self, uris: Iterable[str], *, parallel: bool = True) -> Outcome:
        """Send it to several targets, at once or one after the other. Raises ScriptError like `forward`."""
        self._once()
        try:
            targets = [target_for(Uri.parse(uri), self.message) for uri in uris] or [Target(self.message.ruri)]
        except SipError as error:
            self.handled = False
            raise ScriptError(f"target: {error.reason}") from None
        outcome = Outcome(self._context)
        groups = [targets] if parallel else [[target] for target in targets]
        self._run(lambda: self._core.start(self._context, groups))
        return outcome

    def forward_to_registered(self) -> Outcome:
        """REGISTER to the registrar, anything else to the contacts registered for the Request-URI (404, 480)."""
        self._once()
        outcome = Outcome(self._context)
        self._run(lambda: self._core.to_registered(self._context))
        return outcome

    def reply(self, status: int, reason: str = "", headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer it; `status` 101 to 199, after which more may follow, or 300 to 699. Raises ScriptError."""
        if not (101 <= status <= 199 or 300 <= status <= 699):
            raise ScriptError(f"reply({status}): a proxy answers 101..199 or 300..699")
        lines = list(headers)
        for name, value in lines:
            _check_line(name, value)
        context = self._context
        tag = self._core.to_tag(context)
        response = context.transaction.request.response(status, reason, to_tag=tag, headers=lines)
        if status < 200:
            context.transaction.respond(response)
            return
        self._once()
        context.send_final(response)

    def _once(self) -> None:
        if self.handled:
            raise ScriptError(f"{self.method} was forwarded or answered already (Call-ID {self.call_id})")
        self.handled = True

    def _run(self, action: Callable[[], None]) -> None:
        if self._context.cancelled:
            self._context.fail(487)
            return
        try:
            action()
        except SipError as error:
            self._context.fail(error.status, error.reason if error.reason.isprintable() else "", error.headers)

    def finish(self) -> None:
        """The handlers are through (called by `Script`): what they left undecided goes its usual way."""
        if self.handled:
            return
        self.handled = True
        if self._target is not None:
            target = replace(self._target, uri=self.message.ruri)
            self._run(lambda: self._context.start([[target]]))
        else:
            self._run(lambda: self._core.default_route(self._context))


class Reply:
    """A response in a routing script, before it is forwarded; `message` may be changed but for its body."""

    __slots__ = ("_context", "message", "request")

    def __init__(self, request: Request, context: ResponseContext, response: SipResponse) -> None:
        self.request = request
        self._context = context
        self.message = response

    @property
    def status(self) -> int:
        """The status code."""
        return self.message.status

    @property
    def reason(self) -> str:
        """The reason phrase."""
        return self.message.reason

    @property
    def call(self) -> Call:
        """The call it belongs to. Raises ScriptError when there is none."""
        return self.request.call

    @property
    def siprec(self) -> Any:
        """See :attr:`Request.siprec`."""
        return self.request.siprec

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return self.message.get(name)

    def set_header(self, name: str, value: str) -> None:
        """Replace or add a header. Raises ScriptError for a line end in it."""
        _check_line(name, value)
        self.message.set(name, value)

    def remove_header(self, name: str) -> None:
        """Remove all lines of a header."""
        self.message.remove(name)

    def fork(self, uris: Iterable[str], *, parallel: bool = True) -> None:
        """Instead of this negative reply, try other targets. Raises ScriptError for a reply that is none."""
        if self.status < 300:
            raise ScriptError(f"fork() in a reply handler is for negative replies, not {self.status}")
        try:
            targets = [target_for(Uri.parse(uri), self.request.message) for uri in uris]
        except SipError as error:
            raise ScriptError(f"target: {error.reason}") from None
        self._context.add_targets([targets] if parallel else [[target] for target in targets])

    def forward(self, uri: str) -> None:
        """`fork` with one target."""
        self.fork([uri])


class Script:
    """The handlers of a routing script."""

    def __init__(self, handlers: dict[str, Handler], name: str = "script") -> None:
        self.name = name
        self._handlers = handlers
        self._tasks: set[asyncio.Task[None]] = set()

    def handler(self, name: str) -> Handler | None:
        """A handler by name, for what others call (events)."""
        return self._handlers.get(name)

    @property
    def tasks(self) -> int:
        """Handlers that are waiting for something."""
        return len(self._tasks)

    def outside(self, core: ProxyCore, context: ResponseContext) -> None:
        """A request outside a dialog."""
        handler = self._handlers.get(f"on_{context.base.method.lower()}") or self._handlers.get("request")
        self._handle(core, context, handler, Request(core, context))

    def in_dialog(self, core: ProxyCore, context: ResponseContext, target: Target) -> None:
        """A request within a dialog, which is to go to `target`."""
        self._handle(core, context, self._handlers.get("in_dialog"), Request(core, context, target))

    def _handle(self, core: ProxyCore, context: ResponseContext, handler: Handler | None, request: Request) -> None:
        on_reply = self._handlers.get("reply")
        if on_reply is not None:
            context.reply_hook = lambda response: self.run(
                on_reply(Reply(request, context, response)), context.call_id, self._reply_failed
            )
        if handler is None:
            request.finish()
            return
        # A CANCEL may come while the handler waits.
        context.transaction.on_cancel = lambda cancel: self._cancelled(context, request)

        def failed(error: Exception) -> None:
            core.counters["script_errors"] += 1
            request.handled = True
            context.fail(500)

        self.run(handler(request), context.call_id, failed, request.finish)

    def _cancelled(self, context: ResponseContext, request: Request) -> None:
        context.cancelled = True
        if not request.handled:
            request.handled = True
            context.fail(487)

    def _reply_failed(self, error: Exception) -> None:
        """Logged; the response goes on."""

    def run(
        self,
        coroutine: Coroutine[Any, Any, None],
        call_id: str,
        failed: Callable[[Exception], None],
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Run a handler: by hand until it waits for the first time, from there on as a task."""
        try:
            waiting_for = coroutine.send(None)
        except StopIteration:
            done()
            return
        except Exception as error:
            self._log(error, call_id)
            failed(error)
            return
        import asyncio

        async def rest() -> None:
            try:
                await _Resumed(coroutine, waiting_for)
            except Exception as error:
                self._log(error, call_id)
                failed(error)
            else:
                done()

        try:
            task = asyncio.get_running_loop().create_task(rest())
        except RuntimeError as error:
            coroutine.close()
            failed(error)
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _log(self, error: Exception, call_id: str) -> None:
        log.error("routing script %s failed, Call-ID %s", self.name, call_id, exc_info=error)


class _Resumed:
    """A coroutine that has been started by hand, to be gone on with in a task."""

    __slots__ = ("_coroutine", "_first")

    def __init__(self, coroutine: Coroutine[Any, Any, None], first: Any) -> None:
        self._coroutine = coroutine
        self._first = first

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, waiting_for = self._coroutine, self._first
        while True:
            try:
                sent = yield waiting_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                failure: BaseException | None = error
            else:
                failure = None
            try:
                waiting_for = coroutine.send(sent) if failure is None else coroutine.throw(failure)
            except StopIteration:
                return


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


def _check_line(name: str, value: str) -> None:
    if any(c in name + value for c in "\r\n\0"):
        raise ScriptError(f"line end in header {name!r}")
