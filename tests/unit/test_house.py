"""The source tree as a whole: no circles of imports, no file that has become two, no ids that only we know.

Each list names what is left to be done. It only shrinks.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.paths import DATA, ROOT
from tests.unit.house import circles, imports, private_ids

SOURCE = ROOT / "src" / "siprec"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST = 450
KINDS = {line.split("-", 1)[0] for line in (DATA / "requirements.tsv").read_text().splitlines()}

CIRCLES: dict[str, int] = {}
"""Modules that import each other, by room."""
LONG = {"sip": 1}
"""Files of more than 450 lines, by room."""
PRIVATE_IDS: dict[str, int] = {}
"""Ids of the list of requirements that comments cite, by room."""


def room(path: Path) -> str:
    """``proxy`` of ``siprec/proxy/core.py``."""
    return path.relative_to(SOURCE).parts[0]


def test_no_modules_import_each_other_round_about() -> None:
    found = circles(imports(SOURCE))
    by_room = Counter(name.split(".")[1] for circle in found for name in circle)
    assert by_room <= Counter(CIRCLES), "\n".join(" ".join(sorted(circle)) for circle in found)


def test_no_file_has_become_two() -> None:
    long = [path for path in FILES if len(path.read_text().splitlines()) > LONGEST]
    assert Counter(map(room, long)) <= Counter(LONG), f"more than one idea is in a file of {long}"


def test_comments_cite_rfcs_and_no_ids_of_ours() -> None:
    cited = [(path, *each) for path in FILES for each in private_ids(path.read_text(), KINDS)]
    by_room = Counter(room(path) for path, _, _ in cited)
    over = {name for name, count in by_room.items() if count > PRIVATE_IDS.get(name, 0)}
    shown = [f"{path.relative_to(SOURCE)}:{line}: {ident}" for path, line, ident in cited if room(path) in over]
    assert not over, "cite the section of the RFC instead:\n" + "\n".join(shown)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}}, [{"d", "e"}, {"a", "b", "c"}]),
    ],
)
def test_circles_are_found(edges: dict[str, set[str]], expected: list[set[str]]) -> None:
    assert circles(edges) == expected


def test_ids_are_found_in_comments_and_docstrings_only() -> None:
    source = '"""What TXN-08 asks for."""\nx = "TXN-09"  # TXN-10, R3\n'
    assert private_ids(source, {"TXN"}) == [(1, "TXN-08"), (2, "TXN-10"), (2, "R3")]
