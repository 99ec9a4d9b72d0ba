"""A recording script as OpenSIPS users write it, carried over; docs/from-opensips.md tells it line by line.

Set ``script = "from_opensips.py"`` in siprec.toml, and ``media.use = "always"`` for the calls that are engaged by the
callee's answer: their media have to pass the media server from the first INVITE on.
"""

from __future__ import annotations

from siprec import Reply, Request

SRS = "sip:srs1.example.com:5090, sip:srs2.example.com:5090"
ARCHIVE = "sip:archive.example.com:5090"
PBX = "sip:pbx.example.com:5070"


async def on_invite(request: Request) -> None:
    """route{}: a new call to sales is recorded; everything goes to the PBX."""
    if request.user.startswith("sales"):
        request.siprec.group = "sales"
        request.siprec.headers = f"X-Customer: {request.header('X-Customer') or 'unknown'}\r\n"
        request.call.siprec_start_recording(SRS)
    request.forward(PBX)


async def reply(reply: Reply) -> None:
    """onreply_route{}: the callee's side asks for a second recording, an instance with settings of its own."""
    if reply.request.method == "INVITE" and reply.status == 200 and reply.header("X-Archive") == "yes":
        reply.siprec["archive"].session_custom_extension = '<case xmlns="urn:example:archive">open</case>'
        reply.call.siprec_start_recording(ARCHIVE, "archive")


async def in_dialog(request: Request) -> None:
    """loose_route(): DTMF star pauses, hash resumes; every digit is passed on to the SRS in an INFO of the RS."""
    if request.method != "INFO" or not request.has_call:
        return
    body = request.message.body
    if b"Signal=*" in body:
        request.call.siprec_pause_recording()
    elif b"Signal=#" in body:
        request.call.siprec_resume_recording()
    elif body:
        request.call.siprec_send_indialog("INFO", body=body, content_type=request.header("Content-Type") or "")
