"""docs/api.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from siprec.api.routes import OPERATIONS
from siprec.api.settings import ApiConfig
from siprec.recording.events import EVENTS

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "api.md").read_text()


def test_every_operation_and_its_parameters_are_described() -> None:
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `((?:GET|POST|PUT) [^`]*)`.*$", TEXT, re.MULTILINE)}
    assert set(rows) == {f"{operation.method} {operation.path}" for operation in OPERATIONS}
    for operation in OPERATIONS:
        for name in operation.query.__struct_fields__:
            assert f"`{name}`" in rows[f"{operation.method} {operation.path}"], (operation.path, name)


def test_every_key_of_the_configuration_is_described() -> None:
    section = TEXT.partition("## Configuration")[2].partition("\n## ")[0]
    for name in ApiConfig.__struct_fields__:
        assert f"`{name}`" in section, name


def test_every_event_is_named() -> None:
    assert all(f"`{name}`" in TEXT for name in EVENTS)


@pytest.mark.parametrize("page", ["alerts.yml", "grafana.json"])
def test_alerts_and_dashboard_ask_for_metrics_that_exist(page: str) -> None:
    api = Path(__file__).parents[3] / "src/siprec/api"
    source, recorder = (api / "metrics.py").read_text(), (api / "recorder.py").read_text()
    asked = set(re.findall(r"siprec_\w+", (DOCS / page).read_text()))
    assert asked
    for name in asked:
        wanted = re.sub(r"_(total|bucket)$", "", name)
        if wanted.startswith("siprec_recorder_"):
            assert f'"{wanted.removeprefix("siprec_recorder_")}"' in recorder, name
        else:
            assert f'"{wanted}"' in source, name
