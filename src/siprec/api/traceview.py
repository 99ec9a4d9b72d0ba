"""The ladder of one call over HTTP."""

from __future__ import annotations

from typing import Literal

from starlette.responses import Response

from siprec.api import model
from siprec.api.context import ApiContext
from siprec.api.problem import Problem
from siprec.trace import ladder, pcap

Form = Literal["json", "text", "full", "pcap"]


def answer(context: ApiContext, name: str, form: Form) -> model.Trace | Response:
    """The messages of the call with this dialog id or Call-ID, in the form asked for.

    Raises:
        Problem: 404, nothing is kept of it, or nothing is kept at all.
    """
    ring = context.tap.ring if context.tap is not None else None
    if ring is None:
        raise Problem(404, "no messages are kept (trace.megabytes = 0)")
    call = context.core.calls.get(name)
    call_id = ring.find(call.call_id if call is not None else name)
    if not call_id:
        raise Problem(404, "nothing is kept of such a call")
    steps = ring.steps(call_id)
    if form == "pcap":
        headers = {"Content-Disposition": 'attachment; filename="call.pcap"', "Cache-Control": "no-store"}
        octets = pcap.export(step for _, step in steps)
        return Response(octets, headers=headers, media_type="application/vnd.tcpdump.pcap")
    found = ladder.build(call_id, steps)
    if form != "json":
        text = ladder.draw(found, bodies=form == "full")
        return Response(text, headers={"Cache-Control": "no-store"}, media_type="text/plain; charset=utf-8")
    return model.Trace(
        call_id=call_id,
        places=list(found.places),
        steps=[
            model.TraceStep(
                time=rung.time,
                source=rung.source,
                target=rung.target,
                title=rung.title,
                kind=rung.kind,
                call_id=rung.call_id,
                text=rung.text,
            )
            for rung in found.rungs
        ],
        dropped=ring.dropped(call_id),
    )
