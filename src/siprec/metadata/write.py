"""Documents as XML, from templates with escaping; elements stand in the order of the schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from siprec.metadata.document import Document, NameId, Session
from siprec.metadata.values import ANONYMOUS, NAMESPACE, clean_aor, escape, rfc3339

_HEAD: Final = f'<?xml version="1.0" encoding="UTF-8"?>\n<recording xmlns="{NAMESPACE}"><datamode>'


class _Escaped(dict[str, str]):
    """Each text of a document is escaped once: the same few identifiers stand in most elements."""

    def __missing__(self, text: str) -> str:
        escaped = self[text] = escape(text)
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


def write(document: Document, labels: Mapping[str, str] | None = None) -> bytes:
    """The document as XML in UTF-8.

    `labels` gives the label of each stream id in the SDP of the same message; without SDP leave it out, since a
    label must not appear then.
    """
    text, times = _Escaped(), _Times()
    out = [_HEAD, document.mode, "</datamode>"]
    add = out.append
    for group in document.groups:
        add(
            f'<group group_id="{text[group.id]}">{times[group.associate_time, group.disassociate_time]}'
            f"{group.extension}</group>"
        )
    for session in document.sessions:
        _write_session(session, text, add)
    for participant in document.participants:
        names = participant.custom
        if not names:
            names = "".join([_name_id(each) for each in participant.name_ids]) or f'<nameID aor="{ANONYMOUS}"/>'
        add(f'<participant participant_id="{text[participant.id]}">{names}{participant.extension}</participant>')
    for stream in document.streams:
        session_id = f' session_id="{text[stream.session_id]}"' if stream.session_id else ""
        label = labels.get(stream.id) if labels else None
        inner = f"><label>{text[label]}</label></stream>" if label else "/>"
        add(f'<stream stream_id="{text[stream.id]}"{session_id}{inner}')
    for assoc in document.session_assocs:
        add(
            f'<sessionrecordingassoc session_id="{text[assoc.session_id]}">'
            f"{times[assoc.associate_time, assoc.disassociate_time]}</sessionrecordingassoc>"
        )
    for party in document.participant_assocs:
        params = "".join([f'<param pname="{text[name]}" pval="{text[value]}"/>' for name, value in party.params])
        add(
            f'<participantsessionassoc participant_id="{text[party.participant_id]}"'
            f' session_id="{text[party.session_id]}">'
            f"{times[party.associate_time, party.disassociate_time]}{params}</participantsessionassoc>"
        )
    for feed in document.stream_assocs:
        sends = "".join([f"<send>{text[each]}</send>" for each in feed.send])
        recvs = "".join([f"<recv>{text[each]}</recv>" for each in feed.recv])
        add(
            f'<participantstreamassoc participant_id="{text[feed.participant_id]}">{sends}{recvs}'
            f"{times[feed.associate_time, feed.disassociate_time]}</participantstreamassoc>"
        )
    add("</recording>\n")
    return "".join(out).encode("utf-8")


def _write_session(session: Session, text: _Escaped, add: Callable[[str], None]) -> None:
    parts = [f'<session session_id="{text[session.id]}">']
    parts += [f"<sipSessionID>{text[pair]}</sipSessionID>" for pair in session.sip_session_ids]
    parts += [
        f'<reason cause="{reason.cause}" protocol="{text[reason.protocol]}">{text[reason.text]}</reason>'
        for reason in session.reasons
    ]
    if session.group_ref:
        parts.append(f"<group-ref>{text[session.group_ref]}</group-ref>")
    if session.start_time is not None:
        parts.append(f"<start-time>{rfc3339(session.start_time)}</start-time>")
    if session.stop_time is not None:
        parts.append(f"<stop-time>{rfc3339(session.stop_time)}</stop-time>")
    parts.append(f"{session.extension}</session>")
    add("".join(parts))


def _name_id(name_id: NameId) -> str:
    aor = escape(clean_aor(name_id.aor))
    if not name_id.name:
        return f'<nameID aor="{aor}"/>'
    lang = f' xml:lang="{escape(name_id.lang)}"' if name_id.lang else ""
    return f'<nameID aor="{aor}"><name{lang}>{escape(name_id.name)}</name></nameID>'


def snapshot_request(reason: str = "", lang: str = "en") -> bytes:
    """The document that asks an SRC for a complete snapshot (RFC 7866 9.2), UTF-8."""
    inner = f'\n  <requestreason xml:lang="{lang}">{escape(reason)}</requestreason>\n' if reason else ""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<requestsnapshot xmlns="{NAMESPACE}">{inner}</requestsnapshot>\n'.encode()
