"""A routing script: what rules in the configuration cannot say is said here.

Set ``script = "route.py"`` in siprec.toml. Rules ([[route]]) come first; this sees what none of them has decided.
"""

from __future__ import annotations

from siprec import Reply, Request

QUEUE = ["sip:agent1@10.0.0.11", "sip:agent2@10.0.0.12"]
VOICEMAIL = "sip:voicemail@10.0.0.20"


async def on_invite(request: Request) -> None:
    """New calls."""
    if request.user.startswith("900"):
        request.reply(403, "Premium numbers are barred")
    elif request.user == "sales":
        # All agents ring at once; the recording goes to an SRS of its own.
        request.siprec.group = "sales"
        request.call.record("default")
        request.fork(QUEUE)
    elif request.domain == "pbx.example.com":
        request.call.record("default")
        request.forward("sip:10.0.0.1:5070")
    else:
        request.forward_to_registered()


async def request(request: Request) -> None:
    """Everything else outside a dialog: registrations go to the registrar, the rest to registered phones."""
    request.forward_to_registered()


async def in_dialog(request: Request) -> None:
    """Requests within a call; they are routed by themselves. Here: a phone's INFO pauses and resumes the recording."""
    if request.method == "INFO" and request.has_call:
        wish = request.header("X-Recording")
        if wish == "pause":
            request.call.siprec_pause_recording()
        elif wish == "resume":
            request.call.siprec_resume_recording()


async def reply(reply: Reply) -> None:
    """Responses: nobody at home means voicemail."""
    if reply.request.method == "INVITE" and reply.status in (408, 480, 486):
        reply.forward(VOICEMAIL)
