"""``siprec srs-probe``: call an SRS as an SRC would, and say which requirements it meets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from siprec.cli.srs_probe_checks import Findings
from siprec.cli.srs_probe_media import CODECS, ProbeStream, StreamResult
from siprec.cli.srs_probe_session import ProbeSession, WalkEnded
from siprec.cli.srs_probe_walk import Walk
from siprec.logs import setup_logging
from siprec.net.address import source_address
from siprec.net.resolver import Resolver
from siprec.net.timers import TimerWheel
from siprec.net.tls import TlsSettings
from siprec.net.transport import SocketTransport
from siprec.recorder.errors import RecorderError
from siprec.recorder.ports import PortPool
from siprec.recording.recording_profile import RecordingProfile
from siprec.server.process import contact_uri, run
from siprec.sip.errors import SipError
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Endpoint, UserAgent
from siprec.trace.ring import without_keys

_SECRET: Final = ("authorization:", "proxy-authorization:")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """What is asked of the probe; times in seconds. `limit` bounds the walk; `end_timeout` what comes
    after it: long enough for every SIP transaction to be over (RFC 3261 17: 64*T1 = 32 s)."""

    server: str
    transport: Literal["", "udp", "tcp", "tls"] = ""
    address: str = ""
    username: str = ""
    password: str = ""
    outbound_proxy: str = ""
    codecs: tuple[str, ...] = ("PCMU",)
    metadata_type: Literal["rs-metadata+xml", "rs-metadata"] = "rs-metadata+xml"
    session_expires: int = 1800
    timeout: float = 10.0
    media_seconds: float = 4.0
    rtcp_timeout: float = 12.0
    limit: float = 90.0
    end_timeout: float = 34.0
    provoke: bool = False
    srtp: bool = False
    tls: TlsSettings = field(default_factory=TlsSettings)


@dataclass(slots=True)
class Message:
    """One SIP message as it was on the wire; credentials and media keys are left out."""

    at: float
    direction: str
    hop: str
    text: str


@dataclass(slots=True)
class Outcome:
    """All that a probe saw. `ended` says why the walk was not finished (empty: it was)."""

    server: str
    call_id: str
    ended: str
    findings: Findings
    session: ProbeSession
    streams: list[StreamResult]
    notes: list[str]
    messages: list[Message]
    left: int = 0
    """Dialogs that could not be ended in time."""

    @property
    def good(self) -> bool:
        """The walk was finished and no MUST failed."""
        return not self.ended and self.findings.met

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "server": self.server,
            "call_id": self.call_id,
            "good": self.good,
            "ended": self.ended,
            "requirements": [
                {"id": r.id, "level": r.level, "requirement": r.text, "verdict": r.verdict, "why": r.why}
                for r in self.findings.rows()
            ],
            "observations": [asdict(finding) for finding in self.findings.all],
            "steps": [asdict(step) for step in self.session.steps],
            "streams": [_stream(stream) for stream in self.streams],
            "snapshots_asked": self.session.snapshots,
            "notes": self.notes,
        }


def _stream(stream: StreamResult) -> dict[str, Any]:
    block = stream.last_block
    return {
        "label": stream.label,
        "codec": stream.codec,
        "packets_sent": stream.sent,
        "packets_refused": stream.refused,
        "rtp_received": stream.rtp_received,
        "rtcp_received": len(stream.reports),
        "lost": block.lost if block else None,
        "jitter": block.jitter if block else None,
    }


class ProbeError(Exception):
    """The probe cannot begin: something on this side, or the target, is unusable."""


async def probe(
    options: ProbeOptions, stop: asyncio.Event | None = None, leave: asyncio.Event | None = None
) -> Outcome:
    """Walk through one recording session. `stop`, when set, ends it early, in order; `leave` also ends the wait for an
    SRS that does not answer BYE or CANCEL.

    Raises:
        ProbeError: no SIP URI, no address for it, no sockets here.
    """
    loop = asyncio.get_running_loop()
    try:
        target = Uri.parse(options.server)
        profile = RecordingProfile(
            srs=[options.server],
            # The walk has its own time-out, since it wants to see how a CANCEL is answered.
            setup_timeout=min(options.timeout + 60, 180.0),
            profile="rfc" if options.metadata_type == "rs-metadata+xml" else "legacy-metadata-type",
            transport=options.transport,
            outbound_proxy=options.outbound_proxy,
            username=options.username,
            password=options.password,
            session_expires=options.session_expires,
        )
    except (SipError, ValueError) as error:
        raise ProbeError(str(error)) from None
    if unknown := [name for name in options.codecs if name not in CODECS]:
        raise ProbeError(f"codec {unknown[0]} is not known; there are {', '.join(CODECS)}")
    clock = TimerWheel(loop)
    resolver = Resolver(clock)
    transport = SocketTransport(tls=options.tls)
    messages: list[Message] = []
    began = time.time()

    def trace(direction: str, hop: Hop, octets: bytes) -> None:
        messages.append(Message(time.time() - began, direction, str(hop), _printable(octets)))

    transport.trace = trace
    try:
        next_uri = Uri.parse(options.outbound_proxy) if options.outbound_proxy else target
        address = options.address or await _local_address(resolver, next_uri)
        bracketed = f"[{address}]" if ":" in address else address
        listen = [f"udp:{bracketed}:0", f"tcp:{bracketed}:0"]
        if options.tls.certificate:
            listen.append(f"tls:{bracketed}:0")
        await transport.listen(listen)
        endpoint = Endpoint()
        layer = TransactionLayer(clock, transport, endpoint)
        transport.on_message, transport.on_malformed = layer.receive, layer.receive_malformed
        agent = endpoint.agent = UserAgent(
            clock,
            layer,
            resolver.resolve,
            contact=lambda hop: contact_uri(transport, hop, "siprec-probe"),
            user_agent="siprec srs-probe",
        )
        with _streams(loop, address, options.codecs, options.srtp) as streams:
            findings = Findings()
            session = ProbeSession(
                agent,
                options.server,
                profile,
                f"sip:siprec-probe@{bracketed}",
                streams,
                findings,
                timeout=options.timeout,
            )
            walk = Walk(session, media_seconds=options.media_seconds, rtcp_timeout=options.rtcp_timeout)
            ended = await _walk(walk, session, options, stop or asyncio.Event(), leave or asyncio.Event())
            _judge_media(findings, streams, complete=not ended)
        if any(message.hop.startswith("tls:") and message.direction == "in" for message in messages):
            findings.check("SEC-01", True, "", "the walk went over TLS")
        left = agent.counts()["calls"]
        results = [stream.result for stream in streams]
        return Outcome(
            options.server, session.dialog.call_id, ended, findings, session, results, walk.notes, messages, left
        )
    except (OSError, ValueError, RecorderError) as error:
        raise ProbeError(str(error)) from None
    finally:
        await transport.close()
        await resolver.close()
        clock.close()


async def _local_address(resolver: Resolver, target: Uri) -> str:
    found: asyncio.Future[list[Hop] | SipError] = asyncio.get_running_loop().create_future()

    def resolved(result: list[Hop] | SipError) -> None:
        if not found.done():
            found.set_result(result)

    resolver.resolve(target, resolved)
    try:
        result = await asyncio.wait_for(found, 20.0)
    except TimeoutError:
        raise ProbeError(f"{target.host}: no answer from the name servers") from None
    if isinstance(result, SipError) or not result:
        raise ProbeError(f"{target.host}: {result.reason if isinstance(result, SipError) else 'no address'}")
    address = source_address(result[0].host)
    if not address:
        raise ProbeError(f"no way to {result[0].host}")
    return address


@contextlib.contextmanager
def _streams(
    loop: asyncio.AbstractEventLoop, address: str, codecs: tuple[str, ...], srtp: bool
) -> Iterator[list[ProbeStream]]:
    pool = PortPool(address)
    with contextlib.ExitStack() as opened:
        streams = [ProbeStream(loop, pool, 0, codecs, srtp)]
        opened.callback(streams[0].close)
        streams.append(ProbeStream(loop, pool, 1, codecs, srtp))
        opened.callback(streams[1].close)
        yield streams


async def _walk(
    walk: Walk, session: ProbeSession, options: ProbeOptions, stop: asyncio.Event, leave: asyncio.Event
) -> str:
    """The walk and its end; returns why it was cut short, or nothing. No way out of here leaves the dialog alone."""
    walking = asyncio.ensure_future(walk.run(provoke=options.provoke))
    stopping = asyncio.ensure_future(stop.wait())
    ended = ""
    try:
        await asyncio.wait({walking, stopping}, timeout=options.limit, return_when=asyncio.FIRST_COMPLETED)
        if not walking.done():
            ended = "interrupted" if stopping.done() else f"not through within {options.limit:g} s"
    finally:
        for task in (walking, stopping):
            task.cancel()
        outcome = (await asyncio.gather(walking, stopping, return_exceptions=True))[0]
        await session.end(options.end_timeout, leave)
    if isinstance(outcome, WalkEnded):
        return ended or str(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return ended


def _judge_media(findings: Findings, streams: list[ProbeStream], *, complete: bool) -> None:
    findings.step = "media"
    for stream in streams:
        result, where = stream.result, f"stream {stream.result.label}"
        if stream.rtcp_target is None:
            findings.unseen("MEDIA-01", f"{where}: not taken")
            continue
        reported = any(report.block is not None for report in result.reports)
        if reported:
            findings.check("MEDIA-01", True, "", "both streams are reported on")
        elif not complete:
            findings.unseen("MEDIA-01", f"{where}: the walk ended too early")
        elif result.reports:
            findings.check("MEDIA-01", False, f"{where}: RTCP without a report on our SSRC")
        else:
            findings.check("MEDIA-01", False, f"{where}: no RTCP at all, {result.sent} packets sent")
        if result.reports:
            strange = {report.source for report in result.reports} - {stream.rtcp_target}
            why = f"{where}: from {_ports(strange)} instead of {stream.rtcp_target[1]}"
            findings.check("MEDIA-02", not strange, why, "from the port of the answer")
        if result.cnames:
            findings.check("MEDIA-03", stream.ssrc not in result.cnames, f"{where}: uses our SSRC", "not ours")
            names = [name for name in result.cnames.values() if "@" in name]
            findings.check("MEDIA-05", not names, f"{where}: {_clean(''.join(names[:1]))[:60]}", "no address in it")


def _ports(sources: set[tuple[str, int]]) -> str:
    return ", ".join(sorted(f"{host}:{port}" for host, port in sources))


def _printable(octets: bytes) -> str:
    lines = without_keys(octets).decode("utf-8", "replace").split("\r\n")
    hidden = [f"{line.split(':')[0]}: (not shown)" if line.lower().startswith(_SECRET) else line for line in lines]
    return "\n".join(hidden)


def _clean(text: str) -> str:
    """What an SRS said goes to a terminal: no control characters."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def report(console: Console, outcome: Outcome, *, trace: bool) -> None:
    """Tables for people."""
    if trace:
        for message in outcome.messages:
            arrow = "<--" if message.direction == "in" else "-->"
            head = f"{arrow} {message.at:.3f} s {message.hop}"
            console.print(head, style="bold", highlight=False, markup=False, soft_wrap=True)
            console.print(_clean(message.text), highlight=False, markup=False, soft_wrap=True)
    console.print(f"SRS {outcome.server}, Call-ID {outcome.call_id}", highlight=False, markup=False, soft_wrap=True)
    steps = Table(box=None, pad_edge=False)
    for title in ("step", "request", "result"):
        steps.add_column(title)
    steps.add_column("ms", justify="right")
    for step in outcome.session.steps:
        steps.add_row(step.name, step.request, escape(_clean(step.result)), f"{step.seconds * 1000:.0f}")
    console.print(steps)
    console.print()
    media = Table(box=None, pad_edge=False)
    for title in ("stream", "codec", "sent", "RTCP seen", "lost", "jitter"):
        media.add_column(title, justify="left" if title in ("stream", "codec") else "right")
    for stream in outcome.streams:
        block = stream.last_block
        figures = (str(block.lost), str(block.jitter)) if block else ("-", "-")
        media.add_row(stream.label, stream.codec or "-", str(stream.sent), str(len(stream.reports)), *figures)
    console.print(media)
    console.print()
    rows = Table(box=None, pad_edge=False)
    for title in ("id", "level", "verdict", "requirement, and why"):
        rows.add_column(title, no_wrap=not title.startswith("req"))
    colours = {"pass": "green", "fail": "red", "not seen": "dim"}
    for row in outcome.findings.rows():
        text = f"{row.text}{': ' if row.why else ''}{_clean(row.why)}"
        colour = colours[row.verdict]
        rows.add_row(row.id, row.level, f"[{colour}]{row.verdict}[/{colour}]", escape(text))
    console.print(rows)
    for note in outcome.notes:
        console.print(_clean(note), highlight=False, markup=False, soft_wrap=True)
    if outcome.ended:
        console.print(f"not finished: {_clean(outcome.ended)}", style="red", highlight=False, markup=False)
    if outcome.left:
        console.print("the SRS did not answer our BYE or CANCEL", style="red")


def main(options: ProbeOptions, *, trace: bool = False, as_json: bool = False) -> int:
    """Run the probe and print; returns the exit status: 0, 1 (a MUST failed, or not finished), 2 (could not begin),
    130 (interrupted)."""
    setup_logging("error")

    async def run_probe() -> int:
        stop, leave = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def stopped() -> None:
            if stop.is_set():
                leave.set()
                return
            stop.set()
            print("siprec srs-probe: ending the session; once more not to wait for the SRS", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped)
        outcome = await probe(options, stop, leave)
        if as_json:
            document = outcome.document()
            if trace:
                document["trace"] = [asdict(message) for message in outcome.messages]
            print(json.dumps(document, indent=2))
        else:
            report(Console(), outcome, trace=trace)
        return 130 if stop.is_set() else 0 if outcome.good else 1

    try:
        return run(run_probe())
    except ProbeError as error:
        print(f"siprec srs-probe: {error}", file=sys.stderr)
        return 2
