"""The reply to ``query``: RTPEngine's keys, and what ours counts besides."""

from __future__ import annotations

from siprec.media.bencode import Encodable
from siprec.relay.call import Call
from siprec.relay.fork import Fork, Subscription
from siprec.relay.party import Party, Stream
from siprec.relay.ports import PortPair
from siprec.relay.rtp_stream import Address, Flow
from siprec.sdp import MediaDescription

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
        "created_us": int(call.created % 1 * 1_000_000),
        "SSRC": {},
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
    copies = [{"tag": each.tag, "type": "pub/sub"} for each in call.subscriptions.values()]
    found: Reply = {
        "tag": party.tag,
        "created": int(party.created),
        "in dialogue with": peer.tag,
        "subscriptions": [{"tag": peer.tag, "type": "offer/answer"}],
        "subscribers": [{"tag": peer.tag, "type": "offer/answer"}, *copies],
        "medias": medias,
    }
    if party.via_branch:
        found["via-branch"] = party.via_branch
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
        "flags": _directions(section),
        "streams": [
            _socket(stream.pair, rtp, 0, rtp.packets, rtp.octets, offset) | {"ssrcs": list(rtp.ssrcs)},
            _socket(stream.pair, rtcp, 1, rtcp.rtcp_packets, rtcp.rtcp_octets, offset),
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


def _directions(section: MediaDescription | None) -> list[Encodable]:
    direction = section.direction if section is not None else "sendrecv"
    words = {"sendrecv": ["send", "recv"], "sendonly": ["recv"], "recvonly": ["send"]}  # as the relay sees it
    return ["initialized", *words.get(direction, [])]


def _local(pair: PortPair, number: int) -> Reply:
    """Our end of RTP (0) or RTCP (1)."""
    address = pair.interface.address
    return {"local port": pair.port + number, "local address": address, "family": _family(address)}


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _socket(pair: PortPair, flow: Flow, number: int, packets: int, octets: int, offset: float) -> Reply:
    last = max(flow.last, flow.heard)
    known = ["confirmed"] if flow.source is not None else []
    return {
        **_local(pair, number),
        "endpoint": _endpoint(flow.remote),
        "advertised endpoint": _endpoint(flow.signalled),
        "last packet": int(last + offset) if last else 0,
        "flags": [("RTP", "RTCP")[number], *(["filled"] if flow.remote is not None else []), *known],
        "stats": {"packets": packets, "bytes": octets, "errors": _errors(flow)},
    }


def _endpoint(address: Address) -> Reply:
    if address is None:
        return {}
    return {"family": _family(address[0]), "address": address[0], "port": address[1]}


def _subscription(call: Call, subscription: Subscription, offset: float) -> Reply:
    sources = dict.fromkeys(fork.from_tag for fork in subscription.forks)
    now = call.plane.clock.now()
    return {
        "tag": subscription.tag,
        "label": subscription.label,
        "created": int(subscription.created),
        "subscriptions": [{"tag": tag, "type": "pub/sub"} for tag in sources],
        "subscribers": [],
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
        "protocol": fork.section.proto if fork.section is not None else "RTP/AVP",
        "flags": _directions(fork.section),
        "streams": [
            {
                **_local(fork.pair, number),
                "endpoint": _endpoint(remote),
                "advertised endpoint": _endpoint(remote),
                "last packet": 0,
                "flags": [kind],
                "stats": {"packets": 0, "bytes": 0, "errors": errors},
            }
            for number, kind, remote, errors in (
                (0, "RTP", fork.remote, sum(fork.dropped.values())),
                (1, "RTCP", fork.remote_rtcp, 0),
            )
        ],
    }
