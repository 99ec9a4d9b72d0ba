"""One proxy with its relay, and one recorder, per module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.calls.rig import Rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    if shutil.which("sipp") is None:
        pytest.skip("sipp is missing: apt-get install sip-tester")
    directory: Path = tmp_path_factory.mktemp("calls")
    with Rig(directory) as running:
        yield running
