"""Routes that tell and change log levels."""

from __future__ import annotations

import logging
from typing import Any, Final

from siprec import logs
from siprec.api import model
from siprec.api.operation import Answer, Asked, Operation
from siprec.api.problem import Problem


async def _log_level(api: Any, asked: Asked) -> Answer:
    level, own = logs.levels()
    return model.LogLevels(level=level, levels=dict(own))


async def _set_log_level(api: Any, asked: Asked) -> Answer:
    body = asked.body
    assert isinstance(body, model.LogLevel)
    if body.level == "inherit" and not body.logger:
        raise Problem(422, "logger: there is none above the root")
    logs.set_level(body.logger, "" if body.level == "inherit" else body.level)
    logging.getLogger(__name__).warning("log level of %s is %s now", body.logger or "root", body.level)
    return await _log_level(api, asked)


LOGS: Final = (
    Operation("GET", "/log-level", "read", "The log levels.", _log_level, model.LogLevels),
    Operation(
        "PUT", "/log-level", "control", "Change a log level.", _set_log_level, model.LogLevels, body=model.LogLevel
    ),
)
