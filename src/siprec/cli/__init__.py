"""The ``siprec`` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

import siprec
from siprec.cli import client_commands, client_service

app = App(
    name="siprec",
    help="SIP call recording (SIPREC): proxy, recording client, media relay and recorder.",
    version=siprec.__version__,
)
config_app = App(name="config", help="Look at the configuration.")
app.command(config_app)
client_commands.register(app)
client_service.register(app)

ConfigFile = Annotated[Path | None, Parameter(name=["--config", "-c"], help="Configuration file (TOML).")]


@app.command
def serve(*, config: ConfigFile = None) -> int:
    """Run the proxy: route calls, have them recorded."""
    from siprec.server.serve import main as run_proxy

    return run_proxy(config)


@app.command
def recorder(*, config: ConfigFile = None, invite: list[str] | None = None) -> int:
    """Run the session recording server (SRS).

    Parameters
    ----------
    invite
        SIP URI of a recording client to ask for its calls (may be given again): sip:HOST for all of them,
        sip:USER@DOMAIN for those of a user, sip:CALL-ID@HOST for one.
    """
    from siprec.server.recorder_process import main as run_recorder

    return run_recorder(config, invite or ())


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


@app.command(name="srs-probe")
def srs_probe(
    uri: str,
    *,
    transport: Literal["", "udp", "tcp", "tls"] = "",
    address: str = "",
    username: str = "",
    password: Annotated[str, Parameter(env_var="SIPREC_PROBE_PASSWORD")] = "",
    outbound_proxy: str = "",
    codecs: str = "PCMU",
    metadata_type: Literal["rs-metadata+xml", "rs-metadata"] = "rs-metadata+xml",
    session_expires: int = 1800,
    timeout: float = 10.0,
    media_seconds: float = 4.0,
    rtcp_timeout: float = 12.0,
    limit: float = 90.0,
    provoke: bool = False,
    srtp: bool = False,
    ca_file: str = "",
    certificate: str = "",
    private_key: str = "",
    verify: bool = True,
    trace: bool = False,
    json: bool = False,
) -> int:
    """Call an SRS as a recording client would, and say which requirements of RFC 7866 and 7865 it meets.

    Places one recording session with two streams of real RTP: OPTIONS, start, pause, resume, hold, re-INVITE with and
    without SDP, last metadata, BYE. Exit status: 0 no MUST failed, 1 one did or the walk was cut short, 2 it could not
    begin, 130 interrupted. Whatever happens, the session is ended.

    Args:
        uri: SIP or SIPS URI of the SRS.
        transport: Transport where the URI names none.
        address: Own IP address; default: the one the system would use.
        username: For digest authentication (401, 407).
        password: Likewise; better given in the environment than here.
        outbound_proxy: SIP URI that everything goes to first.
        codecs: Offered, separated by commas: PCMU, PCMA, G722, L16, opus.
        metadata_type: Subtype of the metadata; rs-metadata is that of the first RFC 7866.
        session_expires: Session timer asked for, in seconds; 0: none.
        timeout: Seconds the SRS may take for an answer.
        media_seconds: Seconds of media before the first change.
        rtcp_timeout: Seconds to wait at the end for receiver reports that have not come yet.
        limit: Seconds for all of it.
        provoke: Also send metadata that refer to somebody unknown: an SRS may ask for a snapshot then.
        srtp: Offer SRTP with keys in the SDP, and nothing else.
        ca_file: PEM file of trusted issuers (TLS); default: the system's.
        certificate: PEM file with a client certificate.
        private_key: PEM file with its key, where that is another file.
        verify: Check the certificate of the SRS.
        trace: Print all SIP messages (credentials left out).
        json: Print JSON.
    """
    from siprec.cli.srs_probe import ProbeOptions
    from siprec.cli.srs_probe import main as run_probe
    from siprec.net.tls import TlsSettings

    options = ProbeOptions(
        server=uri,
        transport=transport,
        address=address,
        username=username,
        password=password,
        outbound_proxy=outbound_proxy,
        codecs=tuple(name.strip() for name in codecs.split(",") if name.strip()),
        metadata_type=metadata_type,
        session_expires=session_expires,
        timeout=timeout,
        media_seconds=media_seconds,
        rtcp_timeout=rtcp_timeout,
        limit=limit,
        provoke=provoke,
        srtp=srtp,
        tls=TlsSettings(certificate=certificate, private_key=private_key, ca_file=ca_file, verify_server=verify),
    )
    return run_probe(options, trace=trace, as_json=json)


@config_app.command(name="check")
def config_check(file: Path) -> int:
    """Check a configuration file; exit status 0 if it can be used."""
    from siprec.proxy.script import ScriptError, load_script
    from siprec.server.config_check import warnings
    from siprec.server.config_file import ConfigError, load

    try:
        config = load(file)
        if config.script:
            load_script(file.parent / config.script)
    except (ConfigError, ScriptError) as error:
        print(error, file=sys.stderr)
        return 1
    found = list(warnings(config, file))
    for key, reason in found:
        print(f"{file}: warning: {key}: {reason}", file=sys.stderr)
    warned = f"can be used, with {len(found)} warning{'s' * (len(found) > 1)}"
    print(f"{file}: {warned if found else 'fine'}")
    return 0


@config_app.command(name="example")
def config_example() -> int:
    """Print a complete configuration: every key with its meaning and default, and a small system that works."""
    from siprec.server.config_example import example

    print(example(), end="")
    return 0


@app.command
def completion(shell: Literal["bash", "zsh", "fish"]) -> int:
    """Print what makes a shell complete the commands and options of siprec.

    bash: siprec completion bash > ~/.local/share/bash-completion/completions/siprec

    zsh: siprec completion zsh > "${fpath[1]}/_siprec"

    fish: siprec completion fish > ~/.config/fish/completions/siprec.fish
    """
    print(app.generate_completion(shell=shell), end="")
    return 0


@app.command
def vcon(recording: Path, *, output: Path | None = None, streams: bool = False) -> int:
    """Export a finished recording as a vCon (draft-ietf-vcon-vcon-core), audio and metadata in one JSON document.

    Args:
        recording: Directory of the recording (the one with recording.json).
        output: File to write; default: standard output.
        streams: The audio of each participant by itself, instead of the stereo mix.
    """
    from siprec.cli.vcon import main as run_vcon

    return run_vcon(recording, output, streams=streams)


@app.command
def audit(
    directory: Path = Path("proof"),
    *,
    since: str = "24h",
    until: str = "",
    call_id: str = "",
    strict: bool = False,
    json: bool = False,
) -> int:
    """List calls that were not, or not wholly, recorded, and why; from the proofs that `siprec serve` writes.

    Exit status: 0 all were recorded, 1 not all or not wholly, 2 there are no proofs, or they cannot be read.
    Recordings that the SRS did not confirm are listed and counted; with --strict the status is 1 for them too.

    Args:
        directory: Where the proofs are ([proof] directory).
        since: Calls answered since then: a span such as 24h or 7d, a date, or a time (UTC).
        until: The same, for the end of the period.
        call_id: Only the call with this Call-ID.
        strict: Count what the SRS did not confirm as not recorded.
        json: Print JSON.
    """
    from siprec.cli.audit import main as run_audit

    return run_audit(directory, since, until, as_json=json, strict=strict, call_id=call_id)


def main() -> None:
    """Entry point of the command."""
    result = app()
    sys.exit(result if isinstance(result, int) else 0)
