"""``siprec serve``: the proxy with its recording client as a process, and the embedded relay as its child."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
from pathlib import Path

from siprec.api.call_counters import CallCounters
from siprec.api.context import ApiContext, ConfigProblem
from siprec.api.hold_history import HoldHistory
from siprec.api.server import ApiServer
from siprec.logs import setup_logging
from siprec.net.address import is_local_address, is_wildcard, local_addresses
from siprec.net.resolver import Resolver
from siprec.net.tcp import StreamLimits
from siprec.net.timers import TimerWheel
from siprec.net.tls import TlsSettings
from siprec.net.transport import SocketTransport
from siprec.proxy.authentication import Authentication
from siprec.proxy.core import ProxyCore
from siprec.proxy.guard import Guard
from siprec.proxy.hang_up import HangUp
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.registrar import Registrar
from siprec.proxy.routes import Rules
from siprec.proxy.script import Script, ScriptError
from siprec.recording.call_recording import CallRecording
from siprec.recording.events import (
    EventDispatcher,
)
from siprec.recording.proof_collector import ProofCollector
from siprec.recording.script_events import ScriptEvents
from siprec.recording.service import RecordingService
from siprec.recording.settings import SiprecVariable
from siprec.recording.srs_initiated import is_request
from siprec.server.config import Config
from siprec.server.config_check import log_warnings
from siprec.server.config_file import ConfigError
from siprec.server.garbage import FullCollections
from siprec.server.headroom import MOST, Headroom, RelayPorts, descriptors, most_connections
from siprec.server.media_lost_policy import MediaLostPolicy
from siprec.server.media_supervisor import MediaSupervisor
from siprec.server.process import announce, contact_uri, state_directory
from siprec.server.process_events import ProcessEvents, log_event
from siprec.server.prooflog import ProofLog
from siprec.server.proxy_options import own_uri, proxy_options
from siprec.server.reload import Reloaded, compare, merged, read, recording_changes, refusal
from siprec.server.trace_links import TraceLinks
from siprec.server.tracing import open_tap
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Params, Uri
from siprec.sip.useragent import UserAgent
from siprec.sip.users import secrets_of

log = logging.getLogger(__name__)


class ProxyProcess:
    """Everything ``siprec serve`` is made of, wired together.

    Raises:
        ValueError: from the constructor, the configuration contradicts itself.
    """

    def __init__(self, config: Config, script: Script | None = None, file: Path | None = None) -> None:
        self.config = config
        self.file = file
        self.loop = asyncio.get_running_loop()
        self.clock = TimerWheel(self.loop)
        sip = config.sip
        secret = config.secret.encode() or secrets.token_bytes(32)
        tls = TlsSettings(
            certificate=sip.tls_certificate,
            private_key=sip.tls_key,
            ca_file=sip.tls_ca,
            verify_client="required" if sip.tls_verify_clients else "none",
        )
        most = most_connections(sip.max_connections, descriptors()[1] or MOST)
        limits = StreamLimits(max_connections=most, max_per_source=sip.max_connections_per_source)
        self.transport = SocketTransport(tls=tls, limits=limits)
        self.resolver = Resolver(self.clock, nameservers=(sip.nameserver,) if sip.nameserver else ())
        self.tap = open_tap(config.trace)
        if self.tap is not None:
            self.transport.trace = self.tap.sip
        self.identity = LocalDomain([], sip.domains)
        self.events = EventDispatcher()
        self.events.subscribe(log_event)
        self.collections: FullCollections | None = None
        self.process_events = ProcessEvents(self.clock, self.events)
        self.media = MediaSupervisor(
            self.clock,
            config,
            lambda server, reason: self.care.lost(server, reason),
            silent=lambda server, reason: self.care.silent(server, reason),
            returned=lambda server: self.care.returned(server),
            health=self.process_events.media_health,
        )
        self.media.on_source = self.process_events.media_source
        registrar = config.registrar
        self.authentication = Authentication(
            self.clock,
            config.realm,
            secrets_of(registrar.users),
            algorithms=registrar.algorithms,
            legacy_agents=registrar.legacy_agents,
        )
        self.registrar = (
            Registrar(
                self.clock,
                self.identity,
                min_expires=registrar.min_expires,
                max_expires=registrar.max_expires,
                default_expires=registrar.default_expires,
                max_contacts=registrar.max_contacts,
                authentication=self.authentication,
                allow_foreign_contacts=registrar.allow_foreign_contacts,
                max_per_source=registrar.max_per_source,
            )
            if registrar.enabled
            else None
        )
        self.core = ProxyCore(
            self.clock,
            self.identity,
            self.resolver.resolve,
            registrar=self.registrar,
            rules=Rules(config.route),
            script=script,
            pick_media=lambda call: self.media.pool.pick(call.media_set),
            settings=SiprecVariable,
            authentication=self.authentication,
            options=proxy_options(config, secret),
        )
        self.core.on_limit = self.process_events.limit_reached
        self.process_events.counters = self.core.counters
        self.core.media.on_trouble = self.media.trouble
        self.media.carry(self.core.media.load)
        self.care = MediaLostPolicy(self.core, config.media.on_lost, self.media.is_embedded)
        self.layer = TransactionLayer(self.clock, self.transport, self.core)
        self.layer.resolve = self.resolver.resolve
        self.agent = UserAgent(
            self.clock,
            self.layer,
            self.resolver.resolve,
            contact=lambda hop: contact_uri(self.transport, hop, "siprec"),
            user_agent=sip.user_agent,
            extensions=("siprec",),
            race=self.transport.race,
        )
        self.recording = RecordingService(
            self.clock,
            self.agent,
            profiles=config.recording,
            events=self.events,
            from_uri=own_uri(config),
            group_secret=secret,
            hang_up=HangUp(self.core),
            signalled=self.core.midcall.changed,
            skip_failover_codes=config.skip_failover_codes,
        )
        self.proof_log: ProofLog | None = None
        # The proofs ask the media server anyway: once is enough.
        proving = config.proof.enabled and file is not None
        ScriptEvents(self.recording, lambda: self.core.script, self._script_failed)
        self.holds = HoldHistory(self.clock)
        self.transport.accepted.is_known = lambda host: self.core.is_trusted(Hop("tcp", host, 0))
        self.headroom = Headroom(
            self.clock,
            {
                "file descriptors": descriptors,
                "stream connections": lambda: (self.transport.connections, self.transport.limits.max_connections),
                "relay port pairs": RelayPorts(self.media.pool),
            },
            self.process_events.resources,
        )
        self.calls = CallCounters(config.api.count_packets and not proving)
        if config.api.listen:
            self.core.observers.add(self.calls)
            self.core.observers.add(self.holds)
        self.proofs = self._prove()
        ring = self.tap.ring if self.tap is not None else None
        if self.tap is not None and ring is not None:
            self.media.traced = lambda server: server.traced(ring.media)
            self.core.observers.add(self.tap)
            self.events.subscribe(ring.event)
            self.recording.context.observers.append(TraceLinks(ring))
        self.core.observers.add(self.recording)
        self.core.recorder = self.recording
        self.core.indicator = self.recording.indications
        self.core.attach(self.layer, self.agent)
        requests = self.recording.answer_srs(config.srs_requests, self.core.calls.values)
        self.agent.accept = lambda request: is_request(request) and self.identity.serves(request.ruri)
        self.agent.on_invite = requests.take
        self.guard = Guard(self.clock, self._is_known, is_in_call=self._is_in_call)
        # One place for what is counted, as the metrics show it.
        self.guard.counters = self.authentication.throttle.counters = self.core.counters
        if self.registrar is not None:
            self.registrar.counters = self.core.counters
        self._set_guard(config)
        self.transport.on_closed = self.recording.context.watch.connection_closed
        self.api = ApiServer(self._api_context(), config.api) if config.api.listen else None

    def _prove(self) -> ProofCollector | None:
        """Proof of recording, where there is a place for it."""
        wanted = self.config.proof
        if not wanted.enabled or self.file is None:
            return None
        self.proof_log = ProofLog(state_directory(self.file) / wanted.directory, wanted.keep_days)

        def active(dlg_id: str, instance: str) -> CallRecording | None:
            recorder = self.recording.recorder(dlg_id)
            return recorder.recordings.get(instance) if recorder is not None else None

        proofs = ProofCollector(self.clock, self.proof_log.write, self.core.calls.get, active, self.calls.counted)
        self.core.observers.add(proofs)
        self.events.subscribe(proofs.event)
        self.recording.context.observers.append(proofs)
        return proofs

    def _api_context(self) -> ApiContext:
        return ApiContext(
            self.clock,
            self.core,
            self.layer,
            self.agent,
            self.transport,
            self.recording,
            self.events,
            self.media,
            self.registrar,
            self.calls,
            timers=lambda: self.clock.pending,
            reload=self._reload_for_api,
            proofs=self._proof_counts,
            proof_error=lambda: self.proof_log.error if self.proof_log is not None else None,
            headroom=self.headroom.shares,
            proof_needed=self.config.proof.on_failure == "not-ready",
            tap=self.tap,
            holds=self.holds,
        )

    async def start(self) -> None:
        """Start the media, then listen.

        Raises:
            OSError, ValueError, RelayFailed: it cannot be done; the text says why.
        """
        if self.proof_log is not None:
            await asyncio.to_thread(self.proof_log.probe)
        await self.media.start()
        await self.transport.listen(self.config.sip.listen, advertise=self.config.sip.advertise)
        for listener in self.transport.listeners:
            address = listener.address
            hosts = local_addresses(address.family) if is_wildcard(address.host) else [address.host]
            for host in hosts:
                self.identity.add(address.transport, host, address.port)
            if is_wildcard(address.host):
                self.identity.listens_everywhere(address.transport, address.port, is_local_address)
            name, port = listener.advertise
            if name:
                self.identity.add(address.transport, name, port or address.port)
                self._add_advertised(address.transport, name, port or address.port)
        self.recording.open()
        self.collections = FullCollections(self.clock, lambda: self.core.calls)
        if self.api is not None:
            await self.api.start()
        self.loop.add_signal_handler(signal.SIGUSR1, self._report)

    def _add_advertised(self, transport: str, name: str, port: int) -> None:
        """The addresses of an advertised name are ours too, e.g. that of the NAT in front of us."""

        def found(result: list[Hop] | SipError) -> None:
            for hop in [] if isinstance(result, SipError) else result:
                self.identity.add(transport, hop.host, hop.port)

        secure = transport == "tls"
        params: Params = {} if secure else {"transport": transport}
        self.resolver.resolve(Uri("sips" if secure else "sip", None, name, port, params), found)

    async def stop(self) -> None:
        """End recordings and close everything."""
        self.loop.remove_signal_handler(signal.SIGUSR1)
        self.headroom.close()
        if self.collections is not None:
            self.collections.close()
        self.recording.close()
        self.recording.stop_all()
        # The last metadata and the BYEs to the SRSs get a moment; who does not answer gets its BYE all the same.
        if not await self._calm(2.0):
            self.recording.hurry()
            await self._calm(2.0)
        await self._hand_over(3.0)
        if self.api is not None:
            await self.api.stop()
        await self.transport.close()
        await self.resolver.close()
        await self.media.stop()
        if self.proofs is not None and self.proof_log is not None:
            self.proofs.close()
            await asyncio.to_thread(self.proof_log.close)
        if self.tap is not None:
            self.tap.close()
        self.clock.close()

    async def _hand_over(self, seconds: float) -> None:
        """The embedded relay ends with us: the parties of calls through it are told each other's addresses. Media at
        other servers flow on; the next start looks after what is left there."""
        if not self.care.leave():
            return
        for _ in range(round(seconds / 0.05)):
            if not self.core.midcall.pending():
                return
            await asyncio.sleep(0.05)
        log.warning("%d parties could not be told that the relay ends", self.core.midcall.pending())

    async def _calm(self, seconds: float) -> bool:
        """Wait until no recording session is left, but not longer than that."""
        for _ in range(round(seconds / 0.05)):
            if not self.agent.counts()["calls"]:
                return True
            await asyncio.sleep(0.05)
        return False

    def reload(self, force: bool = False) -> Reloaded:
        """Read configuration and script again; calls and recordings that exist go on as they began.

        Args:
            force: take also a file that has none of the routes and profiles in use.

        Raises:
            ConfigError, ScriptError: they cannot be used; everything stays as it was. Logged.
        """
        try:
            new, script = read(self.file)
            result = compare(self.config, new)
            mistake = "" if force else refusal(self.config, new)
            if mistake:
                raise ConfigError(mistake)
            changes = recording_changes(self.config, new)
            self._apply(new, script)
        except (ConfigError, ScriptError, ValueError, OSError) as error:
            log.error("the configuration stays as it is: %s", error)
            raise error if isinstance(error, ConfigError | ScriptError) else ConfigError(str(error)) from None
        log.info("configuration read again: %s", result)
        for change in changes:
            log.warning("what is recorded changes: %s", change)
        log_warnings(new, self.file, but="recorder.")
        return result

    def _proof_counts(self) -> dict[str, int]:
        if self.proofs is None or self.proof_log is None:
            return {}
        return {
            **{str(verdict): number for verdict, number in self.proofs.verdicts.items()},
            "lost": self.proof_log.lost,
        }

    def _reload_for_api(self, force: bool) -> Reloaded:
        try:
            return self.reload(force)
        except (ConfigError, ScriptError) as error:
            raise ConfigProblem(str(error)) from None

    def _apply(self, new: Config, script: Script | None) -> None:
        rules = Rules(new.route)
        if self.api is not None:
            self.api.check_tokens(new.api.tokens)
        # From here on only the certificates can fail, and then each stays as it was.
        self.recording.set_profiles(new.recording, new.skip_failover_codes)
        if self.recording.requested is not None:
            self.recording.requested.settings = new.srs_requests
        self.core.reconfigure(proxy_options(new), rules, script)
        self._set_guard(new)
        self.care.policy = new.media.on_lost
        if new.media_server != self.config.media_server:
            self.media.apply(new)
        self.identity.set_domains(new.sip.domains)
        limits = new.registrar
        self.authentication.reconfigure(secrets_of(limits.users), limits.algorithms, limits.legacy_agents)
        if self.registrar is not None:
            self.registrar.reconfigure(
                min_expires=limits.min_expires,
                max_expires=limits.max_expires,
                default_expires=limits.default_expires,
                max_contacts=limits.max_contacts,
                allow_foreign_contacts=limits.allow_foreign_contacts,
                max_per_source=limits.max_per_source,
            )
        if self.api is not None:
            self.api.set_tokens(new.api.tokens)
        if new.log != self.config.log:  # else levels that were set through the API stay
            setup_logging(new.log.level, new.log.format, new.log.levels)
        self.config = merged(self.config, new)
        self.transport.refresh_tls()
        if self.api is not None:
            self.api.refresh_tls()

    def _script_failed(self, error: Exception) -> None:
        self.core.counters["script_errors"] += 1

    def _set_guard(self, config: Config) -> None:
        """Messages pass the guard, or go straight to the transactions."""
        sip, layer, guard = config.sip, self.layer, self.guard
        guard.configure(sip.guard_agents, sip.guard_refusals, sip.guard_ban)
        layer.on_response = guard.answered if sip.guard else None
        self.transport.on_message = guard.before(layer.receive) if sip.guard else layer.receive
        malformed = layer.receive_malformed
        self.transport.on_malformed = guard.before_malformed(malformed) if sip.guard else malformed

    def _is_known(self, host: str) -> bool:
        """Whether the guard lets an address alone."""
        return (
            self.core.is_trusted(Hop("udp", host, 0))
            or self.core.rules.names(host)
            or (self.registrar is not None and self.registrar.has_contacts_of(host))
        )

    def _is_in_call(self, request: SipRequest) -> bool:
        """Whether a request belongs to a call that is, or was not long ago."""
        try:
            return self.core.dialogs.knows(request.call_id)
        except SipError:
            return False

    def counts(self) -> dict[str, object]:
        """What is alive in this process: for leak checks."""
        return {
            "transactions": self.layer.counts(),
            "proxy": self.core.counts(),
            "agent": self.agent.counts(),
            "recordings": self.recording.counts(),
            "timers": self.clock.pending,
            "tasks": len(asyncio.all_tasks()),
            "file_descriptors": len(os.listdir("/proc/self/fd")),
        }

    def _report(self) -> None:
        announce(json.dumps(self.counts()))
