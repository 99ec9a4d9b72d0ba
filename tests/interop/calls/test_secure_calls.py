"""SRTP end to end: two softphones, the proxy with a media server, a recorder behind TLS that takes nothing else."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import soundfile  # type: ignore[import-untyped]

from siprec.audio.melody import callee_melody, caller_melody, match
from tests.interop.calls import softphone
from tests.interop.calls.harness import HOST, Command, free_port, until
from tests.interop.calls.softphone import RATE, phone
from tests.interop.calls.test_recorder_access import certificates, openssl, tls
from tests.interop.media.rig import rtpengine, rtpproxy_control
from tests.parallel import share

pytestmark = [softphone.needed, openssl]
_SHARE = share(500, 7)
SECONDS = 20.0


@pytest.mark.parametrize("server", ["ours", "rtpengine", "rtpproxy", "bridge"])
def test_a_call_in_srtp_is_recorded_as_srtp(tmp_path: Path, server: str) -> None:
    """``bridge``: only the caller speaks SRTP, and both are recorded as SRTP."""
    certificates(tmp_path)
    said = {"carol": caller_melody(SECONDS, RATE), "dave": callee_melody(SECONDS, RATE)}
    with ExitStack() as stack:
        media = f'[relay]\nports = "{36000 + _SHARE}-{36400 + _SHARE}"\n'
        if server == "rtpengine":
            port = free_port()
            stack.enter_context(rtpengine(port, "udp"))
            media = f'[media]\nserver = "ng:udp:{HOST}:{port}"\n'
        elif server == "rtpproxy":
            media = f'[media]\nserver = "rtpproxy:{stack.enter_context(rtpproxy_control())}"\n'
        listen = f'[recorder]\nlisten = ["tls:{HOST}:0"]\nports = "{46000 + _SHARE}-{46400 + _SHARE}"\n'
        recordings = tmp_path / "recordings"
        own = f'directory = {json.dumps(str(recordings))}\nsrtp = "require"\n{tls(tmp_path, "srs")}'
        srs = stack.enter_context(Command("recorder", listen + own, tmp_path / "recorder"))
        proxy = stack.enter_context(
            Command(
                "serve",
                f'[sip]\nlisten = ["udp:{HOST}:0"]\n{tls(tmp_path, "src")}{media}'
                f'[recording.default]\nsrs = "sip:{HOST}:{srs.port("tls")};transport=tls"\n'
                + ('srtp = "always"\n' if server == "bridge" else "")
                + '[[route]]\nrecord = "default"\nregistrar = true\n'
                + ('transport_protocol = "RTP/AVP"\n' if server == "bridge" else ""),
                tmp_path / "serve",
            )
        )

        def recording() -> dict[str, Any]:
            found = [json.loads(file.read_text()) for file in recordings.rglob("recording.json")]
            return found[0] if found else {"streams": [], "state": ""}

        port = proxy.port()
        how = "" if server == "bridge" else "srtp-mand"
        dave = stack.enter_context(phone(port, tmp_path / "dave", "dave", said["dave"], encryption=how))
        assert until(lambda: "200 OK" in dave.text), dave.text
        dial = f"/dial sip:dave@{HOST}:{port}"
        with phone(port, tmp_path / "carol", "carol", said["carol"], dial, encryption="srtp-mand") as carol:
            # recording.json is written every five seconds.
            assert until(lambda: [s["packets"]["received"] > 150 for s in recording()["streams"]] == [True] * 2), (
                recording(), carol.text, dave.text, proxy.text, srs.text,
            )  # fmt: skip
        assert until(lambda: recording()["state"] == "complete"), recording()
        found = recording()
        names = {p["participant_id"]: p["names"][0]["aor"] for p in found["participants"]}
        (directory,) = {file.parent for file in recordings.rglob("recording.json")}
        for stream in found["streams"]:
            assert stream["srtp"]
            assert stream["packets"]["lost"] == 0  # what others send to this port by mistake may be rejected
            who = names[stream["participants"][0]].removeprefix("sip:").partition("@")[0]
            audio, rate = soundfile.read(directory / stream["file"], dtype="float32")
            seconds = stream["packets"]["received"] / 50 - 0.5
            scores = {name: match(audio, signal[: round(seconds * rate)], rate)[0] for name, signal in said.items()}
            assert scores[who] > 0.9, (who, scores)
            assert all(score < 0.3 for name, score in scores.items() if name != who), (who, scores)

        def proofs() -> list[dict[str, Any]]:
            lines = [
                line for file in (tmp_path / "serve").rglob("proof-*.jsonl") for line in file.read_text().splitlines()
            ]
            return [proof for line in lines if (proof := json.loads(line))["type"] == "end"]

        assert until(lambda: bool(proofs())), proxy.text
        assert [(stream["party"], stream.get("srtp")) for stream in proofs()[0]["streams"]] == [
            ("caller", True),
            ("callee", True),
        ]
        # Each phone heard the other one, and no key is in a log.
        for user, other in (("carol", "dave"), ("dave", "carol")):
            (dump,) = (tmp_path / user).glob("dump-*-dec.wav")
            audio, rate = soundfile.read(dump, dtype="float32")
            assert match(audio, said[other][: round(2 * rate)], rate)[0] > 0.9, user
        assert "inline:" not in proxy.text + srs.text
