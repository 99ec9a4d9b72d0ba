"""Replies of ng servers as values: subscriptions, statistics, load. What is missing or of the wrong type is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from siprec import sdp
from siprec.media.bencode import Value
from siprec.media.engine import (
    ForkedStream,
    ForkStatistics,
    MediaStatistics,
    SourceMove,
    StreamStatistics,
    Subscription,
)
from siprec.media.ng import Reply

MAX_NUMBERS: Final = 100
Source: TypeAlias = tuple[str, int]
"""A party's tag, and the number of its m-line, from 0."""


def text(value: Value | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def integer(value: Value | None) -> int:
    if isinstance(value, bytes) and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) else 0


def dictionary(value: Value | None) -> dict[str, Value]:
    return value if isinstance(value, dict) else {}


def items(value: Value | None) -> list[Value]:
    return value if isinstance(value, list) else []


def read_subscription(reply: Reply, asked: Sequence[str]) -> Subscription:
    """The reply to ``subscribe request`` as a value; raises :class:`~siprec.sdp.SdpError` when it makes no sense."""
    body, tag = reply.get("sdp"), text(reply.get("to-tag"))
    if not isinstance(body, bytes) or not tag:
        raise sdp.SdpError("a reply without SDP or tag")
    sections = sdp.parse(body).media
    labels = dictionary(reply.get("media-labels"))
    sources: list[Source] | None = None
    streams: list[ForkedStream] = []
    for number, section in enumerate(sections):
        label = section.label
        said = labels[label] if label and label in labels else None
        if type(said) is dict and said:
            source = _source(said.get("tag"), said)
        else:
            if sources is None:
                sources = _sources(reply, asked, len(sections))
            if number >= len(sources):
                raise sdp.SdpError("more streams than parties")
            source = sources[number]
        streams.append(ForkedStream(source[0], source[1], section.kind, section))
    return Subscription(tag, tuple(streams))


