"""What the container installs: pinned by version and hash, and enough for the project."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.paths import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
PINNED = {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==(\S+) \\$", LOCK, re.MULTILINE)}
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [*PROJECT["dependencies"], *EXTRAS["redis"], *EXTRAS["codecs"]]


@pytest.mark.parametrize("text", WANTED)
def test_the_lock_holds_a_version_that_the_project_takes(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier, "no floor"
    assert requirement.specifier.contains(PINNED[requirement.name.lower()])


def test_each_pin_has_hashes() -> None:
    pins = re.split(r"^(?=[\w.-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(pins) == len(PINNED) > len(WANTED)
    assert all("--hash=sha256:" in pin for pin in pins)


def test_the_container_installs_the_lock_and_nothing_else() -> None:
    text = (ROOT / "packaging" / "Dockerfile").read_text()
    assert "--require-hashes -r /source/requirements.lock" in text
    assert "--no-deps /source" in text
    assert re.search(r"^USER siprec$", text, re.MULTILINE)
