"""Writes the texts of the requirements beside their ids in docs/conformance.md: ``python -m tests.conformance``.

The texts are those of tests/data/requirements.tsv: id, level, text and source by line. The other columns of the page
are written by hand. tests/unit/test_docs.py compares.
"""

from __future__ import annotations

import re
from typing import Final

from tests.paths import DATA, ROOT

PAGE: Final = ROOT / "docs" / "conformance.md"
HEAD: Final = "| Id | Requirement | How | Shown by |"
ROW: Final = re.compile(r"^\| ([A-Z]+-\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_RFCS: Final = {"41": "6341", "45": "7245", "61": "3261", "65": "7865", "66": "7866", "68": "8068"}
"""How the list of requirements abbreviates the RFCs that it names most."""


def requirements() -> dict[str, str]:
    """The text of each requirement by its id, in their order: level, what is required, and the source."""
    found = {}
    for line in (DATA / "requirements.tsv").read_text().splitlines():
        ident, level, rest = line.split("\t")
        text, _, origin = rest.rpartition(" | ")
        text = text.replace(" | ", "; ")
        named = source(origin)
        star = "\\*" if level.endswith("*") else ""
        found[ident] = (f"**{level.rstrip('*')}**{star} " if level else "") + text + (f" ({named})" if named else "")
    return found


def source(text: str) -> str:
    """``66 §7.1; 61 §16.6-4`` as ``RFC 7866 7.1; RFC 3261 16.6 step 4``; empty for what names no document."""
    parts = []
    for part in re.split(r"; |(?<=\d), (?=\d\d+ §)", text):
        part = re.sub(r"^(follows from )?(\d{2,4}) (?=§|[A-Z])", lambda m: f"RFC {_RFCS.get(m[2], m[2])} ", part)
        part = re.sub(r"§([\d.]+)-(\d+)", r"§\1 step \2", part).replace("§", "")
        if not re.fullmatch(r"\d*|-", part):
            parts.append(part)
    return "; ".join(parts)


def filled(page: str) -> str:
    """The page with the text of each requirement in the second column of its row."""
    texts = requirements()
    return ROW.sub(lambda row: f"| {row[1]} | {texts[row[1]]} | {row[3]} | {row[4]} |", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
