"""``[[route]]``: rules that say what becomes of a request outside a dialog.

Rules are tried in order. One that matches and has an action (targets, ``reply``, ``registrar`` or ``relay``) decides;
one without adds its ``record``, ``media``, ``media_set``, ``media_flags`` and ``transport_protocol``, and the search
goes on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from siprec.media.engine import NO_FLAGS, MediaFlags, flags_from
from siprec.proxy.local_domain import Networks
from siprec.sip.digest import check_algorithms
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

MediaUse = Literal["", "recorded", "always", "never"]
TransportProtocol = Literal["", "RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF", "UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"]


TRUSTED: Final = "trusted"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request may go: the Request-URI to give it; `q` its preference (RFC 3261 16.6).

    `flow` is the way to it if known (a registered phone), else it is found by RFC 3263. `route` are Route values to
    put on top (outbound proxy, Path). `given_by` says whose Contact it is: the address of a stranger, or `TRUSTED`
    (empty: the operator has set it); with `only_flow` there is no other way than the flow.
    """

    uri: Uri
    q: float = 1.0
    flow: Hop | None = None
    route: tuple[str, ...] = ()
    given_by: str = ""
    only_flow: bool = False


class RouteTarget(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One target of a rule; of equal `priority` (lower first) the order is drawn by `weight`, as with SRV records."""

    uri: str
    weight: int = 1
    priority: int = 0


class RouteRule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[[route]]``. What is not given matches everything.

    Raises:
        ValueError: from the constructor, with the key and what is wrong with it.
    """

    name: str = ""
    method: str | list[str] = []
    user: str = ""
    """Regular expression that the whole user part of the Request-URI must match (escapes resolved)."""
    domain: str | list[str] = []
    source: str | list[str] = []
    """Addresses or networks (CIDR) the request comes from. Over UDP an address can be forged: see docs/routing.md."""
    authenticated: bool = False
    """Only for requests with the name and password of one of ``registrar.users``. A request that everything else fits
    is asked for them: 401 for REGISTER, 407 for the others."""
    algorithms: list[str] = []
    """Digest algorithms to ask for instead of ``registrar.algorithms``, in order of preference."""
    header: dict[str, str] = {}
    """Header name -> regular expression searched for in each of its values."""
    targets: list[str | RouteTarget] = []
    """SIP URIs, tried in order until one answers; without user part they take that of the Request-URI, with ``;lr``
    they become a Route and the Request-URI stays."""
    fork: bool = False
    """Try all targets at once."""
    record: str | list[str] = []
    """Names of ``[recording.NAME]``."""
    media: MediaUse = ""
    media_set: str = ""
    """The ``set`` of ``[[media_server]]`` that the call's media server is chosen from."""
    transport_protocol: TransportProtocol = ""
    """What the called side is offered whatever the caller speaks, e.g. ``RTP/SAVP`` (SRTP) or ``RTP/AVP``; the media
    server brings the two together (with DTLS only RTPEngine does). The call then passes through it, recorded or not."""
    media_flags: dict[str, Any] = {}
    """Keys of the ``ng`` protocol for the caller's offers, e.g. ``{ direction = ["internal", "external"],
    ICE = "remove", codec = { strip = ["G722"], transcode = ["PCMA"] } }``; RTPProxy knows ``direction`` and some
    ``flags``. The call then passes through the media server, recorded or not."""
    reply: int = 0
    reason: str = ""
    registrar: bool = False
    """REGISTER is taken, everything else goes to the contacts registered for the Request-URI."""
    relay: bool = False
    """Go where the Request-URI says."""

    def __post_init__(self) -> None:
        CompiledRule(self)


Authenticate = Callable[[Sequence[str]], object]
"""Finds out who sent the request in hand, by one of these digest algorithms (none: the usual ones); raises SipError."""


class RuleError(ValueError):
    """A ``[[route]]`` cannot be used; the text names key and reason."""


class CompiledRule:
    """A rule made ready. Raises RuleError when it makes no sense."""

    __slots__ = (
        "_targets",
        "called",
        "domains",
        "headers",
        "media_flags",
        "methods",
        "networks",
        "record",
        "rule",
        "user",
    )

    def __init__(self, rule: RouteRule, number: int = 0) -> None:
        self.rule = rule
        self.called = f"route {rule.name}" if rule.name else f"route[{number}]"
        """For people: its name, else its place in the file."""
        self.methods = frozenset(method.upper() for method in _listed(rule.method))
        self.domains = frozenset(domain.lower() for domain in _listed(rule.domain))
        self.user = _pattern("user", rule.user) if rule.user else None
        self.headers = tuple((name, _pattern(f"header.{name}", text)) for name, text in rule.header.items())
        try:
            self.networks = Networks(_listed(rule.source)) if rule.source else None
        except ValueError as error:
            raise RuleError(f"source: {error}") from None
        self.record = tuple(_listed(rule.record))
        try:
            self.media_flags = flags_from(rule.media_flags) if rule.media_flags else NO_FLAGS
        except ValueError as error:
            raise RuleError(f"media_flags.{error}") from None
        targets = []
        for target in rule.targets:
            entry = RouteTarget(uri=target) if isinstance(target, str) else target
            try:
                uri = Uri.parse(entry.uri)
            except SipError as error:
                raise RuleError(f"targets: {error.reason}") from None
            if not uri.is_sip:
                raise RuleError(f"targets: {entry.uri!r} is no SIP URI")
            if entry.weight < 0 or entry.priority < 0:
                raise RuleError("targets: weight and priority must not be negative")
            targets.append((uri, entry))
        self._targets = tuple(targets)
        if rule.algorithms:
            try:
                check_algorithms(rule.algorithms)
            except ValueError as error:
                raise RuleError(str(error)) from None
        if rule.algorithms and not rule.authenticated:
            raise RuleError("algorithms: only with authenticated = true")
        actions = bool(rule.targets) + bool(rule.reply) + rule.registrar + rule.relay
        if actions > 1:
            raise RuleError("only one of targets, reply, registrar and relay can be given")
        if rule.reply and not 300 <= rule.reply <= 699:
            raise RuleError("reply: must lie in 300..699")

    @property
    def final(self) -> bool:
        """Whether the search ends here."""
        rule = self.rule
        return bool(rule.targets or rule.reply or rule.registrar or rule.relay)

    @property
    def guarded(self) -> bool:
        """Whether it says whom it is for."""
        return self.networks is not None or self.rule.authenticated

    def matches(self, request: SipRequest, source: Hop) -> bool:
        """Whether the rule applies, whoever sent it. Raises SipError for a malformed Request-URI."""
        if self.methods and request.method not in self.methods:
            return False
        uri = request.ruri
        if self.domains and uri.host not in self.domains:
            return False
        if self.user is not None and self.user.fullmatch(uri.user_unescaped) is None:
            return False
        if self.networks is not None and source.host not in self.networks:
            return False
        return all(any(pattern.search(value) for value in request.get_all(name)) for name, pattern in self.headers)

    def groups(self, request: SipRequest, rng: random.Random) -> list[list[Target]]:
        """The targets: groups to be tried one after the other, each at once."""
        if len(self._targets) == 1:
            return [[target_for(self._targets[0][0], request)]]
        ordered = weighted_order(self._targets, rng)
        targets = [target_for(uri, request) for uri, _ in ordered]
        return [targets] if self.rule.fork else [[target] for target in targets]


@dataclass(slots=True)
class Decision:
    """What the rules say: the deciding rule (None: no rule), and everything matching rules add."""

    rule: CompiledRule | None = None
    record: list[str] = field(default_factory=list)
    record_by: dict[str, str] | None = None
    """Which rule wants each of them."""
    media: MediaUse = ""
    media_set: str = ""
    transport_protocol: TransportProtocol = ""
    media_flags: MediaFlags = NO_FLAGS

    def add(self, rule: CompiledRule) -> None:
        """The recordings that a rule wants."""
        by = self.record_by = self.record_by or {}
        for name in rule.record:
            if name not in by:
                by[name] = rule.called
                self.record.append(name)


class Rules:
    """All rules in order.

    Raises:
        RuleError: from the constructor.
    """

    def __init__(self, rules: Iterable[RouteRule] = ()) -> None:
        self._rules = [CompiledRule(rule, number) for number, rule in enumerate(rules)]
        self.authenticate = any(rule.rule.authenticated for rule in self._rules)
        """Whether one of them wants a password."""

    def names(self, host: str) -> bool:
        """Whether a rule has an address in its `source`."""
        return any(rule.networks is not None and host in rule.networks for rule in self._rules)

    def decide(
        self, request: SipRequest, source: Hop, authenticate: Authenticate | None = None, *, guarded: bool = False
    ) -> Decision:
        """Find the rule for a request. `authenticate` is asked where a rule wants a password; without it none is right.
        `guarded`: only rules that say by `source` or `authenticated` for whom they are may decide.

        Raises:
            SipError: malformed Request-URI; 401 or 407, who sent it has to say who they are.
        """
        decision = Decision()
        for rule in self._rules:
            if not rule.matches(request, source):
                continue
            if guarded and not rule.guarded:
                continue
            if rule.rule.authenticated:
                if authenticate is None:
                    raise SipError("Forbidden", 403)
                authenticate(rule.rule.algorithms)
            if rule.record:
                decision.add(rule)
            decision.media = rule.rule.media or decision.media
            decision.media_set = rule.rule.media_set or decision.media_set
            decision.transport_protocol = rule.rule.transport_protocol or decision.transport_protocol
            if rule.media_flags is not NO_FLAGS:
                decision.media_flags = rule.media_flags
            if rule.final:
                decision.rule = rule
                break
        return decision


def target_for(uri: Uri, request: SipRequest) -> Target:
    """The target a configured or scripted URI stands for (see `RouteRule.targets`).

    Raises:
        SipError: the Request-URI is malformed.
    """
    if "lr" in uri.params:
        return Target(request.ruri, route=(f"<{uri.text}>",))
    if uri.user is None and request.ruri.is_sip and request.ruri.user is not None:
        uri = uri.replace(user=request.ruri.user)
    elif uri.user is None and request.ruri.scheme == "tel":
        uri = uri.replace(user=request.ruri.user, params={**uri.params, "user": "phone"})
    return Target(uri)


def weighted_order(targets: Iterable[tuple[Uri, RouteTarget]], rng: random.Random) -> list[tuple[Uri, RouteTarget]]:
    """Priorities ascending; within one, drawn by weight if weights differ, else as written (RFC 2782)."""
    left = sorted(targets, key=_priority)
    if len({(entry.priority, entry.weight) for _, entry in left}) == len({entry.priority for _, entry in left}):
        return left
    result = []
    while left:
        first = [item for item in left if item[1].priority == left[0][1].priority]
        chosen = rng.choices(first, [item[1].weight or 0.001 for item in first])[0]
        left.remove(chosen)
        result.append(chosen)
    return result


def _priority(item: tuple[Uri, RouteTarget]) -> int:
    return item[1].priority


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _pattern(key: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise RuleError(f"{key}: {error}") from None


Lookup = Callable[[Uri], "list[Target] | None"]
"""Location service: contacts of an address of record, empty if it has none now, None if it does not exist."""
