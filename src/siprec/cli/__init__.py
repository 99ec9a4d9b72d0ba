"""The ``siprec`` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

import siprec
from siprec.cli.client_commands import register

app = App(
    name="siprec",
    help="SIP call recording (SIPREC): proxy, recording client, media relay and recorder.",
    version=siprec.__version__,
)
config_app = App(name="config", help="Look at the configuration.")
app.command(config_app)
register(app)

ConfigFile = Annotated[Path | None, Parameter(name=["--config", "-c"], help="Configuration file (TOML).")]


@app.command
def serve(*, config: ConfigFile = None) -> int:
    """Run the proxy: route calls, have them recorded."""
    from siprec.server.proxy_process import main as run_proxy

    return run_proxy(config)


@app.command
def recorder(*, config: ConfigFile = None) -> int:
    """Run the session recording server (SRS)."""
    from siprec.server.recorder_process import main as run_recorder

    return run_recorder(config)


@app.command
def relay(*, config: ConfigFile = None) -> int:
    """Run the media relay by itself (RTPEngine's ng protocol)."""
    from siprec.server.relay_process import main as run_relay

    return run_relay(config)


@app.command
def demo(
    *,
    once: bool = False,
    seconds: float = 6.0,
    directory: Path = Path("recordings"),
) -> int:
    """Start proxy, relay and recorder on loopback, place one real call, show its recording.

    Args:
        once: End after the call; the exit status is 0 only if the recording holds what each side sent.
        seconds: Length of the call.
        directory: Where recordings go.
    """
    from siprec.cli.demo import main as run_demo

    return run_demo(once=once, seconds=seconds, directory=directory)


@config_app.command(name="check")
def config_check(file: Path) -> int:
    """Check a configuration file; exit status 0 if it can be used."""
    from siprec.proxy.script import ScriptError, load_script
    from siprec.server.config import ConfigError, load

    try:
        config = load(file)
        if config.script:
            load_script(file.parent / config.script)
    except (ConfigError, ScriptError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{file}: fine")
    return 0


def main() -> None:
    """Entry point of the command."""
    result = app()
    sys.exit(result if isinstance(result, int) else 0)
