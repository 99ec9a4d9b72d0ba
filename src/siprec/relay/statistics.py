"""The reply to ``query``: RTPEngine's keys, and what ours counts besides."""

from __future__ import annotations

from siprec.media.bencode import Encodable
from siprec.relay.call import Call, Party, Stream
from siprec.relay.flow import Address, Flow
from siprec.relay.fork import Fork, Subscription

Reply = dict[str, Encodable]


def statistics(call: Call) -> Reply:
    """All counters of `call`."""
    clock = call.plane.clock
    offset = clock.wall() - clock.now()
    tags: Reply = {}
    seen: dict[int, Party] = {id(party): party for pair in call.pairs for party in pair}
    for party in seen.values():
        tags[party.tag] = _party(call, party, offset)
    for subscription in call.subscriptions.values():
        tags[subscription.tag] = _subscription(call, subscription, offset)
    streams = call.streams()
    return {
        "created": int(call.created),
        "last signal": int(call.last_signal + offset),
        "tags": tags,
        "totals": {
            "RTP": {
                "packets": sum(stream.rtp.packets for _, _, stream in streams),
                "bytes": sum(stream.rtp.octets for _, _, stream in streams),
                "errors": sum(_errors(stream.rtp) for _, _, stream in streams),
            },
            "RTCP": {
                "packets": sum(stream.rtcp.rtcp_packets + stream.rtp.rtcp_packets for _, _, stream in streams),
                "bytes": sum(stream.rtcp.rtcp_octets + stream.rtp.rtcp_octets for _, _, stream in streams),
                "errors": sum(_errors(stream.rtcp) for _, _, stream in streams),
            },
        },
    }


def _errors(flow: Flow) -> int:
    return sum(flow.dropped.values())


def _party(call: Call, party: Party, offset: float) -> Reply:
    medias: list[Encodable] = []
    for index, stream in enumerate(party.streams):
        if stream is not None:
            medias.append(_media(party, index, stream, offset))
    peer = call._peer(party)
    found: Reply = {"tag": party.tag, "created": int(party.created), "in dialogue with": peer.tag, "medias": medias}
    if party.label:
        found["label"] = party.label
    return found


def _media(party: Party, index: int, stream: Stream, offset: float) -> Reply:
    rtp, rtcp = stream.rtp, stream.rtcp
    section = party.description.media[index] if party.description and index < len(party.description.media) else None
    return {
        "index": index + 1,
        "type": stream.kind,
        "protocol": section.proto if section is not None else "RTP/AVP",
        "flags": ["initialized"],
        "streams": [
            _socket(rtp, stream.pair.port, "RTP", rtp.packets, rtp.octets, offset)
            | {"ssrcs": list(rtp.ssrcs), "local address": stream.pair.interface.address},
            _socket(rtcp, stream.pair.port + 1, "RTCP", rtcp.rtcp_packets, rtcp.rtcp_octets, offset),
        ],
        "counters": {
            "relayed": rtp.packets - rtp.unsent,
            "forked": sum(sink.packets for sink in rtp.forks),
            "lost": rtp.lost,
            "late": rtp.late,
            "rtcp": rtcp.rtcp_packets + rtp.rtcp_packets,
            "dropped": dict(rtp.dropped),
        },
    }


def _socket(flow: Flow, port: int, kind: str, packets: int, octets: int, offset: float) -> Reply:
    last = max(flow.last, flow.heard)
    return {
        "local port": port,
        "endpoint": _endpoint(flow.remote),
        "advertised endpoint": _endpoint(flow.signalled),
        "last packet": int(last + offset) if last else 0,
        "flags": [kind, *(["confirmed"] if flow.source is not None else [])],
        "stats": {"packets": packets, "bytes": octets, "errors": _errors(flow)},
    }


def _endpoint(address: Address) -> Reply:
    if address is None:
        return {}
    return {"family": "IPv6" if ":" in address[0] else "IPv4", "address": address[0], "port": address[1]}


def _subscription(call: Call, subscription: Subscription, offset: float) -> Reply:
    sources = dict.fromkeys(fork.from_tag for fork in subscription.forks)
    now = call.plane.clock.now()
    return {
        "tag": subscription.tag,
        "label": subscription.label,
        "created": int(subscription.created),
        "subscriptions": [{"tag": tag, "type": "pub/sub"} for tag in sources],
        "medias": [_fork(number, fork, now) for number, fork in enumerate(subscription.forks, 1)],
    }


def _fork(number: int, fork: Fork, now: float) -> Reply:
    counters: Reply = {
        "from-tag": fork.from_tag,
        "source index": fork.index + 1,
        "packets": fork.packets,
        "bytes": fork.octets,
        "waiting": fork.copies.waiting,
        "withheld": fork.withheld,
        "refused": fork.refused,
        "before": fork.before,
        "reports": fork.reports,
        "paused": int(fork.paused or fork.gated or fork.rejected),
        "rtcp received": fork.rtcp_received,
        "unexpected": fork.unexpected,
        "last report": int(fork.last_report),
        "dropped": dict(fork.dropped),
    }
    if fork.lost_reported is not None:
        counters["lost reported"] = fork.lost_reported
        counters["behind"] = fork.behind
        counters["report age"] = round((now - fork.last_block) * 1000)
        counters["report interval"] = round(fork.report_interval * 1000)
    if fork.jitter_reported is not None:
        counters["jitter reported"] = fork.jitter_reported
    return {
        "index": number,
        "type": fork.section.kind if fork.section is not None else "",
        "fork": counters,
        "streams": [
            {
                "local port": fork.pair.port,
                "local address": fork.pair.interface.address,
                "endpoint": _endpoint(fork.remote),
                "flags": ["RTP"],
                "stats": {"packets": 0, "bytes": 0, "errors": sum(fork.dropped.values())},
            },
        ],
    }
