"""Where tests find what they read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DATA: Final = Path(__file__).parent / "data"
SCHEMA: Final = DATA / "schema" / "recording.xsd"
"""The XML schema of recording metadata (RFC 7865)."""
