"""The recording session of `siprec srs-probe`: what an SRC does in it, with every message of the SRS looked at.

The SRC's own parts do the work: `RsDialog` the dialog, `RecordingSdp` the offers, `siprec.metadata` the
documents. What comes back goes to `AnswerRules`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from siprec import sdp
from siprec.cli.srs_probe_checks import AnswerRules, Findings, check_contact, check_request
from siprec.cli.srs_probe_media import ProbeStream
from siprec.media.engine import ForkedStream, Subscription
from siprec.metadata.document import (
    Document,
    NameId,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Session,
    SessionRecordingAssoc,
    Stream,
)
from siprec.metadata.values import new_id
from siprec.metadata.write import write
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.rs_dialog import RsDialog
from siprec.recording.rs_peer import Body, Outcome, PeerOffer, RsPeer
from siprec.recording.rs_sdp import RecordingSdp, stream_key
from siprec.sdp import SdpError, SessionDescription
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.useragent import Call, Reply, Result, UserAgent

_TAGS: Final = ("caller", "callee")


class WalkEnded(Exception):
    """The session cannot go on; the text says why."""


@dataclass(slots=True)
class Step:
    """One exchange: what was sent, what came of it, seconds until its final response."""

    name: str
    request: str
    result: str
    seconds: float


def said(result: Result) -> str:
    """A result in words."""
    return f"{result.status} {result.reason}" if isinstance(result, SipResponse) else result


def succeeded(result: Result) -> bool:
    """Whether it is a 2xx."""
    return isinstance(result, SipResponse) and 200 <= result.status < 300


class ProbeDialog(RsDialog):
    """The SRC's dialog, which lets the messages of the SRS be seen."""

    session: ProbeSession
    first: SipResponse | None = None
    established: Call | None = None

    @property
    def call(self) -> Call | None:
        """The call it leads, if there is one yet; one that is over, too."""
        return self._call or self.established

    @property
    def metadata_type(self) -> str:
        """The media type that metadata are sent as now."""
        return self._metadata_type

    def answered(self, call: Call, response: SipResponse) -> None:
        self.first, self.established = response, call
        super().answered(call, response)

    def failed(self, call: Call | None, status: int, response: SipResponse | None, reason: str) -> None:
        if status == 415 and response is not None:
            self.session.not_taken(response)
        super().failed(call, status, response, reason)

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        if request.method in ("INVITE", "UPDATE"):
            self.session.asked(request)
        super().request(call, request, reply)


