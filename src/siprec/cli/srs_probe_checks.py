"""What `siprec srs-probe` looks for in the messages of an SRS: requirements, verdicts, and the rules that give them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal

from siprec import sdp
from siprec.metadata.document import SnapshotRequest
from siprec.metadata.errors import MetadataError
from siprec.metadata.read import parse as parse_metadata
from siprec.metadata.values import DISPOSITION
from siprec.recording import srtp_sdp
from siprec.sdp import MediaDescription, SdpError, SessionDescription
from siprec.sdp import crypto as sdp_crypto
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.multipart import METADATA_TYPES, parts_of
from siprec.sip.useragent import session_description

Verdict = Literal["pass", "fail", "not seen"]

#: Identifier -> level and text, in the order of the report. A ``*``: no keyword of the RFC, but our reading of it.
REQUIREMENTS: Final[dict[str, tuple[str, str]]] = {
    "SRS-01": ("MUST", "takes an INVITE with the siprec tag and +sip.src as recording session"),
    "SRS-03": ("MUST", "+sip.srs in every Contact it sends"),
    "SRS-06": ("MUST*", "answers recvonly, or inactive, per accepted stream"),
    "SRS-07": ("MUST NOT", "adds no streams in offers of its own"),
    "SRS-09": ("MUST", "answers every m-line, in place"),
    "SRS-10": ("MUST", "takes separate audio m-lines, one per direction of the call"),
    "SRS-12": ("MUST", "reads multipart bodies"),
    "SRS-13": ("SHOULD*", "takes the metadata media type offered"),
    "SRS-14": ("SHOULD*", "echoes a=label"),
    "SRS-15": ("MUST", "takes metadata in an UPDATE without SDP"),
    "SRS-18": ("MUST NOT", "refuses metadata that refer to an unknown id"),
    "SDP-08": ("MUST", "o= version moves on with each change, and only then"),
    "SDP-09": ("MUST", "direction of each answer fits the offer"),
    "SDP-10": ("MUST", "answer names an address, a port and formats of the offer"),
    "SDP-15": ("MUST", "rtcp-mux only where it was offered"),
    "SDP-17": ("MUST*", "address type follows the address"),
    "CTL-01": ("MUST*", "pause (inactive) and resume (sendonly) are followed"),
    "CTL-05": ("MUST*", "RTCP goes on while paused"),
    "META-11": ("MUST", "asks for a snapshot by UPDATE, disposition recording-session, without SDP"),
    "META-12": ("MUST", "snapshot request is a requestsnapshot document"),
    "META-18": ("MUST*", "answers an offerless re-INVITE with an offer"),
    "MEDIA-01": ("MUST", "sends RTCP receiver reports"),
    "MEDIA-02": ("MUST", "symmetric RTCP: reports come from where they are received"),
    "MEDIA-03": ("MUST", "SSRC of its own"),
    "MEDIA-05": ("SHOULD*", "CNAME gives nothing away (RFC 7022)"),
    "UAC-13": ("MUST", "session timer: an interval not above ours, and who refreshes"),
    "UAC-16": ("MUST", "BYE is answered 200"),
    "SEC-01": ("MUST", "SIP over TLS"),
    "SEC-06": ("MUST", "takes SRTP keyed by SDP (RTP/SAVP)"),
    "SEC-16": ("MUST*", "answers a=crypto with tag and suite of an offered line and a key of its own"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation: requirement, step in which it was made, verdict, and why."""

    id: str
    step: str
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Row:
    """A requirement with the verdict of the whole walk: one failure outweighs any number of passes."""

    id: str
    level: str
    text: str
    verdict: Verdict
    why: str

    @property
    def must(self) -> bool:
        """Whether a failure is one of a MUST (those of our own reading, ``MUST*``, count)."""
        return self.level.startswith("MUST")


