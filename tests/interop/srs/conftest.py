"""One proxy with its relay for all tests of this directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.interop.srs.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if shutil.which("sipp") is None:
        pytest.skip("sipp is missing: apt-get install sip-tester")
    if os.geteuid() != 0:
        pytest.skip("SIPp sends RTP through raw sockets: run as root")
    with World(tmp_path_factory.mktemp("srs")) as running:
        yield running


@pytest.fixture
def schema(world: World) -> object:
    return world.schema
