"""Every regular expression of the package is linear: none backtracks more than its input is long.

Each is fed with the beginnings of texts it matches, followed by long runs of one character and of pairs of characters
it knows, and by an end that does not match, in each way the package uses it.
"""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

import siprec
from tests.unit.linear.cost import grows, seconds

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_constants
    import sre_parse

ROOT = Path(siprec.__file__).parent
METHODS = ("match", "fullmatch", "search", "sub", "split", "findall", "finditer")
SMALL, LARGE, QUICK = 300, 4000, 0.001


def _modules() -> list[str]:
    """All that can be imported: packages have no ``__init__`` everywhere."""
    paths = sorted(path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py") if path.name != "__main__.py")
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


@lru_cache(maxsize=1)
def expressions() -> list[tuple[str, re.Pattern[Any], frozenset[str]]]:
    """Name, pattern and the methods called, of each expression that a module of the package has compiled."""
    found: dict[tuple[Any, int], tuple[str, re.Pattern[Any], set[str]]] = {}
    sources = {path: path.read_text() for path in ROOT.rglob("*.py")}
    calls: dict[str, set[str]] = {}
    for text in sources.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                owner = node.value
                name = (
                    owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
                )
                calls.setdefault(name, set()).add(node.attr)
    for module in _modules():
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, re.Pattern):
                key = (value.pattern, value.flags)
                used = found.setdefault(key, (f"{module.removeprefix('siprec.')}.{name}", value, set()))[2]
                used |= calls.get(name, set()) or {"match", "search"}
    return [(name, pattern, frozenset(used)) for name, pattern, used in found.values()]


