"""The system under test for the SRS tests: one live proxy with its relay, and a call with its recorders at a time."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from lxml import etree

from siprec.audio.melody import callee_melody, caller_melody
from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.interop.calls.scenarios import Scenario
from tests.interop.calls.wire import RATE, write_rtp_pcap
from tests.interop.srs.recorder import Recorder, Sink, Srs, check
from tests.parallel import share
from tests.paths import SCHEMA

PROFILES = """
[recording.default]
srs = "sip:unset.invalid"
setup_timeout = 2.0
end_timeout = 2.0
[recording.quick]
srs = "sip:unset.invalid"
setup_timeout = 0.7
end_timeout = 1.0
[recording.choosy]
srs = "sip:unset.invalid"
skip_failover_codes = "^(403|6..)$"
[recording.redirected]
srs = "sip:unset.invalid"
redirect = "any"
[recording.dressed]
srs = "sip:unset.invalid"
profile = "legacy-metadata-type"
updates = "complete"
headers = "Call-Info: <urn:x-tenant:7>;purpose=tenant\\r\\n"
from_uri = "sip:tenant7@src.example.com"
to_uri = "sip:archive@srs.example.com"
[recording.once]
srs = "sip:unset.invalid"
rebuilds = 0
[recording.secret]
srs = "sip:unset.invalid"
username = "siprec"
password = "open sesame"
realm = "srs"
[recording.legacy]
srs = "sip:unset.invalid"
profile = "legacy-metadata-type"
[recording.plain]
srs = "sip:unset.invalid"
session_expires = 0
"""

SCRIPT = """
import json
from dataclasses import asdict
from siprec import Request

async def on_invite(request: Request) -> None:
    srs = request.header("X-Srs")
    if srs:
        request.call.siprec_start_recording(srs, request.header("X-Instance") or "default")
    request.forward(request.header("X-Target"))

def handler(name):
    async def told(event):
        with open(EVENTS, "a") as file:
            fields = ("name", "dlg_callid", "callid", "server", "instance", "wall", "reason", "status")
            file.write(json.dumps({key: getattr(event, key) for key in fields}) + "\\n")
    return told

for name in ("START", "STOP", "FAILED", "FAILOVER", "PAUSED", "RESUMED", "UPDATE_FAILED"):
    globals()["E_SIPREC_" + name] = handler(name)
