"""``siprec top`` without a terminal: keys, lines, and where the choice goes."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from siprec.cli.top.feed import Picture, Rates
from siprec.cli.top.terminal import clip, decode
from siprec.cli.top.view import Choice, place, rows_of

PLAIN = dict.fromkeys(("", "bad", "selected"), "")


@pytest.mark.parametrize(
    ("text", "keys", "left"),
    [
        ("a\x1b[Ab", ["a", "up", "b"], ""),
        ("\x1bOB\x1b[6~\r\t\x7f", ["down", "pagedown", "enter", "tab", "backspace"], ""),
        ("x\x1b", ["x"], "\x1b"),
        ("\x1b[5", [], "\x1b[5"),
        ("\x1bq", ["escape", "q"], ""),
        ("\x1b[1;5A\x1b[200~é", ["é"], ""),  # what has no meaning here leaves no letters behind
        ("\x00\x01", [], ""),
    ],
)
def test_keys_are_read_from_what_terminals_send(text: str, keys: list[str], left: str) -> None:
    assert decode(text) == (keys, left)


def test_a_line_is_as_wide_as_the_terminal_and_harmless() -> None:
    for text in ("short", "long " * 50, "\x1b[2Jescape\x07\n", "電話" * 40, "e\u0301" * 90):
        shown = clip(((text, "bad"), ("end", "")), 79, PLAIN)
        assert cell_len(shown) == 79
        assert shown.isprintable()


def _call(number: int, **more: Any) -> dict[str, Any]:
    return {
        "dlg_id": f"d{number}",
        "call_id": f"c{number}@example.com",
        "caller": f"sip:alice{number}@example.com",
        "callee": "sip:bob@example.com",
        "state": "confirmed",
        **more,
    }


def _recording(instance: str, state: str) -> dict[str, Any]:
    return {"instance": instance, "state": state, "server": "sip:srs", "session_id": "s", "rs_call_id": "r"}


def test_each_recording_has_a_row_and_a_filter_looks_at_all_of_it() -> None:
    picture = Picture(
        calls=(_call(1), _call(2)),
        recordings={"d2": (_recording("default", "active"), _recording("archive", "paused"))},
    )
    assert [row.key for row in rows_of(picture, "")] == [("d1", ""), ("d2", "default"), ("d2", "archive")]
    assert [row.key for row in rows_of(picture, "ALICE1")] == [("d1", "")]
    assert [row.key for row in rows_of(picture, "paused")] == [("d2", "archive")]


def test_the_choice_stays_on_its_call_and_on_the_screen() -> None:
    calls = [_call(number) for number in range(50)]
    choice = Choice()
    place(choice, rows_of(Picture(calls=tuple(calls)), ""), 10)
    assert (choice.key, choice.top) == (("d0", ""), 0)
    choice.key = ("d30", "")
    place(choice, rows_of(Picture(calls=tuple(calls)), ""), 10)
    assert (choice.index, choice.top) == (30, 21)
    # Ten before it end: the same call, not the same line.
    place(choice, rows_of(Picture(calls=tuple(calls[10:])), ""), 10)
    assert (choice.key, choice.index, choice.top) == (("d30", ""), 20, 20)
    # Its recording begins.
    recorded = Picture(calls=tuple(calls[10:]), recordings={"d30": (_recording("default", "active"),)})
    place(choice, rows_of(recorded, ""), 10)
    assert choice.key == ("d30", "default")
    # It ends itself: the line that took its place; and none at all.
    place(choice, rows_of(Picture(calls=tuple(calls[:15])), ""), 10)
    assert (choice.key, choice.index) == (("d14", ""), 14)
    place(choice, [], 10)
    assert (choice.key, choice.index, choice.top) == (("", ""), 0, 0)


def test_rates_are_differences_and_forget() -> None:
    rates = Rates()
    assert rates.rate("a", 1.0, 100) is None
    assert rates.rate("a", 3.0, 200) == 50.0
    assert rates.rate("a", 4.0, 10) is None  # another process counts now
    assert rates.rate("a", 5.0, 20) == 10.0
    rates.keep({"b"})
    assert rates.rate("a", 6.0, 30) is None
