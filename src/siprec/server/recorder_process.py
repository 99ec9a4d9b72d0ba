"""``siprec recorder``: the session recording server as a process."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from siprec.logs import setup_logging
from siprec.net.resolver import Resolver
from siprec.net.tcp import StreamLimits
from siprec.net.timers import TimerWheel
from siprec.net.tls import TlsSettings
from siprec.net.transport import SocketTransport
from siprec.recorder.acceptance import EXTENSION, Acceptance
from siprec.recorder.client_access import Admission
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.server import ACCEPT, HANDOVER, RecorderServer, Watching
from siprec.recorder.settings import RecorderSettings
from siprec.recorder.srs_initiated import Invitations
from siprec.server.config import Config
from siprec.server.config_check import log_warnings, port_range
from siprec.server.config_file import ConfigError, load
from siprec.server.garbage import FullCollections
from siprec.server.headroom import MOST, Headroom, descriptors, most_connections
from siprec.server.notify import Notifier
from siprec.server.oserror_hints import why
from siprec.server.process import Signals, announce, contact_uri, run, state_directory
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Endpoint, UserAgent
from siprec.sip.users import secrets_of

log = logging.getLogger(__name__)

_RECOVERY: Final = 5.0
"""Seconds that the start waits for the library to be put right; after that it goes on beside the calls."""


def main(file: Path | None, invite: Sequence[str] = ()) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status. `invite`: recording clients to ask, as in the
    configuration."""
    try:
        config = load(file)
        setup_logging(config.log.level, config.log.format, config.log.levels)
        log_warnings(config, file, only="recorder.")
        clients = [Uri.parse(text) for text in (*config.recorder.invite, *invite)]
        return run(_main(config, state_directory(file), clients))
    except (ConfigError, OSError, ValueError, SipError) as error:
        print(f"siprec recorder: {why(error)}", file=sys.stderr)
        return 1


