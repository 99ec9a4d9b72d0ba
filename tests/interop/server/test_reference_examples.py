"""The eight examples of the reference run as examples/opensips_examples.py has them, each with a real SIPp call."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from siprec.metadata.values import OWN_NAMESPACE
from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.interop.calls.scenarios import Scenario
from tests.interop.srs.recorder import Recorder, Srs, answer
from tests.parallel import share, unused_port

EXAMPLE = Path(__file__).parents[3] / "examples" / "opensips_examples.py"
_RELAY, _RECORDER = 31000 + share(400, 5), 45000 + share(400, 5)

TOLD = """

def _handler(name):
    async def told(event):
        with open(EVENTS, "a") as file:
            file.write(json.dumps([name, event.server, event.instance, event.status]) + "\\n")
    return told

for _name in ("START", "STOP", "FAILED", "FAILOVER", "PAUSED", "RESUMED"):
    globals()["E_SIPREC_" + _name] = _handler(_name)
"""


class Place:
    """A proxy with the example as its script, and `siprec recorder` as the SRS unless the test has its own."""

    def __init__(self, directory: Path, first: str = "", second: str = "") -> None:
        self.directory = directory
        self.events_file = directory / "events.jsonl"
        self.events_file.write_text("")
        self.callee_port = free_port()
        configuration = f"""
[recorder]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
directory = {json.dumps(str(directory / "recordings"))}
ports = "{_RECORDER}-{_RECORDER + 399}"
"""
        self.recorder = Command("recorder", configuration, directory / "recorder")
        self.uri = f"sip:{HOST}:{self.recorder.port()}"
        text = EXAMPLE.read_text().replace("sip:pbx.example.com", f"sip:{HOST}:{self.callee_port}")
        text = text.replace("sip:127.0.0.1;transport=TCP", second or f"{self.uri};transport=TCP")
        text = text.replace('"sip:127.0.0.1"', json.dumps(first or self.uri))
        text = text.replace("from siprec import Request", "import json\n\nfrom siprec import Request")
        script = directory / "script.py"
        script.write_text(f"{text}\nEVENTS = {str(self.events_file)!r}\n{TOLD}")
        configuration = f"""
script = {json.dumps(str(script))}
skip_failover_codes = "408|487"
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
[relay]
ports = "{_RELAY}-{_RELAY + 399}"
[media]
timeout = 2.0
"""
        self.proxy = Command("serve", configuration, directory / "serve")

    def close(self) -> None:
        self.proxy.stop()
        self.recorder.stop()

    def call(self, user: str, caller: Scenario | None = None, callee: Scenario | None = None) -> None:
        """One call by SIPp to the user, which SIPp answers."""
        phone = Sipp(callee or scenarios.callee(), self.directory / "callee", port=self.callee_port)
        with (
            phone,
            Sipp(
                caller or scenarios.caller(2.0),
                self.directory / "caller",
                port=free_port(),
                proxy=self.proxy.port(),
                service=user,
            ) as calling,
        ):
            calling.finish()
            phone.finish()

    def events(self) -> list[list[Any]]:
        """Name, server, instance and status of each event."""
        return [json.loads(line) for line in self.events_file.read_text().splitlines()]

    def names(self) -> list[str]:
        """The names only."""
        return [event[0] for event in self.events()]

    def metadata(self) -> str:
        """All documents of the one recording, when it is complete."""

        def states() -> list[str]:
            files = (self.directory / "recordings").rglob("recording.json")
            return [json.loads(file.read_text())["state"] for file in files]

        assert until(lambda: states() == ["complete"]), self.proxy.text
        return "".join(file.read_text() for file in sorted((self.directory / "recordings").rglob("metadata-*.xml")))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    try:
        yield found
    finally:
        found.close()


def test_example_1_1_skip_failover_codes(tmp_path: Path) -> None:
    busy = Srs().refuse(487, "Request Terminated")
    srs = Recorder(busy, tmp_path / "srs", free_port(socket.SOCK_STREAM))
    place = Place(tmp_path, first=srs.uri)
    try:
        with srs.sipp:
            place.call("skip_failover_codes")
            srs.sipp.finish()
        assert [(event[0], event[3]) for event in place.events()] == [("FAILED", 487)]
        assert "INVITE" not in place.recorder.text
    finally:
        place.close()


def test_example_1_2_a_single_srs(place: Place) -> None:
    place.call("single_srs")
    assert until(lambda: place.names() == ["START", "STOP"]), place.events()
    assert place.events()[0][1] == place.uri


def test_example_1_3_several_srss_and_an_instance(tmp_path: Path) -> None:
    nobody = f"sip:{HOST}:{unused_port()}"
    place = Place(tmp_path, first=nobody)
    try:
        place.call("multiple_srs", scenarios.caller(8.0))
        assert until(lambda: place.names() == ["FAILOVER", "START", "STOP"]), place.events()
        assert [event[1] for event in place.events()] == [nobody, *[f"{place.uri};transport=TCP"] * 2]
        assert {event[2] for event in place.events()} == {"inbound"}
    finally:
        place.close()


def test_example_1_4_xml_for_a_participant(place: Place) -> None:
    place.call("participant")
    assert re.search(r'<nameID aor="sip:6024151234@10.0.0.11:5090">\s*<name>test</name>\s*</nameID>', place.metadata())


def test_example_1_5_headers(tmp_path: Path) -> None:
    ports = (free_port(), free_port())
    srs = Recorder(Srs().accept(answer(ports)).end(), tmp_path / "srs", free_port(socket.SOCK_STREAM))
    place = Place(tmp_path, first=srs.uri)
    try:
        with srs.sipp:
            place.call("headers")
            srs.sipp.finish()
        (invite,) = srs.requests("INVITE")
        assert invite.message.get_all("X-MY-CUSTOM_HDR") == ["1"]
    finally:
        place.close()


def test_example_1_6_extensions_without_a_namespace(place: Place) -> None:
    place.call("extensions")
    document = place.metadata()
    assert f'<callcenterID xmlns="{OWN_NAMESPACE}"> 17</callcenterID>' in document
    assert f'<callcenterCode xmlns="{OWN_NAMESPACE}">dfgh3q45gsdfty5</callcenterCode>' in document
    assert place.names()[0] == "START"


def test_examples_1_7_and_1_8_hold_pauses_and_its_end_resumes(place: Place) -> None:
    caller = Scenario("holding caller").invite().expect(100, optional=True).expect(180, optional=True)
    caller.expect(200, route=True).request("ACK").pause(1.5)
    for version, direction in ((2, "sendonly"), (3, "sendrecv")):
        caller.request("INVITE", scenarios.sdp(direction, version)).expect(100, optional=True)
        caller.expect(200).request("ACK").pause(1.5)
    place.call("pause", caller.request("BYE").expect(100, optional=True).expect(200), scenarios.held_callee())
    assert until(lambda: place.names() == ["START", "PAUSED", "RESUMED", "STOP"]), place.events()