def _sources(reply: Reply, asked: Sequence[str], count: int) -> list[Source]:
    """Whose each of `count` streams is, where there are no labels: said in order, else all of one party together."""
    in_order = [
        _source(party.get("tag"), media)
        for party in map(dictionary, items(reply.get("tag-medias")))
        for media in map(dictionary, items(party.get("medias")))
    ]
    if len(in_order) == count:
        return in_order
    tags = [text(value) for value in items(reply.get("from-tags"))] or list(asked)
    each = max(1, count // max(1, len(tags)))
    return [(tag, index) for tag in tags for index in range(each)]


def _source(tag: Value | None, media: dict[str, Value]) -> Source:
    """Who sends a stream, and on which of its m-lines, from 0; ng counts them from 1."""
    return text(tag), max(0, integer(media.get("index")) - 1)


def read_statistics(reply: Reply) -> MediaStatistics:
    """The reply to ``query`` or ``delete`` as a value. What is missing or of the wrong type counts as zero."""
    streams: list[StreamStatistics] = []
    forks: list[ForkStatistics] = []
    tags = reply.get("tags")
    for tag, party in tags.items() if type(tags) is dict else ():
        if type(party) is not dict:
            continue
        sources = [
            text(each.get("tag"))
            for each in items(party.get("subscriptions"))
            if type(each) is dict and each.get("type") == b"pub/sub"
        ]
        for media in items(party.get("medias")):
            if type(media) is not dict:
                media = {}
            if sources or "fork" in media:
                forks.append(_read_fork(tag, media, sources))
            else:
                streams.append(_read_stream(tag, media))
    packets, octets, errors = integers(dictionary(reply.get("totals")).get("RTP"), "packets", "bytes", "errors")
    return MediaStatistics(
        created=float(integer(reply.get("created"))),
        packets=packets,
        octets=octets,
        errors=errors,
        streams=tuple(streams),
        forks=tuple(forks),
    )


def integers(value: Value | None, *names: str) -> list[int]:
    """The numbers called `names` in a dictionary; 0 for each that is none."""
    found: list[int] = []
    for name in names:
        number = value[name] if type(value) is dict and name in value else 0
        found.append(number if type(number) is int else integer(number))
    return found


def _endpoint(stream: dict[str, Value]) -> tuple[str, int] | None:
    endpoint = dictionary(stream.get("endpoint"))
    port = integer(endpoint.get("port"))
    return (text(endpoint.get("address")), port) if port else None


def _dropped(counters: dict[str, Value]) -> dict[str, int]:
    found = counters.get("dropped")
    return {reason: integer(count) for reason, count in found.items()} if type(found) is dict and found else {}


def _read_stream(tag: str, media: dict[str, Value]) -> StreamStatistics:
    rtp: dict[str, Value] | None = None
    rtcp: dict[str, Value] | None = None
    for part in items(media.get("streams")):
        flags = part.get("flags") if type(part) is dict else None
        if type(part) is dict and type(flags) is list:
            if rtp is None and b"RTP" in flags:
                rtp = part
            if rtcp is None and b"RTCP" in flags:
                rtcp = part
    rtp = rtp or {}
    packets, octets, errors = integers(rtp.get("stats"), "packets", "bytes", "errors")
    (last,) = integers(rtp, "last packet")
    ours = dictionary(media.get("counters"))
    relayed, forked, lost = integers(ours, "relayed", "forked", "lost") if ours else (None, None, None)
    return StreamStatistics(
        tag=tag,
        index=integer(media.get("index")) - 1,
        kind=text(media.get("type")),
        packets=packets,
        octets=octets,
        errors=errors,
        rtcp_packets=integers(rtcp.get("stats"), "packets")[0] if rtcp else 0,
        relayed=relayed,
        forked=forked,
        lost=lost,
        dropped=_dropped(ours) if ours else {},
        ssrcs=tuple([integer(each) for each in items(rtp.get("ssrcs"))]),
        last_packet=float(last) if packets > 0 else 0.0,
        endpoint=_endpoint(rtp),
    )


def _read_fork(tag: str, media: dict[str, Value], sources: list[str]) -> ForkStatistics:
    index = integer(media.get("index")) - 1
    parts = items(media.get("streams"))
    rtp = dictionary(parts[0]) if parts else {}
    ours = dictionary(media.get("fork"))
    if not ours:
        source = sources[index] if 0 <= index < len(sources) else (sources[-1] if sources else "")
        return ForkStatistics(tag=tag, index=index, from_tag=source, source_index=0, endpoint=_endpoint(rtp))
    return ForkStatistics(
        tag=tag,
        index=index,
        from_tag=text(ours.get("from-tag")),
        source_index=integer(ours.get("source index")) - 1,
        packets=integer(ours.get("packets")),
        octets=integer(ours.get("bytes")),
        dropped=_dropped(ours),
        paused=bool(integer(ours.get("paused"))),
        rtcp_received=integer(ours.get("rtcp received")),
        lost_reported=integer(ours.get("lost reported")) if "lost reported" in ours else None,
        jitter_reported=integer(ours.get("jitter reported")) if "jitter reported" in ours else None,
        last_report=float(integer(ours.get("last report"))),
        endpoint=_endpoint(rtp),
        withheld=integer(ours.get("withheld")),
        refused=integer(ours.get("refused")),
        before=integer(ours.get("before")),
        waiting=integer(ours.get("waiting")),
        reports=integer(ours.get("reports")),
        report_age=integer(ours.get("report age")) / 1000,
        report_interval=integer(ours.get("report interval")) / 1000,
        behind=integer(ours.get("behind")),
    )


def read_moves(reply: Reply) -> list[SourceMove]:
    """Changes of host in the reply to ``ping``."""
    return [
        SourceMove(
            text(move.get("call-id")),
            text(move.get("tag")),
            max(0, integer(move.get("index")) - 1),
            text(move.get("from")),
            text(move.get("to")),
        )
        for move in map(dictionary, items(reply.get("moved")))
    ]


def numbers(reply: Mapping[str, Value]) -> dict[str, int]:
    """The numbers in the reply to ``statistics``, nested names joined by dots; 100 at the most."""
    found: dict[str, int] = {}
    _walk(reply.get("statistics", {}), "", 0, found)
    return found


def _walk(value: Value, name: str, depth: int, found: dict[str, int]) -> None:
    if len(found) >= MAX_NUMBERS or depth > 3:
        return
    if isinstance(value, dict):
        for key, each in value.items():
            _walk(each, f"{name}.{key}" if name else key, depth + 1, found)
    elif isinstance(value, int):
        found[name] = value
    elif isinstance(value, bytes) and value.isdigit() and len(value) < 19:
        found[name] = int(value)  # RTPEngine writes some of them as text