def literals() -> list[tuple[str, str, Any]]:
    """Expressions written where they are used (``re.sub("...", ...)``): place, method, pattern."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node.func.attr, node.args[0].value)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in METHODS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]


def _class(items: Any) -> list[int]:
    """Some characters of a class: its first ones, or some outside of it when negated."""
    negated = bool(items) and items[0][0] is sre_constants.NEGATE
    members: list[int] = []
    for op, value in items:
        if op is sre_constants.LITERAL:
            members.append(value)
        elif op is sre_constants.RANGE:
            members += range(value[0], min(value[1], value[0] + 300) + 1)
        elif op is sre_constants.CATEGORY:
            members += _category(value)
    if not negated:
        return members
    return [code for code in map(ord, 'a0 .-_;:,="<>\\/x\t') if code not in members]


def _category(category: Any) -> list[int]:
    text = {"DIGIT": "0", "SPACE": " \t\n", "WORD": "a0_", "NOT_SPACE": 'a:;,="<', "NOT_DIGIT": "a ", "NOT_WORD": " :"}
    return [ord(c) for c in text.get(str(category).removeprefix("CATEGORY_"), "a")]


def samples(tree: Any, depth: int = 0) -> Iterator[str]:
    """A few texts that match a parsed expression, or nearly; the shortest first."""
    texts = [""]
    for op, value in tree:
        texts = [before + after for before in texts for after in _piece(op, value, depth)][:12]
    yield from texts


def _piece(op: Any, value: Any, depth: int) -> list[str]:
    name = str(op)
    if name == "LITERAL":
        return [chr(value)]
    if name in ("NOT_LITERAL", "ANY"):
        return ["a"]
    if name == "IN":
        return [chr(code) for code in _class(value)[:1]] or [""]
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        low, _, inner = value
        once = next(iter(samples(inner, depth + 1)), "")
        return [once * low] if low else ["", once]
    if name == "SUBPATTERN":
        return list(samples(value[3], depth + 1))[:3]
    if name == "ATOMIC_GROUP":
        return list(samples(value, depth + 1))[:3]
    if name == "BRANCH":
        return [text for branch in value[1] for text in list(samples(branch, depth + 1))[:2]][:6]
    return [""]


def alphabet(tree: Any, into: dict[str, None] | None = None) -> list[str]:
    """Characters that tell the parts of an expression from each other."""
    found: dict[str, None] = {} if into is None else into
    for op, value in tree:
        name = str(op)
        if name == "LITERAL":
            found[chr(value)] = None
        elif name == "IN":
            for code in _class(value)[:2] + _class(value)[-1:]:
                found[chr(code)] = None
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            alphabet(value[2], found)
        elif name == "SUBPATTERN":
            alphabet(value[3], found)
        elif name == "ATOMIC_GROUP":
            alphabet(value, found)
        elif name == "BRANCH":
            for branch in value[1]:
                alphabet(branch, found)
    return list(found)


def attacks(pattern: Any) -> Iterator[tuple[str, str, str]]:
    """Prefix, what is repeated, suffix."""
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    tree: Any = sre_parse.parse(text)
    letters = list(dict.fromkeys([" ", *alphabet(tree), "a", "0"]))[:9]
    prefixes = {"": None}
    ways = tree[0][1][1] if len(tree) == 1 and tree[0][0] is sre_constants.BRANCH else [tree]
    for nodes in map(list, ways):
        for count in range(1, len(nodes) + 1):
            if count == len(nodes) or nodes[count][0] is not sre_constants.LITERAL:
                for sample in list(samples(nodes[:count]))[:3]:
                    prefixes[sample] = None
    units = [*letters, *("".join(pair) for pair in combinations(letters, 2))]
    yield from product(list(prefixes)[-20:], units, ("", "\x01", "\r\x01"))


def _nests(tree: Any, inside: bool = False) -> bool:
    """Whether a repetition holds a repetition or a choice: only such an expression can be exponential."""
    for op, value in tree:
        name = str(op)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "BRANCH") and inside:
            return True
        parts: list[Any] = {
            "MAX_REPEAT": lambda value=value: [value[2]],
            "MIN_REPEAT": lambda value=value: [value[2]],
            "POSSESSIVE_REPEAT": lambda value=value: [value[2]],
            "SUBPATTERN": lambda value=value: [value[3]],
            "ATOMIC_GROUP": lambda value=value: [value],
            "BRANCH": lambda value=value: value[1],
        }.get(name, list)()
        if any(_nests(part, inside or name.endswith("REPEAT")) for part in parts):
            return True
    return False


def _explodes(work: Any, make: Any) -> str:
    """Exponential work shows with few characters: it is looked for in small steps, as no step may take long."""
    for size in (16, 18, 20, 22, 24, 26, 28, 30, 34, 38, 42, 46, 50, 60, 80, 120, 200):
        if seconds(partial(work, make(size))) > 0.02 and seconds(partial(work, make(size))) > 0.02:
            return f"{size} characters take too long"
    return ""


def check(pattern: re.Pattern[Any], methods: frozenset[str]) -> list[str]:
    """The first thing that grows too fast, if any."""
    octets = isinstance(pattern.pattern, bytes)
    nested = _nests(sre_parse.parse(pattern.pattern.decode("latin-1") if octets else pattern.pattern))
    for method in methods:
        work: Any = {
            "sub": lambda text: pattern.sub(b"" if octets else "", text),
            "finditer": lambda text: list(pattern.finditer(text)),
        }.get(method) or getattr(pattern, method)
        for prefix, unit, suffix in attacks(pattern.pattern):

            def make(n: int, prefix: str = prefix, unit: str = unit, suffix: str = suffix) -> Any:
                text = prefix + unit * (n // len(unit)) + suffix
                return text.encode("latin-1", "replace") if octets else text

            problem = _explodes(work, make) if nested else ""
            problem = problem or grows(work, make, small=SMALL, large=LARGE, quick=QUICK)
            if problem:
                return [f"{method} of {prefix!r} + {unit!r}... + {suffix!r}: {problem}"]
    return []


@pytest.mark.parametrize("name", [name for name, _, _ in expressions()])
def test_an_expression_of_a_module_is_linear(name: str) -> None:
    [(pattern, methods)] = [(pattern, methods) for each, pattern, methods in expressions() if each == name]
    assert check(pattern, methods) == []


def test_expressions_written_in_place_are_linear() -> None:
    assert {f"{where} {pattern!r}": wrong for where, method, pattern in literals()
            if (wrong := check(re.compile(pattern), frozenset({method})))} == {}  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"^(?:call-id|i)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r?$", "search"),
        (r"a\s*(?::\s*(\d{1,5}))?\s*\Z", "match"),
        (r"(a+)+b", "match"),
        (r"stream-\d+[\w.-]*\.wav", "fullmatch"),
        (r"(?:a|b|ab)*c", "match"),
    ],
)
def test_expressions_that_are_not_linear_are_found(pattern: str, method: str) -> None:
    assert check(re.compile(pattern, re.I | re.M), frozenset({method}))
