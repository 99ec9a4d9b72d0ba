"""Recording sessions that the recorder starts: an INVITE without offer to a recording client (RFC 7866 6.2, RFC 7866
7.2).

The client's 2xx holds offer and metadata, the ACK our answer; from then on it is a recording session like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from siprec import sdp
from siprec.recorder import headers
from siprec.recorder.acceptance import EXTENSION
from siprec.recorder.bodies import metadata_of, offer_of
from siprec.recorder.errors import RecorderError
from siprec.recorder.server import ACCEPT, FEATURE, RecorderServer, RecordingCall
from siprec.sip.clock import Timer
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, OutgoingCall, UserAgent

log = logging.getLogger(__name__)

Outcome = Callable[[int, str], None]
_FIRST_RETRY: Final = 1.0
_LAST_RETRY: Final = 60.0


class InvitedRecording(RecordingCall):
    """One recording session begun from this side; made by :func:`record_from`."""

    def __init__(self, server: RecorderServer, outcome: Outcome, over: Callable[[], None]) -> None:
        self._server = server
        self._session = None
        self._liveness = None
        self._outcome = outcome
        self._over = over
        self._up = False
        self._outgoing: OutgoingCall

    def dial(self, agent: UserAgent, target: Uri, from_: NameAddr, to: NameAddr) -> None:
        """Send the INVITE."""
        self._call = self._outgoing = agent.invite(
            target,
            from_=from_,
            to=to,
            handler=self,
            headers=[("Require", EXTENSION), ("Accept", ACCEPT)],
            contact_params=FEATURE,
            session_expires=self._server.watching.session_expires,
        )
        self._server.calls.add(self)

    def answered(self, call: Call, response: SipResponse) -> None:
        """The client's offer: recorded, or declined line by line and the session ended (RFC 3261 13.2.2.4)."""
        self._up = True
        recorder = self._server.recorder
        wall = recorder.clock.wall()
        offer = b""
        try:
            offer = offer_of(response) or b""
            metadata, charset = metadata_of(response)
            session = recorder.session(
                call_id=call.call_id,
                from_uri=response.to.uri_text,
                wall=wall,
                kept=headers.kept(response, recorder.settings.headers),
            )
            answer = session.offer(offer, metadata, received_wall=wall, charset=charset)
        except (RecorderError, SipError) as error:
            log.warning("Call-ID %s: offer of the recording client refused: %s", call.call_id, error.reason)
            call.ack(_decline(offer, recorder.settings.advertised or recorder.ports.address))
            call.bye()
            self._server.calls.discard(self)
            self._outcome(error.status, error.reason)
            return
        self._began(session)
        call.ack(answer)
        self._outcome(200, "")
        self._ask_snapshot()

    def failed(self, call: Call, status: int, response: SipResponse | None, reason: str) -> None:
        """The client gives us nothing to record."""
        self._server.calls.discard(self)
        self._outcome(status, reason)

    def _finish(self, reason: str, request: SipRequest | None = None) -> None:
        began = self._session is not None
        super()._finish(reason, request)
        if began:
            self._over()

    def hang_up(self, reason: str, status: int = 0) -> None:
        """End the recording session, or the attempt."""
        if self._up:
            super().hang_up(reason, status)
        else:
            self._outgoing.cancel()
            self._server.calls.discard(self)


def _decline(offer: bytes, address: str) -> bytes:
    """An answer with port 0 everywhere; nothing where the offer cannot be read."""
    try:
        media = [sdp.answer_media(m, port=0) for m in sdp.parse(offer).media]
    except sdp.SdpError:
        return b""
    return sdp.build_session(sdp.Origin(session_id="1", version="1", address=address), media, name="siprec").to_bytes()


class Invitations:
    """Recording clients that are asked for their calls again and again: 1, 2, 4 ... 60 seconds after a refusal, and one
    second after a recording session ended. `from_` names this recorder."""

    def __init__(self, server: RecorderServer, agent: UserAgent, from_: NameAddr) -> None:
        self._server, self._agent, self._from = server, agent, from_
        self._closed = False
        self._timers: dict[str, Timer] = {}

    def invite(self, target: Uri, delay: float = _FIRST_RETRY) -> None:
        """Ask `target`, and keep asking."""
        if self._closed:
            return

        def outcome(status: int, reason: str) -> None:
            if status == 200:
                log.info("recording from %s", target)
            else:
                log.warning("recording client %s: %d %s; again in %.0f s", target, status, reason, delay)
                again(delay, min(delay * 2, _LAST_RETRY))

        def again(after: float, following: float) -> None:
            if not self._closed:
                self._timers[target.text] = self._agent.clock.call_later(after, self.invite, target, following)

        record_from(
            self._server,
            self._agent,
            target,
            from_=self._from,
            to=NameAddr("", target.text),
            outcome=outcome,
            over=lambda: again(_FIRST_RETRY, _FIRST_RETRY),
        )

    def close(self) -> None:
        """Ask no more; what runs is ended by :meth:`RecorderServer.close`."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()


def record_from(
    server: RecorderServer,
    agent: UserAgent,
    target: Uri,
    *,
    from_: NameAddr,
    to: NameAddr,
    outcome: Outcome,
    over: Callable[[], None] = lambda: None,
) -> InvitedRecording:
    """Ask the recording client at `target` for its calls (RFC 7866 6.2).

    It goes by TCP unless the URI says else: clients that compare addresses cannot trust those of datagrams. `outcome`
    is called once: with 200 when the recording runs, else with a SIP status and the reason. `over` is called when a
    recording that ran has ended.
    """
    if target.scheme == "sip" and not target.transport:
        target = target.replace(params={**target.params, "transport": "tcp"})
    recording = InvitedRecording(server, outcome, over)
    recording.dial(agent, target, from_, to)
    return recording
