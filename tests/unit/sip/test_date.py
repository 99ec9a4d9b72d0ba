"""Date: what is written and what is read (RFC 3261 20.17)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.sip.date import format_date, parse_date


def test_the_form_of_the_rfc() -> None:
    assert format_date(1289690940.7) == "Sat, 13 Nov 2010 23:29:00 GMT"
    assert parse_date("Sat, 13 Nov 2010 23:29:00 GMT") == 1289690940.0


@given(st.integers(0, 4_000_000_000))
def test_what_is_written_is_read(wall: int) -> None:
    assert parse_date(format_date(wall)) == wall


@pytest.mark.parametrize(
    "text", [None, "", "now", "Sat, 99 Nov 2010 23:29:00 GMT", "Sat, 13 Nov 99999 1:1:1", "x" * 99]
)
def test_what_is_no_date_is_none(text: str | None) -> None:
    assert parse_date(text) is None


@given(st.text())
def test_reading_never_raises(text: str) -> None:
    parse_date(text)
