"""The SIP side of the recorder: recording sessions as a UAS (RFC 7866 6.2, 7.2, 8; SRS-01 to SRS-27).

It sits on a :class:`siprec.sip.useragent.UserAgent`; what the dialog brings goes to a
:class:`siprec.recorder.session.RecordingSession`.
"""

from __future__ import annotations

import logging
from typing import Final

from siprec.recorder.admission import Admission
from siprec.recorder.errors import RecorderError
from siprec.recorder.session import Recorder, RecordingSession
from siprec.sip.date import parse_date
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE, find_metadata, find_part
from siprec.sip.useragent import Call, CallHandler, IncomingCall, Reply, Result

log = logging.getLogger(__name__)

ACCEPT: Final = "application/sdp, application/rs-metadata+xml, application/rs-metadata, multipart/mixed"
FEATURE: Final = "+sip.srs"
EXTENSION: Final = "siprec"
_KEY_FRAME: Final = (
    b'<?xml version="1.0" encoding="utf-8"?>\r\n<media_control><vc_primitive><to_encoder><picture_fast_update/>'
    b"</to_encoder></vc_primitive></media_control>\r\n"
)
RETRY_AFTER: Final = "5"
_PATIENCE: Final = (0.01, 0.02, 0.04, 0.08, 0.15)
"""Seconds between looks whether all is on the disk, before a BYE is answered: less than T1 in all."""
_METADATA_TYPE: Final = "application/rs-metadata+xml"


class RecorderServer:
    """Accepts recording sessions. `take` is the user agent's ``on_invite``.

    With `strict`, a request without ``+sip.src`` in its Contact is refused (SRS-02); otherwise it is accepted, because
    deployed SRCs forget the parameter. `admission` says who is let in (None: everybody).
    """

    def __init__(self, recorder: Recorder, *, strict: bool = False, admission: Admission | None = None) -> None:
        self.recorder = recorder
        self.strict = strict
        self.admission = admission
        self.calls: set[RecordingCall] = set()

    def take(self, call: IncomingCall) -> None:
        """A new INVITE."""
        request = call.invite
        call.contact_params = FEATURE
        if self.admission is not None:
            try:
                self.admission.check(request, call.transaction.source)
            except SipError as error:
                if error.status != 401 or request.get("authorization"):
                    log.warning("Call-ID %s: recording client refused: %s", call.call_id, error.reason)
                    self.recorder.counters["refused"] += 1
                call.answer(error.status, headers=error.headers)
                return
        if EXTENSION not in request.tokens("require") | request.tokens("supported"):
            # SRS-01, SRS-02: not a recording session. Nothing else is of any use here (RFC 3261 21.4.15).
            call.answer(421, headers=[("Require", EXTENSION)], reason="Only recording sessions are accepted here")
            return
        if not _is_src(request):
            if self.strict:
                call.answer(400, reason="Contact lacks +sip.src")
                return
            log.warning("Call-ID %s: Contact lacks +sip.src; accepted all the same", call.call_id)
        RecordingCall(self, call).begin(call)

    def close(self) -> None:
        """BYE for every recording session; the recordings are finished by :meth:`Recorder.close`."""
        for call in list(self.calls):
            call.hang_up("the recorder stops")


def _is_src(request: SipRequest) -> bool:
    try:
        contact = request.contact
    except SipError:
        return False
    return contact is not None and ("+sip.src" in contact.params or "+sip.src" in contact.uri_text)


def reason_header(status: int, text: str) -> str:
    """A Reason value (RFC 3326)."""
    clean = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else " " for c in text)
    return f'SIP;cause={status};text="{clean[:100]}"'


def _said(request: SipRequest, arrived: float) -> float:
    """When a recording session began or ended: as Date says, else when the message arrived (SRS-22), in Unix seconds.

    Date has whole seconds: where the two agree but for these, arrival is the finer. One that is off by more than a day
    comes from a clock that was never set.
    """
    date = parse_date(request.get("date"))
    if date is None or -1.0 < arrived - date < 1.0 or abs(arrived - date) > 86400:
        return arrived
    return date


def _metadata(message: SipMessage) -> tuple[bytes | None, str | None]:
    """The metadata document of a message and its charset parameter."""
    part = find_metadata(message)
    if part is None:
        return None, None
    return part.content, part.content_type.param("charset") or None


def _offer(message: SipMessage) -> bytes | None:
    part = find_part(message, SDP_TYPE) if message.body else None
    return part.content if part is not None else None


