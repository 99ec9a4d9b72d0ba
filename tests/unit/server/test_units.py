"""The systemd units: what a process of ours may do on its host is little."""

from __future__ import annotations

import configparser
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

UNITS = sorted((ROOT / "packaging").glob("*.service"))
HARDENING = {
    "UMask": "0027",
    "NoNewPrivileges": "true",
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "PrivateDevices": "true",
    "ProtectKernelTunables": "true",
    "ProtectKernelModules": "true",
    "ProtectKernelLogs": "true",
    "ProtectControlGroups": "true",
    "ProtectClock": "true",
    "ProtectHostname": "true",
    "ProtectProc": "invisible",
    "RestrictNamespaces": "true",
    "RestrictRealtime": "true",
    "RestrictSUIDSGID": "true",
    "LockPersonality": "true",
    "MemoryDenyWriteExecute": "true",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
}
_PR_SET_MDWE = 65


def test_there_is_a_unit_for_each_process() -> None:
    assert [unit.stem for unit in UNITS] == ["siprec-recorder", "siprec-relay", "siprec"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_hardened(unit: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    service = dict(parser["Service"])
    assert {key: service.get(key) for key in HARDENING} == HARDENING


def test_nothing_of_ours_needs_memory_that_is_written_and_executed() -> None:
    """What MemoryDenyWriteExecute takes away, the kernel takes away here (prctl(2), PR_SET_MDWE; from Linux 6.3 on)."""

    def deny() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_MDWE, 1, 0, 0, 0)

    probe = (
        "import siprec.server.proxy_process, siprec.server.recorder_process, siprec.relay.process\n"
        "import soundfile, G722, numpy, lxml.etree, pylibsrtp, uvloop, uvicorn, msgspec\n"
        "print('imported')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, preexec_fn=deny, env=dict(os.environ), check=True
    )
    assert done.stdout.split()[-1] == "imported"
