"""Handlers of the routes that change something: recordings, media servers, draining, configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from siprec.api import model
from siprec.api.context import ConfigProblem
from siprec.api.operation import Answer, Asked
from siprec.api.problem import Problem
from siprec.api.query_handlers import media

if TYPE_CHECKING:
    from siprec.api.app import Api


async def start(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StartRecording)
    return await api.commands.start(asked.body)


async def pause(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StopRecording)
    return await api.commands.pause(asked.body)


async def resume(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StopRecording)
    return await api.commands.resume(asked.body)


async def stop(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StopRecording)
    return await api.commands.stop(asked.body)


async def send_indialog(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.SendIndialog)
    return await api.commands.send_indialog(asked.body)


async def set_media(api: Api, asked: Asked) -> Answer:
    body = asked.body
    assert isinstance(body, model.MediaRequest)
    member = api.context.media.pool.named(body.name)
    if member is None:
        known = ", ".join(each.name for each in api.context.media.pool)
        raise Problem(404, f"no media server {body.name[:64]!r}; known: {known}")
    member.draining = body.draining
    logging.getLogger(__name__).warning("media server %s %s", member.name, "drains" if body.draining else "takes calls")
    return await media(api, asked)


def _drain_state(api: Api) -> model.Drain:
    drain = api.context.core.drain
    return model.Drain(draining=drain.draining, calls=len(api.context.core.calls), refused=drain.refused)


async def drain(api: Api, asked: Asked) -> Answer:
    return _drain_state(api)


async def set_drain(api: Api, asked: Asked) -> Answer:
    body = asked.body
    assert isinstance(body, model.DrainRequest)
    api.context.core.drain.draining = body.draining
    api.context.core.drain.retry_after = body.retry_after
    return _drain_state(api)


async def reload(api: Api, asked: Asked) -> Answer:
    reload = api.context.reload
    if reload is None:
        raise Problem(409, "this process has no configuration file")
    body = asked.body
    assert isinstance(body, model.ReloadRequest)
    try:
        result = reload(body.force)
    except ConfigProblem as problem:
        raise Problem(409, str(problem)) from None
    return model.Reload(changed=list(result.changed), restart=list(result.restart))
