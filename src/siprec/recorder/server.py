"""The SIP side of the recorder: recording sessions as a UAS (RFC 7866 6.2, 7.2, 8; RFC 7866 6.2, RFC 7245 3.3.2).

It sits on a :class:`siprec.sip.useragent.UserAgent`; what the dialog brings goes to a
:class:`siprec.recorder.session.RecordingSession`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from siprec.recorder import headers
from siprec.recorder.acceptance import EXTENSION, Acceptance
from siprec.recorder.bodies import metadata_of, offer_of
from siprec.recorder.client_access import Admission
from siprec.recorder.errors import RecorderError
from siprec.recorder.liveness import Liveness
from siprec.recorder.recorder import Recorder
from siprec.recorder.session import RecordingSession
from siprec.sip.date import parse_date
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE
from siprec.sip.useragent import Call, CallHandler, IncomingCall, Reply, Result
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)

ACCEPT: Final = "application/sdp, application/rs-metadata+xml, application/rs-metadata, multipart/mixed"
FEATURE: Final = "+sip.srs"
_KEY_FRAME: Final = (
    b'<?xml version="1.0" encoding="utf-8"?>\r\n<media_control><vc_primitive><to_encoder><picture_fast_update/>'
    b"</to_encoder></vc_primitive></media_control>\r\n"
)
RETRY_AFTER: Final = "5"
_PATIENCE: Final = (0.01, 0.02, 0.04, 0.08, 0.15)
"""Seconds between looks whether all is on the disk, before a BYE is answered: less than T1 in all."""
_METADATA_TYPE: Final = "application/rs-metadata+xml"


HANDOVER: Final = 10.0
"""Seconds over which the sessions are spread that a planned stop ends."""
_FLOWING: Final = 30.0
_APART: Final = 0.05


@dataclass(frozen=True, slots=True)
class Watching:
    """How sessions end without a BYE of their client: `session_expires` is the session timer asked for (RFC 4028),
    `silence` the time without RTP after which the client is asked by OPTIONS, `max_duration` the longest session. All
    in seconds; 0: off."""

    session_expires: int = 1800
    silence: float = 60.0
    max_duration: float = 0.0


class RecorderServer:
    """Accepts recording sessions. `take` is the user agent's ``on_invite``, `acceptance.prepare` its ``prepare``.

    `admission` says who is let in (None: everybody), `acceptance` what is taken for a recording session.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        acceptance: Acceptance | None = None,
        admission: Admission | None = None,
        watching: Watching | None = None,
    ) -> None:
        self.recorder = recorder
        self.acceptance = acceptance or Acceptance("lenient")
        self.admission = admission
        self.watching = watching or Watching()
        self.calls: set[RecordingCall] = set()
        self.leaving: set[RecordingCall] = set()
        """Those whose BYE is answered when their recording is on the disk."""
        self.stopping = False
        """No further sessions are taken."""
        self.log = SourceLog(log, now=recorder.clock.now)

    def take(self, call: IncomingCall) -> None:
        """A new INVITE."""
        request = call.invite
        source = call.transaction.source
        call.contact_params = FEATURE
        if self.stopping:
            self.recorder.counters["refused"] += 1
            call.answer(503, headers=[("Retry-After", RETRY_AFTER)])
            return
        if self.admission is not None:
            try:
                self.admission.check(request, source)
            except SipError as error:
                if error.status != 401 or request.get("authorization"):
                    self.log.warning(
                        source.host, "Call-ID %s: recording client refused: %s", call.call_id, error.reason
                    )
                    self.recorder.counters["refused"] += 1
                call.answer(error.status, headers=error.headers)
                return
        refusal = self.acceptance.refusal(request, source)
        if refusal is not None:
            self.recorder.counters["refused"] += 1
            self.log.warning(
                source.host, "Call-ID %s: INVITE of %s refused: %s", call.call_id, source.host, refusal.reason
            )
            headers = [("Require", EXTENSION)] if refusal.status == 421 else []
            call.answer(refusal.status, headers=headers, reason=refusal.reason)
            return
        call.session_expires = self.watching.session_expires
        RecordingCall(self, call).begin(call)

    def handover(self, done: Callable[[], None]) -> None:
        """End all sessions with a BYE that sends their clients to another SRS, one after the other within ten seconds;
        then call `done`."""
        self.stopping = True
        waiting = list(self.calls)
        apart = min(_APART, HANDOVER / len(waiting)) if waiting else 0.0
        for number, call in enumerate(waiting):
            self.recorder.clock.call_later(number * apart, self._hand_over, call)
        self.recorder.clock.call_later(max(len(waiting) - 1, 0) * apart, done)

    def _hand_over(self, call: RecordingCall) -> None:
        if call in self.calls:
            call.hang_up("the recorder stops", 503)

    def close(self) -> None:
        """BYE for every recording session; the recordings are finished by :meth:`Recorder.close`."""
        self.stopping = True
        for call in list(self.calls):
            call.hang_up("the recorder stops", 503)


