"""Subscriptions of a call: ``subscribe request``, ``subscribe answer``, ``unsubscribe``, and pausing."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from siprec import sdp
from siprec.relay import keyframe
from siprec.relay.call import Call
from siprec.relay.call_sdp import is_rtp, relayed
from siprec.relay.fork import Fork, Subscription, release, watch
from siprec.relay.ng_wishes import CallError, Wishes
from siprec.relay.party import Party, Stream
from siprec.relay.ports import Interface, NoPorts, socket_address
from siprec.relay.secure import ForkKeys, fork_keys, is_encrypted
from siprec.relay.srtp_gateway import PROTOCOLS
from siprec.rtp import rtcp, srtp
from siprec.sdp import MediaDescription, SessionDescription

MAX_SUBSCRIPTIONS: Final = 32
"""Recorders of one call."""
HEAD_START: Final = 0.5
"""Seconds of pre-roll that need not be there: as long as a request may take."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The reply to ``subscribe request``: the description, and whose stream each of its m-lines is."""

    subscription: Subscription
    description: SessionDescription
    tags: tuple[str, ...]


def subscribe_request(call: Call, tags: Sequence[str], tag: str, wishes: Wishes) -> Offered:
    """Offer copies of all streams of the parties `tags` (all parties if empty), in that order.

    With the `tag` of an existing subscription, that one is renewed: streams that go on keep ports, destination and
    pause, others end; streams that join a paused one are paused. Raises :class:`~siprec.relay.ng_wishes.CallError`.
    """
    parties = _parties(call, tags)
    subscription = call.subscriptions.get(tag) if tag else None
    if subscription is None:
        if tag in call.parties and tag:
            raise CallError("That tag is a party's")
        if len(call.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise CallError("Too many subscriptions")
        subscription = Subscription(tag or secrets.token_hex(16), created=call.plane.clock.wall())
    subscription.label = wishes.label or subscription.label
    # A stream may go on under another tag: of several branches of a call the last one that answers has the media.
    kept = {fork.source: fork for fork in subscription.forks}
    renewed, paused = bool(subscription.forks), any(fork.paused for fork in subscription.forks)
    if wishes.hold:
        for fork in subscription.forks:
            fork.hold()
    # One CNAME for all streams of a party (RFC 7866 8.3.1): what was said and shown together stays together.
    cnames = {fork.from_tag: fork.cname for fork in subscription.forks}
    forks: list[Fork] = []
    unreadable = False
    try:
        for name, party in parties:
            for index, stream in enumerate(party.streams):
                if stream is None or not copied(party, index, stream):
                    continue
                if not stream.security.readable:
                    unreadable = True
                    continue
                known = kept.pop(stream.rtp, None)
                if known is not None and known.pair.interface.family != _interface(call, stream, wishes).family:
                    known = None  # the next recorder is reached by other addresses: from sockets of their own
                fork = known or _open(call, name, index, stream, wishes)
                fork.from_tag = name
                if known is None:
                    fork.cname = cnames.setdefault(name, fork.cname)
                if known is None and renewed:
                    fork.begun = not wishes.hold  # what it keeps is for an answer to come, not for the end of a hold
                    fork.pause(paused)
                fork.section = _section(call, party, index, stream, fork, wishes)
                _secure(stream, fork, wishes)
                fork.label = str(len(forks) + 1)
                forks.append(fork)
    except NoPorts as error:
        for fork in forks:
            if fork not in subscription.forks:
                _end(call, fork)
        raise CallError(f"No ports: {error}") from error
    if unreadable and not forks:
        raise CallError("Nothing to subscribe to: encrypted with keys that are not in the SDP, or a suite not known")
    for fork in subscription.forks:
        if fork not in forks:
            _end(call, fork)
    subscription.forks = forks
    subscription.version += 1
    call.subscriptions[subscription.tag] = subscription
    return Offered(subscription, _offer(call, subscription, wishes), tuple(name for name, _ in parties))


def subscribe_answer(call: Call, tag: str, body: bytes) -> None:
    """The recorder's answer; may come again at any time. Raises :class:`~siprec.relay.ng_wishes.CallError`."""
    subscription = call.subscriptions.get(tag)
    if subscription is None:
        raise CallError("To-tag not found")
    try:
        description = sdp.parse(body)
    except sdp.SdpError as error:
        raise CallError(f"Failed to parse SDP: {error}") from error
    if len(description.media) != len(subscription.forks):
        raise CallError("Answer does not match the subscription: number of m-lines")
    steps = []
    for fork, media in zip(subscription.forks, description.media, strict=True):
        if fork.section is not None and media.kind != fork.section.kind:
            raise CallError("Answer does not match the subscription: media type")
        connection = media.connection
        held = media.direction in ("inactive", "sendonly") or (connection is not None and connection.is_zero)
        remote = control = None
        muxed = False
        if not media.rejected and connection is not None and not connection.is_zero:
            family = fork.pair.interface.family
            remote = socket_address(family, connection.address, media.port)
            if remote is None:
                raise CallError("Answer with an address that cannot be reached from the offered one")
            where = media.rtcp if is_rtp(media) else None
            control = socket_address(family, *where) if where is not None else None
            muxed = media.rtcp_mux and fork.section is not None and fork.section.rtcp_mux  # RFC 3605 2.1: both said so
        if remote is None and not media.rejected and not held:
            raise CallError("Answer without an address")
        keys = _keys(fork, media) if not media.rejected else None
        steps.append((fork, keys, remote, control, muxed, media.rejected, held))
    for fork, keys, remote, control, muxed, rejected, held in steps:
        try:
            fork.muxed = muxed
            if not rejected:
                fork.seal(call.plane.packets, keys)
            fork.answer(remote, control, rejected=rejected, gated=held)
        except OSError as error:
            raise CallError(f"Recorder's address: {error.strerror}") from error


def unsubscribe(call: Call, tag: str) -> bool:
    """End a subscription; false if there is none of that tag."""
    subscription = call.subscriptions.pop(tag, None)
    if subscription is None:
        return False
    for fork in subscription.forks:
        _end(call, fork)
    return True


def _end(call: Call, fork: Fork) -> None:
    release(fork, call.plane.packets)
    call.ended.add_fork(fork.packets, fork.dropped)


def _parties(call: Call, tags: Sequence[str]) -> list[tuple[str, Party]]:
    if not tags:
        found = [(party.tag, party) for pair in call.pairs for party in pair if party.description is not None]
    else:
        found = []
        for tag in dict.fromkeys(tags):
            party = call.parties.get(tag)
            if party is not None:
                found.append((tag, party))
    if not found or (tags and len(found) < len(set(tags))):
        raise CallError("No such from-tag")
    return found


def direction_of(call: Call, fork: Fork) -> str:
    """The direction of a fork's stream in the call, as its party says it."""
    for party, index, stream in call.streams():
        media = _media(party, index) if stream.rtp is fork.source else None
        if media is not None:
            return media.direction
    return "sendrecv"


def copied(party: Party, index: int, stream: Stream) -> bool:
    """Is this stream offered to recorders? RTP is, and T.38."""
    media = _media(party, index)
    return stream.role == "rtp" or (media is not None and media.proto.upper() == "UDPTL")


def _interface(call: Call, stream: Stream, wishes: Wishes) -> Interface:
    """Where copies leave from: as asked for, else from where the party's media come in."""
    own = stream.pair.interface
    name = wishes.interfaces[0] if wishes.interfaces else ""
    if not name and wishes.family in ("", own.family):
        return own
    return call.plane.pool.interface(name=name, family=wishes.family or own.family)


def _open(call: Call, from_tag: str, index: int, stream: Stream, wishes: Wishes) -> Fork:
    pool, interface = call.plane.pool, _interface(call, stream, wishes)
    packets, preroll = call.plane.packets, call.plane.preroll
    copies = packets.copies(stream.rtp, preroll)
    fork = Fork(call.plane.clock, stream.rtp, pool.allocate(interface), copies, from_tag, index, preroll)
    if stream.keeper is not None:
        now = call.plane.clock.now()
        age = preroll if wishes.preroll is None else wishes.preroll
        fork.inherit(stream.keeper.copies, now - age)
    elif wishes.preroll is not None and wishes.preroll > HEAD_START:
        fork.short = fork.before  # nothing was kept of what is wanted
    if stream.kind == "video":
        fork.key_frame = lambda packet: None if not rtcp.wants_key_frame(packet) else _ask(call, fork)
    watch(fork, packets)
    return fork


def _ask(call: Call, fork: Fork) -> None:
    keyframe.ask(call, [fork])


def key_frame(call: Call, tag: str) -> int:
    """Ask for a key frame of each video stream of a subscription; returns how many parties could be asked.

    Raises :class:`~siprec.relay.ng_wishes.CallError`: no such subscription.
    """
    subscription = call.subscriptions.get(tag)
    if subscription is None:
        raise CallError("To-tag not found")
    return keyframe.ask(call, subscription.forks)


def _section(call: Call, party: Party, index: int, stream: Stream, fork: Fork, wishes: Wishes) -> MediaDescription:
    """The m-line offered for one stream: formats as `party` sends them (RFC 7245 3.2.5), afresh (RFC 7866 12.2)."""
    own = _media(party, index)
    peer = _media(call._peer(party), index)
    source = peer or own
    formats: list[str] = list(source.formats) if source is not None else ["0"]
    if own is not None and peer is not None and relayed(peer):
        names = {_meaning(meaning) for meaning in own.rtpmaps.values()}
        theirs = peer.rtpmaps
        both = [
            f
            for f in peer.formats
            if (number := sdp.payload_type(f)) is not None and _meaning(theirs.get(number)) in names
        ]
        formats = both or formats
    maps = source.rtpmaps if source is not None else {}
    maps = {number: meaning for number, meaning in maps.items() if str(number) in formats}
    first = next(iter(maps.values()), None)
    fork.clock_rate = first.clock_rate if first is not None else 8000
    proto = _transport(stream, source, wishes)
    sending = own is None or own.direction in ("sendrecv", "sendonly")
    ptime = own.ptime if own is not None else None
    role = own.attribute("content") if own is not None else None  # RFC 4796 (RFC 7865 6.7.1)
    attributes = [f"content:{role}"] if role else []
    if (
        stream.kind == "video"
        and own is not None
        and proto.upper().endswith("F")
        and keyframe.means(own, stream.transport.clear)
    ):
        attributes += sdp.KEY_FRAME_FEEDBACK  # we pass either on (RFC 7866 8.1.7)
    return sdp.build_media(
        stream.kind,
        fork.pair.port,
        formats,
        proto=proto,
        address=wishes.media_address or fork.pair.interface.public,
        rtpmaps=maps,
        fmtp=source.fmtp if source is not None else None,
        ptime=ptime,
        direction="sendonly" if sending else "inactive",
        rtcp_mux=call.plane.rtcp_mux,
        attributes=attributes,
    )


def _transport(stream: Stream, source: MediaDescription | None, wishes: Wishes) -> str:
    """As asked for, else no less safe than the stream (RFC 7866 12)."""
    wanted = wishes.transport.upper()
    if wanted in PROTOCOLS:
        return wanted
    feedback = source is not None and source.proto.upper().endswith("F")
    if stream.security.secure:
        return "RTP/SAVPF" if feedback else "RTP/SAVP"
    if source is None or is_encrypted(source):
        return "RTP/AVPF" if feedback else "RTP/AVP"
    return source.proto


def _secure(stream: Stream, fork: Fork, wishes: Wishes) -> None:
    """Offer keys with `fork.section`, the same as long as it is the same recorder."""
    assert fork.section is not None
    fork.security = stream.security
    if not srtp.is_secure(fork.section.proto):
        fork.keys = None
        return
    if fork.keys is None or wishes.hold:
        fork.keys = fork_keys(stream.security.keys, wishes.sdes)
    if not fork.keys.offered:
        raise CallError("No crypto suite is left to offer")
    fork.section.lines += [f"a=crypto:{crypto.value()}" for crypto in fork.keys.offered]


def _keys(fork: Fork, media: MediaDescription) -> ForkKeys | None:
    """What the recorder's answer agrees to; None: plain RTP."""
    if not is_encrypted(media):
        return None
    if fork.keys is None or not srtp.is_secure(media.proto) or not fork.keys.answered(media):
        raise CallError("Answer without a key that fits the subscription's")
    return fork.keys


def _media(party: Party, index: int) -> MediaDescription | None:
    if party.description is None or index >= len(party.description.media):
        return None
    media = party.description.media[index]
    return None if media.rejected else media


def _meaning(meaning: sdp.RtpMap | None) -> tuple[str, int, int] | None:
    return (meaning.encoding.lower(), meaning.clock_rate, meaning.channels) if meaning is not None else None


def _offer(call: Call, subscription: Subscription, wishes: Wishes) -> SessionDescription:
    sections = []
    for fork in subscription.forks:
        assert fork.section is not None
        if "siprec" in wishes.flags:
            fork.section.set_attribute("label", fork.label)
        sections.append(fork.section)
    if not sections:
        raise CallError("Nothing to subscribe to")
    interface = subscription.forks[0].pair.interface
    address = wishes.media_address or interface.public
    origin = sdp.Origin("-", str(subscription.session_id), str(subscription.version), address)
    return sdp.build_session(origin, sections)
