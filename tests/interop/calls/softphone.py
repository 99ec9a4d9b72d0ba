"""Softphones of the call tests: baresip with an account at our proxy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import soundfile  # type: ignore[import-untyped]

from siprec.audio.melody import Floats
from tests.interop.calls.harness import HOST, Process, media_port

RATE = 8000
MODULES = next((p for p in (Path("/usr/lib/baresip/modules"), Path("/usr/lib64/baresip/modules")) if p.is_dir()), None)
needed = pytest.mark.skipif(
    shutil.which("baresip") is None or MODULES is None, reason="baresip is missing: apt-get install baresip-core"
)


def phone(
    proxy: int,
    directory: Path,
    user: str,
    signal: Floats,
    *commands: str,
    encryption: str = "",
    password: str = "",
) -> Process:
    """A phone with an account at our proxy (its UDP port), that says `signal` and answers by itself. `encryption`:
    ``srtp`` offers it, ``srtp-mand`` demands it. `password`: of the account."""
    directory.mkdir()
    soundfile.write(directory / "says.wav", signal, RATE, subtype="PCM_16")
    # baresip wants UDP and TCP, and TLS on the next port: not among the ephemeral ones, which come and go
    sip, port = media_port(), media_port()
    (directory / "config").write_text(f"""
sip_listen {HOST}:{sip}
net_interface {HOST}
module_path {MODULES}
module stdio.so
module g711.so
module aufile.so
module sndfile.so
module srtp.so
snd_path {directory}
module_app account.so
module_app menu.so
audio_source aufile,{directory}/says.wav
ausrc_srate {RATE}
auplay_srate {RATE}
ausrc_channels 1
auplay_channels 1
audio_level no
rtp_ports {port}-{port + 20}
call_local_timeout 60
""")
    media = f";mediaenc={encryption}" if encryption else ""
    media += f";auth_pass={password}" if password else ""
    (directory / "accounts").write_text(
        f"<sip:{user}@{HOST}:{proxy}>;regint=120;audio_codecs=PCMU;answermode=auto;sipnat=;pubint=0{media}\n"
    )
    (directory / "contacts").write_text("")
    options = [x for command in commands for x in ("-e", command)]
    return Process(["baresip", "-f", str(directory), "-v", *options], directory / "phone.log")
