"""Those who listen badly: event streams that nobody reads, webhooks whose server is dead or never answers."""

from __future__ import annotations

import json
import re
import socket
import statistics
import threading
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Sipp, free_port, until
from tests.interop.calls.rig import Rig

QUEUE = 8
"""Events that may wait for one of them."""
WEBHOOK_QUEUE = 100
BOUND = 100 * QUEUE + 2 * WEBHOOK_QUEUE
"""Events that may wait for a hundred subscribers and two webhooks, all in all."""


def configuration(directory: Path, silent: int = 0) -> str:
    """``[api]``; with a `silent` port also a webhook there, and one at a port where nobody is."""
    text = f"""
[api]
listen = "{HOST}:0"
subscriber_queue = {QUEUE}
dead_letters = {json.dumps(str(directory / "dead-letters.jsonl"))}
"""
    for port in (silent, free_port(socket.SOCK_STREAM)) if silent else ():
        text += f'[[api.webhooks]]\nurl = "http://{HOST}:{port}/"\nsecret = "x"\n'
        text += f"queue = {WEBHOOK_QUEUE}\ntimeout = 2.0\n"
    return text


class Deaf:
    """`count` subscribers to ``/events`` that never read a byte. A context manager."""

    def __init__(self, port: int, count: int) -> None:
        self._stack = ExitStack()
        with self._stack as stack:
            for _ in range(count):
                each = stack.enter_context(socket.socket())
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                each.settimeout(30)
                each.connect((HOST, port))
                each.sendall(f"GET /events HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: set-up delays of the calls in seconds (INVITE sent to 200 received), and what became of listeners."""

    delays: tuple[float, ...]
    calls: int
    failed: int
    subscribers: int
    dropped: int
    most_queued: int
    """Events that waited for them all at any time: of subscribers and webhooks."""
    dead_letters: int

    @property
    def median(self) -> float:
        """The delay that half of the calls stay below."""
        return statistics.median(self.delays)

    def quantile(self, share: float) -> float:
        """The delay that `share` of the calls stay below."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def delays(caller: Sipp) -> tuple[float, ...]:
    """From each INVITE to its 200, in seconds."""
    sent: dict[str, float] = {}
    found = []
    for message in caller.messages():
        call_id = re.search(r"^Call-ID:\s*(\S+)", message.text, re.M | re.I)
        assert call_id, message.text
        if message.title == "> INVITE INVITE":
            sent.setdefault(call_id[1], message.time)
        elif message.title == "< 200 INVITE" and call_id[1] in sent:
            found.append(message.time - sent.pop(call_id[1]))
    return tuple(found)


def metrics(port: int) -> dict[str, float]:
    """``/metrics``, by name and labels."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def measure(directory: Path, *, deaf: int, user: str, calls: int, rate: float) -> Figures:
    """Place calls while `deaf` subscribers do not read, and webhooks are dead; with 0 there is nobody at all."""
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind((HOST, 0))
        silent.listen(128)
        api = configuration(directory, silent.getsockname()[1] if deaf else 0)
        rig = stack.enter_context(Rig(directory, more=api))
        # The first calls wake everything up.
        rig.call(scenarios.caller(0.1), scenarios.callee(), user=user, calls=5, rate=rate, trace=False)
        port = rig.proxy.port("http")
        stack.enter_context(Deaf(port, deaf))
        assert until(lambda: metrics(port)["siprec_subscribers"] == deaf)
        watch = _Watch(port)
        stack.callback(watch.stop)
        caller, callee = rig.call(
            scenarios.caller(1.0), scenarios.callee(), user=user, calls=calls, rate=rate, check=False
        )
        watch.stop()
        # Who is still written to gives up in some seconds.
        until(lambda: metrics(port)["siprec_subscribers_dropped_total"] == deaf, 30)
        seen = metrics(port)
        letters = directory / "dead-letters.jsonl"
        rig.proxy.stop()  # what waits is written down
        return Figures(
            delays=delays(caller),
            calls=calls,
            failed=max(int(side.statistics()["FailedCall(C)"]) for side in (caller, callee)),
            subscribers=int(seen["siprec_subscribers"]),
            dropped=int(seen["siprec_subscribers_dropped_total"]),
            most_queued=watch.most,
            dead_letters=len(letters.read_text().splitlines()) if letters.exists() else 0,
        )


class _Watch:
    """Looks at the queues twice a second."""

    def __init__(self, port: int) -> None:
        self.most = 0
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            seen = metrics(self._port)
            waiting = sum(seen[f'siprec_queue_length{{queue="{name}"}}'] for name in ("subscribers", "webhooks"))
            self.most = max(self.most, int(waiting))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
