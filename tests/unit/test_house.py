"""The source tree as a whole: no circles of imports, no file that has become two, no ids that only we know."""

from __future__ import annotations

import re

import pytest

from tests.paths import DATA, ROOT
from tests.unit.house import circles, comments, imports, private_ids

SOURCE = ROOT / "src" / "siprec"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST = 450
KINDS = {line.split("-", 1)[0] for line in (DATA / "requirements.tsv").read_text().splitlines()}


def test_no_modules_import_each_other_round_about() -> None:
    found = circles(imports(SOURCE))
    assert not found, "\n".join(" ".join(sorted(circle)) for circle in found)


def test_no_file_has_become_two() -> None:
    long = {str(path.relative_to(SOURCE)) for path in FILES if len(path.read_text().splitlines()) > LONGEST}
    assert not long, "is there a second idea in it?"


def test_comments_cite_rfcs_and_no_ids_of_ours() -> None:
    cited = [(path.relative_to(SOURCE), *each) for path in FILES for each in private_ids(path.read_text(), KINDS)]
    shown = "\n".join(f"{path}:{line}: {ident}" for path, line, ident in cited)
    assert not cited, f"cite the section of the RFC instead:\n{shown}"


def test_no_docstring_says_only_where_to_look() -> None:
    for path in FILES:
        for line, text in comments(path.read_text()):
            assert not re.match(r'"""See [:`]', text), f"{path.relative_to(SOURCE)}:{line}: say what it does"


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