def reason_header(status: int, text: str) -> str:
    """A Reason value (RFC 3326)."""
    clean = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else " " for c in text)
    return f'SIP;cause={status};text="{clean[:100]}"'


def _said(request: SipRequest, arrived: float) -> float:
    """When a recording session began or ended: as Date says, else when the message arrived (RFC 7865 6.1.1), in Unix
    seconds.

    Date has whole seconds: where the two agree but for these, arrival is the finer. One that is off by more than a day
    comes from a clock that was never set.
    """
    date = parse_date(request.get("date"))
    if date is None or -1.0 < arrived - date < 1.0 or abs(arrived - date) > 86400:
        return arrived
    return date


class RecordingCall(CallHandler):
    """One RS dialog and its recording."""

    def __init__(self, server: RecorderServer, call: IncomingCall) -> None:
        self._server = server
        self._call: Call = call
        self._session: RecordingSession | None = None
        self._farewell: Reply | None = None
        self._liveness: Liveness | None = None

    def begin(self, call: IncomingCall) -> None:
        """Answer the first INVITE."""
        request = call.invite
        wall = self._server.recorder.clock.wall()
        try:
            sdp = offer_of(request)
            metadata, charset = metadata_of(request)
            session = self._server.recorder.session(
                call_id=call.call_id,
                from_uri=request.from_.uri_text,
                src_address=call.transaction.source.host,
                wall=_said(request, wall),
                kept=headers.kept(request, self._server.recorder.settings.headers),
            )
            if sdp is not None:
                answer = session.offer(sdp, metadata, received_wall=wall, charset=charset)
            else:
                # Some begin without an offer, although an SRC has to make one (RFC 7866 6.2): then it is ours.
                answer = session.make_offer()
                if metadata is not None:
                    session.metadata(metadata, received_wall=wall, charset=charset)
        except (RecorderError, SipError) as error:
            source = call.transaction.source.host
            self._server.log.warning(source, "Call-ID %s: recording session refused: %s", call.call_id, error.reason)
            self._server.recorder.counters["refused"] += 1
            lines = [("Retry-After", RETRY_AFTER)] if error.status == 503 else []
            if error.status == 415:
                lines.append(("Accept", ACCEPT))
            call.answer(error.status, headers=lines, reason=error.reason if error.status == 400 else "")
            return
        self._began(session)
        self._server.calls.add(self)
        call.handler = self
        call.answer(200, answer, headers=[("Accept", ACCEPT)])
        self._server.recorder.counters["sessions"] += 1
        log.info("Call-ID %s: recording into %s", call.call_id, session.where)

    def _began(self, session: RecordingSession) -> None:
        self._session = session
        session.on_trouble = lambda reason: self.hang_up(reason, 503)
        watching = self._server.watching
        self._liveness = Liveness(
            self._server.recorder.clock,
            self._call,
            session,
            self.hang_up,
            silence=watching.silence,
            limit=watching.max_duration,
        )

    # -- CallHandler -----------------------------------------------------------------------------------------------

    def ack(self, call: Call, request: SipRequest) -> None:
        """The session is up: now a snapshot may be asked for."""
        try:
            sdp = offer_of(request)
        except SipError as error:
            log.warning("Call-ID %s: ACK with a body that cannot be read: %s", call.call_id, error.reason)
            sdp = None
        if sdp is not None:
            # The answer to an offerless re-INVITE (RFC 3261 14.1): the lines are ours, only the directions can differ.
            self._take(request, sdp)
        self._ask_snapshot()
        self._ask_key_frame()

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        """Re-INVITE, UPDATE, INFO, OPTIONS... of the SRC."""
        session = self._session
        if session is None:
            reply(481)
            return
        try:
            if request.method in ("INVITE", "UPDATE"):
                self._update(session, request, reply)
            elif request.method in ("INFO", "OPTIONS", "MESSAGE", "NOTIFY"):
                log.info("Call-ID %s: %s from the SRC, %d octets", call.call_id, request.method, len(request.body))
                reply(200, headers=[("Accept", ACCEPT)] if request.method == "OPTIONS" else [])
            else:
                reply(501)
        except RecorderError as error:
            log.warning("Call-ID %s: %s refused: %s", call.call_id, request.method, error.reason)
            reply(error.status, reason=error.reason if error.status == 400 else "")
        except SipError as error:
            reply(error.status, reason=error.reason)
        self._ask_snapshot()

    def _update(self, session: RecordingSession, request: SipRequest, reply: Reply) -> None:
        sdp = offer_of(request)
        metadata, charset = metadata_of(request)
        wall = session.wall()
        if sdp is not None:
            answer = session.offer(sdp, metadata, received_wall=wall, charset=charset)
            reply(200, answer)
            return
        if metadata is not None:
            session.metadata(metadata, received_wall=wall, charset=charset)
        if request.method == "INVITE":
            # No offer in a re-INVITE: the 2xx has to hold one, the session as it is (RFC 3261 14.1, RFC 7866 7.2).
            body, content_type = self._call.local_session
            reply(200, body, content_type or SDP_TYPE)
        else:
            reply(200)

    def _take(self, message: SipMessage, sdp: bytes) -> None:
        if self._session is None:
            return
        metadata, charset = metadata_of(message)
        try:
            self._session.offer(sdp, metadata, received_wall=self._session.wall(), charset=charset)
        except (RecorderError, SipError) as error:
            log.warning("Call-ID %s: answer in ACK not understood: %s", self._call.call_id, error.reason)

    def bye_received(self, call: Call, request: SipRequest, reply: Reply) -> None:
        """Answered when it is known what became of the recording."""
        if self._session is None:
            reply(200)
        else:
            self._farewell = reply
            self._server.leaving.add(self)

    def _say_farewell(self, session: RecordingSession, waited: int = 0) -> None:
        if session.progress == "pending" and waited < len(_PATIENCE):
            self._server.recorder.clock.call_later(_PATIENCE[waited], self._say_farewell, session, waited + 1)
            return
        reply, self._farewell = self._farewell, None
        self._server.leaving.discard(self)
        if reply is not None:
            reply(200, headers=session.tally.headers(session.progress))

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        """BYE of the SRC, or the dialog died. Metadata in the BYE counts (RFC 8068 3.2.4)."""
        session = self._session
        if session is None:
            return
        try:
            self._end(call, session, reason, request)
        finally:
            call.handler = CallHandler()  # nobody is told any more
            if self._farewell is not None:
                self._say_farewell(session)

    def _end(self, call: Call, session: RecordingSession, reason: str, request: SipRequest | None) -> None:
        if request is not None:
            try:
                metadata, charset = metadata_of(request)
                if metadata is not None:
                    session.metadata(metadata, received_wall=session.wall(), charset=charset)
            except (RecorderError, SipError) as error:
                log.warning("Call-ID %s: metadata in BYE not understood: %s", call.call_id, error.reason)
        self._finish("BYE" if reason == "bye" else reason, request)

    def out_of_order(self, call: Call, request: SipRequest) -> None:
        """The client's own idea of the dialog is another than ours: it may have been started anew."""
        if self._liveness is not None:
            self._liveness.doubt(f"{request.method} with a CSeq lower than before")

    def dead(self, call: Call, reason: str) -> bool:
        """A request of ours failed. Only 481 ends the session at once; otherwise the client is asked by OPTIONS."""
        if self._liveness is None or reason == "481":
            return True
        self._liveness.doubt(f"a request of ours got {reason}")
        return False

    def expired(self, call: Call) -> bool:
        """The session timer was not refreshed. That is no reason to lose the audio of a call that goes on."""
        session, liveness = self._session, self._liveness
        if session is None or liveness is None or not (session.silent_for <= _FLOWING or liveness.answered_lately):
            return True
        log.warning("Call-ID %s: the session was not refreshed, but the client lives: it goes on", call.call_id)
        return False

    def refresh_refused(self, call: Call, status: int) -> None:
        """An answer is an answer: who refuses UPDATE or re-INVITE (405, 488...) lives."""
        if self._liveness is not None:
            self._liveness.answered()

    def hang_up(self, reason: str, status: int = 0) -> None:
        """End the recording session from this side. With the `status` 503 the client should take another SRS."""
        session = self._session
        lines = [("Reason", reason_header(status, reason))] if status else []
        self._finish(reason)
        self._call.bye(lines + (session.tally.headers(session.progress) if session is not None else []))
        self._call.handler = CallHandler()  # nobody is told any more

    def _finish(self, reason: str, request: SipRequest | None = None) -> None:
        session, self._session = self._session, None
        liveness, self._liveness = self._liveness, None
        if liveness is not None:
            liveness.stop()
        self._server.calls.discard(self)
        if session is not None:
            wall = session.wall()
            session.close(reason, wall=_said(request, wall) if request is not None else wall)
            log.info("Call-ID %s: recording ended (%s)", self._call.call_id, reason)

    # -- snapshots -------------------------------------------------------------------------------------------------

    def _ask_key_frame(self) -> None:
        """RFC 7866 8.1.7.1.1, RFC 5168: video that begins cannot be decoded before a key frame."""
        session = self._session
        allow = self._call.remote_allow
        if session is not None and session.wants_key_frame and (not allow or "info" in allow):
            self._call.request("INFO", _KEY_FRAME, "application/media_control+xml")

    def _ask_snapshot(self) -> None:
        """RFC 7866 9.2, RFC 7865 7: an UPDATE with a snapshot request, when state is missing."""
        session = self._session
        if session is None or not session.wants_snapshot:
            return
        allow = self._call.remote_allow
        if allow and "update" not in allow:
            return
        headers = [("Content-Disposition", "recording-session"), ("Require", EXTENSION)]
        self._call.update(session.snapshot_requests.make(), _METADATA_TYPE, headers, self._asked)

    def _asked(self, result: Result) -> None:
        if not isinstance(result, SipResponse) or result.status >= 300:
            log.warning("Call-ID %s: no snapshot: %s", self._call.call_id, result)
            if isinstance(result, SipResponse) and result.status != 491 and self._session is not None:
                self._session.snapshot_requests.stop()
