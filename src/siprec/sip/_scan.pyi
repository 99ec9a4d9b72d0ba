"""The pass over a head in C (csrc/scan.c): None stands for what the thorough reader has to look at."""

from siprec.sip.scan import Head

VERSION: int

def scan_head(head: bytes, /) -> Head | None: ...
