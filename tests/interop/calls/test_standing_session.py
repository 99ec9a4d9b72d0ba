"""Real calls that overlap in one standing recording session, with real processes and real audio."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from lxml import etree

from siprec.audio.melody import callee_melody, caller_melody, match
from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.interop.calls.rig import RECORDER_PORTS, RELAY_PORTS
from tests.interop.calls.wire import FRAME, RATE, write_rtp_pcap
from tests.paths import SCHEMA

SECONDS = 4.0
USERS = ("anna", "berta", "carla")
pytestmark = [
    pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is missing: apt-get install sip-tester"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SIPp sends RTP through raw sockets: run as root"),
]


def tune(number: int, melody: Any) -> Any:
    """The melody at another pitch and pace for each call."""
    pace = 1 + 0.17 * number
    signal = melody(SECONDS * pace, int(RATE / pace))[: int(SECONDS * RATE)]
    return np.pad(signal, (0, int(SECONDS * RATE) - len(signal)))


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_three_calls_overlap_in_one_standing_session_and_each_is_recorded_for_itself(tmp_path: Path) -> None:
    ports = {user: free_port() for user in USERS}
    recordings = tmp_path / "recordings"
    with ExitStack() as stack:
        recorder = stack.enter_context(
            Command(
                "recorder",
                f'[recorder]\nlisten = ["tcp:{HOST}:0"]\ndirectory = {json.dumps(str(recordings))}\n'
                f'ports = "{RECORDER_PORTS[0]}-{RECORDER_PORTS[1]}"\n',
                tmp_path / "recorder",
            )
        )
        lines = [
            f'[sip]\nlisten = ["udp:{HOST}:0", "tcp:{HOST}:0"]\n[relay]\nports = "{RELAY_PORTS[0]}-{RELAY_PORTS[1]}"',
            f'[recording.default]\nsrs = "sip:{HOST}:{recorder.port("tcp")}"\nsession = "persistent"',
        ]
        lines += [
            f'[[route]]\nuser = "{user}"\nrecord = "default"\ntargets = ["sip:{HOST}:{ports[user]}"]' for user in USERS
        ]
        proxy = stack.enter_context(Command("serve", "\n".join(lines) + "\n", tmp_path / "serve"))
        # It stands before there is any call.
        assert until(lambda: proxy.counts()["agent"]["dialogs"] == 1), proxy.text
        sent: dict[str, list[Any]] = {}
        running: list[Sipp] = []
        for number, user in enumerate(USERS):
            sides = [tmp_path / user / side for side in ("caller", "callee")]
            sent[user] = []
            for side, melody in zip(sides, (caller_melody, callee_melody), strict=True):
                side.mkdir(parents=True)
                ssrc = 0x1000 * (number + 1) + len(sent[user])
                sent[user].append(write_rtp_pcap(side / "audio.pcap", tune(number, melody), ssrc))
            callee = Sipp(scenarios.callee(play=True), sides[1], port=ports[user])
            caller = Sipp(
                scenarios.caller(SECONDS + 1, play=True),
                sides[0],
                port=free_port(),
                proxy=proxy.port(),
                service=user,
            )
            running += [stack.enter_context(callee), stack.enter_context(caller)]
            time.sleep(1.2)  # the next one while this one talks
        for sipp in running:
            sipp.finish()

        def finished() -> bool:
            files = list(recordings.rglob("recording.json"))
            return len(files) == 3 and all(read(file)["state"] == "complete" for file in files)

        # All are finished although the recording session goes on.
        assert until(finished), [read(file)["state"] for file in recordings.rglob("recording.json")]
        assert until(lambda: not proxy.counts()["recordings"])
        assert proxy.counts()["agent"]["dialogs"] == 1

    found = [(file.parent, read(file)) for file in recordings.rglob("recording.json")]
    assert len({summary["recording_session"]["call_id"] for _, summary in found}) == 1
    assert len({summary["communication_sessions"][0]["session_id"] for _, summary in found}) == 3
    times = sorted((summary["start"], summary["end"]) for _, summary in found)
    assert times[1][0] < times[0][1]  # they did overlap
    assert times[2][0] < times[1][1]
    packets = int(SECONDS * RATE) // FRAME
    schema = etree.XMLSchema(etree.parse(str(SCHEMA)))
    heard = set()
    for directory, summary in found:
        assert len(summary["communication_sessions"]) == 1
        names = {p["participant_id"]: p["names"][0]["aor"].split("@")[0][4:] for p in summary["participants"]}
        user = next(name for name in names.values() if name != "alice")
        heard.add(user)
        assert sorted(names.values()) == sorted(["alice", user])
        for stream in summary["streams"]:
            assert (stream["packets"]["received"], stream["packets"]["lost"]) == (packets, 0), (user, stream)
            audio, rate = soundfile.read(directory / stream["file"], dtype="float32")
            who = 0 if names[stream["participants"][0]] == "alice" else 1
            assert match(audio, sent[user][who], rate)[0] > 0.99
            for other in USERS:
                for which, signal in enumerate(sent[other]):
                    if (other, which) != (user, who):
                        assert match(audio, signal, rate)[0] < 0.5, (user, who, other, which)
        mix, rate = soundfile.read(directory / summary["mix"]["file"], dtype="float32")
        for channel in (0, 1):
            assert match(mix[:, channel], sent[user][channel], rate)[0] > 0.99
        assert not [finding for entry in summary["metadata"] for finding in entry["findings"]], summary["metadata"]
        for entry in summary["metadata"]:
            document = etree.parse(str(directory / entry["file"]))
            schema.assertValid(document)
    assert heard == set(USERS)
