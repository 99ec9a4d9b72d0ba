"""What the API says, asked again and again by threads of their own, never so often that it would be a load."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote

from siprec.cli.call_text import describe
from siprec.cli.client import ApiClient, ApiError

INTERVAL: Final = 1.0
"""Seconds between two rounds of questions; longer where they take long."""
SHARE: Final = 20.0
"""Waiting takes so many times as long as asking: a busy proxy is asked less."""
LONGEST: Final = 15.0
SOONEST: Final = 0.25
"""Seconds before an event may lead to the next round."""
MAX_CALLS: Final = 500
MAX_COUNTED: Final = 50
"""Recordings whose packets are asked for: those that are on the screen."""
NEWS: Final = 200

Key = tuple[str, str]
"""Dialog id, and recording instance (empty: none)."""


@dataclass(frozen=True, slots=True)
class Packets:
    """Of one recording: copies a second, None until two counts are there, and packets lost by the SRS's reports."""

    rate: float | None = None
    lost: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Lines about one thing: a ladder, or a call in full."""

    kind: str
    name: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything there is to show, as of `at` (Unix seconds). `error`: why the proxy cannot be asked now."""

    calls: tuple[Mapping[str, Any], ...] = ()
    total: int = 0
    recordings: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    packets: Mapping[Key, Packets] = field(default_factory=dict)
    srs: tuple[Mapping[str, Any], ...] = ()
    media: tuple[Mapping[str, Any], ...] = ()
    received: float | None = None
    copied: float | None = None
    draining: bool = False
    error: str = ""
    at: float = 0.0


class Rates:
    """Differences of counters over time."""

    def __init__(self) -> None:
        self._before: dict[object, tuple[float, int]] = {}

    def rate(self, key: object, now: float, count: int) -> float | None:
        """Per second since the last time; None the first time, and where the counter went back."""
        before = self._before.get(key)
        self._before[key] = (now, count)
        if before is None or now <= before[0] or count < before[1]:
            return None
        return (count - before[1]) / (now - before[0])

    def keep(self, keys: set[object]) -> None:
        """Forget all others."""
        self._before = {key: value for key, value in self._before.items() if key in keys}


