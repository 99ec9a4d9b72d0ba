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
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from siprec import sdp
from siprec.proxy import handler_task
from siprec.proxy.authentication import Users
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import Target, target_for
from siprec.proxy.script_failure import handler_failed
from siprec.sip.digest import check_algorithms
from siprec.sip.errors import SipError
from siprec.sip.header_list import has_control
from siprec.sip.headers import TOKEN
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE, find_part
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sourcelog import SourceLog

if TYPE_CHECKING:
    from siprec.proxy.call import Call
    from siprec.proxy.core import ProxyCore

log = logging.getLogger(__name__)

Handler = Callable[[Any], Coroutine[Any, Any, None]]
_HANDLERS = ("request", "in_dialog", "reply")
#: Seconds that a handler has to decide about a request that is no INVITE; for an INVITE it is Timer C.
HANDLER_SECONDS: Final = 20.0


class ScriptError(Exception):
    """A routing script cannot be loaded, or uses the API wrongly; the text names the file and what is wrong."""


class NotAuthenticated(Exception):
    """The sender of a request has not shown a password yet, and was challenged. Ends the handler, and is no error."""


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
        self._future = asyncio.get_running_loop().create_future()
        return (yield from self._future.__await__())


class Request:
    """A request in a routing script. Header changes are made on what is forwarded; `message` is that copy."""

    __slots__ = ("_context", "_core", "_target", "asked", "handled", "message")

    def __init__(self, core: ProxyCore, context: ResponseContext, target: Target | None = None) -> None:
        self._core = core
        self._context = context
        self._target = target
        self.message: SipRequest = context.base
        self.handled = False
        self.asked = False
        """Whether `authenticate` was called."""

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def target(self) -> Target | None:
        """Where it goes by itself, within a dialog; None outside of one."""
        return self._target

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
        self.message.uri = _uri(value if isinstance(value, str) else value.text).text

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

    async def authenticate(
        self, realm: str = "", users: Users | None = None, algorithms: Sequence[str] = (), proxy: bool | None = None
    ) -> str:
        """The name of the user who sent it. Anybody else is challenged, and the handler ends here.

        Args:
            realm, algorithms: for the challenge; left out, as ``[registrar]`` has them.
            users: name to password, or to hashes by algorithm; left out, those of ``[registrar]``.
            proxy: challenge with 407, else with 401; left out, 401 for REGISTER and 407 for other requests.

        Raises:
            NotAuthenticated: the sender was challenged.
            ScriptError: there are no users, something was done with the request already, or an unknown algorithm.
        """
        self.asked = True
        if self.handled:
            raise ScriptError(f"{self.method} was forwarded or answered already (Call-ID {self.call_id})")
        known = self._core.authentication
        if not (users if users is not None else known is not None and known.users):
            raise ScriptError("authenticate() needs users: [registrar] users or users_file, or the argument")
        if algorithms:
            try:
                check_algorithms(algorithms)
            except ValueError as error:
                raise ScriptError(f"authenticate(): {error}") from None
        _check_line("realm", realm)
        try:
            return self._core.authenticate(self._context, proxy=proxy, realm=realm, users=users, algorithms=algorithms)
        except SipError as error:
            self.handled = True
            self._context.fail(error.status, error.reason, error.headers)
            raise NotAuthenticated(error.reason) from None

    def is_audio_on_hold(self) -> bool:
        """Whether the body describes audio on hold: any audio line with ``a=sendonly``, ``a=inactive`` or the null
        address (RFC 3264 8.4). False without a description, or with one that is malformed."""
        try:
            part = find_part(self.message, SDP_TYPE)
            lines = sdp.parse(part.content).media if part is not None else []
        except (SipError, sdp.SdpError):
            return False
        return any(_on_hold(line) for line in lines if line.kind == "audio" and not line.rejected)

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
        """Recording settings: ``request.siprec.group = ...``, ``request.siprec["second"].caller = ...``. A value that
        cannot be used is ignored, with a warning and an event."""
        call = self.call
        if call.settings is None:
            raise ScriptError("no recording service is set up")
        return call.settings.for_script(call)

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
            targets = [target_for(_uri(uri), self.message) for uri in uris] or [Target(self.message.ruri)]
        except SipError as error:
            self.handled = False
            raise ScriptError(f"target: {error.reason}") from None
        except ScriptError:
            self.handled = False
            raise
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
        for name, value in (("Reason-Phrase", reason), *lines):
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


def _on_hold(line: sdp.MediaDescription) -> bool:
    connection = line.connection
    null = connection is not None and (connection.is_zero or connection.address.lower().endswith(".invalid"))
    return null or line.direction in ("sendonly", "inactive")


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
            targets = [target_for(_uri(uri), self.request.message) for uri in uris]
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
        self._lines = SourceLog(log)

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

            def replied(response: SipResponse) -> None:
                self.run(on_reply(Reply(request, context, response)), context.call_id, self._reply_failed)

            context.reply_hook = replied
        if handler is None:
            request.finish()
            return
        # A CANCEL may come while the handler waits.
        context.transaction.on_cancel = lambda cancel: self._cancelled(context, request)

        def failed(error: Exception) -> None:
            refused = isinstance(error, NotAuthenticated)
            core.counters["script_errors"] += not refused
            decided, request.handled = request.handled, True
            handler_failed(core, context, request.target, decided=decided, asked=request.asked or refused)

        task = self.run(handler(request), context.call_id, failed, request.finish)
        if task is not None and not request.handled:
            seconds = core.timer_c if request.method == "INVITE" else HANDLER_SECONDS
            timer = core.clock.call_later(seconds, lambda: request.handled or task.cancel("it took too long"))
            task.add_done_callback(lambda task: timer.cancel())

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


def _check_line(name: str, value: str) -> None:
    if TOKEN.match(name) is None:
        raise ScriptError(f"{name[:60]!r} is no name of a header")
    if has_control(value):
        raise ScriptError(f"line end or another control character in {name!r}")


def _uri(text: str) -> Uri:
    """A URI that a script gives, for a request line."""
    try:
        uri = Uri.parse(text)
    except SipError as error:
        raise ScriptError(f"target: {error.reason}") from None
    if " " in uri.text:
        raise ScriptError(f"target: blank in URI: {text[:60]!r}")
    return uri
