"""The walk of `siprec srs-probe` through one recording session: the steps and their order."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from siprec import sdp
from siprec.cli.srs_probe_checks import check_contact
from siprec.cli.srs_probe_session import ProbeSession, Step, WalkEnded, said, succeeded
from siprec.metadata.diff import diff
from siprec.metadata.document import Document, ParticipantSessionAssoc, ParticipantStreamAssoc, Reason
from siprec.metadata.values import DISPOSITION, new_id
from siprec.metadata.write import write
from siprec.recording import srtp_sdp
from siprec.recording.rs_peer import description_of
from siprec.sdp import SdpError
from siprec.sip.errors import SipError
from siprec.sip.headers import SessionExpires
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import Part, build_multipart
from siprec.sip.uri import Uri
from siprec.sip.useragent import Result


class Walk:
    """The steps. `media_seconds`: how long media flow before the first change; `rtcp_timeout`: how long to wait for
    receiver reports at the end. `notes` are for the reader, no verdicts."""

    def __init__(self, session: ProbeSession, *, media_seconds: float, rtcp_timeout: float) -> None:
        self.session = session
        self.findings = session.findings
        self.notes: list[str] = []
        self._media_seconds = media_seconds
        self._rtcp_timeout = rtcp_timeout

    async def run(self, *, provoke: bool) -> None:
        """All steps but the end of the dialog: :meth:`ProbeSession.end` has to follow, whatever happens here.

        Raises:
            WalkEnded: there is no session, or it is gone.
        """
        await self._options()
        await self._start()
        await self.session.sleep(self._media_seconds)
        await self._pause()
        await self._resume()
        await self._hold()
        await self._unchanged()
        await self._offerless()
        if provoke:
            await self._provoke()
        await self._await_reports()
        await self._last_metadata()

    async def _options(self) -> None:
        self.findings.step = "OPTIONS"
        session, profile = self.session, self.session.profile
        target = Uri.parse(session.dialog.server)
        if profile.transport and not target.transport:
            target = target.replace(params={**target.params, "transport": profile.transport})
        done: asyncio.Future[Result] = session.loop.create_future()
        began = session.loop.time()

        def finished(result: Result) -> None:
            if not done.done():
                done.set_result(result)

        session.agent.request(SipRequest("OPTIONS", target.text), target, finished)
        await asyncio.wait({done}, timeout=session.timeout)
        result = done.result() if done.done() else "timeout"
        session.steps.append(Step("OPTIONS", "OPTIONS", said(result), session.loop.time() - began))
        if isinstance(result, SipResponse) and succeeded(result):
            known = ", ".join(sorted(result.tokens("accept"))) or "unsaid"
            self.notes.append(f"OPTIONS: Accept {known}; Allow {result.get('allow') or 'unsaid'}")

    async def _start(self) -> None:
        findings, session = self.findings, self.session
        findings.step = "start"
        try:
            status, reason, body = await session.invite()
        except WalkEnded as error:
            findings.check("SRS-01", False, f"{error}; nothing else could be seen")
            raise
        response = session.dialog.first
        if response is None:
            findings.check("SRS-01", False, f"INVITE: {status} {reason}; nothing else could be seen")
            if session.srtp and status in srtp_sdp.DECLINED:
                findings.check("SEC-06", False, f"{status} {reason}")
            if status == 415:
                findings.check("SRS-12", False, f"415 to multipart/mixed with {session.dialog.metadata_type}")
            raise WalkEnded(f"the SRS did not take the recording: {status} {reason}")
        findings.check("SRS-01", True, "", "taken; whether others are refused was not tried")
        check_contact(findings, response)
        session.rules.answer(response, sdp.parse(body.sdp))
        if status != 200:
            findings.check("SRS-10", False, reason)
            raise WalkEnded(reason)
        findings.check("SRS-12", True, "", "multipart/mixed with SDP and metadata")
        findings.check("SRS-13", True, "", session.dialog.metadata_type)
        answer = description_of(response)
        taken = session.description.accepted(answer) if answer is not None else 0
        findings.check("SRS-10", taken >= 2, f"{taken} of 2 audio streams taken", "both taken")
        if session.srtp:
            declined = answer is None or session.description.declined(answer)
            findings.check("SEC-06", not declined, "no stream answered as SRTP with a key that fits", session.suites)
        else:
            findings.unseen("SEC-06", "not tried (--srtp)")
        if session.dialog.needs_sdp:
            findings.check("SRS-15", False, f"Allow lacks UPDATE: {response.get('allow')}")
        self._session_timer(response)

    def _session_timer(self, response: SipResponse) -> None:
        value, asked = response.get("session-expires"), self.session.profile.session_expires
        if value is None:
            self.findings.unseen("UAC-13", "the SRS wants no session timer")
            return
        try:
            agreed = SessionExpires.parse(value)
        except SipError:
            self.findings.check("UAC-13", False, f"Session-Expires: {value}")
            return
        self.findings.check("UAC-13", bool(agreed.refresher), "Session-Expires without refresher (RFC 4028 9)")
        fits = not asked or agreed.interval <= asked
        fine = f"{agreed.interval} s, refreshed by the {agreed.refresher}"
        self.findings.check("UAC-13", fits, f"asked for {asked} s, got {agreed.interval}", fine)

    async def _control(self, name: str) -> None:
        result = await self.session.reinvite(name, control=True)
        if not succeeded(result):
            self.findings.check("CTL-01", False, f"re-INVITE: {said(result)}")

    async def _pause(self) -> None:
        session = self.session
        self.findings.step = "pause"
        session.paused = True
        for stream in session.streams:
            stream.hold()
        await self._control("pause")
        since = session.loop.time()
        # A pause that surely has a report in it would take 7 seconds: longer than most want to wait.
        await session.sleep(min(self._media_seconds, 3.0))
        seen = sum(report.at > since + 0.1 for stream in session.streams for report in stream.result.reports)
        if seen:
            self.findings.check("CTL-05", True, "", f"{seen} RTCP packets during the pause")
        else:
            self.findings.unseen("CTL-05", "no RTCP in so short a pause, which is no fault")

    async def _resume(self) -> None:
        self.findings.step = "resume"
        self.session.paused = False
        await self._control("resume")
        await self.session.sleep(min(self._media_seconds, 1.0))

    async def _hold(self) -> None:
        """The callee puts the caller on hold, and takes it back: partial metadata without SDP (RFC 7866 7.1.1.1,
        9.1)."""
        caller, callee = self.session.state.stream_assocs
        self.findings.step = "hold"
        held = replace(self.session.state, stream_assocs=(replace(caller, send=()), replace(callee, recv=())))
        await self._tell("hold", held)
        self.findings.step = "unhold"
        await self._tell("unhold", replace(held, stream_assocs=(caller, callee)))

    async def _tell(self, name: str, now: Document) -> None:
        change = diff(self.session.state, now)
        assert change is not None
        self.session.state = now
        await self.session.update(name, change)

    async def _unchanged(self) -> None:
        """A session refresh: what was said last once more, octet by octet (RFC 3264 8)."""
        self.findings.step = "unchanged"
        result = await self.session.reinvite("unchanged")
        if not succeeded(result):
            self.findings.check("SDP-08", False, f"re-INVITE with unchanged SDP: {said(result)}")

    async def _offerless(self) -> None:
        """A re-INVITE with metadata alone: the SRS has to offer, the answer goes in the ACK (RFC 3261 14.1)."""
        self.findings.step = "offerless"
        session, findings = self.session, self.findings
        await session.sleep(0)  # the SRS may have hung up meanwhile
        call = session.dialog.call
        if call is None:
            raise WalkEnded("the session is gone")
        done: asyncio.Future[Result] = session.loop.create_future()

        def finished(result: Result) -> None:
            offer = description_of(result) if isinstance(result, SipResponse) and succeeded(result) else None
            if offer is not None:
                answer = b""  # an offer without our m-lines is judged below
                try:
                    answer = session.description.answer(offer)
                    session.follow(offer)
                except SdpError:
                    pass
                call.ack(answer)
            if not done.done():
                done.set_result(result)

        document = write(session.state)
        part = Part.make(session.dialog.metadata_type, document, disposition=DISPOSITION)
        content_type, octets = build_multipart([part])
        began = session.loop.time()
        call.reinvite(octets, content_type, [("Require", "siprec"), ("MIME-Version", "1.0")], finished)
        result = await session.within(done, "offerless", "INVITE", began)
        if not isinstance(result, SipResponse) or not succeeded(result):
            findings.check("META-18", False, f"re-INVITE without offer: {said(result)}")
            return
        check_contact(findings, result)
        offer = session.rules.description(result)
        findings.check("META-18", offer is not None, f"{result.status} without an offer", "offer in the 200")
        if offer is not None:
            session.rules.offer(offer, len(session.description.slots))

    async def _provoke(self) -> None:
        """A partial update about somebody never described: an SRS asks for a snapshot, or lets it pass."""
        self.findings.step = "provoke"
        session = self.session
        stranger, known = new_id(), session.state.sessions[0].id
        joins = ParticipantSessionAssoc(stranger, known, session.agent.clock.wall())
        hears = ParticipantStreamAssoc(stranger, recv=(new_id(),))
        before = session.snapshots
        result = await session.update(
            "provoke", Document("partial", participant_assocs=(joins,), stream_assocs=(hears,))
        )
        self.findings.check("SRS-18", succeeded(result), f"metadata with an unknown id: {said(result)}", "taken")
        end = session.loop.time() + min(session.timeout, 5.0)
        while session.snapshots == before and session.loop.time() < end:
            await session.sleep(0.05)
        if session.snapshots == before:
            self.findings.unseen("META-11", "not asked for, although provoked")

    async def _await_reports(self) -> None:
        """Both streams reported on, or as long as RFC 3550 gives an SRS for that, and some."""
        session = self.session
        end = session.loop.time() + self._rtcp_timeout
        active = [stream for stream in session.streams if stream.rtcp_target is not None]
        while session.loop.time() < end and not all(stream.result.last_block for stream in active):
            await session.sleep(0.1)

    async def _last_metadata(self) -> None:
        self.findings.step = "end"
        wall = self.session.agent.clock.wall()
        await self._tell("end", self.session.state.stopped(wall, (Reason(16, "Q.850", "probe finished"),)))
