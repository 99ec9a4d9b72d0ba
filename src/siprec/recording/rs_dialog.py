"""The recording session's SIP side: one dialog with one SRS, as the SRC leads it (RFC 7866 6.1, 7.1, 9)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from siprec import sdp
from siprec.metadata.values import DISPOSITION, LEGACY_MEDIA_TYPE, MEDIA_TYPE
from siprec.recording import confirmation, srs_bye
from siprec.recording.confirmation import Recorded
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.rs_peer import (
    ACCEPT,
    Body,
    Compose,
    DialogOwner,
    NoOwner,
    Outcome,
    PeerOffer,
    description_of,
    encode_body,
)
from siprec.recording.settings import RecordingSettings, check_headers, check_socket
from siprec.sdp import SdpError
from siprec.sip.clock import Timer
from siprec.sip.date import format_date
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import METADATA_TYPES, parts_of
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, CallHandler, OutgoingCall, Reply, Result, UserAgent, session_description
from siprec.sip.values import retry_after

log = logging.getLogger(__name__)

#: A boolean feature parameter of the Contact header (RFC 7866 6.1.1).
FEATURE: Final = "+sip.src"
MEDIA_CONTROL: Final = "application/media_control+xml"
MAX_REDIRECTS: Final = 5
UPDATE_REFUSED: Final = frozenset({405, 488, 501, 606})
"""Answers to an UPDATE with metadata after which it is a re-INVITE: SRSs that know no UPDATE, or none without SDP."""
SNAPSHOT_EVERY: Final = 1.0
"""Seconds between two snapshots that an SRS asks for; requests meanwhile share the next one."""
_REQUIRE: Final = ("Require", "siprec")


class RsDialog(CallHandler):
    """One attempt at one SRS, and the dialog that comes of it.

    Args:
        agent: our user agent.
        server: SIP URI of the SRS.
        profile, settings: see :mod:`siprec.recording.settings`.
        from_uri: names the SRC where `settings` does not (RFC 7866 6.1.1).
        max_breadth: Max-Breadth of the call's INVITE, which caused this one (RFC 5393 5.4.3), if it has any.
    """

    def __init__(
        self,
        agent: UserAgent,
        server: str,
        profile: RecordingProfile,
        settings: RecordingSettings,
        from_uri: str,
        owner: DialogOwner,
        max_breadth: int | None = None,
    ) -> None:
        self._max_breadth = max_breadth
        self.agent = agent
        self.server = server
        self.profile = profile
        self.settings = settings
        self.owner = owner
        self.call_id = agent.new_token()
        self._from = NameAddr("", settings.from_uri or from_uri)
        self._call: Call | None = None
        self._outgoing: OutgoingCall | None = None
        self._given_up = False
        self._metadata_type = profile.metadata_type
        self._start: tuple[Uri, Body] | None = None
        self._no_update = False
        self._unreachable = False
        self._require = True
        self._snapshot_at = 0.0
        self._snapshot_timer: Timer | None = None
        self._redirects: list[Uri] = []
        self._redirected = 0
        self.retry_after = 0.0
        """Seconds, as a 503 said."""
        self.recorded: dict[str, Recorded] = {}
        """At the end: what the SRS says of each label, if it does."""

    # -- what the SRC does ---------------------------------------------------------------------------------------------

    def invite(self, body: Body) -> None:
        """Send the INVITE that starts the RS (RFC 7866 6.1.1, RFC 3311 4)."""
        self._invite(self._by_transport(Uri.parse(self.server)), body)

    def _by_transport(self, uri: Uri) -> Uri:
        """With the transport that the profile has for it, where the URI names none."""
        return self.profile.reach(uri.text).target(uri)

    def _invite(self, target: Uri, body: Body) -> None:
        profile, settings = self.profile, self.settings
        self._start = (target, body)
        reach = profile.reach(target.text)
        # What a script set goes over the profile, and the SRS's own table too.
        where = settings.socket if settings.socket != profile.socket else reach.socket or settings.socket
        octets, headers = encode_body(body, self._metadata_type)
        content_type = headers[0][1]
        lines = [self._date(), ("Accept", ACCEPT), *headers[1:]]
        if self._require:
            lines.insert(0, _REQUIRE)
        if self._max_breadth is not None:
            lines.append(("Max-Breadth", str(self._max_breadth)))
        if settings.headers:
            given = {name.lower() for name, _ in lines}
            lines += [(n, v) for n, v in check_headers(settings.headers) if n.lower() not in given]
        self._call = self._outgoing = self.agent.invite(
            target,
            from_=self._from,
            to=NameAddr("", settings.to_uri or target.aor),
            handler=self,
            headers=lines,
            contact_params=FEATURE,
            body=octets,
            content_type=content_type,
            call_id=self.call_id,
            route=[f"<{reach.route}>"] if reach.route else (),
            setup_timeout=profile.setup_timeout,
            credentials=reach.store,
            session_expires=profile.session_expires or None,
            resolve=reach.through(self.agent.resolve, check_socket(where) if where else None),
            avoid_silent=profile.srs_retry,
        )

    def disown(self) -> None:
        """The recording is over: what still comes is for nobody, and no cycle is left behind."""
        self.owner = NoOwner()
        if self._call is not None and self._call.state == "ended":
            self._drop()

    def _drop(self) -> None:
        """The call is over: it and this dialog need each other no more."""
        if self._call is not None:
            self._call.handler = CallHandler()
            self._call = self._outgoing = None

    def cancel(self) -> None:
        """Give the INVITE up; `rs_refused` follows (RFC 3261 9.1)."""
        self._given_up = True
        if self._outgoing is not None:
            self._outgoing.cancel((("Reason", 'SIP;cause=487;text="call ended"'),))

    def exchange(self, compose: Compose, done: Callable[[Outcome], None], *, offer: bool) -> None:
        """A re-INVITE with SDP where it is an `offer`, else an UPDATE with metadata alone; by re-INVITE where the SRS
        knows no UPDATE. One with metadata alone would be offerless, so it takes the present description along.

        `compose(with_sdp)` makes the body, once more where an UPDATE is refused.
        """
        call = self._call
        with_sdp = offer or self.needs_sdp
        body, failure = None, "no dialog"
        if call is not None:
            try:
                body = compose(with_sdp)
            except SdpError as error:
                failure = f"offer: {error.reason}"
        if call is None or body is None:
            outcome = Outcome(failure)
            outcome.status = 500
            self.agent.clock.call_later(0, done, outcome)
            return
        octets, headers = encode_body(body, self._metadata_type)

        def finished(result: Result) -> None:
            if not with_sdp and isinstance(result, SipResponse) and result.status in UPDATE_REFUSED:
                self._no_update = True
                if compose(True) is not None:
                    self.exchange(compose, done, offer=True)
                    return
            done(self._outcome(result, bool(body.sdp)))

        lines = [self._date(), ("Accept", ACCEPT), *headers[1:]]
        if self._require:
            lines.insert(0, _REQUIRE)
        if body.sdp:
            call.reinvite(octets, headers[0][1], lines, finished)
        else:
            call.update(octets, headers[0][1], lines, finished)

    def _outcome(self, result: Result, with_sdp: bool) -> Outcome:
        """No way to the SRS just now: once more, a little later; then it is lost, as one that is silent."""
        if isinstance(result, SipResponse):
            taken = result.status < 300
            if taken:
                self._unreachable = False
            return Outcome(result, with_sdp, description_of(result) if taken and with_sdp else None)
        outcome = Outcome(result, with_sdp)
        outcome.lost = result == "timeout" or self._unreachable
        if not outcome.lost and not outcome.ended:
            self._unreachable = True
            outcome.retry_after = 1.0
        return outcome

    @property
    def needs_sdp(self) -> bool:
        """Whether metadata has to go in a re-INVITE: the SRS's Allow lacks UPDATE, or it refused one whatever that
        says. No Allow at all: UPDATE is a must for an SRS (RFC 7866 9.1)."""
        call = self._call
        return self._no_update or (call is not None and bool(call.remote_allow) and "update" not in call.remote_allow)

    def send(
        self,
        method: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        content_type: str,
        done: Callable[[Result], None],
    ) -> bool:
        """Any other request inside the dialog; false when there is none."""
        call = self._call
        if call is None or call.state != "confirmed":
            return False
        call.request(method, body, content_type, headers, done)
        return True

    def bye(self, done: Callable[[Result], None]) -> None:
        """End the dialog; `done(result)` when that is settled: the answer to the BYE, or why there is none (``ended``:
        there was nothing to end)."""
        self._no_snapshot()
        if self._call is None:
            self.agent.clock.call_later(0, done, "ended")
        else:

            def answered(result: Result) -> None:
                if isinstance(result, SipResponse) and result.status < 300:
                    self.recorded = confirmation.read(result)
                self._drop()
                done(result)

            self._call.bye((self._date(),), done=answered)

    def abandon(self, reason: str) -> None:
        """Give up an SRS that seems to be gone. The BYE may still reach it; nobody waits for the answer."""
        self._no_snapshot()
        if self._call is not None:
            text = "".join(c for c in reason if c.isprintable() and c not in '"\\')[:80]
            self._call.bye((self._date(), ("Reason", f'SIP;cause=408;text="{text}"')), done=self._gone)

    def _gone(self, result: Result) -> None:
        self._drop()

    @property
    def hop(self) -> Hop | None:
        """The hop that the INVITE took."""
        return self._call.way if self._call is not None else None

    def _date(self) -> tuple[str, str]:
        """When it happened, by our clock (RFC 7865 6.1.1)."""
        return "Date", format_date(self.agent.clock.wall())

    # -- CallHandler ---------------------------------------------------------------------------------------------------

    def answered(self, call: Call, response: SipResponse) -> None:
        """The first 2xx."""
        if self._require:
            call.refresh_headers = (_REQUIRE,)  # RFC 8068 3
        self._start = None  # nobody is called again
        answer = description_of(response)
        if answer is None:
            # Nothing says where the streams go: this is no recording session.
            call.bye((("Reason", 'SIP;cause=488;text="no usable answer"'),))
            self.owner.rs_refused(self, 488, "2xx without usable SDP")
        elif all(line.rejected for line in answer.media):
            call.bye((("Reason", 'SIP;cause=488;text="no stream accepted"'),))
            self.owner.rs_refused(self, 488, "no stream accepted")
        else:
            self.owner.rs_answered(self, answer)

    def _follow(self, response: SipResponse | None) -> bool:
        """Call where a 3xx points, as far as the profile allows (RFC 3261 8.1.3); each is a new dialog."""
        assert self._start is not None
        body = self._start[1]
        if response is not None and 300 <= response.status < 400 and self.profile.redirect != "never":
            found = [self._by_transport(uri) for uri in _contacts(response)]
            self._redirects += [uri for uri in found if self._allowed(uri)]
        if not self._redirects or self._redirected >= MAX_REDIRECTS:
            return False
        self._redirected += 1
        self.call_id = self.agent.new_token()
        self._invite(self._redirects.pop(0), body)
        return True

    def _allowed(self, uri: Uri) -> bool:
        first = self._by_transport(Uri.parse(self.server))
        if (first.scheme == "sips" and uri.scheme != "sips") or (first.transport == "tls" and uri.transport != "tls"):
            return uri.scheme == "sips"
        return self.profile.redirect == "any" or uri.host == first.host

    def failed(self, call: Call | None, status: int, response: SipResponse | None, reason: str) -> None:
        """No dialog came about. An SRS that only knows the older media type is asked again with that (RFC 3261
        8.1.3.5)."""
        if status == 503 and response is not None:
            self.retry_after = float(retry_after(response) or 0)
        if self._start is not None and not self._given_up and self._follow(response):
            return
        if (
            status == 420
            and response is not None
            and self._start is not None
            and not self._given_up
            and self._require
            and self.profile.on_bad_extension == "without-require"
            and "siprec" in response.tokens("unsupported")
        ):
            # An SRS of before the RFC: it records what it gets, but does not know the option tag.
            self._require = False
            self.call_id = self.agent.new_token()
            self._invite(*self._start)
        elif (
            status == 415
            and response is not None
            and self._start is not None
            and not self._given_up
            and self._metadata_type == MEDIA_TYPE
            and LEGACY_MEDIA_TYPE in (accepted := response.tokens("accept"))
            and MEDIA_TYPE not in accepted
        ):
            self._metadata_type = LEGACY_MEDIA_TYPE
            self.call_id = self.agent.new_token()
            self._invite(*self._start)
        else:
            self._drop()
            self.owner.rs_refused(self, status, reason)

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        """A request of the SRS inside the dialog."""
        method = request.method
        if method in ("INVITE", "UPDATE"):
            self._offer(request, reply)
        elif method == "OPTIONS":
            reply(200, headers=(("Accept", ACCEPT), ("Allow", self.agent.allow)))
        elif method in ("INFO", "NOTIFY", "MESSAGE"):
            reply(200)
            if method == "INFO" and _wants_key_frame(request):
                self.owner.rs_key_frame(self)
        else:
            reply(405, headers=(("Allow", self.agent.allow),))

    def _snapshot(self) -> None:
        """The SRS asks for complete metadata: at once, but not more often than each second."""
        clock = self.agent.clock
        if self._snapshot_timer is not None:
            return
        wait = self._snapshot_at - clock.now()
        if wait > 0:
            self._snapshot_timer = clock.call_later(wait, self._snapshot_due)
        else:
            self._snapshot_due()

    def _snapshot_due(self) -> None:
        self._snapshot_timer = None
        self._snapshot_at = self.agent.clock.now() + SNAPSHOT_EVERY
        self.owner.rs_snapshot(self)

    def _no_snapshot(self) -> None:
        if self._snapshot_timer is not None:
            self._snapshot_timer.cancel()
            self._snapshot_timer = None

    def _offer(self, request: SipRequest, reply: Reply) -> None:
        try:
            octets = session_description(request)
            wants_snapshot = octets is None and _is_metadata(request)
            description = sdp.parse(octets) if octets else None
        except (SipError, SdpError) as error:
            log.warning("unusable request of the SRS: %s (call %s, SRS %s)", error, self.call_id, self.server)
            reply(400 if isinstance(error, SipError) else 488)
            return
        if request.method == "UPDATE" and description is None:
            reply(200)
            if wants_snapshot:
                self._snapshot()
            return
        if wants_snapshot:
            # Not as RFC 7866 9.2 wants it, but clear enough.
            self._snapshot()
        self.owner.rs_offer(self, PeerOffer(description, reply, self._metadata_type))

    def ack(self, call: Call, request: SipRequest) -> None:
        """The ACK for our 200 to a re-INVITE: holds the answer if that had been offerless."""
        answer = description_of(request)
        if answer is not None:
            self.owner.rs_answer_in_ack(self, answer)

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        """BYE of the SRS, or the dialog broke."""
        self._no_snapshot()
        if request is not None:
            self.recorded = confirmation.read(request)
        self._drop()
        if reason == "bye":
            self.owner.rs_ended(self, *srs_bye.judged(request, self.profile.on_srs_bye))
        else:
            self.owner.rs_ended(self, 481 if "481" in reason else 408, reason)


def _contacts(response: SipResponse) -> list[Uri]:
    """The SIP URIs of a 3xx, best first."""
    found: list[tuple[float, int, Uri]] = []
    for value in response.values("contact"):
        try:
            contact = NameAddr.parse(value)
            uri = contact.uri
            q = float(contact.params.get("q") or 1.0)
        except (SipError, ValueError):
            continue
        if uri.is_sip:
            found.append((-q, len(found), uri))
    return [uri for _, _, uri in sorted(found, key=lambda each: each[:2])]


def _is_metadata(request: SipRequest) -> bool:
    """Whether the body is a snapshot request: by disposition or media type, the root element being all it can be
    (RFC 7866 9.2)."""
    return any(part.disposition == DISPOSITION or part.media_type in METADATA_TYPES for part in parts_of(request))


def _wants_key_frame(request: SipRequest) -> bool:
    """RFC 5168: ``application/media_control+xml`` with a ``picture_fast_update`` primitive (RFC 7866 8.1.7.1.1)."""
    try:
        return any(
            part.media_type == MEDIA_CONTROL and b"picture_fast_update" in part.content for part in parts_of(request)
        )
    except SipError:
        return False
