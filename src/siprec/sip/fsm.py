"""State machines as tables: the code runs from the rows, and ``docs/fsm.md`` shows the same rows.

A row says: in `state`, when `event` happens and `guard` holds, do `actions` in their order and be in `to`. An event for
which a state has no row is ignored: that is what the figures of the RFCs mean by having no arrow for it.

    python -m siprec.sip.fsm > docs/fsm.md

prints the machines of all modules of the package whose name ends in ``_fsm`` and that have `MACHINES`, a tuple of
:class:`Machine`. Whoever adds such a module adds its section.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEAD: Final = """# State machines

Printed by `python -m siprec.sip.fsm > docs/fsm.md` from the tables that the code runs from. A test compares them.
An event for which a state has no row is ignored. Each section begins with what its words mean.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One transition. `guard` is empty, the name of a condition, or ``not`` and the name; `rule` says where it is from.

    Of several rows for the same state and event, the first whose guard holds is taken.
    """

    state: str
    event: str
    guard: str
    to: str
    actions: tuple[str, ...] = ()
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """A state machine: its name, what its events, guards and actions mean (Markdown), and its rows.

    The first row's state is the initial one; an empty name stands for the time before the machine exists.
    """

    name: str
    meaning: str
    rows: tuple[Row, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """All states in the order of their appearance."""
        return tuple(dict.fromkeys(state for row in self.rows for state in (row.state, row.to)))


def rows(text: str) -> tuple[Row, ...]:
    """The rows of a table that is written as text, one a line: ``state | event | guard | to | actions | rule``.

    Actions are separated by ``;``. Empty lines are skipped. Raises ValueError for a line with another number of cells.
    """
    found = []
    for line in text.strip().splitlines():
        if line.strip():
            state, event, guard, to, actions, rule = (cell.strip() for cell in line.split("|"))
            names = tuple(name.strip() for name in actions.split(";") if name.strip())
            found.append(Row(state, event, guard, to, names, rule))
    return tuple(found)


def machines() -> Iterator[tuple[str, Machine]]:
    """The machines of the package, with the name of their module, in the order of the modules' names."""
    package = importlib.import_module("siprec")
    names = [info.name for info in pkgutil.walk_packages(package.__path__, "siprec.") if info.name.endswith("_fsm")]
    for name in sorted(names):
        for machine in getattr(importlib.import_module(name), "MACHINES", ()):
            yield name, machine


def document() -> str:
    """The text of ``docs/fsm.md``."""
    parts = [_HEAD]
    for module, machine in machines():
        parts.append(f"\n## {machine.name}\n\nTable: `{module}`.\n\n{machine.meaning.strip()}\n\n{_diagram(machine)}")
        parts.append("\n| State | Event | Guard | Next state | Actions | Rule |\n|---|---|---|---|---|---|\n")
        for row in machine.rows:
            cells = (row.state or "-", row.event, row.guard, row.to, "; ".join(row.actions), row.rule)
            parts.append(f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |"))
    return "".join(parts)


def _diagram(machine: Machine) -> str:
    """A picture for readers whose viewer draws Mermaid; transitions between the same two states share an arrow."""
    numbers = {state: f"s{number}" for number, state in enumerate(machine.states)}
    arrows: dict[tuple[str, str], dict[str, None]] = {}
    for row in machine.rows:
        arrows.setdefault((row.state, row.to), {})[row.event] = None
    lines = [f"    {number} : {state}" for state, number in numbers.items() if state]
    for (state, to), events in arrows.items():
        left = numbers[state] if state else "[*]"
        lines.append(f"    {left} --> {numbers[to]} : {', '.join(events)}")
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    sys.stdout.write(document())
