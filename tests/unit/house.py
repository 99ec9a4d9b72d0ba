"""Reads the source tree: which file imports which, how long files are, what comments cite."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

_SHORT_ID = re.compile(r"\b[RCPD][1-9]\b")


def imports(root: Path) -> dict[str, set[str]]:
    """Which modules of the package at `root` each one imports, also within functions and for type checking."""
    files = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {each if each in files else node.module for each in modules}
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
        found[name] = (wanted & files.keys()) - {name}
    return found


def circles(edges: Mapping[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import each other round about (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges[name]:
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            place = stack.index(name)
            circle = set(stack[place:])
            del stack[place:]
            if len(circle) > 1:
                found.append(circle)

    for name in edges:
        if name not in index:
            visit(name)
    return found


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each comment and docstring."""
    docstrings = {
        child.value.lineno
        for node in ast.walk(ast.parse(source))
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str)
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.start[0] in docstrings):
            yield token.start[0], token.string


def private_ids(source: str, kinds: set[str]) -> list[tuple[int, str]]:
    """Line and id of each requirement of tests/data/requirements.tsv (`kinds`: what its ids begin with), and of each
    short id such as ``R3``, that a comment or docstring cites."""
    pattern = re.compile(rf"\b(?:{'|'.join(sorted(kinds))})-\d\d\b")
    return [
        (line, cited) for line, text in comments(source) for cited in (*pattern.findall(text), *_SHORT_ID.findall(text))
    ]
