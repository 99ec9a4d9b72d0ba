"""Documents as XML, from templates with escaping; elements stand in the order of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from siprec.metadata.document import Document, Session
from siprec.metadata.values import ANONYMOUS, NAMESPACE, SPECIAL, clean_aor, escape, rfc3339

_HEAD: Final = f'<?xml version="1.0" encoding="UTF-8"?>\n<recording xmlns="{NAMESPACE}"><datamode>'


class _Escaped(dict[str, str]):
    """Each text of a document is escaped once: the same few identifiers stand in most elements."""

    def __missing__(self, text: str) -> str:
        escaped = self[text] = escape(text) if SPECIAL.search(text) is not None else text
        return escaped


class _Times(dict[tuple[float | None, float | None], str]):
    """The two times of an association, as elements."""

    def __missing__(self, times: tuple[float | None, float | None]) -> str:
        since, until = times
        text = f"<associate-time>{rfc3339(since)}</associate-time>" if since is not None else ""
        if until is not None:
            text += f"<disassociate-time>{rfc3339(until)}</disassociate-time>"
        self[times] = text
        return text


# Loops, where comprehensions would be functions to be called (before Python 3.12): a document is many short lists.


def write(document: Document, labels: Mapping[str, str] | None = None) -> bytes:
    """The document as XML in UTF-8.

    `labels` gives the label of each stream id in the SDP of the same message; without SDP leave it out, since a
    label must not appear then.
    """
    text, times = _Escaped(), _Times()
    out = _HEAD + document.mode + "</datamode>"
    for group in document.groups:
        out += (
            f'<group group_id="{text[group.id]}">{times[group.associate_time, group.disassociate_time]}'
            f"{group.extension}</group>"
        )
    for session in document.sessions:
        out += _session(session, text)
    for participant in document.participants:
        out += f'<participant participant_id="{text[participant.id]}">'
        if participant.custom:
            out += participant.custom
        elif not participant.name_ids:
            out += f'<nameID aor="{ANONYMOUS}"/>'
        else:
            for name_id in participant.name_ids:
                out += f'<nameID aor="{text[clean_aor(name_id.aor)]}"'
                if name_id.name:
                    lang = f' xml:lang="{text[name_id.lang]}"' if name_id.lang else ""
                    out += f"><name{lang}>{text[name_id.name]}</name></nameID>"
                else:
                    out += "/>"
        out += f"{participant.extension}</participant>"
    for stream in document.streams:
        session_id = f' session_id="{text[stream.session_id]}"' if stream.session_id else ""
        label = labels.get(stream.id) if labels else None
        inner = f"><label>{text[label]}</label></stream>" if label else "/>"
        out += f'<stream stream_id="{text[stream.id]}"{session_id}{inner}'
    for assoc in document.session_assocs:
        out += (
            f'<sessionrecordingassoc session_id="{text[assoc.session_id]}">'
            f"{times[assoc.associate_time, assoc.disassociate_time]}</sessionrecordingassoc>"
        )
    for party in document.participant_assocs:
        out += (
            f'<participantsessionassoc participant_id="{text[party.participant_id]}"'
            f' session_id="{text[party.session_id]}">{times[party.associate_time, party.disassociate_time]}'
        )
        for name, value in party.params:
            out += f'<param pname="{text[name]}" pval="{text[value]}"/>'
        out += "</participantsessionassoc>"
    for feed in document.stream_assocs:
        out += f'<participantstreamassoc participant_id="{text[feed.participant_id]}">'
        for stream_id in feed.send:
            out += f"<send>{text[stream_id]}</send>"
        for stream_id in feed.recv:
            out += f"<recv>{text[stream_id]}</recv>"
        out += f"{times[feed.associate_time, feed.disassociate_time]}</participantstreamassoc>"
    return (out + "</recording>\n").encode("utf-8")


def _session(session: Session, text: _Escaped) -> str:
    out = f'<session session_id="{text[session.id]}">'
    for pair in session.sip_session_ids:
        out += f"<sipSessionID>{text[pair]}</sipSessionID>"
    for reason in session.reasons:
        out += f'<reason cause="{reason.cause}" protocol="{text[reason.protocol]}">{text[reason.text]}</reason>'
    if session.group_ref:
        out += f"<group-ref>{text[session.group_ref]}</group-ref>"
    if session.start_time is not None:
        out += f"<start-time>{rfc3339(session.start_time)}</start-time>"
    if session.stop_time is not None:
        out += f"<stop-time>{rfc3339(session.stop_time)}</stop-time>"
    return f"{out}{session.extension}</session>"


def snapshot_request(reason: str = "", lang: str = "en") -> bytes:
    """The document that asks an SRC for a complete snapshot (RFC 7866 9.2), UTF-8."""
    inner = f'\n  <requestreason xml:lang="{lang}">{escape(reason)}</requestreason>\n' if reason else ""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<requestsnapshot xmlns="{NAMESPACE}">{inner}</requestsnapshot>\n'.encode()
