"""Commands: the functions of the reference, on calls chosen by dialog id, Call-ID or user."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from siprec.api import model
from siprec.api.context import ApiContext
from siprec.api.paging import in_slices
from siprec.api.problem import Problem
from siprec.api.queries import call_fits
from siprec.proxy.call import Call
from siprec.recording.recording_commands import check_indialog
from siprec.recording.settings import RecordingSettings, SettingError, check_srs
from siprec.sip.message import SipResponse

MAX_MATCHES: Final = 1000
"""More calls than that are not steered in one request."""

Do = Callable[[Call], "bool | str"]
"""Whether it was done, or why it was not (an empty text: it was)."""


class Commands:
    """Carries out requests. Each method raises :class:`Problem`: 404 no call fits, 409 nothing could be done, 422 a
    request that makes no sense."""

    def __init__(self, context: ApiContext) -> None:
        self.context = context
        self.service = context.recording

    async def start(self, request: model.StartRecording) -> model.Outcomes:
        """``siprec_start_recording``; without `srs` as the profile of that name says."""
        try:
            if request.srs:
                check_srs(request.srs)
            settings = RecordingSettings(**request.settings)
        except SettingError as error:
            raise Problem(422, str(error)) from None
        if not request.srs:
            profile = self.service.profiles.get(request.instance)
            if profile is None:
                known = ", ".join(sorted(self.service.profiles)) or "none"
                raise Problem(422, f"srs: needed, as there is no profile {request.instance!r} (profiles: {known})")
        given = settings if request.settings else None

        def start(call: Call) -> str:
            call.wants(request.instance, "api")
            return self.service.start(
                call, request.srs, request.instance, given, request.start, at_once=bool(request.srs)
            )

        return await self._each(request, start)

    async def pause(self, request: model.StopRecording) -> model.Outcomes:
        """``siprec_pause_recording``."""
        do, by = self.service.siprec_pause_recording, _by(request)
        return await self._each(request, lambda call: do(call, request.instance, by))

    async def resume(self, request: model.StopRecording) -> model.Outcomes:
        """``siprec_resume_recording``."""
        do, by = self.service.siprec_resume_recording, _by(request)
        return await self._each(request, lambda call: do(call, request.instance, by))

    async def stop(self, request: model.StopRecording) -> model.Outcomes:
        """``siprec_stop_recording``."""
        do, by = self.service.siprec_stop_recording, _by(request)
        return await self._each(request, lambda call: do(call, request.instance, by))

    async def send_indialog(self, request: model.SendIndialog) -> model.Outcomes:
        """``siprec_send_indialog``; the answers are waited for."""
        try:
            check_indialog("INFO", list(request.headers.items()), request.content_type)
        except SettingError as error:
            raise Problem(422, str(error)) from None
        calls = await self._calls(request)
        return self._checked(list(await asyncio.gather(*(self._send(call, request) for call in calls))), request)

    def _send(self, call: Call, request: model.SendIndialog) -> Awaitable[model.Outcome]:
        answer: asyncio.Future[SipResponse | str] = asyncio.get_running_loop().create_future()

        def done(result: SipResponse | str) -> None:
            if not answer.done():
                answer.set_result(result)

        sent = self.service.siprec_send_indialog(
            call,
            request.method,
            list(request.headers.items()),
            request.body,
            request.content_type,
            request.instance,
            done,
        )
        return self._answered(self._outcome(call, request.instance, sent), answer, request.timeout)

    async def _answered(
        self, outcome: model.Outcome, answer: asyncio.Future[SipResponse | str], limit: float
    ) -> model.Outcome:
        if not outcome.done:
            outcome.reason = "no recording session, or not a request that may be sent"
            return outcome
        try:
            async with asyncio.timeout(limit):
                result = await answer
        except TimeoutError:
            outcome.reason = "no answer yet"
            return outcome
        if isinstance(result, str):
            outcome.status, outcome.reason = 0, result
        else:
            outcome.status, outcome.reason = result.status, result.reason
        return outcome

    async def _calls(self, selection: model.Selection) -> list[Call]:
        if not (selection.dlg_id or selection.call_id or selection.user or selection.all):
            raise Problem(422, "which calls? Give dlg_id, call_id, user, or all=true")
        calls = self.context.core.calls
        if selection.dlg_id:
            call = calls.get(selection.dlg_id)
            candidates = [call] if call is not None else []
        else:
            candidates = list(calls.values())
        found = [
            call
            async for call in in_slices(candidates)
            if call_fits(call, call_id=selection.call_id, user=selection.user)
        ]
        if not found:
            raise Problem(404, "no call fits")
        if len(found) > MAX_MATCHES:
            raise Problem(422, f"{len(found)} calls fit, more than {MAX_MATCHES}: narrow it down")
        return found

    async def _each(self, selection: model.Selection, do: Do) -> model.Outcomes:
        results = []
        async for call in in_slices(await self._calls(selection)):
            done = do(call)
            why = done if isinstance(done, str) else ""
            results.append(self._outcome(call, selection.instance, not why if isinstance(done, str) else done, why))
        return self._checked(results, selection)

    def _checked(self, results: list[model.Outcome], selection: model.Selection) -> model.Outcomes:
        if not any(result.done for result in results):
            states = sorted({": ".join(filter(None, (r.state or "not recorded", r.reason))) for r in results})
            raise Problem(409, f"not possible for instance {selection.instance!r}: {', '.join(states)}")
        return model.Outcomes(results=results)

    def _outcome(self, call: Call, instance: str, done: bool, reason: str = "") -> model.Outcome:
        recorder = self.context.recorder(call.dlg_id)
        recording = recorder.recordings.get(instance) if recorder is not None else None
        return model.Outcome(
            dlg_id=call.dlg_id,
            call_id=call.call_id,
            instance=instance,
            done=done,
            state=recording.state if recording is not None else "",
            reason=reason,
        )


def _by(request: model.StopRecording) -> str:
    return f"api: {request.by}" if request.by else "api"
