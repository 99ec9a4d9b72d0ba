"""What all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from siprec import logs
from tests.parallel import Machine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hostile", type=int, default=1, metavar="N", help="N times as many hostile messages")


@pytest.fixture(scope="session")
def _machine(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Machine:
    own = tmp_path_factory.getbasetemp()
    # Workers have directories side by side.
    return Machine(own if worker_id == "master" else own.parent)


@pytest.fixture(autouse=True)
def machine(_machine: Machine) -> Iterator[Machine]:
    """The machine, shared with the tests of other workers (``with machine.alone()``)."""
    with _machine.shared():
        yield _machine


@pytest.fixture(autouse=True)
def _log_levels_as_before() -> Iterator[None]:
    """A test that sets up logging, or runs a command that does, leaves the others theirs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    chosen = logs.levels()
    yield
    if (root.level, root.handlers) != (level, handlers) or logs.levels() != chosen:
        logs.setup_logging()
        root.handlers[:] = handlers
        root.setLevel(level)
