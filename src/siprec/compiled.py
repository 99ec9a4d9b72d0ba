"""The parts in C, each of which has a twin in Python: which of them are there, and used.

``SIPREC_NATIVE=0`` in the environment forbids them. A module that was built from other sources than those it is found
beside (an old build in a working copy, say) is left alone, with a warning: Python does its work.
"""

from __future__ import annotations

import importlib
import logging
import os
from types import ModuleType
from typing import Final

log = logging.getLogger(__name__)

_used: Final[dict[str, bool]] = {}


def module(name: str, version: int, *, forbidden: bool | None = None) -> ModuleType | None:
    """The C module `name` whose constant ``VERSION`` is `version`; None when there is none or it is forbidden."""
    found: ModuleType | None = None
    if not (os.environ.get("SIPREC_NATIVE") == "0" if forbidden is None else forbidden):
        try:
            found = importlib.import_module(name)
        except ImportError:
            pass
        else:
            if getattr(found, "VERSION", None) != version:
                log.warning("%s was built from other sources: not used, build it again", found.__file__)
                found = None
    _used[name.removeprefix("siprec.")] = found is not None
    return found


def used() -> str:
    """For the start-up line: ``media._bencode,sip._scan``, or ``none``."""
    return ",".join(sorted(name for name, there in _used.items() if there)) or "none"
