"""What handlers of a routing script get: requests, replies, and what comes of forwarding (see
:mod:`siprec.proxy.script`)."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

from siprec import sdp
from siprec.proxy.actions import our_tag
from siprec.proxy.authentication import Users
from siprec.proxy.call import Call
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import Target, target_for
from siprec.proxy.routing import Routing
from siprec.sip.digest import check_algorithms
from siprec.sip.errors import SipError
from siprec.sip.header_list import has_control
from siprec.sip.headers import TOKEN
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE, find_part
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri


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

    def _final(self, response: SipResponse) -> None:
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

    __slots__ = ("_context", "_routing", "_target", "asked", "handled", "message")

    def __init__(self, routing: Routing, context: ResponseContext, target: Target | None = None) -> None:
        self._routing = routing
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
        return self._routing.core.is_trusted(self.source)

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
        known = self._routing.core.authentication
        if not (users if users is not None else known is not None and known.users):
            raise ScriptError("authenticate() needs users: [registrar] users or users_file, or the argument")
        if algorithms:
            try:
                check_algorithms(algorithms)
            except ValueError as error:
                raise ScriptError(f"authenticate(): {error}") from None
        _check_line("realm", realm)
        try:
            return self._routing.authenticate(
                self._context, proxy=proxy, realm=realm, users=users, algorithms=algorithms
            )
        except SipError as error:
            self.handled = True
            self._fail(error.status, error.reason, error.headers)
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
        if not self._cancelled():
            try:
                self._routing.start(self._context, groups)
            except SipError as error:
                self._refuse(error)
        return outcome

    def forward_to_registered(self) -> Outcome:
        """REGISTER to the registrar, anything else to the contacts registered for the Request-URI (404, 480)."""
        self._once()
        outcome = Outcome(self._context)
        if not self._cancelled():
            try:
                self._routing.to_registered(self._context)
            except SipError as error:
                self._refuse(error)
        return outcome

    def reply(self, status: int, reason: str = "", headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer it; `status` 101 to 199, after which more may follow, or 300 to 699. Raises ScriptError."""
        if not (101 <= status <= 199 or 300 <= status <= 699):
            raise ScriptError(f"reply({status}): a proxy answers 101..199 or 300..699")
        lines = list(headers)
        for name, value in (("Reason-Phrase", reason), *lines):
            _check_line(name, value)
        context = self._context
        tag = our_tag(context.transaction)
        response = context.transaction.request.response(status, reason, to_tag=tag, headers=lines)
        if status < 200:
            context.transaction.respond(response)
            return
        self._once()
        context.send_final(response)
        self._routing.core.run(context)

    def _once(self) -> None:
        if self.handled:
            raise ScriptError(f"{self.method} was forwarded or answered already (Call-ID {self.call_id})")
        self.handled = True

    def _cancelled(self) -> bool:
        """Whether a CANCEL came meanwhile; it is answered then."""
        if self._context.cancelled:
            self._fail(487)
        return self._context.cancelled

    def _refuse(self, error: SipError) -> None:
        self._fail(error.status, error.reason if error.reason.isprintable() else "", error.headers)

    def _fail(self, status: int, reason: str = "", headers: Iterable[tuple[str, str]] = ()) -> None:
        self._context.fail(status, reason, headers)
        self._routing.core.run(self._context)

    def finish(self) -> None:
        """The handlers are through (called by `Script`): what they left undecided goes its usual way."""
        if self.handled:
            return
        self.handled = True
        if self._cancelled():
            return
        try:
            if self._target is not None:
                target = replace(self._target, uri=self.message.ruri)
                self._routing.forward(self._context, [[target]])
            else:
                self._routing.default_route(self._context)
        except SipError as error:
            self._refuse(error)


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
        """Recording settings."""
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