@dataclass(slots=True)
class Findings:
    """All observations of a walk; `step` is the one that goes on."""

    step: str = ""
    all: list[Finding] = field(default_factory=list)

    def check(self, id_: str, good: bool, bad: str, fine: str = "") -> bool:
        """Note a pass with `fine`, or a failure with `bad`; returns `good`."""
        self.all.append(Finding(id_, self.step, "pass" if good else "fail", fine if good else bad))
        return good

    def unseen(self, id_: str, why: str) -> None:
        """Note that nothing can be said, and why."""
        self.all.append(Finding(id_, self.step, "not seen", why))

    def rows(self) -> list[Row]:
        """One row per requirement, in the order of `REQUIREMENTS`."""
        rows = []
        for id_, (level, text) in REQUIREMENTS.items():
            mine = [finding for finding in self.all if finding.id == id_]
            verdict: Verdict = "not seen"
            for wanted in ("fail", "pass"):
                if any(finding.verdict == wanted for finding in mine):
                    verdict = "fail" if wanted == "fail" else "pass"
                    break
            chosen = [finding for finding in mine if finding.verdict == verdict]
            if verdict == "fail":
                whys = list(dict.fromkeys(f"{finding.step}: {finding.why}" for finding in chosen))
            else:
                whys = list(dict.fromkeys(finding.why for finding in chosen if finding.why))[-1:]
            rows.append(Row(id_, level, text, verdict, "; ".join(whys)))
        return rows

    @property
    def met(self) -> bool:
        """Whether no MUST failed."""
        return not any(row.verdict == "fail" and row.must for row in self.rows())


def check_contact(findings: Findings, message: SipMessage) -> None:
    """RFC 7866 6.2: the feature parameter on whatever Contact there is; a 2xx to INVITE has to have one (RFC 3261
    12.1.1)."""
    what = f"{message.status} to {message.cseq.method}" if isinstance(message, SipResponse) else _method(message)
    try:
        contact = message.contact
    except SipError as error:
        findings.check("SRS-03", False, f"Contact of the {what} is malformed: {error.reason}")
        return
    if contact is None:
        if isinstance(message, SipRequest) or message.cseq.method == "INVITE":
            findings.check("SRS-03", False, f"{what} without Contact")
        return
    if "+sip.srs" in contact.params:
        findings.check("SRS-03", True, "", "in every Contact seen")
    elif "+sip.srs" in contact.uri_text:
        findings.check("SRS-03", False, f"{what}: +sip.srs inside the URI, it is a parameter of the header")
    else:
        findings.check("SRS-03", False, f"no +sip.srs in the Contact of the {what}")


def _method(message: SipMessage) -> str:
    return message.method if isinstance(message, SipRequest) else "response"


