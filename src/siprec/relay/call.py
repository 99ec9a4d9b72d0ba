"""A call at the relay: its parties, their streams, and how descriptions are rewritten.

Each party has, per m-line, a pair of ports of ours that faces it. What arrives there goes out through the pair that
faces its peer. An offer allocates both pairs; ports stay the same through re-INVITEs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from siprec.relay import srtp_gateway
from siprec.relay.call_sdp import bundled, is_rtp, parse, relayed, rewritten
from siprec.relay.fork import Subscription
from siprec.relay.learning import ALL_PAYLOADS, Expected, Latching, behind_nat, expected
from siprec.relay.loop import PacketLoop
from siprec.relay.ng_wishes import CallError, Wishes
from siprec.relay.party import Keeper, Party, Stream
from siprec.relay.ports import NoPorts, PortPool, socket_address
from siprec.relay.rtp_stream import Flow, Role
from siprec.relay.srtp_gateway import BridgeError
from siprec.relay.totals import Totals
from siprec.sdp import MediaDescription, SessionDescription
from siprec.sip.clock import Clock


@dataclass(slots=True)
class Plane:
    """What calls are made of: sockets, ports, time, policies (times in seconds). `rtcp_mux`: offer
    recorders to send RTCP by the RTP port (RFC 5761)."""

    clock: Clock
    packets: PacketLoop
    pool: PortPool
    latching: Latching = field(default_factory=Latching)
    preroll: float = 10.0
    rtcp_mux: bool = False


class Player(Protocol):
    """What is being played to a party (:mod:`siprec.relay.player`)."""

    def stop(self) -> None: ...
    def detach(self) -> None: ...


class Call:
    """Offer, answer and the state between; :mod:`siprec.relay.forks` adds subscriptions."""

    def __init__(self, call_id: str, plane: Plane) -> None:
        self.call_id = call_id
        self.plane = plane
        self.created = plane.clock.wall()
        self.started = plane.clock.now()
        self.last_signal = plane.clock.now()
        self.parties: dict[str, Party] = {}
        self.pairs: list[tuple[Party, Party]] = []
        self.subscriptions: dict[str, Subscription] = {}
        self.players: dict[int, Player] = {}
        self.answered = False
        self.client: object = None
        """Who offered last."""
        self.ended = Totals()
        """Of streams and forks that ended before the call."""
        self._group = plane.packets.group()

    # ---------- offer / answer

    def offer(self, from_tag: str, to_tag: str, body: bytes, wishes: Wishes) -> bytes:
        """The offer as the other side shall see it; raises :class:`CallError`."""
        description = parse(body)
        party, peer = self._dialogue(from_tag, to_tag, description, wishes)
        for index, media in enumerate(description.media):
            if not media.rejected and relayed(media):
                self._stream(party, peer, index, media)
        self._signalled(party, description, wishes)
        peer.via_branch = wishes.via_branch or peer.via_branch
        self._expect(party)
        self._expect(peer)
        out = rewritten(description, peer, wishes)
        for index, media in enumerate(description.media):
            mine, theirs = _at(party.streams, index), _at(peer.streams, index)
            if mine is not None and theirs is not None and not media.rejected:
                try:
                    srtp_gateway.offer(
                        mine.transport,
                        theirs.transport,
                        media,
                        out.media[index],
                        wishes.transport,
                        wishes.sdes,
                        rekey="re-key" in wishes.flags,
                    )
                except BridgeError as error:
                    raise CallError(str(error)) from None
        if "pre-roll" in wishes.flags:
            self.keep()
        return out.to_bytes()

    def answer(self, from_tag: str, to_tag: str, body: bytes, wishes: Wishes) -> bytes:
        """The answer of `to_tag` as `from_tag`, who offered, shall see it; raises :class:`CallError`."""
        offerer = self.parties.get(from_tag)
        if offerer is None or offerer.description is None:
            raise CallError("No offer from that from-tag")
        description = parse(body)
        offered = offerer.description.media
        if len(description.media) != len(offered):
            raise CallError("Answer does not match the offer: number of m-lines")
        for was, now in zip(offered, description.media, strict=True):
            if was.kind != now.kind:
                raise CallError("Answer does not match the offer: media type")
        answerer = self._peer(offerer)
        if to_tag and answerer.tag != to_tag:
            # The first tag names the peer; another branch's answer (RFC 3261 13.2.1) takes its place, both tags stay
            # known.
            self._rename(answerer, to_tag)
        for index, media in enumerate(description.media):
            if media.rejected:
                self._release(offerer, index)
                self._release(answerer, index)
            elif relayed(media):
                self._stream(offerer, answerer, index, media)
        self._signalled(answerer, description, wishes)
        out = rewritten(description, offerer, wishes)
        self._agree(offerer, answerer, out)
        if "pre-roll" in wishes.flags:
            self.keep()
        self.answered = offerer.answered = answerer.answered = True
        for party in (offerer, answerer):
            self._settle(party)
            self._expect(party)
        return out.to_bytes()

    def _agree(self, offerer: Party, answerer: Party, out: SessionDescription) -> None:
        """Bring the two sides together: what each encrypts with, and where that ends here. Completes `out`."""
        if offerer.description is None or answerer.description is None:
            return
        for index, answered in enumerate(answerer.description.media):
            one, other = _at(offerer.streams, index), _at(answerer.streams, index)
            offered = offerer.description.media[index]
            if answered.rejected:
                out.media[index].proto = offered.proto
            if one is None or other is None or answered.rejected:
                continue
            try:
                srtp_gateway.answer(one.transport, other.transport, offered, answered, out.media[index])
            except BridgeError as error:
                raise CallError(str(error)) from None
            if one.transport.ends or other.transport.ends:
                for player in self.players.values():
                    player.detach()
            for mine, theirs in ((one, other), (other, one)):
                srtp_gateway.cross(mine.rtp, mine.transport, theirs.transport)
                srtp_gateway.cross(mine.rtcp, mine.transport, theirs.transport)

    def _dialogue(
        self, from_tag: str, to_tag: str, description: SessionDescription, wishes: Wishes
    ) -> tuple[Party, Party]:
        party = self.parties.get(from_tag)
        if party is not None:
            return party, self._peer(party)
        known = self.parties.get(to_tag) if to_tag else None
        if known is not None:
            party = self._peer(known)
            self._rename(party, from_tag)
            return party, known
        pool, now = self.plane.pool, self.plane.clock.wall()
        family = next((m.connection.family for m in description.media if m.connection is not None), "")
        names = (*wishes.interfaces, "", "")
        inner = pool.interface(name=names[0], family=family)
        outer = pool.interface(name=names[1], family=wishes.family or (inner.family if not names[1] else ""))
        party, peer = Party(from_tag, now, inner), Party(to_tag, now, outer)
        self.parties[from_tag] = party
        if to_tag != from_tag:
            self.parties[to_tag] = peer
        self.pairs.append((party, peer))
        return party, peer

    def _peer(self, party: Party) -> Party:
        for one, other in self.pairs:
            if party is one:
                return other
            if party is other:
                return one
        raise CallError("No peer")  # cannot be: parties come in pairs

    def _rename(self, party: Party, tag: str) -> None:
        if self.parties.get(tag) not in (None, party):
            raise CallError("That tag belongs to the other side")
        self.parties[tag] = party
        if not party.tag and self.parties.get("") is party:
            del self.parties[""]
        party.tag = tag

    def _stream(self, party: Party, peer: Party, index: int, media: MediaDescription) -> None:
        """Give both sides a stream for m-line `index`, where they have none."""
        role: Role = "rtp" if is_rtp(media) else "opaque"
        for side in (party, peer):
            while len(side.streams) <= index:
                side.streams.append(None)
            present = side.streams[index]
            if present is not None and (present.kind, present.role) != (media.kind, role):
                self._replace(side, index, media.kind, role)
            if side.streams[index] is None:
                side.streams[index] = self._open(side, media.kind, role)
        mine, theirs = party.streams[index], peer.streams[index]
        assert mine is not None
        assert theirs is not None
        if mine.rtp.peer is not theirs.rtp:
            mine.rtp.pair(theirs.rtp)
            theirs.rtp.pair(mine.rtp)
            mine.rtcp.pair(theirs.rtcp)
            theirs.rtcp.pair(mine.rtcp)

    def _open(self, party: Party, kind: str, role: Role) -> Stream:
        try:
            pair = self.plane.pool.allocate(party.interface)
        except NoPorts as error:
            raise CallError(f"No ports: {error}") from error
        packets, latching = self.plane.packets, self.plane.latching
        try:
            rtp = packets.flow(pair.rtp, latching, self._group, role)
            rtcp = packets.flow(pair.rtcp, latching, self._group, "control")
            rtcp.attend(rtp)
            rtp.owner = self
            return Stream(kind, pair, rtp, rtcp, role)
        except OSError as error:
            packets.remove(pair.rtp)
            pair.close()
            raise CallError(f"No sockets: {error.strerror}") from error

    def _replace(self, party: Party, index: int, kind: str, role: Role) -> None:
        """A slot may be used again for other media (RFC 3264 8.3.2). An offer of them may be refused (T.38: 488), so
        what was agreed on stays until the answer, and comes back with an offer of it."""
        present, before = party.streams[index], party.replaced.get(index)
        party.streams[index] = None
        if before is not None and (before.kind, before.role) == (kind, role):
            party.streams[index] = party.replaced.pop(index)
        elif present is not None and before is None and self.answered:
            party.replaced[index] = present
            return
        if present is not None:
            self._end(present)

    def _settle(self, party: Party) -> None:
        """What was replaced is over."""
        for stream in party.replaced.values():
            self._end(stream)
        party.replaced.clear()

    def _release(self, party: Party, index: int) -> None:
        stream = party.streams[index] if index < len(party.streams) else None
        if stream is None:
            return
        party.streams[index] = None
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        self.ended.add_flows(stream.rtp, stream.rtcp)
        for flow in (stream.rtp, stream.rtcp):
            self.plane.packets.remove(flow.sock)
            flow.owner = None
            flow.attend(None)
            if flow.peer is not None:
                flow.peer.pair(None)
                flow.pair(None)
        stream.pair.close()

    # ---------- addresses

    def _signalled(self, party: Party, description: SessionDescription, wishes: Wishes) -> None:
        """Take over where `party` says it receives."""
        self.last_signal = self.plane.clock.now()
        party.description = description
        party.received_from = wishes.received_from or party.received_from
        party.mistrusted = "sip-source-address" in wishes.flags
        party.label = wishes.label or party.label
        shared = bundled(description)
        for index, media in enumerate(description.media):
            stream = party.streams[index] if index < len(party.streams) else None
            if stream is None or media.rejected:
                continue
            where = shared.get(index, media)
            connection = where.connection
            held = connection is not None and connection.is_zero
            family = stream.pair.interface.family
            rtp = rtcp = None
            if connection is not None and not held:
                rtp = socket_address(family, connection.address, where.port)
                control = where.rtcp if stream.role == "rtp" else None
                rtcp = socket_address(family, *control) if control is not None else None
            stream.rtp.signal(rtp, held=held)
            stream.rtcp.signal(rtcp, held=held)

    def _expect(self, party: Party) -> None:
        """Tell the flows of `party` what to expect from it, as far as that is known."""
        peer = self._peer(party).description
        own = party.description
        if own is None:
            return
        shared = bundled(own)
        positions = {id(media): index for index, media in enumerate(own.media)}
        agreed: dict[int, tuple[int, bool]] = {}
        for index, media in enumerate(own.media):
            at = positions[id(shared[index])] if index in shared else index
            theirs = peer.media[index] if peer is not None and index < len(peer.media) else None
            if not self.answered or theirs is None or theirs.rejected or media.rejected:
                continue
            payloads, pauses = expected(media, theirs) if is_rtp(media) else (ALL_PAYLOADS, False)
            before = agreed.get(at, (0, False))
            agreed[at] = before[0] | payloads, before[1] or pauses
        for index, stream in enumerate(party.streams):
            if stream is None or index >= len(own.media):
                continue
            payloads, pauses = agreed.get(index, (0, False))
            connection, interface = own.media[index].connection, stream.pair.interface
            nat = connection is not None and behind_nat(connection.address, party.received_from, interface.address)
            nat = nat or party.mistrusted
            security = stream.security
            secure = security.secure and security.readable and bool(security.keys)
            stream.rtp.expect(Expected(payloads, nat, pauses, secure), stream.authentic if secure else None)

    def moved(self, flow: Flow) -> tuple[Party, int] | None:
        """The party and m-line of a flow."""
        return next(((party, index) for party, index, stream in self.streams() if stream.rtp is flow), None)

    # ---------- life

    def streams(self) -> list[tuple[Party, int, Stream]]:
        """Every stream that is open."""
        sides = {id(side): side for pair in self.pairs for side in pair}
        return [
            (side, index, stream)
            for side in sides.values()
            for index, stream in enumerate(side.streams)
            if stream is not None
        ]

    @property
    def totals(self) -> Totals:
        """All packets of the call."""
        found = Totals()
        found.add(self.ended)
        for _, _, stream in self.streams():
            found.add_flows(stream.rtp, stream.rtcp)
        for subscription in self.subscriptions.values():
            for fork in subscription.forks:
                found.add_fork(fork.packets, fork.dropped)
        return found

    @property
    def last_media(self) -> float:
        """Monotonic time of the last datagram from a party; the start of the call if there was none."""
        times = [max(stream.rtp.last, stream.rtp.heard, stream.rtcp.heard) for _, _, stream in self.streams()]
        return max([self.started, *times])

    @property
    def held(self) -> bool:
        """Somebody holds the call (RFC 3264 8.4). A phone that holds need not send music, so silence is no sign of
        death."""
        sections = [
            media
            for side in {id(side): side for pair in self.pairs for side in pair}.values()
            if side.description is not None
            for media in side.description.media
            if not media.rejected
        ]
        return any(media.on_hold for media in sections)

    def keep(self) -> None:
        """Pre-roll before there is a subscription: keep what both parties say from now on."""
        for _, _, stream in self.streams():
            if stream.keeper is not None:
                stream.keeper.since = self.plane.clock.now()
            else:
                copies = self.plane.packets.copies(stream.rtp, self.plane.preroll)
                copies.keep(self.plane.preroll)
                stream.keeper = Keeper(copies, self.plane.clock.now())
                stream.rtp.forks = (*stream.rtp.forks, copies)

    def expire_keepers(self, now: float) -> None:
        """Pre-roll that no subscription has asked for in its time goes; before an answer its time has not begun."""
        if not self.answered:
            return
        for _, _, stream in self.streams():
            keeper = stream.keeper
            if keeper is not None and now - keeper.since > self.plane.preroll:
                stream.keeper = None
                stream.rtp.forks = tuple(sink for sink in stream.rtp.forks if sink is not keeper.copies)
                keeper.copies.off()
                keeper.copies.clear()

    def close(self) -> None:
        """Release every port of the parties."""
        for player in self.players.values():
            player.stop()
        self.players.clear()
        for party, index, _ in self.streams():
            self._release(party, index)
        for party in self.parties.values():
            self._settle(party)
        self.parties.clear()
        self.pairs.clear()


def _at(streams: list[Stream | None], index: int) -> Stream | None:
    return streams[index] if index < len(streams) else None
