"""What the commands that speak to a running proxy have in common: options, errors, tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Annotated, ParamSpec

from cyclopts import Parameter, validators
from rich.console import Console
from rich.table import Table

from siprec.cli.client import ApiError

Url = Annotated[str, Parameter(name="--api", env_var="SIPREC_API", help="Where the API is.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
CallName = Annotated[str, Parameter(help="Dialog id or Call-ID, or the beginning of one.")]
Limit = Annotated[int, Parameter(validator=validators.Number(gte=1))]
User = Annotated[str, Parameter(help="Calls of this user (or user@host).")]
All = Annotated[bool, Parameter(name="--all", negative="", help="Every call.")]
Name = Annotated[str, Parameter(name=["--instance", "-i"], help="Recording instance.")]

P = ParamSpec("P")


def report_errors(command: Callable[P, None]) -> Callable[P, int]:
    """An :class:`ApiError` becomes a line on standard error and exit status 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            command(*args, **kwargs)
        except ApiError as error:
            print(f"siprec: {clean(error)}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            # The reader of our output went away (head): nothing is left to be said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            return 130
        return 0

    return run


def clean(value: object) -> str:
    """Names come from the network: no control characters on the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(value))


def dump(value: object) -> None:
    """Print as JSON, one line."""
    print(json.dumps(value), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print rows under their titles; without any: `empty`."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(clean(value) for value in row))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000  # for programs and files: one line each
    if table.row_count:
        console.print(table)
    else:
        console.print(empty)
