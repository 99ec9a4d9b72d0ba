"""Pages: all of it once, in order, however the list changes meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.api.paging import page
from siprec.api.problem import Problem
from siprec.api.queries import call_fits
from siprec.proxy.call import Call
from tests.simulation.proxyworld import raw_request

Item = tuple[float, str, str]


async def all_pages(items: list[Item], limit: int) -> list[Item]:
    found: list[Item] = []
    after = ""
    while True:
        part, after = await page(items, lambda item: True, lambda item: item, limit, after)
        assert len(part) <= limit
        found += part
        if not after:
            return found


@settings(deadline=None, max_examples=60)
@given(
    items=st.sets(
        st.tuples(
            st.sampled_from([1.5, 0.1 + 0.2, 1e9 + 0.123456789]), st.text("ab0", max_size=4), st.text("x/", max_size=3)
        )
    ),
    limit=st.integers(1, 7),
)
def test_pages_together_are_the_whole_in_order(items: set[Item], limit: int) -> None:
    assert asyncio.run(all_pages(list(items), limit)) == sorted(items)


def test_many_more_than_a_page_are_looked_through() -> None:
    items = [(float(number % 997), str(number), "") for number in range(5000)]
    found, after = asyncio.run(page(items, lambda item: True, lambda item: item, 10, ""))
    assert found == sorted(items)[:10]
    assert after


def test_others_have_their_turn_meanwhile() -> None:
    async def scenario() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        items = [(float(number), "", "") for number in range(10_000)]
        await page(items, lambda item: True, lambda item: item, 10, "")
        task.cancel()
        return turns

    assert asyncio.run(scenario()) >= 15


def test_a_cursor_of_somebody_else_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(page([], lambda item: True, lambda item: item, 10, "nonsense"))
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("user", "fits"),
    [
        ("bob@[2001:db8::1]", True),
        ("bob@2001:db8::1", True),
        ("BOB@[2001:DB8:0::1]", True),
        ("bob", True),
        ("bob@[2001:db8::2]", False),
        ("eve@[2001:db8::1]", False),
        ("alice@example.com", True),
        ("alice@EXAMPLE.com", True),
        ("alice@example.org", False),
    ],
)
def test_calls_are_found_by_address_of_record_also_with_an_ipv6_host(user: str, fits: bool) -> None:
    invite = raw_request("INVITE", "sip:bob@[2001:db8::1]", to="<sip:bob@[2001:db8:0::1]:5060>")
    assert call_fits(Call("d", invite, "udp:10.0.0.1:5060", 0.0, 0.0), user=user) == fits
