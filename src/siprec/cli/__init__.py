"""The `siprec` command."""


def main() -> None:
    """Entry point."""
    raise SystemExit("siprec: no commands yet")