class ProbeSession:
    """One recording session with the SRS at `server`; `streams` are the caller's and the callee's.

    `timeout` is how long, in seconds, any exchange may take. It is the `DialogOwner` of its dialog.
    """

    def __init__(
        self,
        agent: UserAgent,
        server: str,
        profile: RecordingProfile,
        from_uri: str,
        streams: Sequence[ProbeStream],
        findings: Findings,
        *,
        timeout: float,
    ) -> None:
        self.agent = agent
        self.profile = profile
        self.streams = streams
        self.findings = findings
        self.timeout = timeout
        self.steps: list[Step] = []
        self.snapshots = 0
        """How often the SRS asked for a snapshot."""
        self.paused = False
        self.loop = asyncio.get_running_loop()
        self.rules = AnswerRules(findings)
        self.dialog = ProbeDialog(agent, server, profile, profile.settings, from_uri, self)
        self.dialog.session = self
        self._up: asyncio.Future[tuple[int, str]] = self.loop.create_future()
        self._gone: asyncio.Future[str] = self.loop.create_future()
        self._invited = False
        self._ending = False
        sections = [stream.section for stream in streams]
        offered = tuple(ForkedStream(tag, 0, "audio", section) for tag, section in zip(_TAGS, sections, strict=True))
        self.description = RecordingSdp(str(int(time.time())))
        self.description.update(Subscription("probe", offered), _TAGS[0])
        stream_ids = tuple(new_id() for _ in streams)
        self._labels = {
            stream_id: self.description.labels[stream_key(fork)]
            for stream_id, fork in zip(stream_ids, offered, strict=True)
        }
        self.state = describe(stream_ids, agent.clock.wall())

    # -- exchanges -----------------------------------------------------------------------------------------------------

    def offer(self, document: Document | None = None) -> Body:
        """Our description as it is now, with metadata and their labels where given."""
        octets = self.description.offer(inactive=self.paused)
        return Body(octets, write(document, self._labels) if document is not None else b"")

    async def invite(self) -> tuple[int, str, Body]:
        """The INVITE with everything in it; returns status and reason (200 only for a session that can be used).

        Raises:
            WalkEnded: no final response in time.
        """
        body = self.offer(self.state)
        began = self.loop.time()
        self._invited = True
        self.dialog.invite(body)
        await asyncio.wait({self._up}, timeout=self.timeout)
        if not self._up.done():
            self.steps.append(Step("start", "INVITE", "timeout", self.loop.time() - began))
            raise WalkEnded(f"INVITE: no final response within {self.timeout:g} s")
        status, reason = self._up.result()
        self.steps.append(Step("start", "INVITE", f"{status} {reason}".strip(), self.loop.time() - began))
        return status, reason, body

    async def reinvite(self, name: str, document: Document | None = None, *, control: bool = False) -> Result:
        """A re-INVITE with our description; its answer is judged. Raises `WalkEnded`."""
        body = self.offer(document)
        result = await self._exchange(name, body)
        if isinstance(result, SipResponse) and succeeded(result):
            check_contact(self.findings, result)
            self.rules.answer(result, sdp.parse(body.sdp), control=control)
        return result

    async def update(self, name: str, document: Document) -> Result:
        """Metadata alone: by UPDATE (RFC 7866 9.1); where the SRS does not take that, with SDP in a re-INVITE.

        Raises:
            WalkEnded: the session is gone.
        """
        if not self.dialog.needs_sdp:
            result = await self._exchange(name, Body(metadata=write(document)))
            self.findings.check("SRS-15", succeeded(result), f"UPDATE with metadata: {said(result)}", "200 to UPDATE")
            if isinstance(result, SipResponse) and succeeded(result):
                check_contact(self.findings, result)
            if succeeded(result) or not self.dialog.needs_sdp:
                return result
        return await self.reinvite(name, document)

    async def _exchange(self, name: str, body: Body) -> Result:
        done: asyncio.Future[Result] = self.loop.create_future()
        began = self.loop.time()

        def finished(outcome: Outcome) -> None:
            if outcome.answer is not None:
                self.follow(outcome.answer)
            if not done.done():
                done.set_result(outcome.result)

        # As it is: what the SRS refuses is a finding, and is not repeated in another way.
        alone = not body.sdp
        self.dialog.exchange(lambda with_sdp: body if with_sdp is not alone else None, finished, offer=not alone)
        return await self.within(done, name, "INVITE" if body.sdp else "UPDATE", began)

    async def within(self, done: asyncio.Future[Result], name: str, method: str, began: float) -> Result:
        """The result of an exchange, noted as a step.

        Raises:
            WalkEnded: the session is gone, or nothing came in time: such a dialog is over (RFC 3261 12.2.1.2).
        """
        either: list[asyncio.Future[Any]] = [done, self._gone]
        await asyncio.wait(either, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
        result: Result = done.result() if done.done() else "gone" if self._gone.done() else "timeout"
        self.steps.append(Step(name, method, said(result), self.loop.time() - began))
        if done.done():
            return result
        if self._gone.done():
            raise WalkEnded(self._gone.result())
        raise WalkEnded(f"{name}: {method} not answered within {self.timeout:g} s")

    async def sleep(self, seconds: float) -> None:
        """Wait; raises `WalkEnded` when the session goes away meanwhile."""
        await asyncio.wait({self._gone}, timeout=seconds)
        if self._gone.done():
            raise WalkEnded(self._gone.result())

    @property
    def srtp(self) -> bool:
        """Whether SRTP is offered."""
        return self.description.secure

    @property
    def suites(self) -> str:
        """The crypto suites that were agreed on."""
        return ", ".join(dict.fromkeys(stream.suite for stream in self.streams if stream.suite))

    def follow(self, theirs: SessionDescription) -> None:
        """Send where, what and whether the SRS's description says (RFC 3264 5.1)."""
        for stream, line in zip(self.streams, theirs.media, strict=False):
            stream.follow(line)
            if self.paused:
                stream.hold()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def end(self, limit: float, leave: asyncio.Event) -> None:
        """CANCEL or BYE, whatever is due, and wait until it is settled: at most `limit` seconds, or until `leave`."""
        self._ending = True
        for stream in self.streams:
            stream.leave()
        if not self._invited:
            return
        self.findings.step = "BYE"
        settled = self.loop.time() + limit
        call = self.dialog.call
        if call is None or call.state in ("calling", "early"):
            self.dialog.cancel()
        elif call.state == "confirmed":
            result: list[Result] = []
            began = self.loop.time()
            call.bye(done=result.append)
            await self._until(lambda: bool(result) or leave.is_set(), settled)
            answer: Result = result[0] if result else "timeout"
            self.steps.append(Step("BYE", "BYE", said(answer), self.loop.time() - began))
            self.findings.check("UAC-16", succeeded(answer), f"BYE: {said(answer)}", "200")
        await self._until(lambda: not self.agent.counts()["calls"] or leave.is_set(), settled)
        if self._up.done() and 200 <= self._up.result()[0] < 300 and call is not None and call.dialog is None:
            # A 2xx crossed our CANCEL: the BYE for it gets its time, too.
            await self._until(lambda: not self.agent.layer.counts()["client"] or leave.is_set(), settled)

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        while not condition():
            if self.loop.time() >= deadline:
                return
            await asyncio.sleep(0.02)

    # -- what the SRS does (DialogOwner) -------------------------------------------------------------------------------

    def not_taken(self, response: SipResponse) -> None:
        """415 to the INVITE; `RsDialog` tries the older media type where the SRS names it (RFC 3261 8.1.3.5)."""
        why = f"415 to {self.dialog.metadata_type}, Accept: {response.get('accept') or 'none'}"
        self.findings.check("SRS-13", False, why)

    def asked(self, request: SipRequest) -> None:
        """An INVITE or UPDATE of the SRS, before it is answered."""
        if check_request(self.findings, request):
            self.snapshots += 1

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS takes the recording: the session is up."""
        self.follow(answer)
        if not self._up.done():
            self._up.set_result((200, "OK"))

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The SRS does not take it: the session is not up, with this status."""
        if not self._up.done():
            self._up.set_result((status, reason))

    def rs_offer(self, dialog: RsPeer, offer: PeerOffer) -> None:
        """The SRS pauses, resumes, drops a stream, or wants our offer."""
        if offer.description is None:
            offer.answer(self.offer(self.state))
            return
        self.rules.offer(offer.description, len(self.description.slots))
        try:
            answer = self.description.answer(offer.description, self.paused)
        except SdpError:
            offer.refuse(488)
            return
        self.follow(offer.description)
        offer.answer(Body(answer))

    def rs_answer_in_ack(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS answers the offer that it had asked for: send as it says."""
        self.follow(answer)

    def rs_snapshot(self, dialog: RsPeer) -> None:
        """RFC 7866 9.1: everything, at once, with the description as it is."""
        if not self._ending:

            def done(outcome: Outcome) -> None:
                if outcome.answer is not None:
                    self.follow(outcome.answer)

            dialog.exchange(lambda with_sdp: self.offer(self.state), done, offer=True)

    def rs_key_frame(self, dialog: RsPeer) -> None:
        """Nothing to do: there is no video here."""

    def rs_ended(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The session is over."""
        if not self._gone.done():
            self._gone.set_result(reason)


def describe(stream_ids: Sequence[str], wall: float) -> Document:
    """Two parties in one session since `wall`, each sending one of the two streams and hearing the other."""
    session, caller, callee = new_id(), new_id(), new_id()
    first, second = stream_ids
    return Document(
        sessions=(Session(session, start_time=wall),),
        participants=(
            Participant(caller, (NameId("sip:caller@probe.invalid", "Probe <caller> & Co"),)),
            Participant(callee, (NameId("sip:callee@probe.invalid", "Probe callee"),)),
        ),
        streams=tuple(Stream(stream_id, session) for stream_id in stream_ids),
        session_assocs=(SessionRecordingAssoc(session, wall),),
        participant_assocs=tuple(ParticipantSessionAssoc(party, session, wall) for party in (caller, callee)),
        stream_assocs=(
            ParticipantStreamAssoc(caller, (first,), (second,), wall),
            ParticipantStreamAssoc(callee, (second,), (first,), wall),
        ),
    )
