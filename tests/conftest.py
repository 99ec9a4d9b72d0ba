"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parallel import Machine


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
