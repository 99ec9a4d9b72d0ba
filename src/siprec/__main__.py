"""``python -m siprec``."""

from siprec.cli import main

main()