"""


_PORTS = 28000 + share(400, 5)


class World:
    """A live ``siprec serve`` that records where the header X-Srs of an INVITE says, as the instance in X-Instance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events_file = directory / "events.jsonl"
        self.schema = etree.XMLSchema(etree.parse(str(SCHEMA)))
        self._stack = ExitStack()
        self._number = 0
        self.audio = directory / "caller.pcap", directory / "callee.pcap"

    def __enter__(self) -> Self:
        self.events_file.write_text("")
        script = self.directory / "script.py"
        script.write_text(f"EVENTS = {str(self.events_file)!r}\n{SCRIPT}")
        for ssrc, (file, melody) in enumerate(zip(self.audio, (caller_melody, callee_melody), strict=True), 0x51):
            write_rtp_pcap(file, np.tile(melody(4.0, RATE), 5), ssrc)
        configuration = f"""
script = {json.dumps(str(script))}
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
[relay]
ports = "{_PORTS}-{_PORTS + 399}"
[api]
listen = "{HOST}:0"
{PROFILES}"""
        self.proxy = self._stack.enter_context(Command("serve", configuration, self.directory / "serve"))
        found = re.search(rf"http:{re.escape(HOST)}:(\d+)", self.proxy.text)
        assert found, self.proxy.text
        self.api_port = int(found[1])
        assert self.at_rest(), self.proxy.counts()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def at_rest(self) -> bool:
        """No call, dialog, recording or media session is alive."""
        counts = self.proxy.counts()
        proxy = counts["proxy"]
        alive = proxy["calls"] or proxy["dialogs"] or proxy["media_sessions"] or any(counts["agent"].values())
        return not (alive or counts["recordings"])

    def ask(self, path: str, **body: object) -> Any:
        """POST to the API, GET without a body: the answer."""
        connection = http.client.HTTPConnection(HOST, self.api_port, timeout=20)
        try:
            connection.request(
                "POST" if body else "GET",
                path,
                json.dumps(body) if body else None,
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            data = response.read()
            assert response.status < 300, (path, body, response.status, data)
            return json.loads(data)
        finally:
            connection.close()

    @contextmanager
    def call(
        self,
        *recorders: Recorder | str,
        instance: str = "default",
        steps: Callable[[Scenario], object] = lambda caller: None,
        callee: Scenario | None = None,
        headers: tuple[str, ...] = (),
        hangs_up: bool = True,
    ) -> Iterator[Call]:
        """A call that is recorded at the `recorders` in order (those that are text are only URIs). At the end of the
        block the caller hangs up, the phones' and recorders' scenarios must have succeeded, what the recorders were
        told must have been right, and nothing may be left."""
        self._number += 1
        call = Call(self, self.directory / f"{self._number:03d}", recorders, instance, steps, callee, headers)
        try:
            call.begin()
            yield call
            if hangs_up:
                call.hang_up()
            call.finish()
        except BaseException as error:
            for side in sorted(call.directory.rglob("errors.log")):
                error.add_note(f"{side.parent.name}: {side.read_text(errors='replace')[-3000:]}")
            error.add_note(f"events: {[(e['name'], e['status'], e['reason']) for e in call.events()]}")
            for recorder in call.recorders:
                error.add_note(f"recorder: {recorder.titles()}")
            error.add_note(f"siprec serve said:\n{self.proxy.text[-2000:]}")
            call.abandon()
            raise
        finally:
            call.close()

    @contextmanager
    def recorder(self, scenario: Srs, name: str = "srs", calls: int = 1) -> Iterator[Recorder]:
        """An SRS of its own port."""
        self._number += 1
        directory = self.directory / f"{self._number:03d}-{name}"
        recorder = Recorder(scenario, directory, free_port(socket.SOCK_STREAM), calls)
        with recorder.sipp:
            yield recorder

    @contextmanager
    def sinks(self, number: int = 2) -> Iterator[list[Sink]]:
        """Ports that take RTP."""
        made = [Sink() for _ in range(number)]
        try:
            yield made
        finally:
            for sink in made:
                sink.close()


class Call:
    """One call between two SIPp phones that send real RTP, until the test says that the caller hangs up."""

    def __init__(
        self,
        world: World,
        directory: Path,
        recorders: tuple[Recorder | str, ...],
        instance: str,
        steps: Callable[[Scenario], object],
        callee: Scenario | None,
        headers: tuple[str, ...],
    ) -> None:
        self.world = world
        self.directory = directory
        self.recorders = [r for r in recorders if isinstance(r, Recorder)]
        self.instance = instance
        servers = ", ".join(r.uri if isinstance(r, Recorder) else r for r in recorders)
        self.callee_port, self.caller_port = free_port(), free_port()
        extra = (f"X-Srs: {servers}", f"X-Instance: {instance}", f"X-Target: sip:{HOST}:{self.callee_port}", *headers)
        phone = Scenario("caller").invite(headers=extra)
        for status in (100, 180):
            phone.expect(status, optional=True)
        phone.expect(200, route=True).request("ACK").play()
        steps(phone)
        phone.expect("INFO").respond(200, "OK").request("BYE").expect(100, optional=True).expect(200)
        self._scenarios = phone, callee or scenarios.callee(play=True)
        self._stack = ExitStack()
        self._known = len(world.events_file.read_text().splitlines())
        self._hung_up = False
        self.call_id = ""
        self.answered = 0.0

    def begin(self) -> None:
        """Place the call; it is answered when this returns."""
        for side, audio in zip(("caller", "callee"), self.world.audio, strict=True):
            (self.directory / side).mkdir(parents=True)
            (self.directory / side / "audio.pcap").symlink_to(audio)
        caller, callee = self._scenarios
        self.callee = self._stack.enter_context(Sipp(callee, self.directory / "callee", port=self.callee_port))
        self.caller = self._stack.enter_context(
            Sipp(caller, self.directory / "caller", port=self.caller_port, proxy=self.world.proxy.port())
        )
        assert until(lambda: any(m.title == "> ACK ACK" for m in self.phone_messages())), self.caller.text[-2000:]
        self.answered = time.time()
        found = re.search(r"^Call-ID: *(\S+)", self.phone_messages()[0].text, re.M)
        assert found
        self.call_id = found[1]

    def is_up(self) -> bool:
        """Whether the proxy has this call as one that was answered."""
        calls = self.world.ask("/calls")["calls"]
        return [call["state"] for call in calls if call["call_id"] == self.call_id] == ["confirmed"]

    def abandon(self) -> None:
        """Leave the proxy as it was found, for the tests that follow a failed one."""
        if self.call_id:
            self.hang_up()
            until(self.world.at_rest, 10)

    def phone_messages(self) -> list[Any]:
        """What the caller sent and received."""
        return self.caller.messages() if (self.directory / "caller" / "messages.log").exists() else []

    def close(self) -> None:
        """End the phones."""
        self._stack.close()

    # -- events and steering -------------------------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        """The events of this call's recordings so far."""
        lines = self.world.events_file.read_text().splitlines(keepends=True)[self._known :]
        return [e for e in (json.loads(x) for x in lines if x.endswith("\n")) if e["dlg_callid"] == self.call_id]

    def names(self) -> list[str]:
        """Their names, without E_SIPREC_."""
        return [event["name"].removeprefix("E_SIPREC_") for event in self.events()]

    def wait_for(self, name: str, number: int = 1, seconds: float = 20.0) -> dict[str, Any]:
        """Wait for the `number`-th event of this name."""
        assert until(lambda: self.names().count(name) >= number, seconds), f"no {name}; {self.names()}"
        return [event for event in self.events() if event["name"] == f"E_SIPREC_{name}"][number - 1]

    def steer(self, what: str, **more: object) -> Any:
        """``pause``, ``resume`` or ``stop`` the recording by the API, or ``send_indialog``."""
        path = f"/siprec_{what}" if what.startswith("send") else f"/siprec_{what}_recording"
        return self.world.ask(path, call_id=self.call_id, instance=self.instance, **more)

    def poke(self) -> None:
        """Have the caller take its next step: it waits for an INFO, which comes from us and not from the proxy."""
        first = next(m for m in self.phone_messages() if m.title.startswith("< 200 INVITE"))
        lines = [line for line in first.text.splitlines() if re.match(r"(From|To|Call-ID):", line)]
        swapped = [line.replace("From:", "X:").replace("To:", "From:").replace("X:", "To:") for line in lines]
        text = "\r\n".join(
            [
                f"INFO sip:alice@{HOST}:{self.caller_port} SIP/2.0",
                f"Via: SIP/2.0/UDP {HOST}:{self.caller_port};branch=z9hG4bKpoke{time.monotonic_ns()}",
                *swapped,
                "CSeq: 900 INFO",
                "Content-Length: 0",
                "\r\n",
            ]
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(text.encode(), (HOST, self.caller_port))

    def hang_up(self) -> None:
        """The caller's BYE."""
        if not self._hung_up:
            self._hung_up = True
            self.poke()

    def finish(self) -> None:
        """Wait for all ends and check what holds whatever the SRS did."""
        self.caller.finish()
        self.callee.finish()
        for recorder in self.recorders:
            recorder.sipp.finish()
            for seen in recorder.received:
                check(seen, self.world.schema)
        assert until(self.world.at_rest, 40), self.world.proxy.counts()
        names = self.names()
        assert names.count("START") == names.count("STOP"), names
