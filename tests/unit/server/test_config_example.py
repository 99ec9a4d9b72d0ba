"""``siprec config example``: complete, true, and a system that works."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from siprec.recording.recording_profile import RecordingProfile
from siprec.server.config import Config
from siprec.server.config_example import example, toml
from siprec.server.config_file import parse
from siprec.server.config_reference import PARTS, TABLES, fields_of


def uncommented(text: str) -> str:
    """Everything in it switched on."""
    return re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE)


def test_it_is_what_config_check_calls_fine(tmp_path: Path) -> None:
    siprec = [sys.executable, "-m", "siprec"]
    printed = subprocess.run([*siprec, "config", "example"], check=True, capture_output=True, text=True).stdout
    file = tmp_path / "siprec.toml"
    file.write_text(printed)
    checked = subprocess.run([*siprec, "config", "check", str(file)], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, f"{file}: fine\n"), checked.stderr


def test_as_it_is_it_says_no_more_than_it_shows() -> None:
    config = parse(example())
    [rule] = config.route
    assert (rule.method, rule.registrar, rule.record) == ("INVITE", True, "default")
    assert config.recording == {"default": RecordingProfile(srs=["sip:127.0.0.1:5090"])}
    plain = msgspec.structs.replace(config, route=[], recording={}, api=Config().api)
    assert plain == Config()


def test_every_key_is_there_with_the_default_that_it_has() -> None:
    config = parse(example())
    whole = parse(uncommented(example()))
    assert whole.trace.hep is not None
    assert whole.api.redis is not None
    assert len(whole.api.webhooks) == 1
    # What was behind a # changes nothing, but for the sections that exist only when they are wanted.
    api = msgspec.structs.replace(whole.api, redis=None, webhooks=config.api.webhooks)
    trace = msgspec.structs.replace(whole.trace, hep=None)
    assert len(whole.media_server) == 1
    assert msgspec.structs.replace(whole, api=api, trace=trace, media_server=[]) == config
    data = tomllib.loads(uncommented(example()))
    for title, module, name in TABLES:
        if title and not title.startswith("["):
            continue
        found = data
        for part in title.strip("[]").replace("NAME", "default").split(".") if title else ():
            found = found[part]
            if isinstance(found, list):
                found = found[0]
        kinds = msgspec.structs.fields(getattr(module, name))
        assert {field.key for field in fields_of(module, name)} == {field.name for field in kinds}
        missing = {field.name for field in kinds} - set(found) - PARTS
        assert missing <= {"webhooks", "redis", "hep"}, title


@pytest.mark.parametrize("value", [True, 3, 0.25, 'a "b"\\\n', ["x", 1], [], {}, {"k.y": "v", "l": [1.5]}])
def test_values_are_written_as_toml_reads_them(value: object) -> None:
    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}
