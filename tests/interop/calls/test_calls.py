"""Calls between SIPp and SIPp through the proxy, recorded by our recorder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile  # type: ignore[import-untyped]

from siprec.audio.melody import callee_melody, caller_melody, match
from tests.interop.calls import scenarios
from tests.interop.calls.harness import free_port, until
from tests.interop.calls.rig import RECORDER_PORTS, RELAY_PORTS, Rig
from tests.interop.calls.scenarios import Scenario
from tests.interop.calls.wire import FRAME, RATE, Capture, write_rtp_pcap
from tests.parallel import Machine

SECONDS = 3.0
raw_sockets = pytest.mark.skipif(os.geteuid() != 0, reason="SIPp sends RTP through raw sockets: run as root")
tshark = pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("dumpcap") is None,
    reason="tshark is missing: apt-get install tshark",
)

RECORDED: dict[str, tuple[Scenario, Scenario, str]] = {
    "caller hangs up": (scenarios.caller(0.5), scenarios.callee(), "bob"),
    "callee hangs up": (scenarios.caller(0, hangs_up=False), scenarios.callee(hangs_up_after=0.5), "bob"),
    "hold and resume": (scenarios.holding_caller(), scenarios.held_callee(), "bob"),
    "late offer": (scenarios.late_offer_caller(), scenarios.callee(), "bob"),
    "early media": (scenarios.caller(0.5), scenarios.callee(early=True), "bob"),
    "UPDATE": (scenarios.updating_caller(), scenarios.updated_callee(), "bob"),
    "PRACK": (scenarios.reliable_caller(), scenarios.reliable_callee(), "bob"),
    "TCP": (scenarios.caller(0.5), scenarios.callee(), "tcp-bob"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_calls_of_every_kind_go_through_and_are_recorded(rig: Rig, name: str) -> None:
    caller, callee, user = RECORDED[name]
    known = set(rig.recordings())
    rig.call(caller, callee, user=user, transport="t1" if name == "TCP" else "u1")
    recording = one(rig.completed(known))
    assert len(recording["streams"]) == 2
    assert recording["communication_sessions"][0]["stop"], recording["communication_sessions"]
    assert until(rig.at_rest), rig.proxy.counts()


def test_hold_is_in_the_metadata(rig: Rig) -> None:
    known = set(rig.recordings())
    rig.call(scenarios.holding_caller(), scenarios.held_callee())
    path, recording = rig.completed(known).popitem()
    documents = sorted(Path(path).glob("metadata-*.xml"))
    # Start, hold, resume, end: each change is told.
    assert len(documents) >= 4, recording["metadata"]
    assert not [finding for document in recording["metadata"] for finding in document.get("findings", [])]


@pytest.mark.parametrize(
    ("caller", "callee"),
    [
        (scenarios.cancelling_caller(), scenarios.ringing_callee()),
        (scenarios.refused_caller(), scenarios.busy_callee()),
    ],
    ids=["CANCEL", "486"],
)
def test_a_call_that_is_not_answered_is_not_recorded(rig: Rig, caller: Scenario, callee: Scenario) -> None:
    known = set(rig.recordings())
    rig.call(caller, callee)
    assert until(rig.at_rest), rig.proxy.counts()
    assert set(rig.recordings()) == known


@raw_sockets
@tshark
def test_speech_is_recorded_whole_and_the_wire_is_clean(rig: Rig, tmp_path: Path, machine: Machine) -> None:
    files = tmp_path / "caller.pcap", tmp_path / "callee.pcap"
    sent = {
        "alice": write_rtp_pcap(files[0], caller_melody(SECONDS, RATE), 0x11111111),
        "bob": write_rtp_pcap(files[1], callee_melody(SECONDS, RATE), 0x22222222),
    }
    packets = int(SECONDS * RATE) // FRAME
    known = set(rig.recordings())
    port = free_port()
    speak, answer = scenarios.caller(SECONDS + 1, play=True), scenarios.callee(play=True)
    with machine.alone():  # what others send would be in the capture
        capture = Capture(
            tmp_path,
            sip=[port, rig.callee_port, *(p.port(t) for p in (rig.proxy, rig.recorder) for t in ("udp", "tcp"))],
            ranges=[RELAY_PORTS, RECORDER_PORTS],
        )
        try:
            rig.call(speak, answer, audio=(files[0], files[1]), port=port)
            path, recording = rig.completed(known).popitem()
        finally:
            capture.stop()

    # Every packet is in the recording, and each channel is what that party said and nothing else.
    names = {p["participant_id"]: p["names"][0]["aor"] for p in recording["participants"]}
    heard = set()
    for stream in recording["streams"]:
        counted = stream["packets"]
        assert (counted["received"], counted["lost"], counted["malformed"]) == (packets, 0, 0), counted
        audio, rate = soundfile.read(Path(path) / stream["file"], dtype="float32")
        scores = {who: match(audio, signal, RATE)[0] for who, signal in sent.items()}
        assert rate == RATE
        who = max(scores, key=lambda key: scores[key])
        assert scores[who] > 0.99, (stream, scores)
        assert min(scores.values()) < 0.3, (stream, scores)
        # The metadata says that it is this party who is heard.
        assert [names[id].startswith(f"sip:{who}@") for id in stream["participants"]] == [True], (stream, names)
        heard.add(who)
    assert heard == set(sent)

    # What tshark says: nothing malformed, no error of a SIP or SDP dissector, all legs complete.
    assert capture.fields('_ws.malformed || _ws.expert.severity == "Error"', "frame.number") == []
    streams = capture.rtp_streams()
    assert sorted(s.ssrc.lower() for s in streams).count("0x11111111") == 3, streams
    assert sorted(s.ssrc.lower() for s in streams).count("0x22222222") == 3, streams
    assert len(streams) == 6, streams  # each party to the relay, on to the other party, and to the recorder
    assert {(s.packets, s.lost) for s in streams} == {(packets, 0)}, streams
    towards_recorder = [s for s in streams if RECORDER_PORTS[0] <= s.destination_port <= RECORDER_PORTS[1]]
    assert len(towards_recorder) == 2, streams
    invites = capture.fields(
        'sip.Method == "INVITE" && sip.Require contains "siprec"', "sip.Contact", "sip.Content-Type", "media.type"
    )
    assert invites
    contact, content_type, _ = invites[0]
    assert "+sip.src" in contact
    assert content_type.startswith("multipart/mixed")


def one(recordings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    assert len(recordings) == 1
    return next(iter(recordings.values()))
