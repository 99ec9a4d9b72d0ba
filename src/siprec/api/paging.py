"""Pages of long lists: sorted by key, a cursor to the next one, and turns for others while they are made."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final, TypeVar

from siprec.api.problem import Problem

SLICE: Final = 500
"""So many entries are looked at before others have their turn."""

T = TypeVar("T")
Key = tuple[float, str, str]


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """All of `items`, letting the event loop go on now and then."""
    for number, item in enumerate(items, 1):
        yield item
        if number % SLICE == 0:
            await asyncio.sleep(0)


async def page(
    items: Iterable[T], fits: Callable[[T], bool], key: Callable[[T], Key], limit: int, after: str
) -> tuple[list[T], str]:
    """Of those that fit the first `limit` by key, from `after` on, and what is `after` for the next page.

    Raises:
        Problem: `after` is none of ours.
    """
    start = _read_cursor(after) if after else None
    found: list[tuple[Key, int, T]] = []
    count = 0
    async for item in in_slices(items):
        if not fits(item):
            continue
        this = key(item)
        if start is None or this > start:
            count += 1
            found.append((this, count, item))
            if len(found) >= limit + SLICE:
                found = heapq.nsmallest(limit + 1, found)
    found = heapq.nsmallest(limit + 1, found)
    more = len(found) > limit
    return [item for _, _, item in found[:limit]], _cursor(found[limit - 1][0]) if more else ""


def _cursor(key: Key) -> str:
    return f"{key[0]!r}/{key[1]}/{key[2]}"


def _read_cursor(text: str) -> Key:
    number, _, rest = text.partition("/")
    first, _, second = rest.partition("/")
    try:
        return float(number), first, second
    except ValueError:
        raise Problem(422, f"after: {text[:60]!r} is not the `next` of a page") from None
