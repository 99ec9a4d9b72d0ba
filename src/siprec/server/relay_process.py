"""``siprec relay``: the media relay as a process of its own, for our proxy or any other that speaks ``ng``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from siprec.logs import setup_logging
from siprec.net.timers import TimerWheel
from siprec.relay.access import check_access
from siprec.relay.heartbeat import STILL, Heartbeat, Pulse
from siprec.relay.learning import Latching
from siprec.relay.ports import parse_interface
from siprec.relay.process import PRIVATE, RelayOptions, run_relay
from siprec.relay.server import Timeouts
from siprec.server.config import Config
from siprec.server.config_check import ng_listen, port_range
from siprec.server.config_file import ConfigError, load
from siprec.server.headroom import Headroom, descriptors
from siprec.server.notify import Notifier
from siprec.server.oserror_hints import why
from siprec.server.process import announce, run, wait_for_signal


def relay_options(config: Config, *, embedded: bool = False) -> RelayOptions:
    """``[relay]`` as the relay wants it; `embedded`: as a child that listens on a private UNIX socket.

    Raises:
        ConfigError: ports or interfaces make no sense, or others could reach it and nothing says who may.
    """
    relay = config.relay
    try:
        listen = PRIVATE if embedded else ng_listen(relay.listen)
        if not embedded:
            check_access(listen[0], relay.secret, relay.peers)
        interfaces = tuple(parse_interface(text) for text in relay.interfaces)
    except ValueError as error:
        raise ConfigError(f"relay: {error}") from None
    return RelayOptions(
        listen=listen,
        interfaces=interfaces,
        ports=port_range(relay.ports),
        timeouts=Timeouts(media=relay.media_timeout, held=relay.held_timeout, setup=relay.setup_timeout),
        latching=Latching(learn=relay.learn, relearn=relay.relearn),
        preroll=relay.preroll,
        max_calls=relay.max_calls,
        packet_loop=relay.packet_loop,
        dscp=relay.dscp,
        rtcp_mux=relay.rtcp_mux,
        secret="" if embedded else relay.secret,
        peers=() if embedded else relay.peers,
    )


def main(file: Path | None) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    try:
        config = load(file)
        setup_logging(config.log.level, config.log.format, config.log.levels)
        return run(_main(relay_options(config)))
    except (ConfigError, OSError, ValueError, ImportError) as error:
        print(f"siprec relay: {why(error)}", file=sys.stderr)
        return 1


async def _main(options: RelayOptions) -> int:
    relay = await run_relay(options)
    clock = TimerWheel(asyncio.get_running_loop())
    notifier = Notifier()
    pool = relay.relay.plane.pool
    headroom = Headroom(
        clock,
        {
            "file descriptors": descriptors,
            "relay port pairs": lambda: (pool.in_use, pool.capacity * len(pool.interfaces)),
            "relay calls": lambda: (len(relay.relay.calls), options.max_calls),
        },
    )
    host, port = relay.ng_address
    where = f"unix:{host}" if host.startswith("/") else f"udp:{f'[{host}]' if ':' in host else host}:{port}"
    announce(f"siprec relay: ready {where} packet-loop={relay.packet_loop}")
    notifier.ready(where)
    heartbeat, pulse = Heartbeat(), Pulse()
    relay.heartbeat(heartbeat)
    notifier.keep_alive(clock, lambda: clock.now() - pulse.last(clock.now(), heartbeat.beats) < STILL)
    try:
        await wait_for_signal()
    finally:
        notifier.close()
        headroom.close()
        clock.close()
        await relay.close()
        heartbeat.close()
    return 0
