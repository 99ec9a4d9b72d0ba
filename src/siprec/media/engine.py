"""What a media server does for the proxy and for the recording: the interface, and the values that pass through it.

Every request takes a `done` callback, called exactly once, from the event loop, with the result or a
:class:`MediaError`; never before the request returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from siprec.sdp import MediaDescription


class MediaError(Exception):
    """A media server refused (`reason` is its own), was silent (`timeout`), or said something that makes no sense."""

    def __init__(self, reason: str, *, timeout: bool = False, server: str = "") -> None:
        super().__init__(f"{server}: {reason}" if server else reason)
        self.reason = reason
        self.timeout = timeout
        self.server = server


class MediaSession(Struct, frozen=True, gc=False):
    """A call at the media server: `from_tag` is the tag of who made the offer at hand, `to_tag` of who answers it.
    `received_from` is the address that the description at hand came from, if known."""

    call_id: str
    from_tag: str
    to_tag: str = ""
    via_branch: str = ""
    received_from: str = ""


class MediaFlags(Struct, frozen=True):
    """Wishes for one request, in the words of the ng protocol; what is empty is not sent.

    `address_family` is ``IP4`` or ``IP6``. `extra` are further ng keys, verbatim. Of subscriptions, and for media
    servers that keep media (our relay): `preroll` is how many seconds they may go back at most, None as far as there is
    anything; `hold` has all that comes kept for another recorder, the one before being lost.
    """

    flags: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    direction: tuple[str, ...] = ()
    transport_protocol: str = ""
    media_address: str = ""
    address_family: str = ""
    ice: str = ""
    label: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)
    preroll: float | None = None
    hold: bool = False


NO_FLAGS = MediaFlags()
_LISTS: Final = ("flags", "replace", "direction")
_WORDS: Final = {
    "transport protocol": "transport_protocol",
    "media address": "media_address",
    "address family": "address_family",
    "ICE": "ice",
    "label": "label",
}


def flags_from(keys: Mapping[str, object]) -> MediaFlags:
    """ng keys, as a route has them, as a value.

    Raises:
        ValueError: a key has a value that ng cannot carry, or not there.
    """
    said: dict[str, Any] = {"extra": {}}
    for key, value in keys.items():
        if key in _LISTS:
            if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
                raise ValueError(f"{key}: a list of words is needed")
            said[key] = tuple(value)
        elif key in _WORDS:
            if not isinstance(value, str):
                raise ValueError(f"{key}: a word is needed")
            said[_WORDS[key]] = value
        elif key in ("command", "call-id", "from-tag", "to-tag", "via-branch", "sdp"):
            raise ValueError(f"{key}: says which call it is, and is not to be set")
        else:
            _check(key, value)
            said["extra"][key] = value
    return MediaFlags(**said)


def merged(first: MediaFlags, then: MediaFlags) -> MediaFlags:
    """Both wishes as one: lists and further keys add up, words of `then` win."""
    if then is NO_FLAGS:
        return first
    return replace(
        first,
        flags=(*first.flags, *(each for each in then.flags if each not in first.flags)),
        replace=(*first.replace, *(each for each in then.replace if each not in first.replace)),
        direction=then.direction or first.direction,
        extra={**first.extra, **then.extra},
        **{name: getattr(then, name) for name in _WORDS.values() if getattr(then, name)},
    )


def _check(key: str, value: object) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            _check(f"{key}.{name}", each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check(key, each)
    elif isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{key}: {value!r} is neither a word nor a whole number, nor a list or table of them")


class Tone(Struct, frozen=True, gc=False):
    """A tone of `frequency` Hz for `duration` seconds every `interval` seconds, `level` dB below full scale."""

    frequency: int = 1400
    duration: float = 0.2
    interval: float = 15.0
    level: int = 20


class ForkedStream(Struct, frozen=True):
    """One stream of a subscription: what `from_tag` sends on its m-line `source_index` (from 0).

    `section` is the media server's offer for it: address, ports, formats with the payload types of the call.
    """

    from_tag: str
    source_index: int
    kind: str
    section: MediaDescription


class Subscription(Struct, frozen=True):
    """The media server's offer of copies. `tag` names the subscription; `streams` are in the order of its m-lines."""

    tag: str
    streams: tuple[ForkedStream, ...]


class StreamStatistics(Struct, frozen=True):
    """Counters of one m-line of one party: what came from it. None: this server does not count it.

    `index` is the m-line from 0, `dropped` packets by reason, `last_packet` in seconds since the epoch (0: none yet).
    """

    tag: str
    index: int
    kind: str
    packets: int
    octets: int
    errors: int = 0
    rtcp_packets: int = 0
    relayed: int | None = None
    forked: int | None = None
    lost: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    ssrcs: tuple[int, ...] = ()
    last_packet: float = 0.0
    endpoint: tuple[str, int] | None = None


