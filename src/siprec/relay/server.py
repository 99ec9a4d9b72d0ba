"""The relay: calls, and the ng commands that make, change and end them."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from siprec.media.bencode import BencodeError, Encodable, Value, decode_dict, encode
from siprec.relay.call import Call, Plane
from siprec.relay.ng_wishes import CallError
from siprec.relay.ngrequest import (
    body_of,
    expanded,
    from_json,
    named,
    needed,
    number,
    to_json,
    tone_of,
    wishes_of,
    word,
    words,
)
from siprec.relay.party import Party
from siprec.relay.player import Player, sound_of_wav
from siprec.relay.rtp_stream import Address, Flow
from siprec.relay.statistics import Reply, statistics
from siprec.relay.subscriptions import direction_of, key_frame, subscribe_answer, subscribe_request, unsubscribe
from siprec.relay.totals import Totals
from siprec.sdp import SdpError
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)

REPLIES_KEPT: Final = 4096
REPLIES_OCTETS: Final = 16 << 20
REPLIES_SECONDS: Final = 30.0
EXPIRY_INTERVAL: Final = 2.0
MOVES_TOLD: Final = 64
MOVES_KEPT: Final = 1024
"""Changes of a party's host that its client has not asked for yet."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds after which a call that nobody deleted ends: `media` without any packet once answered, `held`
    the same while it is on hold, `setup` without an answer."""

    media: float = 60.0
    held: float = 3600.0
    setup: float = 300.0


class Relay:
    """Takes ng messages (:meth:`message`), keeps the calls; :meth:`tick` is due about once a second."""

    def __init__(self, plane: Plane, timeouts: Timeouts | None = None, *, max_calls: int = 20_000) -> None:
        self.plane = plane
        self.timeouts = timeouts or Timeouts()
        self.calls: dict[str, Call] = {}
        self.counters = {
            "requests": 0,
            "errors": 0,
            "repeated": 0,
            "malformed": 0,
            "timeouts": 0,
            "moved": 0,
            "refused": 0,
            "managed": 0,
        }
        self._started = plane.clock.now()
        self._strangers = SourceLog(log, now=plane.clock.now)
        self._moves: deque[tuple[object, Reply]] = deque(maxlen=MOVES_KEPT)
        plane.packets.moved = self._source_moved
        self._ended = Totals()
        self._client: object = None  # who asks at the moment
        self._max_calls = max_calls
        self._expiry_at = 0.0
        self._replies: OrderedDict[tuple[object, bytes], tuple[float, bytes]] = OrderedDict()
        self._replies_octets = 0
        self.access: Mapping[str, int] = {}
        """Counters of who was not let in."""
        self._commands: dict[str, Callable[[dict[str, Value]], Reply]] = {
            "ping": self._ping,
            "offer": self._offer,
            "answer": self._answer,
            "delete": self._delete,
            "query": self._query,
            "list": self._list,
            "subscribe-request": self._subscribe_request,
            "subscribe-answer": self._subscribe_answer,
            "unsubscribe": self._unsubscribe,
            "key-frame": self._key_frame,
            "block-media": lambda request: self._block(request, True),
            "unblock-media": lambda request: self._block(request, False),
            "play-media": self._play,
            "stop-media": self._stop,
            "statistics": self._statistics,
        }

    def message(self, message: bytes, source: object, client: object = None, *, first: bool = True) -> bytes | None:
        """The reply to one ng message from `source` (any hashable); None where there is none to give. Never raises.

        `client` is whose calls it is about (None: those of `source`). A message that is not the `first` of its cookie
        is only answered again, if its reply is still known.
        """
        cookie, space, body = message.partition(b" ")
        if not space or not 0 < len(cookie) <= 255:
            self.counters["malformed"] += 1
            return None
        now = self.plane.clock.now()
        known = self._replies.get((source, cookie))
        if known is not None:
            self.counters["repeated"] += 1
            return known[1]
        if not first:
            self.counters["refused"] += 1
            return None
        self._client = source if client is None else client
        json = body[:1] == b"{"
        try:
            request = from_json(body) if json else decode_dict(body)
        except BencodeError as error:
            self.counters["malformed"] += 1
            reply: Reply = {"result": "error", "error-reason": f"Could not decode the dictionary: {error}"}
        else:
            reply = self.request(request)
        data = cookie + b" " + (to_json(reply) if json else encode(reply))
        self._replies[source, cookie] = (now, data)
        self._replies_octets += len(data)
        while self._replies:
            came, oldest = next(iter(self._replies.values()))
            few = len(self._replies) <= REPLIES_KEPT and self._replies_octets <= REPLIES_OCTETS
            if few and came > now - REPLIES_SECONDS:
                break
            self._replies.popitem(last=False)
            self._replies_octets -= len(oldest)
        return data

    def request(self, request: dict[str, Value]) -> Reply:
        """Carry out one request. Whatever is wrong with it becomes an error reply."""
        self.counters["requests"] += 1
        try:
            request = expanded(request)
            handler = self._commands.get(word(named(request, "command")))
            if handler is None:
                raise CallError("Unrecognized command")
            # `gates`: a stream answered inactive gets no media here (see siprec.media.rtpengine)
            return {"result": "ok", "gates": 1, **handler(request)}
        except (CallError, SdpError) as error:
            self.counters["errors"] += 1
            return {"result": "error", "error-reason": str(error)}
        except Exception:
            self.counters["errors"] += 1
            log.exception("Call-ID %s: %s failed", named(request, "call-id"), named(request, "command"))
            return {"result": "error", "error-reason": "Internal error"}

    def tick(self) -> None:
        """Reports that are due, pre-roll and calls that are over."""
        now, wall = self.plane.clock.now(), self.plane.clock.wall()
        for call in self.calls.values():
            for subscription in call.subscriptions.values():
                for fork in subscription.forks:
                    fork.tick(now, wall)
        if now < self._expiry_at:
            return
        self._expiry_at = now + EXPIRY_INTERVAL
        for call in list(self.calls.values()):
            call.expire_keepers(now)
            quiet = now - max(call.last_media, call.last_signal)
            limits = self.timeouts
            limit = limits.setup if not call.answered else limits.held if call.held else limits.media
            if 0 < limit < quiet:
                self.counters["timeouts"] += 1
                log.info("Call-ID %s: no media for %.0f s, deleted", call.call_id, quiet)
                self._remove(call)

    def close(self) -> None:
        """End every call."""
        for call in list(self.calls.values()):
            self._remove(call)

    @property
    def totals(self) -> Totals:
        """What passed through here since the start, in all calls."""
        found = Totals()
        found.add(self._ended)
        for call in self.calls.values():
            found.add(call.totals)
        return found

    def _remove(self, call: Call) -> None:
        self.counters["managed"] += 1
        self._ended.add(call.totals)
        for tag in list(call.subscriptions):
            unsubscribe(call, tag)
        call.close()
        self.calls.pop(call.call_id, None)

    def _source_moved(self, flow: Flow, before: Address, now: Address) -> None:
        """A party's media come from another host."""
        call = flow.owner
        found = call.moved(flow) if isinstance(call, Call) else None
        if not isinstance(call, Call) or found is None:
            return
        party, index = found
        self.counters["moved"] += 1
        self._strangers.warning(
            now[0],
            "Call-ID %s: media of tag %s, m-line %d, come from %s, no longer from %s",
            *(call.call_id, party.tag, index + 1, _shown(now), _shown(before)),
        )
        move: Reply = {"call-id": call.call_id, "tag": party.tag, "index": index + 1}
        self._moves.append((call.client, {**move, "from": _shown(before), "to": _shown(now)}))

    # ---------- commands

    def _ping(self, request: dict[str, Value]) -> Reply:
        """``events`` (a key of ours): with changes of host in calls of this client since it asked last."""
        reply: Reply = {"result": "pong"}
        if number(request.get("events")) == 1 and self._moves:
            mine = [move for client, move in self._moves if client == self._client]
            if mine:
                reply["moved"] = mine[:MOVES_TOLD]
                left = mine[MOVES_TOLD:]
                self._moves = deque(
                    (each for each in self._moves if each[0] != self._client or each[1] in left), maxlen=MOVES_KEPT
                )
        return reply

    def _call(self, request: dict[str, Value]) -> Call:
        call = self.calls.get(needed(request, "call-id"))
        if call is None:
            raise CallError("Unknown call-id")
        return call

    def _offer(self, request: dict[str, Value]) -> Reply:
        call_id, from_tag = needed(request, "call-id"), needed(request, "from-tag")
        body, wishes = body_of(request), wishes_of(request)
        call = self.calls.get(call_id)
        if call is None:
            if len(self.calls) >= self._max_calls:
                raise CallError("Too many calls")
            call = Call(call_id, self.plane)
            try:
                reply = call.offer(from_tag, named(request, "to-tag"), body, wishes)
            except Exception:
                call.close()
                raise
            call.client = self._client
            self.calls[call_id] = call
            return {"sdp": reply}
        call.client = self._client
        return {"sdp": call.offer(from_tag, named(request, "to-tag"), body, wishes)}

    def _answer(self, request: dict[str, Value]) -> Reply:
        call = self._call(request)
        from_tag, to_tag = needed(request, "from-tag"), needed(request, "to-tag")
        return {"sdp": call.answer(from_tag, to_tag, body_of(request), wishes_of(request))}

    def _delete(self, request: dict[str, Value]) -> Reply:
        call = self.calls.get(needed(request, "call-id"))
        if call is None:
            reason = "Call-ID not found or tags didn't match"
            if "fatal" in wishes_of(request).flags:
                raise CallError(reason)
            return {"warning": reason}
        reply = statistics(call)
        self._remove(call)
        return reply

    def _query(self, request: dict[str, Value]) -> Reply:
        return statistics(self._call(request))

    def _list(self, request: dict[str, Value]) -> Reply:
        limit = number(request.get("limit", 32))
        if limit < 1:
            raise CallError("limit must be a positive integer")
        return {"calls": list(self.calls)[:limit]}

    def _subscribe_request(self, request: dict[str, Value]) -> Reply:
        call = self._call(request)
        wishes = wishes_of(request)
        listed = request.get("from-tags")
        tags = words(listed)
        if "all" in wishes.flags or word(named(request, "all")) not in ("", "none"):
            tags = []
        elif not tags:
            tags = [needed(request, "from-tag")]
        offered = subscribe_request(call, tags, named(request, "to-tag"), wishes)
        subscription = offered.subscription
        reply: Reply = {
            "sdp": offered.description.to_bytes(),
            "to-tag": subscription.tag,
            "from-tags": list(offered.tags),
        }
        if "siprec" in wishes.flags:
            labels: dict[str, Encodable] = {}
            parties: dict[str, list[Encodable]] = {tag: [] for tag in offered.tags}
            for fork, media in zip(subscription.forks, offered.description.media, strict=True):
                said: Reply = {"index": fork.index + 1, "type": media.kind, "mode": direction_of(call, fork)}
                parties[fork.from_tag].append({**said, "label": fork.label})
                labels[fork.label] = {"tag": fork.from_tag, **said}
            reply["media-labels"] = labels
            reply["tag-medias"] = [{"tag": tag, "medias": medias} for tag, medias in parties.items()]
        return reply

    def _subscribe_answer(self, request: dict[str, Value]) -> Reply:
        subscribe_answer(self._call(request), needed(request, "to-tag"), body_of(request))
        return {}

    def _unsubscribe(self, request: dict[str, Value]) -> Reply:
        if not unsubscribe(self._call(request), needed(request, "to-tag")):
            return {"warning": "To-tag not found"}
        return {}

    def _key_frame(self, request: dict[str, Value]) -> Reply:
        """A command of ours: ask whoever sends the video of the subscription ``to-tag`` for a key frame."""
        return {"asked": key_frame(self._call(request), needed(request, "to-tag"))}

    def _block(self, request: dict[str, Value], block: bool) -> Reply:
        """Towards a subscription (``to-tag``): its forks only. Else what ``from-tag``, or everybody, sends."""
        call = self._call(request)
        from_tag, to_tag = named(request, "from-tag"), named(request, "to-tag")
        subscription = call.subscriptions.get(to_tag)
        if subscription is not None:
            for fork in subscription.forks:
                if not from_tag or fork.from_tag == from_tag:
                    fork.pause(block)
            return {}
        if from_tag and from_tag not in call.parties:
            raise CallError("No such from-tag")
        for party, _, stream in call.streams():
            if not from_tag or call.parties.get(from_tag) is party:
                stream.rtp.block(block)
        return {}

    def _play(self, request: dict[str, Value]) -> Reply:
        """To the party ``from-tag``: the ``tone`` (a key of ours with ``frequency`` in Hz, ``duration`` and
        ``interval`` in ms, ``level`` in dB below full scale), or once the WAV file in ``blob``."""
        call = self._call(request)
        tag = needed(request, "from-tag")
        party = call.parties.get(tag)
        if party is None:
            raise CallError("No such from-tag")
        tone, blob = request.get("tone"), request.get("blob")
        if isinstance(tone, dict):
            sound = tone_of(tone)
        elif isinstance(blob, bytes) and blob:
            sound = sound_of_wav(blob)
        else:
            raise CallError("Nothing to play: no tone and no blob in message")
        self._silence(call, party)
        call.players[id(party)] = player = Player(self.plane.clock, call, party, sound)
        return {"duration": round(sound.duration * 1000), "played": player.played}

    def _stop(self, request: dict[str, Value]) -> Reply:
        call = self._call(request)
        party = call.parties.get(needed(request, "from-tag"))
        if party is None:
            raise CallError("No such from-tag")
        self._silence(call, party)
        return {}

    @staticmethod
    def _silence(call: Call, party: Party) -> None:
        player = call.players.pop(id(party), None)
        if player is not None:
            player.stop()

    def _statistics(self, _: dict[str, Value]) -> Reply:
        pool, totals = self.plane.pool, self.totals
        return {
            "statistics": {
                "currentstatistics": {
                    "sessionsown": len(self.calls),
                    "sessionsforeign": 0,
                    "sessionstotal": len(self.calls),
                    "transcodedmedia": 0,
                },
                "totalstatistics": {
                    "uptime": str(int(self.plane.clock.now() - self._started)),
                    "managedsessions": self.counters["managed"],
                    "timeoutsessions": self.counters["timeouts"],
                    "relayedpackets": totals.relayed,
                    "relayedpacketerrors": sum(totals.dropped.values()),
                },
                "calls": len(self.calls),
                "subscriptions": sum(len(call.subscriptions) for call in self.calls.values()),
                "packet loop": self.plane.packets.name,
                "sockets": self.plane.packets.sockets,
                "port pairs": {
                    "used": pool.in_use,
                    "per address": pool.capacity,
                    "limit": pool.capacity * len(pool.interfaces),
                },
                **self.counters,
                **{name: count + self.counters.get(name, 0) for name, count in self.access.items()},
                "packets": {
                    "received": totals.received,
                    "relayed": totals.relayed,
                    "forked": totals.forked,
                    "dropped": dict(totals.dropped),
                },
            }
        }


def _shown(address: Address) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
