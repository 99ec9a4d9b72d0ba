"""The metadata of a proxied call: its identifiers, and the document as the call is now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, runtime_checkable
from weakref import ref

from siprec.media.engine import MediaServer, MediaSession
from siprec.metadata.document import (
    Document,
    Group,
    NameId,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Reason,
    Session,
    SessionRecordingAssoc,
    Stream,
)
from siprec.metadata.values import IdSource
from siprec.proxy.party import Party
from siprec.recording import participants as parties
from siprec.recording.participants import IdentityPolicy
from siprec.recording.rs_sdp import StreamKey
from siprec.recording.settings import RecordingSettings
from siprec.recording.stream_digest import digest
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest, SipResponse

Leg = Literal["caller", "callee"]
LEGS: Final[tuple[Leg, Leg]] = ("caller", "callee")
_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})


@runtime_checkable
class RecordedCall(Protocol):
    """What the recording needs of a call of the proxy. Times are seconds since the epoch."""

    dlg_id: str
    call_id: str
    source: str
    from_tag: str
    to_tag: str
    invite: SipRequest
    response: SipResponse | None
    caller: NameAddr
    callee: NameAddr
    start_wall: float
    answer_wall: float | None
    end_wall: float | None
    end_reason: str
    end_message: SipMessage | None
    media: MediaServer | None
    media_session: MediaSession | None
    media_error: str
    wanted_by: dict[str, str] | None
    caller_sdp: bytes
    callee_sdp: bytes
    parties: dict[str, Party]

    def wall(self, now: float) -> float:
        """Seconds since the epoch at monotonic `now`."""
        ...

    @property
    def media_path(self) -> object | None:
        """What ends the call at its media server; None: nobody does."""
        ...

    @property
    def callee_tag(self) -> str:
        """The tag of the answered branch, or of that whose early media pass."""
        ...


@dataclass(slots=True)
class _GroupEntry:
    formed: float
    participants: dict[str, str]


class GroupRegistry:
    """Who has which participant id in which CS group, so that it stays the same from call to call (RFC 7865 6.5.1).

    Holds the `size` groups used last.
    """

    def __init__(self, new_id: IdSource, size: int = 10_000) -> None:
        self._new_id = new_id
        self._size = size
        self._groups: OrderedDict[str, _GroupEntry] = OrderedDict()

    def join(self, group_id: str, wall: float) -> float:
        """Note that the group is in use; returns since when it exists."""
        entry = self._groups.get(group_id)
        if entry is None:
            entry = self._groups[group_id] = _GroupEntry(wall, {})
            while len(self._groups) > self._size:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group_id)
        return entry.formed

    def participant(self, group_id: str, aor: str, candidate: str) -> str:
        """The id that `aor` has in the group: `candidate` if it has none yet."""
        entry = self._groups.get(group_id)
        return entry.participants.setdefault(aor, candidate) if entry is not None else candidate


@dataclass(frozen=True, slots=True)
class _Left:
    """A party that was in the call: who, under which ids, from when to when."""

    leg: Leg
    id: str
    group_ids: dict[tuple[Leg, str], str]
    party: tuple[NameAddr, SipMessage | None, SipMessage | None]
    joined: float
    left: float


_Known = tuple[NameAddr, "SipMessage | None"]


class CallMetadata:
    """Identifiers of one call, shared by all its recordings (RFC 7865 6.10), and what the call is made of now.

    The call has this, not the other way round: what is left of it is no cycle.
    """

    __slots__ = (
        "_call",
        "_contributed",
        "_early",
        "_formed",
        "_group_ids",
        "_joined",
        "_known",
        "_last",
        "_left",
        "_new_id",
        "_revision",
        "_since",
        "_spoke",
        "_stream_ids",
        "group_id",
        "participant_ids",
        "session_id",
    )

    def __init__(self, call: RecordedCall, new_id: IdSource) -> None:
        self._call = ref(call)
        self._new_id = new_id
        self.session_id = new_id()
        self.participant_ids: dict[Leg, str] = {"caller": new_id(), "callee": new_id()}
        self._stream_ids: dict[tuple[Leg, int], str] = {}
        self._since: dict[tuple[Leg, int], float] = {}
        self._contributed: dict[Leg, tuple[float | None, float | None]] = {}
        self._group_ids: dict[tuple[Leg, str], str] = {}
        # What only a call whose parties change has: who they are, what they sent last, since when they are there; and
        # those that left.
        self._known: Mapping[Leg, _Known] = _NOTHING
        self._spoke: Mapping[Leg, SipMessage | None] = _NOTHING
        self._joined: Mapping[Leg, float] = _NOTHING
        self._left: tuple[_Left, ...] = ()
        self.group_id = ""
        self._formed = 0.0
        self._early = 0.0
        self._revision = 0
        self._last: tuple[object, Document] | None = None
        """The last document, and what it was made from."""

    @property
    def call(self) -> RecordedCall:
        """The call; to be asked for while it is there."""
        call = self._call()
        assert call is not None
        return call

    def join(self, group_id: str, formed: float, common: Mapping[Leg, str]) -> None:
        """This session is one of a group (RFC 8068 3.2.3), where no setting names another; `common` are the ids of
        parties who take part in other sessions of it (RFC 7865 6.5.1)."""
        self._revision += 1
        if not self.group_id:
            self.group_id, self._formed = group_id, formed
        for leg, ident in common.items():
            self._group_ids[leg, group_id] = ident
        for leg in LEGS:
            # Who was told in this session already keeps that id (RFC 7865 6.10), whoever of the group has another for
            # the name.
            told = self._group_ids.get((leg, ""))
            if told is not None:
                self._group_ids[leg, group_id] = told

    def participant_id(self, leg: Leg, group_id: str) -> str:
        """The id of a party in a group; the same from then on."""
        return self._group_ids.setdefault((leg, group_id), self.participant_ids[leg])

    def identify(self, leg: Leg, address: NameAddr, message: SipMessage | None = None) -> None:
        """A party turned out to be somebody else than From or To said (connected identity): same participant id, new
        names. `message` is what it sent, for an asserted identity and its Session-ID."""
        self._revision += 1
        self._known = {**self._known, leg: (address, message)}
        if message is not None:
            self._spoke = {**self._spoke, leg: message}

    def heard(self, leg: Leg, message: SipMessage) -> None:
        """A party, no other than before, sent another message that tells its Contact and Session-ID."""
        self._revision += 1
        self._spoke = {**self._spoke, leg: message}

    def begin(self, wall: float) -> None:
        """The session began before the answer: with its early media."""
        self._revision += 1
        self._early = wall

    def differs(self, leg: Leg, address: NameAddr, message: SipMessage | None, policy: IdentityPolicy) -> bool:
        """Whether `address` is another name than that of the party there, for who looks where `policy` says; a
        newcomer without a name of its own always is."""
        call = self.call
        names = parties.name_ids(address, message, policy)
        before = parties.name_ids(*self._party(call, leg), policy)
        return {name.aor for name in names} != {name.aor for name in before}

    def replace(self, leg: Leg, address: NameAddr, message: SipMessage | None, wall: float) -> None:
        """At `wall` another party took the place of this one in the same session (RFC 8068 3.2.3): a new participant
        with streams of its own joins, the old one leaves."""
        call = self.call
        self._revision += 1
        streams = [key for key in self._stream_ids if key[0] == leg]
        self._left = (
            *self._left,
            _Left(
                leg,
                self.participant_ids[leg],
                {key: value for key, value in self._group_ids.items() if key[0] == leg},
                (*self._party(call, leg), self._dialog_message(call, leg)),
                self._since_when(call, leg),
                wall,
            ),
        )
        self.participant_ids[leg] = self._new_id()
        self._group_ids = {key: value for key, value in self._group_ids.items() if key[0] != leg}
        for key in streams:
            del self._stream_ids[key]
            self._since.pop(key, None)
        self._contributed.pop(leg, None)
        self._joined = {**self._joined, leg: wall}
        self._known = {**self._known, leg: (address, message)}
        self._spoke = {**self._spoke, leg: message}

    def _since_when(self, call: RecordedCall, leg: Leg) -> float:
        party = call.parties.get(leg)
        since = self._joined.get(leg) or (party.since if party is not None else 0.0)
        return since or self._early or call.answer_wall or call.start_wall

    def tags(self) -> dict[str, Leg]:
        """The parties by their dialog tags."""
        call = self.call
        return {call.from_tag: "caller", call.callee_tag: "callee"}

    def stream_id(self, leg: Leg, index: int) -> str:
        """The stream id of a party's m-line; the same whenever asked (RFC 7865 6.10)."""
        key = (leg, index)
        found = self._stream_ids.get(key)
        if found is None:
            found = self._stream_ids[key] = self._new_id()
        return found

    def labels(self, labels: dict[StreamKey, str]) -> dict[str, str]:
        """Stream id -> label, from stream key -> label."""
        legs = self.tags()
        return {self.stream_id(legs[tag], index): text for (tag, index), text in labels.items() if tag in legs}

    def document(
        self,
        streams: Sequence[StreamKey],
        attached: float,
        settings: RecordingSettings,
        *,
        identities: IdentityPolicy = "header",
        groups: GroupRegistry | None = None,
        secret: bytes = b"",
        wall: float = 0.0,
    ) -> Document:
        """The complete metadata as things are at `wall`.

        Args:
            streams: those offered to the SRS.
            attached: since when this call is attached to the RS.
            settings: of the instance: group, XML for the parties, extensions.
            identities: where names and addresses come from.
            groups: who has which id in which group.
            secret: of the deployment, for group identifiers.
        """
        call = self.call
        tags: dict[str, Leg] = {call.from_tag: "caller", call.callee_tag: "callee"}
        source = (
            tuple(streams),
            attached,
            settings,
            identities,
            self._revision,
            tuple(tags),
            call.caller_sdp,
            call.callee_sdp,
            call.invite,
            call.response,
            call.answer_wall,
            tuple(call.parties.values()),
        )
        if self._last is not None and self._last[0] == source:
            return self._last[1]
        began = self._early or call.answer_wall or call.start_wall
        group, group_id = self._group(settings, groups, secret, began)
        participants, assocs, feeds = [], [], []
        names: dict[Leg, tuple[NameId, ...]] = {}
        who: dict[Leg, str] = {}
        for leg in LEGS:
            names[leg] = parties.name_ids(*self._party(call, leg), identities)
            who[leg] = self._group_ids.get((leg, group_id), "")
            if not who[leg]:
                who[leg] = self.participant_ids[leg]
                if group_id and groups is not None:
                    who[leg] = groups.participant(group_id, names[leg][0].aor, who[leg])
                self._group_ids[leg, group_id] = who[leg]
        if who["caller"] == who["callee"]:
            # A party that calls itself is still two participants here (RFC 7865 6.5).
            who["callee"] = self._group_ids["callee", group_id] = self.participant_ids["callee"]
        for left in self._left:
            ident = left.group_ids.get((left.leg, group_id), left.id)
            if ident in who.values():
                continue  # came back
            address, message, spoke = left.party
            participants.append(Participant(ident, parties.name_ids(address, message, identities)))
            assocs.append(
                ParticipantSessionAssoc(ident, self.session_id, left.joined, left.left, parties.feature_params(spoke))
            )
            feeds.append(ParticipantStreamAssoc(ident, (), (), left.joined, left.left))
        since_default = wall if self._since else began
        mine: dict[Leg, list[tuple[str, bool]]] = {"caller": [], "callee": []}
        starts: dict[Leg, float] = {"caller": began, "callee": began}
        offered = []
        for tag, index in streams:
            if tag not in tags:
                continue
            leg = tags[tag]
            ident = self._stream_ids.get((leg, index)) or self.stream_id(leg, index)
            since = self._since.setdefault((leg, index), since_default)
            starts[leg] = min(since, starts[leg]) if mine[leg] else since
            mine[leg].append((ident, self._flows(call, leg, index)))
            offered.append(Stream(ident, self.session_id))
        spoken: dict[Leg, SipMessage | None] = {}
        for leg in LEGS:
            spoken[leg] = self._dialog_message(call, leg)
            send = tuple([ident for ident, flows in mine[leg] if flows])
            recv = tuple([ident for ident, flows in mine["callee" if leg == "caller" else "caller"] if flows])
            participants.append(
                Participant(who[leg], names[leg], settings.caller if leg == "caller" else settings.callee)
            )
            assocs.append(
                ParticipantSessionAssoc(
                    who[leg], self.session_id, self._since_when(call, leg), None, parties.feature_params(spoken[leg])
                )
            )
            first, last = self._contributing(leg, bool(send or recv), starts[leg], wall)
            feeds.append(ParticipantStreamAssoc(who[leg], send, recv, first, last))
        session = Session(
            self.session_id,
            parties.sip_session_id(spoken["caller"], spoken["callee"]),
            (),
            group_id,
            began,
            None,
            settings.session_custom_extension,
        )
        document = Document(
            groups=group,
            sessions=(session,),
            participants=tuple(participants),
            streams=tuple(offered),
            session_assocs=(SessionRecordingAssoc(self.session_id, attached),),
            participant_assocs=tuple(assocs),
            stream_assocs=tuple(feeds),
        )
        self._last = (source, document)
        return document

    def _group(
        self, settings: RecordingSettings, groups: GroupRegistry | None, secret: bytes, began: float
    ) -> tuple[tuple[Group, ...], str]:
        """The CS group as an element, if there is one, and its id."""
        extension, formed = settings.group_custom_extension, began
        if settings.group:
            group_id, own = parties.group(settings.group, secret)
            extension = own + extension
        elif self.group_id:
            group_id, formed = self.group_id, self._formed
        else:
            return (), ""
        if groups is not None:
            formed = groups.join(group_id, formed)
        return (Group(group_id, formed, None, extension),), group_id

    def _contributing(self, leg: Leg, flows: bool, began: float, wall: float) -> tuple[float | None, float | None]:
        """From when to when a party has taken part in the streams: the last such time. A hold in which nothing passes
        either way ends it, the end of the hold begins another."""
        first, last = self._contributed.get(leg, (began if flows else None, None))
        if flows and (first is None or last is not None):
            first, last = wall, None
        elif not flows and first is not None and last is None:
            last = wall
        self._contributed[leg] = first, last
        return first, last

    def reasons(self) -> tuple[Reason, ...]:
        """Why the call ended."""
        return parties.reasons(self.call.end_message)

    def _party(self, call: RecordedCall, leg: Leg) -> tuple[NameAddr, SipMessage | None]:
        known = self._known.get(leg)
        if known is not None:
            return known
        party = call.parties.get(leg)
        if party is not None and party.message is not None:
            return party.address, party.message  # told before anybody asked for a recording
        return (call.caller, call.invite) if leg == "caller" else (call.callee, call.response)

    def _dialog_message(self, call: RecordedCall, leg: Leg) -> SipMessage | None:
        """The message that tells a party's Contact and Session-ID."""
        if leg in self._spoke:
            return self._spoke[leg]
        party = call.parties.get(leg)
        if party is not None and party.since:
            return party.message
        return call.invite if leg == "caller" else call.response

    @staticmethod
    def _flows(call: RecordedCall, leg: Leg, index: int) -> bool:
        """Whether what `leg` has to say on its m-line `index` reaches the other party: hold shows here."""
        own, other = call.caller_sdp, call.callee_sdp
        if leg == "callee":
            own, other = other, own
        mine, theirs = digest(own).directions, digest(other).directions
        return (index >= len(mine) or mine[index][0]) and (index >= len(theirs) or theirs[index][1])
