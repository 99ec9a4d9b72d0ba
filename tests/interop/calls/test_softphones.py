"""Two baresip phones register with our registrar and call each other; the call is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile  # type: ignore[import-untyped]

from siprec.audio.melody import callee_melody, caller_melody, match
from tests.interop.calls import softphone
from tests.interop.calls.harness import HOST, until
from tests.interop.calls.rig import Rig
from tests.interop.calls.softphone import RATE, phone

SECONDS = 20.0  # longer than the call, so that the phones talk all the time

pytestmark = softphone.needed


def test_two_softphones_call_each_other_and_are_recorded(rig: Rig, tmp_path: Path) -> None:
    said = {"carol": caller_melody(SECONDS, RATE), "dave": callee_melody(SECONDS, RATE)}
    known = set(rig.recordings())
    with phone(rig.proxy.port(), tmp_path / "dave", "dave", said["dave"]) as dave:
        assert until(lambda: "200 OK" in dave.text)
        dial = f"/dial sip:dave@{HOST}:{rig.proxy.port()}"
        with phone(rig.proxy.port(), tmp_path / "carol", "carol", said["carol"], dial) as carol:
            assert until(lambda: "200 OK" in carol.text)
            assert until(lambda: rig.proxy.counts()["recordings"].get("active") == 1), carol.text

            def heard() -> float:
                files = [(s.get("packets") or {}).get("received", 0) for r in new().values() for s in r["streams"]]
                return min(files, default=0) / 50

            def new() -> dict[str, dict[str, Any]]:
                return {path: found for path, found in rig.recordings().items() if path not in known}

            # recording.json is written every five seconds.
            assert until(lambda: heard() > 3, 30), new()
        # Carol's phone hangs up as it ends.
    path, recording = rig.completed(known).popitem()
    names = {p["participant_id"]: p["names"][0]["aor"] for p in recording["participants"]}
    assert len(recording["streams"]) == 2
    for stream in recording["streams"]:
        assert stream["packets"]["lost"] == 0
        who = names[stream["participants"][0]].removeprefix("sip:").partition("@")[0]
        audio, rate = soundfile.read(Path(path) / stream["file"], dtype="float32")
        seconds = stream["packets"]["received"] / 50 - 0.5
        assert seconds > 2
        # The phone said this much of its file from the beginning.
        scores = {name: match(audio, signal[: round(seconds * rate)], rate)[0] for name, signal in said.items()}
        assert scores[who] > 0.9, (who, scores)
        assert all(score < 0.3 for name, score in scores.items() if name != who), (who, scores)
    assert {stream["participants"][0] for stream in recording["streams"]} == set(names)
    # Each phone heard the other one.
    for user, other in (("carol", "dave"), ("dave", "carol")):
        (dump,) = (tmp_path / user).glob("dump-*-dec.wav")
        audio, rate = soundfile.read(dump, dtype="float32")
        assert match(audio, said[other][: round(2 * rate)], rate)[0] > 0.9, (user, len(audio))
        assert match(audio, said[user][: round(2 * rate)], rate)[0] < 0.3, user
