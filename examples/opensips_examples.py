"""The eight examples of the OpenSIPS module's documentation, carried over. docs/from-opensips.md names them one by one.

Here the user part of the Request-URI chooses the example; a script of yours has one of them.
"""

from __future__ import annotations

from siprec import Request

SRS = "sip:127.0.0.1"
SECOND = "sip:127.0.0.1;transport=TCP"
PBX = "sip:pbx.example.com"


async def on_invite(request: Request) -> None:
    """route{}: a new call."""
    if request.user in EXAMPLES:
        EXAMPLES[request.user](request)
    request.forward(PBX)


def skip_failover_codes(request: Request) -> None:
    """Example 1.1: ``skip_failover_codes = "408|487"`` in siprec.toml, in place of ``modparam("siprec", ...)``."""
    request.call.siprec_start_recording(f"{SRS}, {SECOND}")


def single_srs(request: Request) -> None:
    """Example 1.2."""
    request.call.siprec_start_recording(SRS)


def multiple_srs(request: Request) -> None:
    """Example 1.3."""
    request.call.siprec_start_recording(f"{SRS}, {SECOND}", "inbound")


def participant(request: Request) -> None:
    """Example 1.4."""
    request.siprec.caller = '<nameID aor="sip:6024151234@10.0.0.11:5090"><name>test</name></nameID>'
    request.call.siprec_start_recording(SRS)


def headers(request: Request) -> None:
    """Example 1.5."""
    request.siprec.headers = "X-MY-CUSTOM_HDR: 1\r\n"
    request.call.siprec_start_recording(SRS)


def extensions(request: Request) -> None:
    """Example 1.6. The extension of the group needs a group, here as there."""
    request.siprec.group = "agents"
    request.siprec.group_custom_extension = "<callcenterID> 17</callcenterID>"
    request.siprec.session_custom_extension = "<callcenterCode>dfgh3q45gsdfty5</callcenterCode>"
    request.call.siprec_start_recording(SRS)


EXAMPLES = {
    "skip_failover_codes": skip_failover_codes,
    "single_srs": single_srs,
    "multiple_srs": multiple_srs,
    "participant": participant,
    "headers": headers,
    "extensions": extensions,
    "pause": single_srs,
}


async def in_dialog(request: Request) -> None:
    """Examples 1.7 and 1.8: a request with a To tag."""
    if request.method == "INVITE":
        if request.is_audio_on_hold():
            request.call.siprec_pause_recording()
        else:
            request.call.siprec_resume_recording()
