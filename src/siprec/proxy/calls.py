"""The calls of a proxy: begun by an INVITE outside a dialog, answered, refused, ended (RFC 3261 12, 13).

=========  ====================================================  ==========
state      event                                                 then
=========  ====================================================  ==========
early      a 2xx was forwarded                                   confirmed
early      another final response was sent; the INVITE was lost  terminated
confirmed  another branch answered, its dialog ended             confirmed
confirmed  its last confirmed dialog ended                       terminated
=========  ====================================================  ==========
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from siprec.proxy import offer_answer
from siprec.proxy.branch import Branch
from siprec.proxy.call import Call, Recorder
from siprec.proxy.connected_identity import ConnectedIdentity
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.media_path import MediaPath
from siprec.proxy.protocols import Proxy
from siprec.proxy.record_route import Cookies
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.source_counts import SourceCounts
from siprec.proxy.transfer import Transfers
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipResponse


class CallProxy(Proxy, Protocol):
    """What the calls use of the proxy besides."""

    cookies: Cookies
    transfers: Transfers
    parties: ConnectedIdentity
    recorder: Recorder | None
    settings: Callable[[], object] | None
    media: MediaPath

    @property
    def max_unanswered(self) -> int:
        """Calls of one source that wait for an answer, unless it is trusted; 0: any number."""
        ...


class Calls:
    """All calls, by the id in their cookie."""

    def __init__(self, core: CallProxy) -> None:
        self._core = core
        self.all: dict[str, Call] = {}
        self._unanswered = SourceCounts(core.clock)

    @property
    def unanswered(self) -> int:
        """Calls of sources without trust that wait for an answer."""
        return len(self._unanswered)

    def begin(self, context: ResponseContext) -> Call:
        """An INVITE outside a dialog. Raises SipError: 503, too many of its source wait for an answer."""
        core, transaction = self._core, context.transaction
        source, limit, request = transaction.source, core.max_unanswered, transaction.request
        bounded = limit > 0 and not core.is_trusted(source)
        if bounded and self._unanswered.count(source.host) >= limit:
            core.counters["max_unanswered"] += 1
            self._unanswered.tell(source.host, f"{limit} unanswered calls: refused (max_unanswered)")
            raise SipError("Too Many Unanswered Calls", 503, (("Retry-After", "10"),))
        clock = core.clock
        call = Call(core.cookies.new_id(), request, str(source), clock.wall(), clock.now())
        call.recorder = core.recorder
        call.settings = core.settings() if core.settings is not None else None
        call.relations = core.transfers.relations(request)
        self.all[call.dlg_id] = call
        if bounded:
            self._unanswered.add(call.dlg_id, source.host)
        context.call = call
        return call

    def answered(self, call: Call, response: SipResponse, context: ResponseContext, branch: Branch) -> None:
        """The first 2xx was forwarded."""
        core = self._core
        call.to_tag = response.to_tag
        call.response = response
        call.answer_wall = call.wall(core.clock.now())
        call.state = "confirmed"
        self._unanswered.remove(call.dlg_id)
        dialog = core.dialogs.made_by(call, response)
        if dialog is not None:
            self._take(dialog)
        self._bind_media(call, context.via_branch(branch))
        core.counters["answered"] += 1
        core.observers.tell("call_answered", call)

    def _take(self, dialog: ProxiedDialog) -> None:
        """The dialog is the one that its call has."""
        offer_answer.take(dialog)
        self._core.parties.taken(dialog)

    @staticmethod
    def _bind_media(call: Call, via_branch: str = "") -> None:
        if call.media_session is not None:
            call.media_session = replace(call.media_session, to_tag=call.to_tag, via_branch=via_branch)

    def dialog_ended(self, dialog: ProxiedDialog, reason: str, message: SipMessage | None, side: str) -> None:
        """A dialog is over; its call is too, unless another branch was answered as well."""
        call = dialog.call
        if call.state != "confirmed" or dialog.callee_tag != call.to_tag:
            return
        left = [other for other in self._core.dialogs.of(call) if other.state == "confirmed"]
        if left:
            # Two answered (a fork) and the caller has kept the other one.
            call.to_tag = left[0].callee_tag
            self._take(left[0])
            self._bind_media(call)
            self._core.observers.tell("call_media_changed", call, "callee")
            self._core.media.settle(left[0])
            return
        self.end(call, reason, message, side)

    def end(self, call: Call, reason: str, message: SipMessage | None = None, side: str = "") -> None:
        """The call is over; everything of it goes."""
        if call.state == "terminated":
            return
        core = self._core
        call.state = "terminated"
        self._unanswered.remove(call.dlg_id)
        call.end_wall = call.wall(core.clock.now())
        call.end_reason, call.end_message, call.end_side = reason, message, side
        for dialog in core.dialogs.of(call):
            core.dialogs.end(dialog, reason)
        if self.all.pop(call.dlg_id, None) is not None:
            core.observers.tell("call_ended", call)
        core.media.release(call)
        call.relations = ()  # a chain of transfers holds no chain of calls

    def abandoned(self, call: Call) -> None:
        """The server transaction of its INVITE is over."""
        self._core.dialogs.end_early(call, call.to_tag)
        if call.state == "early":
            self.end(call, "abandoned")
