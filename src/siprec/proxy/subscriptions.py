"""Dialogs that are made without INVITE (SUBSCRIBE, REFER, NOTIFY, methods we do not know): what is needed to let
requests within them go to their peer, and nowhere else (RFC 6665 4.4.1, RFC 3515).

Such a dialog has one tag on the side that began it. The other side may have several: a SUBSCRIBE forks, and each
notifier that answers, or sends a NOTIFY before its answer, makes a dialog of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from siprec.proxy.nat_flow import way_back
from siprec.proxy.peers import OTHER, Ends, Side, above_ours, contact_of
from siprec.proxy.routes import Target
from siprec.sip.clock import Clock, Timer
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sip.uri import parse_params

#: Seconds: before an answer and after the end; for an answer that says nothing; at the most.
REMEMBER: Final = 64.0
DEFAULT_LIFE: Final = 3600.0
MAX_LIFE: Final = 86400.0
#: Kept at once, those without an answer apart (the oldest goes first), and other ends of one.
MAX_SUBSCRIPTIONS: Final = 20_000
MAX_PENDING: Final = 5_000
#: Characters of what is kept of one: more is not followed, and refused later.
MAX_TEXT: Final = 4096
MAX_FORKS: Final = 60
_SWEEP: Final = 30.0


@dataclass(slots=True)
class Subscription:
    """A request that may make dialogs, and those it made. `until` is monotonic."""

    dlg_id: str
    call_id: str
    tag: str
    contact: str
    route: list[str]
    host: str
    given_by: str
    flow: Hop | None
    until: float
    ends: dict[str, Ends] = field(default_factory=dict)

    def end(self, tag: str) -> Ends | None:
        """The dialog with the other side's `tag`, made when it is new; None when there are too many."""
        found = self.ends.get(tag)
        if found is None and len(self.ends) < MAX_FORKS:
            found = self.ends[tag] = Ends()
            found.caller.contact(self.contact)
            found.caller.route(self.route)
            found.caller.host(self.host)
            found.caller.given_by = self.given_by
            found.caller.flow = self.flow
        return found


class Subscriptions:
    """Of one proxy."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[str, Subscription] = {}
        self._known: dict[str, Subscription] = {}
        self._sweep: Timer | None = None

    def __len__(self) -> int:
        return len(self._known) + len(self._pending)

    def begin(self, dlg_id: str, request: SipRequest, source: Hop, given_by: str) -> None:
        """A request outside a dialog goes on with this id in its Record-Route; `given_by` as in `Target`."""
        contact, route = contact_of(request) or request.from_.uri_text, request.values("record-route")
        if len(request.call_id) + len(contact) + sum(map(len, route)) > MAX_TEXT:
            return
        if len(self._pending) >= MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        self._pending[dlg_id] = Subscription(
            dlg_id,
            request.call_id,
            request.from_tag,
            contact,
            route,
            source.host,
            given_by,
            way_back(request, source),
            self._clock.now() + REMEMBER,
        )
        if self._sweep is None:
            self._sweep = self._clock.call_later(_SWEEP, self._swept)

    def find(self, message: SipMessage, dlg_id: str) -> tuple[Subscription, Ends, Side] | None:
        """The dialog that a request with our cookie belongs to, and who sent it.

        Raises:
            SipError: From or To malformed.
        """
        known = self._known.get(dlg_id) or self._pending.get(dlg_id)
        if known is None or known.until <= self._clock.now():
            return None
        from_tag, to_tag = message.from_tag, message.to_tag
        if from_tag == known.tag and to_tag in known.ends:
            return known, known.ends[to_tag], "caller"
        if to_tag == known.tag and from_tag != known.tag:
            new = isinstance(message, SipRequest) and message.method == "NOTIFY"
            end = known.end(from_tag) if new else known.ends.get(from_tag)
            return (known, end, "callee") if end is not None else None
        return None

    def request(self, known: Subscription, end: Ends, side: Side, request: SipRequest, source: Hop) -> None:
        """A request within the dialog is being forwarded."""
        end[side].sent(request)
        if side == "callee" and not end.callee.hosts:  # a NOTIFY that makes the dialog
            end.callee.host(source.host)
            end.callee.given_by = source.host
            end.callee.route(request.values("record-route"))
        flow = way_back(request, source)
        if flow is not None:
            end[side].flow = flow
        if request.method == "NOTIFY":
            state, _, rest = (request.get("subscription-state") or "").partition(";")
            if state.strip().lower() == "terminated":
                known.until = self._clock.now() + REMEMBER
            else:
                self._prolong(known, parse_params(rest).get("expires"))

    def response(
        self, dlg_id: str, side: Side, request: SipRequest, response: SipResponse, host: str, target: Target
    ) -> None:
        """A 2xx to a request of `side` is being forwarded; it came from `host`, to which `target` had led."""
        known = self._known.get(dlg_id) or self._pending.get(dlg_id)
        tag = response.to_tag if side == "caller" else response.from_tag
        if known is None or not tag:
            return
        end = known.end(tag)
        if end is None:
            return
        end[OTHER[side]].answered(response, host)
        if side == "caller":
            end.callee.given_by = end.callee.given_by or target.given_by
            end.callee.flow = end.callee.flow or target.flow
            end.callee.route(above_ours(response, dlg_id))
            if not end.callee.last:
                end.callee.contact(request.uri)
        if request.method != "NOTIFY":
            self._prolong(known, response.get("expires") or request.get("expires"))

    def _prolong(self, known: Subscription, expires: str | None) -> None:
        text = (expires or "").strip()
        seconds = float(text) if text.isdecimal() and text.isascii() and len(text) < 10 else DEFAULT_LIFE
        if self._pending.pop(known.dlg_id, None) is not None:
            if len(self._known) >= MAX_SUBSCRIPTIONS:
                del self._known[next(iter(self._known))]
            self._known[known.dlg_id] = known
        known.until = max(known.until, self._clock.now() + min(seconds, MAX_LIFE) + REMEMBER)

    def _swept(self) -> None:
        self._sweep = None
        now = self._clock.now()
        for table in (self._known, self._pending):
            for key in [key for key, each in table.items() if each.until <= now]:
                del table[key]
        if len(self):
            self._sweep = self._clock.call_later(_SWEEP, self._swept)