class ForkStatistics(Struct, frozen=True):
    """Counters of one stream of a subscription: what went to the recorder. None: not counted by this server.

    `lost_reported` and `jitter_reported` are from the recorder's receiver reports, `last_report` is when its last RTCP
    came.
    `withheld` packets came during a pause or on a stream that was inactive, `refused` while the recorder refused it;
    `before`: while there were no copies yet. `reports` tell of packets that the recorder received; the last came
    `report_age` seconds ago, they come every `report_interval` seconds (0: not known), and at the last one `behind` of
    the packets sent had not been seen yet.
    """

    tag: str
    index: int
    from_tag: str
    source_index: int
    packets: int | None = None
    octets: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    paused: bool = False
    rtcp_received: int | None = None
    lost_reported: int | None = None
    jitter_reported: int | None = None
    last_report: float = 0.0
    endpoint: tuple[str, int] | None = None
    withheld: int = 0
    refused: int = 0
    before: int = 0
    waiting: int = 0
    reports: int = 0
    report_age: float = 0.0
    report_interval: float = 0.0
    behind: int = 0


class MediaStatistics(Struct, frozen=True):
    """Counters of a call: RTP totals, and each stream. `created` in seconds since the epoch."""

    created: float
    packets: int
    octets: int
    errors: int
    streams: tuple[StreamStatistics, ...]
    forks: tuple[ForkStatistics, ...] = ()


class SourceMove(Struct, frozen=True, gc=False):
    """The media of the party `tag` on its m-line `index` (from 0) come from `now`, another host than `before`, without
    a description that says so. Addresses are texts, ``192.0.2.1:4000``."""

    call_id: str
    tag: str
    index: int
    before: str
    now: str


SdpResult: TypeAlias = Callable[["bytes | MediaError"], None]
Result: TypeAlias = Callable[["MediaError | None"], None]
SubscriptionResult: TypeAlias = Callable[["Subscription | MediaError"], None]
StatisticsResult: TypeAlias = Callable[["MediaStatistics | MediaError"], None]
DeleteResult: TypeAlias = Callable[["MediaStatistics | MediaError | None"], None]
SessionsResult: TypeAlias = Callable[["list[MediaSession] | MediaError"], None]
LoadResult: TypeAlias = Callable[["dict[str, int] | MediaError"], None]
MediaTrace: TypeAlias = Callable[[str, str, str, bytes], None]
"""``trace(direction, server, call_id, message)``: a command of a call goes (``out``), its reply comes (``in``)."""


class MediaServer(ABC):
    """One media server. `name` says which, in logs and events; `on_source` hears of media that come from another host,
    from servers that tell."""

    name: str
    on_source: Callable[[SourceMove], None] | None = None

    @abstractmethod
    def offer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        """Take part in an offer: `done` gets the description to forward."""

    @abstractmethod
    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        """Take part in the answer; `session.to_tag` is needed."""

    @abstractmethod
    def delete(self, session: MediaSession, done: DeleteResult | None = None) -> None:
        """End the call: ports and subscriptions go. `done` gets the last counters of the call. A call that is not known
        is no error: then there are none."""

    @abstractmethod
    def subscribe_request(
        self,
        session: MediaSession,
        from_tags: Sequence[str],
        done: SubscriptionResult,
        *,
        flags: MediaFlags = NO_FLAGS,
        tag: str = "",
    ) -> None:
        """Ask for copies of what `from_tags` send; streams come in their order. `tag` renews that subscription."""

    @abstractmethod
    def subscribe_answer(
        self, session: MediaSession, tag: str, sdp: bytes, done: Result, *, flags: MediaFlags = NO_FLAGS
    ) -> None:
        """Where the copies go; may be repeated. Streams with port 0, inactive or sendonly get none."""

    @property
    def transcodes(self) -> bool:
        """Whether copies arrive in a codec that the answer to a subscription takes, whatever the call uses."""
        return False

    @abstractmethod
    def pause(self, session: MediaSession, tag: str, done: Result) -> None:
        """Withhold every stream of the subscription, at once, until :meth:`resume`."""

    @abstractmethod
    def resume(self, session: MediaSession, tag: str, done: Result) -> None:
        """Send again as the last answer says."""

    @abstractmethod
    def unsubscribe(self, session: MediaSession, tag: str, done: Result | None = None) -> None:
        """End the subscription."""

    @abstractmethod
    def play(self, session: MediaSession, tag: str, tone: Tone, done: Result) -> None:
        """Let the party `tag` hear a tone, again and again, until :meth:`stop_playing`; copies do not have it."""

    @abstractmethod
    def stop_playing(self, session: MediaSession, tag: str, done: Result) -> None:
        """No more of it."""

    @abstractmethod
    def key_frame(self, session: MediaSession, tag: str, done: Result) -> None:
        """Ask whoever sends the video of the subscription for a key frame, now; an error where nobody can be asked."""

    @abstractmethod
    def query(self, session: MediaSession, done: StatisticsResult) -> None:
        """Counters of the call."""

    def labelled(self, prefix: str, but: str, done: SessionsResult) -> None:
        """The calls one of whose parties has a label that begins with `prefix` and is not `but`; none where the server
        has no labels or lists no calls. `done` may be called at once."""
        done([])

    @abstractmethod
    def ping(self, done: Result) -> None:
        """Is it there?"""

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of requests, since the start."""
        return {}

    @property
    def pending(self) -> int:
        """Requests that wait for their reply."""
        return 0

    def traced(self, trace: MediaTrace | None) -> None:  # noqa: B027 -- those that tell nothing have nothing to do
        """Have `trace` told of commands and replies of calls."""

    def load(self, done: LoadResult, timeout: float) -> None:
        """How busy the server says it is: numbers by name, as far as it has any."""
        self.ping(lambda error: done(error if error is not None else {}))

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; what is pending fails."""
