"""``python -m siprec.relay``: the relay as a process. Prints one line when it is ready, ends on SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from siprec.logs import LEVELS, setup_logging
from siprec.relay.heartbeat import Heartbeat
from siprec.relay.learning import Latching
from siprec.relay.ports import Interface, parse_interface
from siprec.relay.process import RelayOptions, run_relay
from siprec.relay.server import Timeouts

READY = "siprec relay ready"
SECRET = "SIPREC_NG_SECRET"
"""The environment variable with the secret of ng clients."""


def _address(text: str) -> tuple[str, int]:
    if text.startswith("unix:/"):
        return text.removeprefix("unix:"), 0
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _interface(text: str) -> Interface:
    try:
        return parse_interface(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[RelayOptions, argparse.Namespace]:
    """Options of the relay, and the rest."""
    parser = argparse.ArgumentParser(prog="siprec relay", description="A media relay that speaks RTPEngine's ng.")
    parser.add_argument("--listen-ng", type=_address, default=("127.0.0.1", 2223), metavar="HOST:PORT")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="ADDRESS[/LENGTH]",
        help=f"ng clients that need no secret; may be repeated. The secret is taken from {SECRET} in the environment",
    )
    parser.add_argument(
        "--interface",
        type=_interface,
        action="append",
        metavar="[NAME/]ADDRESS[!ADVERTISED]",
        help="local address for media; may be repeated (default 127.0.0.1)",
    )
    parser.add_argument("--port-min", type=int, default=30000)
    parser.add_argument("--port-max", type=int, default=39999)
    parser.add_argument("--media-timeout", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--held-timeout", type=float, default=3600.0, metavar="SECONDS")
    parser.add_argument("--setup-timeout", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--preroll", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--learn", choices=("any", "host", "signalled"), default="any")
    parser.add_argument("--relearn", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--dscp", type=int, default=0, help="mark media with this code point (0..63; voice: 46)")
    parser.add_argument("--rtcp-mux", action="store_true", help="offer recorders RTCP on the RTP port (RFC 5761)")
    parser.add_argument("--max-calls", type=int, default=20_000)
    parser.add_argument(
        "--packet-loop",
        choices=("auto", "native", "python"),
        default="auto",
        help="auto: native if it was built and SIPREC_NATIVE is not 0",
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input ends")
    parser.add_argument("--heartbeat", type=int, metavar="DESCRIPTOR", help="shared memory that shows signs of life")
    parser.add_argument("--log-level", default="warning", choices=LEVELS)
    parser.add_argument("--log-format", default="text", choices=("text", "json"))
    found = parser.parse_args(arguments)
    options = RelayOptions(
        listen=found.listen_ng,
        interfaces=tuple(found.interface or (Interface("127.0.0.1"),)),
        ports=(found.port_min, found.port_max),
        timeouts=Timeouts(media=found.media_timeout, held=found.held_timeout, setup=found.setup_timeout),
        latching=Latching(learn=found.learn, relearn=found.relearn),
        preroll=found.preroll,
        max_calls=found.max_calls,
        packet_loop=found.packet_loop,
        dscp=found.dscp,
        rtcp_mux=found.rtcp_mux,
        secret=os.environ.pop(SECRET, ""),
        peers=tuple(found.peer),
    )
    return options, found


async def _serve(options: RelayOptions, *, exit_with_parent: bool, heartbeat: int | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:

        def parent() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                stop.set()

        os.set_blocking(0, False)
        loop.add_reader(0, parent)
    relay = await run_relay(options)
    if heartbeat is not None:
        relay.heartbeat(Heartbeat(heartbeat))
    host, port = relay.ng_address
    where = f"unix:{host}" if host.startswith("/") else f"{'[' + host + ']' if ':' in host else host}:{port}"
    print(f"{READY} ng={where} pid={os.getpid()} packet-loop={relay.packet_loop}", flush=True)
    await stop.wait()
    await relay.close()
    if exit_with_parent and host.startswith("/"):
        with contextlib.suppress(OSError):  # the parent's private directory: it may be gone without a word
            os.rmdir(os.path.dirname(host))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a relay until it is told to stop; the exit status."""
    options, found = parse_arguments(arguments)
    setup_logging(found.log_level, found.log_format)
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_serve(options, exit_with_parent=found.exit_with_parent, heartbeat=found.heartbeat))
    except (OSError, ValueError, ImportError) as error:
        print(f"siprec relay: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
