"""Queries: calls, recordings and servers of a process as the values of :mod:`siprec.api.model`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from siprec.api import model
from siprec.api.context import ApiContext
from siprec.api.journal import Journal
from siprec.api.paging import Key
from siprec.media.engine import ForkStatistics, MediaError, MediaSession, MediaStatistics
from siprec.proxy.call import Call
from siprec.recording.call_recording import CallRecording
from siprec.recording.srtp_sdp import is_secure
from siprec.sip.addresses import numeric
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr

QUERY_LIMIT: Final = 1.0
"""Seconds that a media server may take to tell its counters."""
MAX_QUERIES: Final = 50


def call_fits(call: Call, *, dlg_id: str = "", call_id: str = "", user: str = "", state: str = "") -> bool:
    """Whether a call fits everything that is given."""
    return (
        (not dlg_id or call.dlg_id == dlg_id)
        and (not call_id or call.call_id == call_id)
        and (not state or call.state == state)
        and (not user or _is(call.caller, user) or _is(call.callee, user))
    )


def _is(party: NameAddr, user: str) -> bool:
    try:
        uri = party.uri
        if "@" in user:
            name, _, host = user.lower().rpartition("@")
            return (uri.user or "").lower() == name and (numeric(uri.host) or uri.host) == (numeric(host) or host)
        return (uri.user or "") == user
    except SipError:
        return False


def call_key(call: Call) -> Key:
    """Oldest first."""
    return call.start_wall, call.dlg_id, ""


class Queries:
    """Makes values of calls, recordings and servers."""

    def __init__(self, context: ApiContext, journal: Journal) -> None:
        self.context = context
        self.journal = journal

    def call(self, call: Call) -> model.Call:
        """A call."""
        return model.Call(**_call_fields(call))

    async def call_detail(self, call: Call, statistics: bool) -> model.CallDetail:
        """A call with its recordings."""
        recorder = self.context.recorder(call.dlg_id)
        active = list(recorder.recordings.values()) if recorder is not None else []
        holds = self.context.holds.of(call.dlg_id) if self.context.holds is not None else []
        found = await self.recordings(active, statistics)
        known = {each.instance for each in found}
        wanted = dict.fromkeys((*call.recordings, *(call.wanted_by or ())))
        found += [self._gone(call, name) for name in wanted if name not in known]
        return model.CallDetail(**_call_fields(call), recording=found, holds=holds, why=_why(found))

    def _gone(self, call: Call, instance: str) -> model.Recording:
        """A recording that ended, or never began."""
        entry = self.journal.entry(call.dlg_id, instance)
        last = entry.attempts[-1] if entry.attempts else None
        if last is not None and last.result == "ended":
            why = f"ended: {last.status or ''} {last.reason}".replace("  ", " ").rstrip()
        else:
            why = entry.last_error or ("not begun: the call is not answered" if call.state == "early" else "not begun")
        return model.Recording(
            dlg_id=call.dlg_id,
            call_id=call.call_id,
            instance=instance,
            state="ended" if entry.attempts or entry.last_error else "idle",
            server=last.server if last is not None else "",
            servers=[],
            rs_call_id="",
            session_id="",
            caller=call.caller.uri_text,
            callee=call.callee.uri_text,
            rebuilds=0,
            attempts=list(entry.attempts),
            pauses=list(entry.pauses),
            streams=[],
            last_error=entry.last_error,
            wanted_by=(call.wanted_by or {}).get(instance, ""),
            why=why,
        )

    async def recordings(self, active: Sequence[CallRecording], statistics: bool) -> list[model.Recording]:
        """Recordings, with the media server's counters if `statistics`: one question per call, all at once."""
        answers: dict[str, MediaStatistics | MediaError] = {}
        if statistics:
            calls = {recording.call.dlg_id: recording for recording in active}
            asked = list(calls)[:MAX_QUERIES]
            got = await asyncio.gather(*(self._query(calls[dlg_id]) for dlg_id in asked))
            answers = dict(zip(asked, got, strict=True))
            left = MediaError(f"not asked: more than {MAX_QUERIES} calls")
            answers |= {dlg_id: left for dlg_id in calls if dlg_id not in answers}
        return [self._recording(each, answers.get(each.call.dlg_id)) for each in active]

    async def _query(self, recording: CallRecording) -> MediaStatistics | MediaError:
        media, session = recording.call.media, recording.call.media_session
        if media is None or not isinstance(session, MediaSession):
            return MediaError("the call's media pass through no media server")
        answer: asyncio.Future[MediaStatistics | MediaError] = asyncio.get_running_loop().create_future()

        def done(result: MediaStatistics | MediaError) -> None:
            if not answer.done():
                answer.set_result(result)

        media.query(session, done)
        try:
            async with asyncio.timeout(QUERY_LIMIT):
                return await answer
        except TimeoutError:
            return MediaError("no reply in time", timeout=True, server=media.name)

    def _recording(self, recording: CallRecording, answer: MediaStatistics | MediaError | None) -> model.Recording:
        call = recording.call
        entry = self.journal.entry(call.dlg_id, recording.instance)
        statistics = answer if isinstance(answer, MediaStatistics) else None
        return model.Recording(
            dlg_id=call.dlg_id,
            call_id=call.call_id,
            instance=recording.instance,
            state=recording.state,  # type: ignore[arg-type]
            server=recording.server,
            servers=list(recording.targets),
            rs_call_id=recording.rs_call_id,
            session_id=recording.metadata.session_id,
            caller=call.caller.uri_text,
            callee=call.callee.uri_text,
            rebuilds=recording.machine.rebuilds,
            attempts=list(entry.attempts),
            pauses=list(entry.pauses),
            streams=self._streams(recording, statistics),
            last_error=entry.last_error,
            wanted_by=(call.wanted_by or {}).get(recording.instance, ""),
            why=""
            if recording.state in ("active", "paused")
            else f"{recording.state}: {entry.last_error}".rstrip(": "),
            statistics_error=str(answer) if isinstance(answer, MediaError) else "",
        )

    def _streams(self, recording: CallRecording, statistics: MediaStatistics | None) -> list[model.Stream]:
        subscription, labels = self.context.subscription(recording)
        if subscription is None:
            return []
        legs = recording.metadata.tags()
        forks = {
            (fork.from_tag, fork.source_index): fork
            for fork in (statistics.forks if statistics is not None else ())
            if fork.tag == subscription.tag
        }
        found = []
        for stream in subscription.streams:
            key = (stream.from_tag, stream.source_index)
            leg = legs.get(stream.from_tag)
            if leg is None:
                continue
            fork = forks.get(key)
            found.append(
                model.Stream(
                    label=labels.get(key, ""),
                    stream_id=recording.metadata.stream_id(leg, stream.source_index),
                    party=leg,
                    kind=stream.kind,
                    codecs=[" ".join(value.split()[1:]) for value in stream.section.attributes("rtpmap") if value],
                    srtp=is_secure(stream.section),
                    counters=_fork(fork) if fork is not None else None,
                )
            )
        return found

    def srs(self) -> list[model.Srs]:
        """Every SRS that is configured or was used."""
        active: dict[str, int] = {}
        for recording in self.context.recordings():
            if recording.state in ("active", "paused"):
                active[recording.server] = active.get(recording.server, 0) + 1
        profiles: dict[str, list[str]] = {}
        for name, profile in self.context.recording.profiles.items():
            for uri in profile.targets:
                profiles.setdefault(uri, []).append(name)
        found = []
        for uri in [*profiles, *(uri for uri in self.journal.servers if uri not in profiles)]:
            health = self.journal.servers.get(uri)
            entry = model.Srs(
                uri=uri,
                state="unknown",
                active=active.get(uri, 0),
                established=0,
                failed=0,
                profiles=profiles.get(uri, []),
            )
            if health is not None:
                entry.state = health.state  # type: ignore[assignment]
                entry.established, entry.failed = health.established, health.failed
                entry.last_established, entry.last_failure = health.last_established, health.last_failure
                entry.status, entry.reason = health.status, health.reason
            found.append(entry)
        return found


def _why(recordings: Sequence[model.Recording]) -> str:
    if not recordings:
        return "no route, script or request asks for a recording"
    if any(not each.why for each in recordings):
        return ""
    return "; ".join(f"{each.instance}: {each.why}" for each in recordings)


def _call_fields(call: Call) -> dict[str, Any]:
    snapshot = call.snapshot()
    return {name: snapshot[name] for name in model.Call.__struct_fields__}


def _fork(fork: ForkStatistics) -> model.Fork:
    return model.Fork(
        packets=fork.packets,
        octets=fork.octets,
        withheld=fork.withheld,
        dropped=dict(fork.dropped),
        paused=fork.paused,
        receiver_reports=fork.rtcp_received,
        lost_reported=fork.lost_reported,
        jitter_reported=fork.jitter_reported,
        last_report=fork.last_report or None,
        endpoint=f"{fork.endpoint[0]}:{fork.endpoint[1]}" if fork.endpoint is not None else "",
    )