class Feed:
    """Asks the API at `url`. `changed` is called (from a thread) whenever there is something new to show."""

    def __init__(self, url: str, changed: Callable[[], None]) -> None:
        self._client = ApiClient(url, timeout=5.0)
        self._stream = ApiClient(url)  # heartbeats come every 15 seconds
        self._changed = changed
        self._wake = threading.Event()
        self._rates = Rates()
        self._orders: queue.SimpleQueue[Callable[[], str]] = queue.SimpleQueue()
        self.picture = Picture()
        self.text: Text | None = None
        self.status = ""
        self.visible: tuple[str, ...] = ()
        """Dialog ids on the screen: those calls' packets are asked for."""
        self.filter = ""
        self.news: list[dict[str, Any]] = []
        """Events, newest last."""

    @property
    def url(self) -> str:
        """Where the API is."""
        return self._client.url

    def start(self) -> None:
        """Ask once, then go on in threads that end with the process.

        Raises:
            ApiError: the first question failed.
        """
        self.picture = self._ask()
        for work in (self._poll, self._follow, self._work):
            threading.Thread(target=work, daemon=True, name=f"top{work.__name__}").start()

    def refresh(self) -> None:
        """Ask again soon."""
        self._wake.set()

    def open(self, kind: str, call: Mapping[str, Any]) -> None:
        """Have :attr:`text` filled, and kept new, with the ``ladder`` of a call or the ``details``."""
        name = str(call["call_id"] if kind == "ladder" else call["dlg_id"])
        self.text = Text(kind, name, ("...",))
        self._wake.set()

    def shut(self) -> None:
        """No text is wanted any more."""
        self.text = None

    def order(self, function: str, key: Key) -> None:
        """Have a ``siprec_*`` function done to a recording; what came of it will be :attr:`status`."""
        dlg_id, instance = key

        def do() -> str:
            body = {"dlg_id": dlg_id, "instance": instance or "default", "by": "siprec top"}
            if function == "siprec_start_recording":
                del body["by"]
            result = self._client.send("POST", f"/{function}", body)["results"][0]
            words = function.removeprefix("siprec_").replace("_", " ")
            return f"{words}: {result['instance']} is {result['state'] or 'done'}"

        self._orders.put(do)

    # -- the threads ---------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                self.picture = self._ask()
            except ApiError as error:
                self.picture = replace(self.picture, error=str(error).splitlines()[0])
            except (KeyError, TypeError, ValueError, LookupError) as error:
                self.picture = replace(self.picture, error=f"an answer that is not understood: {error!r}")
            self._fetch_text()
            self._changed()
            took = time.monotonic() - begun
            # An event or a key makes the next round come soon, but never at once.
            least = min(LONGEST, max(SOONEST, SHARE * took / 4))
            time.sleep(least)
            self._wake.wait(max(0.0, min(LONGEST, max(INTERVAL, SHARE * took)) - least))
            self._wake.clear()

    def _follow(self) -> None:
        last = ""
        while True:
            with contextlib.suppress(ApiError, ValueError):
                for identifier, value in self._stream.events(last):
                    last = identifier
                    self.news = [*self.news[-NEWS + 1 :], value]
                    self._wake.set()
                    self._changed()
            time.sleep(1.0)  # polling goes on meanwhile, and says what is wrong

    def _work(self) -> None:
        while True:
            do = self._orders.get()
            try:
                self.status = do()
            except ApiError as error:
                self.status = str(error).splitlines()[0]
            self._wake.set()
            self._changed()

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self) -> Picture:
        client = self._client
        page = client.get("/calls", limit=MAX_CALLS)
        calls, total = list(page["calls"]), page["total"]
        if page["next"] and self.filter:
            # Not all of them are here: whom the filter names is asked for by name.
            known = {call["dlg_id"] for call in calls}
            more = client.get("/calls", limit=MAX_CALLS, user=self.filter)["calls"]
            calls += [call for call in more if call["dlg_id"] not in known]
        recordings: dict[str, list[Mapping[str, Any]]] = {}
        if any(call["recordings"] for call in calls):
            for each in client.get("/recordings", limit=MAX_CALLS)["recordings"]:
                recordings.setdefault(each["dlg_id"], []).append(each)
        packets = self._packets([each for each in self.visible if each in recordings])
        media = client.get("/media")["media"]
        received, copied = self._totals(media)
        return Picture(
            calls=tuple(calls),
            total=total,
            recordings={dlg_id: tuple(each) for dlg_id, each in recordings.items()},
            packets=packets,
            srs=tuple(client.get("/srs")["srs"]),
            media=tuple(media),
            received=received,
            copied=copied,
            draining=bool(client.get("/drain")["draining"]),
            at=time.time(),
        )

    def _packets(self, wanted: list[str]) -> dict[Key, Packets]:
        if not wanted:
            return {}
        found: dict[Key, Packets] = {}
        names = ",".join(wanted[:MAX_COUNTED])
        page = self._client.get("/recordings", dlg_id=names, statistics=True, limit=MAX_COUNTED)
        now = time.monotonic()
        for each in page["recordings"]:
            key = (each["dlg_id"], each["instance"])
            counters = [stream["counters"] for stream in each["streams"] if stream["counters"]]
            forked = [c["packets"] for c in counters if c["packets"] is not None]
            lost = [c["lost_reported"] for c in counters if c["lost_reported"] is not None]
            rate = self._rates.rate(key, now, sum(forked)) if forked else None
            found[key] = Packets(rate, sum(lost) if lost else None)
        self._rates.keep({*found, "received", "copied"})
        return found

    def _totals(self, media: list[dict[str, Any]]) -> tuple[float | None, float | None]:
        """Packets a second through all media servers: RTP received, and copies."""
        now = time.monotonic()
        rates = []
        for key, names in (
            ("received", ("packets.received", "totalstatistics.relayedpackets")),
            ("copied", ("packets.forked",)),
        ):
            counts = [each["load"][name] for each in media for name in names if name in each["load"]]
            rates.append(self._rates.rate(key, now, sum(counts)) if counts else None)
        return rates[0], rates[1]

    def _fetch_text(self) -> None:
        wanted = self.text
        if wanted is None:
            return
        try:
            if wanted.kind == "ladder":
                octets = self._client.octets(f"/calls/{quote(wanted.name, safe='')}/trace", format="text")
                lines = octets.decode("utf-8", "replace").splitlines()
            else:
                lines = describe(self._client.get(f"/calls/{quote(wanted.name, safe='')}"))
        except ApiError as error:
            if wanted.lines not in ((), ("...",)) and error.status == 404:
                return  # it is over; what is shown was its last state
            lines = f"not available: {error}".splitlines()
        if self.text is not None and (self.text.kind, self.text.name) == (wanted.kind, wanted.name):
            self.text = Text(wanted.kind, wanted.name, tuple(lines))
