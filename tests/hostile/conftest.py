"""How much is sent: ``--hostile 10`` for ten times as much."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def times(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """A number of messages, times the option."""
    factor: int = request.config.getoption("--hostile")
    return lambda count: count * factor