class AnswerRules:
    """Judges the SRS's half of each offer/answer exchange; keeps what it said last."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._last: tuple[sdp.Origin, list[str]] | None = None

    def description(self, message: SipMessage) -> SessionDescription | None:
        """The SDP of a message, None if there is none that can be read."""
        try:
            octets = session_description(message)
            return sdp.parse(octets) if octets else None
        except (SipError, SdpError):
            return None

    def answer(self, message: SipResponse, offer: SessionDescription, *, control: bool = False) -> None:
        """An answer to an offer of ours. `control`: the offer pauses or resumes (RFC 7866 7.1.1.1)."""
        check = self._findings.check
        answer = self.description(message)
        if answer is None:
            check("SRS-09", False, f"{message.status} without a session description that can be read")
            return
        self.origin(answer)
        ours, theirs = offer.media, answer.media
        kinds = [line.kind for line in ours], [line.kind for line in theirs]
        if not check("SRS-09", kinds[0] == kinds[1], f"offered {_list(kinds[0])}, answered {_list(kinds[1])}"):
            return
        for number, (mine, line) in enumerate(zip(ours, theirs, strict=True), 1):
            if mine.rejected or line.rejected:
                check("SRS-09", not (mine.rejected and not line.rejected), f"m-line {number}: port 0 was not kept")
                continue
            where = f"m-line {number}"
            allowed = sdp.answer_direction(mine.direction, True, "recvonly"), "inactive"
            fits = check("SDP-09", line.direction in allowed, f"{where}: {mine.direction} answered {line.direction}")
            if mine.direction == "sendonly":
                check("SRS-06", fits, f"{where}: {line.direction}", "every accepted stream")
            if control and line.direction == "inactive" != mine.direction:
                self._findings.unseen("CTL-01", f"{where}: the SRS keeps it inactive")
            elif control:
                check("CTL-01", fits, f"{where}: {mine.direction} answered {line.direction}", "both followed")
            unknown = [text for text in line.formats if text not in mine.formats]
            check("SDP-10", not unknown, f"{where}: formats {_list(unknown)} were not offered")
            check("SDP-10", line.proto == mine.proto, f"{where}: {mine.proto} answered with {line.proto}")
            if srtp_sdp.is_secure(mine):
                self._keys(where, mine, line)
            connection = line.connection
            check("SDP-10", connection is not None, f"{where}: no c= line")
            if connection is not None:
                right = sdp.address_family(connection.address) == connection.family
                check("SDP-17", right, f"{where}: {connection.family} {connection.address}")
                usable = line.direction == "inactive" or not connection.is_zero
                check("SDP-10", usable, f"{where}: {line.direction} at {connection.address}")
            if mine.label is not None:
                given = "none" if line.label is None else line.label
                check("SRS-14", line.label == mine.label, f"{where}: label {mine.label} came back as {given}")
            muxed = mine.attribute("rtcp-mux") is None and line.attribute("rtcp-mux") is not None
            check("SDP-15", not muxed, f"{where}: rtcp-mux was not offered")

    def _keys(self, where: str, mine: MediaDescription, line: MediaDescription) -> None:
        offered, answered = srtp_sdp.keys(mine), srtp_sdp.keys(line)
        values = line.attributes("crypto")
        fits = len(values) == len(answered) == 1 and sdp_crypto.matches(offered, answered[0]) is not None
        own = not {key.key for key in offered} & {key.key for key in answered}
        problem = f"{len(values)} lines" if len(values) != 1 else "none that was offered" if not fits else "our own key"
        self._findings.check("SEC-16", fits and own, f"{where}: a=crypto: {problem}", "as the rule says")

    def offer(self, description: SessionDescription, lines: int) -> None:
        """An offer of the SRS where `lines` m-lines are agreed on (RFC 7866 7.2)."""
        added = len(description.media) - lines
        self._findings.check("SRS-07", added <= 0, f"offer with {added} more m-lines", "offers keep the m-lines")
        self._findings.check("SRS-09", added >= 0, f"offer with {-added} m-lines fewer (SDP-07)")
        self.origin(description)

    def origin(self, description: SessionDescription) -> None:
        """RFC 3264 8: same session, version one up exactly when anything else changed."""
        check = self._findings.check
        origin = description.origin
        if origin is None:
            check("SDP-08", False, "no o= line that can be read")
            return
        text = description.to_bytes().decode("utf-8", "surrogateescape").splitlines()
        rest = [line for line in text if not line.startswith("o=")]
        last, self._last = self._last, (origin, rest)
        if last is None:
            return
        before = last[0]
        same = (before.username, before.session_id, before.address) == (
            origin.username,
            origin.session_id,
            origin.address,
        )
        if not check("SDP-08", same, f"another session: {before.to_line()} became {origin.to_line()}"):
            return
        if not (before.version.isdecimal() and origin.version.isdecimal()):
            check("SDP-08", False, f"version {origin.version[:30]} is no number")
            return
        step = int(origin.version) - int(before.version)
        if rest == last[1]:
            check("SDP-08", step == 0, f"unchanged description, version {step:+d}", "as the rule says")
        else:
            check("SDP-08", step == 1, f"changed description, version {step:+d}", "as the rule says")


def check_request(findings: Findings, request: SipRequest) -> bool:
    """An INVITE or UPDATE of the SRS inside the dialog; true when it asks for a snapshot (RFC 7866 9.2, RFC 7865 7)."""
    check_contact(findings, request)
    try:
        parts = parts_of(request)
    except SipError as error:
        findings.check("META-11", False, f"body of the {request.method} cannot be read: {error.reason}")
        return False
    asking = [part for part in parts if part.media_type in METADATA_TYPES or part.disposition == DISPOSITION]
    if not asking:
        return False
    part = asking[0]
    described = session_description(request) is not None
    findings.check("META-11", request.method == "UPDATE", f"snapshot asked for in {request.method}", "by UPDATE")
    findings.check("META-11", not described, f"{request.method} with SDP besides the snapshot request", "by UPDATE")
    stated = part.header("content-disposition") is not None and part.disposition == DISPOSITION
    findings.check("META-11", stated, f"Content-Disposition is not {DISPOSITION}", "by UPDATE")
    try:
        document = parse_metadata(part.content, charset=part.content_type.param("charset") or None)
    except (MetadataError, SipError) as error:
        findings.check("META-12", False, error.reason)
        return False
    if not isinstance(document, SnapshotRequest):
        return findings.check("META-12", False, "metadata of its own instead of a requestsnapshot document")
    problems = "; ".join(document.findings)
    findings.check("META-12", not document.findings, problems, f"reason: {document.reason or 'none given'}")
    return True


def _list(items: Collection[str]) -> str:
    return ", ".join(items) or "nothing"
