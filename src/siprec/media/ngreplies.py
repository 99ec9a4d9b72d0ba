"""Replies of ng servers as values: subscriptions, statistics, load. What is missing or of the wrong type is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

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
    description = sdp.parse(body)
    labels = dictionary(reply.get("media-labels"))
    in_order = [
        (text(dictionary(party).get("tag")), integer(dictionary(media).get("index")) - 1)
        for party in items(reply.get("tag-medias"))
        for media in items(dictionary(party).get("medias"))
    ]
    tags = [text(value) for value in items(reply.get("from-tags"))] or list(asked)
    streams = []
    for number, media in enumerate(description.media):
        said = dictionary(labels.get(media.label or ""))
        if said:
            source = text(said.get("tag")), integer(said.get("index")) - 1
        elif len(in_order) == len(description.media):
            source = in_order[number]
        else:
            each = max(1, len(description.media) // max(1, len(tags)))
            if number // each >= len(tags):
                raise sdp.SdpError("more streams than parties")
            source = tags[number // each], number % each
        streams.append(ForkedStream(source[0], max(0, source[1]), media.kind, media))
    return Subscription(tag, description, tuple(streams))


def read_statistics(reply: Reply) -> MediaStatistics:
    """The reply to ``query`` as a value. What is missing or of the wrong type counts as zero."""
    streams: list[StreamStatistics] = []
    forks: list[ForkStatistics] = []
    for tag, value in dictionary(reply.get("tags")).items():
        party = dictionary(value)
        sources = [
            text(dictionary(each).get("tag"))
            for each in items(party.get("subscriptions"))
            if dictionary(each).get("type") == b"pub/sub"
        ]
        for media in map(dictionary, items(party.get("medias"))):
            if sources or "fork" in media:
                forks.append(_read_fork(tag, media, sources))
            else:
                streams.append(_read_stream(tag, media))
    rtp = dictionary(dictionary(reply.get("totals")).get("RTP"))
    return MediaStatistics(
        created=float(integer(reply.get("created"))),
        packets=integer(rtp.get("packets")),
        octets=integer(rtp.get("bytes")),
        errors=integer(rtp.get("errors")),
        streams=tuple(streams),
        forks=tuple(forks),
    )


def _endpoint(stream: dict[str, Value]) -> tuple[str, int] | None:
    endpoint = dictionary(stream.get("endpoint"))
    port = integer(endpoint.get("port"))
    return (text(endpoint.get("address")), port) if port else None


def _read_stream(tag: str, media: dict[str, Value]) -> StreamStatistics:
    parts = [dictionary(each) for each in items(media.get("streams"))]
    rtp = next((each for each in parts if b"RTP" in items(each.get("flags"))), {})
    rtcp = next((each for each in parts if b"RTCP" in items(each.get("flags"))), {})
    stats = dictionary(rtp.get("stats"))
    ours = dictionary(media.get("counters"))
    counted = bool(ours)
    seen = integer(stats.get("packets")) > 0
    return StreamStatistics(
        tag=tag,
        index=integer(media.get("index")) - 1,
        kind=text(media.get("type")),
        packets=integer(stats.get("packets")),
        octets=integer(stats.get("bytes")),
        errors=integer(stats.get("errors")),
        rtcp_packets=integer(dictionary(rtcp.get("stats")).get("packets")),
        relayed=integer(ours.get("relayed")) if counted else None,
        forked=integer(ours.get("forked")) if counted else None,
        lost=integer(ours.get("lost")) if counted else None,
        dropped={reason: integer(count) for reason, count in dictionary(ours.get("dropped")).items()},
        ssrcs=tuple(integer(each) for each in items(rtp.get("ssrcs"))),
        last_packet=float(integer(rtp.get("last packet"))) if seen else 0.0,
        local_port=integer(rtp.get("local port")),
        endpoint=_endpoint(rtp),
    )


def _read_fork(tag: str, media: dict[str, Value], sources: list[str]) -> ForkStatistics:
    index = integer(media.get("index")) - 1
    rtp = next(iter([dictionary(each) for each in items(media.get("streams"))]), {})
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
        dropped={reason: integer(count) for reason, count in dictionary(ours.get("dropped")).items()},
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

    def walk(value: Value, name: str, depth: int) -> None:
        if len(found) >= MAX_NUMBERS or depth > 3:
            return
        if isinstance(value, dict):
            for key, each in value.items():
                walk(each, f"{name}.{key}" if name else key, depth + 1)
        elif isinstance(value, int):
            found[name] = value
        elif isinstance(value, bytes) and value.isdigit() and len(value) < 19:
            found[name] = int(value)  # RTPEngine writes some of them as text

    walk(reply.get("statistics", {}), "", 0)
    return found