async def _main(config: Config, base: Path, clients: Sequence[Uri]) -> int:
    loop = asyncio.get_running_loop()
    settings = config.recorder
    library = RecorderLibrary(base / settings.directory)
    recovery = asyncio.create_task(asyncio.to_thread(_recover, library))
    # A large library takes its time, and a disk may hang: calls do not wait for that.
    await asyncio.wait({recovery}, timeout=_RECOVERY)
    clock = TimerWheel(loop)
    transport = SocketTransport(
        tls=TlsSettings(
            certificate=settings.tls_certificate,
            private_key=settings.tls_key,
            ca_file=settings.tls_ca,
            verify_client="required" if settings.tls_verify_clients else "none",
        ),
        limits=StreamLimits(max_connections=most_connections(StreamLimits().max_connections, descriptors()[1] or MOST)),
    )
    first, last = port_range(settings.ports)
    recorder = Recorder(
        library,
        PortPool(
            settings.address,
            first,
            last,
            quarantine=settings.port_quarantine,
            now=clock.now,
            call_later=clock.call_later,
        ),
        clock,
        loop,
        RecorderSettings(
            audio_format=settings.format,
            advertised=settings.advertise,
            max_sessions=settings.max_sessions,
            max_lines=settings.max_streams,
            srtp=settings.srtp,
            offerless_streams=settings.offerless_streams,
            max_sessions_per_client=settings.max_sessions_per_client,
            headers=settings.headers,
            min_free=settings.required_space,
            keep=frozenset(settings.keep),
            learn=settings.learn,
            relearn=settings.relearn,
        ),
    )
    endpoint = Endpoint()
    layer = TransactionLayer(clock, transport, endpoint)
    transport.on_message = layer.receive
    transport.on_malformed = layer.receive_malformed
    admission = Admission(
        clock,
        networks=settings.clients,
        names=settings.client_names,
        users=secrets_of(settings.users),
        realm=settings.realm,
        algorithms=settings.algorithms,
        legacy_agents=settings.legacy_agents,
        certificate=lambda hop: _certificate(transport, hop),
    )
    server = RecorderServer(
        recorder,
        acceptance=Acceptance(settings.accept, settings.clients),
        admission=admission,
        watching=Watching(settings.session_expires, settings.probe_silence, settings.max_duration),
    )
    resolver = Resolver(clock)
    layer.resolve = resolver.resolve
    endpoint.agent = UserAgent(
        clock,
        layer,
        resolver.resolve,
        contact=lambda hop: contact_uri(transport, hop, "recorder"),
        on_invite=server.take,
        prepare=server.acceptance.prepare,
        user_agent="siprec recorder",
        extensions=(EXTENSION,),
        race=transport.race,
        accept_types=ACCEPT,
    )
    headroom = Headroom(
        clock,
        {
            "file descriptors": descriptors,
            "stream connections": lambda: (transport.connections, transport.limits.max_connections),
            "recording sessions": lambda: (len(recorder.sessions), settings.max_sessions),
            "port pairs": lambda: (recorder.ports.open, recorder.ports.limit),
        },
    )
    collections = FullCollections(clock, lambda: recorder.sessions)
    notifier = Notifier()
    api = None
    if settings.api.listen:
        # Costs a web server: only where there is one.
        from siprec.api.recorder import RecorderApi
        from siprec.api.server import WebServer

        served = RecorderApi(
            recorder,
            settings.api,
            lambda: bool(transport.listeners) and not server.stopping,
            headroom.shares,
            lambda: {**layer.dropped, **transport.dropped},
        )
        api = WebServer(served, settings.api)
    try:
        await transport.listen(settings.listen)
        addresses = " ".join(str(listener.address) for listener in transport.listeners)
        if api is not None:
            await api.start()
            addresses = f"{addresses} {api.ready}"
        announce(f"siprec recorder: ready {addresses}")
        notifier.ready(addresses)
        notifier.keep_alive(clock)
        me = transport.listeners[0].address
        host = f"[{me.host}]" if ":" in me.host else me.host
        invitations = Invitations(server, endpoint.agent, NameAddr("", f"sip:recorder@{host}:{me.port}"))
        for client in clients:
            invitations.invite(client)
        with Signals(lambda: _renew(transport)) as signals:
            number = await signals.wait()
            invitations.close()
            if number == signal.SIGTERM and server.calls:
                await _planned_stop(server, config, notifier, signals)
        notifier.stopping("ending the recordings", 30.0)
        server.close()
        # The BYEs get a moment to be answered.
        for _ in range(20):
            if not endpoint.agent.counts()["calls"]:
                break
            await asyncio.sleep(0.1)
        await asyncio.to_thread(recorder.close)
        # Those of clients that have ended their sessions themselves are answered now.
        for _ in range(20):
            if not server.leaving:
                break
            await asyncio.sleep(0.1)
    finally:
        collections.close()
        headroom.close()
        notifier.close()
        if api is not None:
            await api.stop()
        await transport.close()
        await resolver.close()
        clock.close()
    return 0


def _recover(library: RecorderLibrary) -> None:
    for repaired in library.recover():
        log.warning("recording %s was interrupted; its files have been repaired", repaired.id)


async def _planned_stop(server: RecorderServer, config: Config, notifier: Notifier, signals: Signals) -> None:
    """SIGTERM: further sessions go elsewhere, and those under way as well, at once or after the drain limit."""
    over = asyncio.Event()
    server.stopping = True
    drain = config.service.drain if config.recorder.on_stop == "drain" else 0.0
    log.warning("stopping: %d recording sessions, %s", len(server.calls), config.recorder.on_stop)
    notifier.stopping(f"{config.recorder.on_stop} of {len(server.calls)} recording sessions", drain + HANDOVER + 30.0)
    second = asyncio.ensure_future(signals.wait())
    try:
        await asyncio.wait(
            {second, asyncio.ensure_future(_until_empty(server))},
            timeout=drain or 0.001,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not second.done() and server.calls:
            server.handover(over.set)
            await asyncio.wait({second, asyncio.ensure_future(over.wait())}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        second.cancel()


async def _until_empty(server: RecorderServer) -> None:
    while server.calls:  # noqa: ASYNC110 - many ends, one place that waits for them
        await asyncio.sleep(0.1)


def _certificate(transport: SocketTransport, hop: Hop) -> dict[str, Any]:
    """The verified certificate of who sent something, empty without one."""
    connection = transport.connection(hop.connection)
    return connection.peer_certificate() if connection is not None else {}


def _renew(transport: SocketTransport) -> None:
    """SIGHUP: a renewed certificate is used for the connections to come."""
    try:
        transport.refresh_tls()
        log.info("certificates read again")
    except OSError as error:
        log.error("the certificate stays as it was: %s", error)