class RecordingCall(CallHandler):
    """One RS dialog and its recording."""

    def __init__(self, server: RecorderServer, call: IncomingCall) -> None:
        self._server = server
        self._call: Call = call
        self._session: RecordingSession | None = None
        self._farewell: Reply | None = None

    def begin(self, call: IncomingCall) -> None:
        """Answer the first INVITE."""
        request = call.invite
        wall = self._server.recorder.clock.wall()
        try:
            sdp = _offer(request)
            if sdp is None:
                # The SRC has to offer: only an RS that the SRS starts begins without (SRS-04).
                call.answer(488, reason="A recording session needs an SDP offer")
                return
            metadata, charset = _metadata(request)
            session = self._server.recorder.session(
                call_id=call.call_id,
                from_uri=request.from_.uri_text,
                src_address=call.transaction.source.host,
                wall=_said(request, wall),
            )
            answer = session.offer(sdp, metadata, received_wall=wall, charset=charset)
        except (RecorderError, SipError) as error:
            log.warning("Call-ID %s: recording session refused: %s", call.call_id, error.reason)
            self._server.recorder.counters["refused"] += 1
            headers = [("Retry-After", RETRY_AFTER)] if error.status == 503 else []
            if error.status == 415:
                headers.append(("Accept", ACCEPT))
            call.answer(error.status, headers=headers, reason=error.reason if error.status == 400 else "")
            return
        self._began(session)
        self._server.calls.add(self)
        call.handler = self
        call.answer(200, answer, headers=[("Accept", ACCEPT)])
        self._server.recorder.counters["sessions"] += 1
        log.info("Call-ID %s: recording into %s", call.call_id, session.where)

    def _began(self, session: RecordingSession) -> None:
        self._session = session
        session.on_trouble = lambda reason: self.hang_up(reason, status=503)

    # -- CallHandler -----------------------------------------------------------------------------------------------

    def ack(self, call: Call, request: SipRequest) -> None:
        """The session is up: now a snapshot may be asked for."""
        sdp = _offer(request)
        if sdp is not None:
            # The answer to an offerless re-INVITE (META-18): the lines are ours, only the directions can differ.
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
        sdp = _offer(request)
        metadata, charset = _metadata(request)
        wall = self._server.recorder.clock.wall()
        if sdp is not None:
            answer = session.offer(sdp, metadata, received_wall=wall, charset=charset)
            reply(200, answer)
            return
        if metadata is not None:
            session.metadata(metadata, received_wall=wall, charset=charset)
        if request.method == "INVITE":
            # No offer in a re-INVITE: the 2xx has to hold one, the session as it is (RFC 3261 14.1, META-18, SRS-07).
            body, content_type = self._call.local_session
            reply(200, body, content_type or SDP_TYPE)
        else:
            reply(200)

    def _take(self, message: SipMessage, sdp: bytes) -> None:
        if self._session is None:
            return
        metadata, charset = _metadata(message)
        try:
            self._session.offer(sdp, metadata, received_wall=self._server.recorder.clock.wall(), charset=charset)
        except (RecorderError, SipError) as error:
            log.warning("Call-ID %s: answer in ACK not understood: %s", self._call.call_id, error.reason)

    def bye_received(self, call: Call, request: SipRequest, reply: Reply) -> None:
        """Answered when it is known what became of the recording."""
        if self._session is None:
            reply(200)
        else:
            self._farewell = reply

    def _say_farewell(self, session: RecordingSession, waited: int = 0) -> None:
        if session.progress == "pending" and waited < len(_PATIENCE):
            self._server.recorder.clock.call_later(_PATIENCE[waited], self._say_farewell, session, waited + 1)
            return
        reply, self._farewell = self._farewell, None
        if reply is not None:
            reply(200, headers=session.tally.headers(session.progress))

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        """BYE of the SRC, or the dialog died. Metadata in the BYE counts (SRS-26)."""
        session = self._session
        if session is None:
            return
        try:
            self._end(call, session, reason, request)
        finally:
            if self._farewell is not None:
                self._say_farewell(session)

    def _end(self, call: Call, session: RecordingSession, reason: str, request: SipRequest | None) -> None:
        if request is not None:
            try:
                metadata, charset = _metadata(request)
                if metadata is not None:
                    session.metadata(metadata, received_wall=self._server.recorder.clock.wall(), charset=charset)
            except (RecorderError, SipError) as error:
                log.warning("Call-ID %s: metadata in BYE not understood: %s", call.call_id, error.reason)
        self._finish("BYE" if reason == "bye" else reason, request)

    def hang_up(self, reason: str, status: int = 0) -> None:
        """End the recording session from this side. With the `status` 503 the client should take another SRS."""
        session = self._session
        headers = [("Reason", reason_header(status, reason))] if status else []
        self._finish(reason)
        self._call.bye(headers + (session.tally.headers(session.progress) if session is not None else []))

    def _finish(self, reason: str, request: SipRequest | None = None) -> None:
        session, self._session = self._session, None
        self._server.calls.discard(self)
        if session is not None:
            wall = self._server.recorder.clock.wall()
            session.close(reason, wall=_said(request, wall) if request is not None else wall)
            log.info("Call-ID %s: recording ended (%s)", self._call.call_id, reason)

    # -- snapshots -------------------------------------------------------------------------------------------------

    def _ask_key_frame(self) -> None:
        """SRS-24, RFC 5168: video that begins cannot be decoded before a key frame."""
        session = self._session
        allow = self._call.remote_allow
        if session is not None and session.wants_key_frame and (not allow or "info" in allow):
            self._call.request("INFO", _KEY_FRAME, "application/media_control+xml")

    def _ask_snapshot(self) -> None:
        """META-11, META-12: an UPDATE with a snapshot request, when state is missing."""
        session = self._session
        if session is None or not session.wants_snapshot:
            return
        allow = self._call.remote_allow
        if allow and "update" not in allow:
            return
        headers = [("Content-Disposition", "recording-session"), ("Require", EXTENSION)]
        self._call.update(session.snapshot_request(), _METADATA_TYPE, headers, self._asked)

    def _asked(self, result: Result) -> None:
        if not isinstance(result, SipResponse) or result.status >= 300:
            log.warning("Call-ID %s: no snapshot: %s", self._call.call_id, result)
