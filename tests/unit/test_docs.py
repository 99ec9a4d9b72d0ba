"""docs/conformance.md has a row for every requirement, and what it and the other pages point at is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.conformance import PAGE, ROW, filled, requirements, source
from tests.paths import ROOT

SOURCE = ROOT / "src" / "siprec"
ROWS = [(ident, how, shown) for ident, _, how, shown in ROW.findall(PAGE.read_text())]


def verdict(how: str) -> str:
    """``met``, ``partly``, ``no`` or ``not used``."""
    found = re.match(r"(no(?=:)|not used)\b", how)
    if found is not None:
        return found[1]
    return "partly" if re.search(r"(^|\. )partly: ", how) else "met"


@cache
def functions(file: Path) -> frozenset[str]:
    """The names of the test functions of a module."""
    return frozenset(
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_requirement_has_exactly_one_row() -> None:
    wanted = list(requirements())
    assert len(wanted) > 300
    written = [ident for ident, _, _ in ROWS]
    assert sorted(written) == sorted(wanted)


def test_every_row_has_the_text_of_its_requirement() -> None:
    assert PAGE.read_text() == filled(PAGE.read_text()), "python -m tests.conformance"
    assert all(len(text) > 20 for text in requirements().values())


@pytest.mark.parametrize(
    ("short", "written"),
    [
        ("66 §7.1.2, §8.1.6", "RFC 7866 7.1.2, 8.1.6"),
        ("61 §16.6-4; 3263 §4.3", "RFC 3261 16.6 step 4; RFC 3263 4.3"),
        ("follows from 66 §12.2, 45 §3.2", "RFC 7866 12.2; RFC 7245 3.2"),
        ("RFC 3264 §8; RFC 4028 §7.4", "RFC 3264 8; RFC 4028 7.4"),
        ("41 Use case 9", "RFC 6341 Use case 9"),
        ("XML 1.0", "XML 1.0"),
        ("engineering", "engineering"),
        ("-", ""),
    ],
)
def test_sources_are_written_out(short: str, written: str) -> None:
    assert source(short) == written


def test_every_row_names_a_test_unless_nothing_is_claimed() -> None:
    assert len(ROWS) == len(re.findall(r"^\| [A-Z]+-\d+ \|", PAGE.read_text(), re.MULTILINE))
    for ident, how, shown in ROWS:
        if verdict(how) in ("met", "partly"):
            assert "tests/" in shown, ident
        assert re.fullmatch(r"-|`[^`]+`(, `[^`]+`)*", shown), ident


def test_the_tests_that_are_named_exist() -> None:
    named = re.findall(r"`(tests/[^`]+)`", re.sub(r"`tests/unit/test_docs.py`", "", PAGE.read_text()))
    assert len(named) > 400
    for name in named:
        file, _, function = name.partition("::")
        path = ROOT / file
        assert path.is_file(), name
        assert function.startswith("test_"), name
        assert function in functions(path), name


def test_the_files_that_are_named_exist() -> None:
    for ident, how, _ in ROWS:
        for name in re.findall(r"`([\w/]+\.py)`", how):
            assert (SOURCE / name).is_file(), f"{ident}: {name}"


def test_the_figures_above_the_table_are_those_of_the_rows() -> None:
    verdicts = [verdict(how) for _, how, _ in ROWS]
    text = PAGE.read_text()
    assert f"| Of {len(ROWS)} | |" in text
    for each in ("met", "partly", "no", "not used"):
        assert f"\n| {each} | {verdicts.count(each)} |\n" in text, each


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()


@pytest.mark.parametrize(
    "row", re.findall(r"^\| (?!Word|---)(.+?) \| .+? \| .+? \| (.+?) \|$", GLOSSARY, re.M), ids=lambda r: r[0]
)
def test_each_word_of_the_glossary_is_where_it_says(row: tuple[str, str]) -> None:
    _, where = row
    places = re.findall(r"`([\w/]+\.py)`(?: \(((?:`\w+`(?:, )?)+)\))?", where)
    assert places, where
    for file, names in places:
        text = (SOURCE / file).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(class|def|async def) {name}\b", text, re.M), f"{file}: {name}"


def test_an_invite_can_be_followed_through_the_files_that_are_named() -> None:
    rows = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert len(rows) == 10
    for file, text in rows:
        source = (SOURCE / file).read_text()
        names = re.findall(r"`([A-Z]\w+|[a-z_]+|[A-Z]\w+\.[a-z_]+)`", text)
        ours = [name for name in names if name != "RecordingService.call_answered"]
        assert ours, file
        for name in ours:
            for part in name.split("."):
                assert re.search(rf"^ *(class|def|async def) {part}\b", source, re.M), f"{file}: {name}"
    for file in re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M):
        assert (SOURCE / file).is_dir(), file
