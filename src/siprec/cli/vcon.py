"""``siprec vcon``: a recording as a vCon."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from siprec.recorder.recording_json import FILE
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.vcon import VconError, export


def main(directory: Path, output: Path | None, *, streams: bool) -> int:
    """Write the vCon; exit status 0, or 1 with the reason on standard error."""
    try:
        summary = json.loads((directory / FILE).read_bytes())
        pieces = export(RecordingResult(directory, summary), streams=streams)
        if output is None:
            _write(pieces, sys.stdout.buffer)
        else:
            # Like the recording itself: for owner and group only.
            with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as file:
                _write(pieces, file)
    except FileNotFoundError:
        print(f"siprec vcon: {directory} is no recording: it has no {FILE}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, VconError) as error:
        print(f"siprec vcon: {directory}: {error}", file=sys.stderr)
        return 1
    return 0


def _write(pieces: Iterable[bytes], file: BinaryIO) -> None:
    for piece in pieces:
        file.write(piece)
    file.write(b"\n")
    file.flush()
