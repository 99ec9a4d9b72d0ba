"""Runs a coroutine at once, inside a task of its own: asyncio libraries find a current task at its first step.

Python 3.12 has such eager tasks. For 3.11 the pure Python task of the standard library serves: it asks its loop to call
its first step soon, and finds in place of the loop somebody who hands that step to us.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that is running, if one is."""
    return asyncio._get_running_loop()


def run(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """A task whose coroutine has run until it waited for the first time, or to its end: then the task is done. `loop`
    is the running loop; another task may be current, and is again afterwards."""
    return _eager(coroutine, loop)


if sys.version_info >= (3, 12):

    def _eager(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        return asyncio.Task(coroutine, loop=loop, eager_start=True)

else:
    _Task: Any = tasks._PyTask  # type: ignore[attr-defined]

    class _FirstStep:
        """Stands for the loop while a task is made."""

        __slots__ = ("context", "step")

        step: Callable[[], object]
        context: Context

        def get_debug(self) -> bool:
            """As of a loop."""
            return False

        def call_soon(self, step: Callable[[], object], *, context: Context) -> None:
            """Keep the first step of the task."""
            self.step, self.context = step, context

    def _eager(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        first = _FirstStep()
        made = _Task(coroutine, loop=first)
        made._loop = loop
        task: asyncio.Task[None] = made
        outer = asyncio.current_task(loop)
        if outer is not None:
            asyncio._leave_task(loop, outer)
        try:
            first.context.run(first.step)
        finally:
            if outer is not None:
                asyncio._enter_task(loop, outer)
        return task
