"""Telephone events (RFC 4733): one press of a key is one digit.

The packets of a press repeat its code and timestamp, with a growing duration; the end is sent three times. Gateways
move the timestamps, forget the marker or the end, or count in 8000 Hz beside audio of 48000 Hz. So a press is told by
its code, by how its packets follow each other, and by when they arrive; its timestamp only makes its time exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from siprec.recorder.numbering import Ordered

DIGITS = "0123456789*#ABCD"
_MAX_EVENTS = 10_000
_TRUST = 0.08  # seconds by which the time of a timestamp may differ from that by arrival
_SILENCE = 0.3  # seconds without a packet that end a press whose end was lost; packets come every 20 to 50 ms
_REPEAT = 0.1  # seconds within which ends are repeated
_LATE = 64  # packets of one numbering that may come after their turn
_SLACK = 0.03  # two presses of one key do not overlap by more


@dataclass(slots=True)
class DtmfEvent:
    """A telephone event. `start` is monotonic seconds, `duration` seconds, `volume` dBm0 without the sign."""

    start: float
    digit: str
    event: int
    duration: float
    volume: int
    ended: bool = False


@dataclass(slots=True)
class _Press:
    """A press and the packets of it."""

    event: DtmfEvent
    timestamp: int
    sequence: int
    duration: int
    """Ticks, as the last packet said."""
    before: int
    """Ticks of the segments before, which a long press is split into (RFC 4733 2.5.1.3)."""
    end: float
    """When the last packet arrived that made it longer."""
    last: float


class Keypad:
    """The presses in the packets of one source; `events` takes them in order."""

    def __init__(self, events: list[DtmfEvent]) -> None:
        self._events = events
        self._presses: dict[int, _Press] = {}

    def packet(self, item: Ordered, clock_rate: int, time: float | None) -> None:
        """One packet, in order of its numbering. `time` is where its timestamp lies (monotonic seconds), as far as that
        can be told. Several events in a packet follow each other (RFC 4733 2.5.1.5)."""
        payload, passed = item.packet.payload, 0
        blocks = [payload[at : at + 4] for at in range(0, len(payload) - 3, 4)][:16]
        # All durations are in before the last: what precedes the packet's arrival is all of them together.
        total = sum(int.from_bytes(block[2:], "big") for block in blocks)
        for number, block in enumerate(blocks):
            when = time + passed / clock_rate if time is not None else None
            self._event(item, block, clock_rate, passed, total - passed, when, first=number == 0)
            passed += int.from_bytes(block[2:], "big")

    def _event(
        self, item: Ordered, block: bytes, rate: int, passed: int, back: int, when: float | None, *, first: bool
    ) -> None:
        code, flags, duration = block[0], block[1], int.from_bytes(block[2:], "big")
        end, marker = bool(flags & 0x80), item.packet.marker and first
        packet, timestamp = item.packet, item.timestamp + passed
        began = packet.arrival - back / rate
        press = self._presses.get(code)
        if press is not None and 0 < press.sequence - item.sequence < _LATE:
            press.event.ended = press.event.ended or (end and timestamp == press.timestamp)
            return  # of a press that others have told about since
        if press is None or self._is_new(press, item, timestamp, duration, began, end=end, marker=marker):
            start = when if when is not None and abs(when - began) < _TRUST else began
            press = self._begin(code, start, flags & 0x3F, timestamp, item)
            if press is None:
                return
        elif timestamp != press.timestamp:
            if not end and not press.event.ended and duration <= press.duration:
                # The next segment of a long press: the timestamp tells how long the one before was.
                long = timestamp - press.timestamp
                press.before += long if 0 <= long - press.duration < _SILENCE * rate else press.duration
            press.timestamp = timestamp
        if not press.event.ended:
            press.end = packet.arrival
        press.duration, press.sequence, press.last = duration, item.sequence, packet.arrival
        press.event.duration = max(press.event.duration, (press.before + duration) / rate)
        press.event.ended = press.event.ended or end

    @staticmethod
    def _is_new(
        press: _Press, item: Ordered, timestamp: int, duration: int, began: float, *, end: bool, marker: bool
    ) -> bool:
        """Whether a packet with the code of `press` belongs to another press of that key."""
        ended, arrival = press.event.ended, item.packet.arrival
        if timestamp == press.timestamp:
            # It is the same, or that of a sender whose timestamp never moves.
            if not ended:
                return marker and duration < press.duration and arrival - press.last > _SILENCE
            return not end and (marker or duration < press.duration) and began > press.end - _SLACK
        if ended and not end:
            return True  # nothing but an end follows an end
        if ended:
            # Its end again, under another timestamp, or only the end of the next press arrived?
            again = duration == press.duration and not marker and arrival - press.last <= _REPEAT
            return not again and began > press.end - _SLACK
        if arrival - press.last > _SILENCE and began > press.end - _SLACK:
            return True
        # A marker without a lost end before it is a sender's that marks every packet.
        return marker and duration <= press.duration and item.sequence != press.sequence + 1

    def _begin(self, code: int, start: float, volume: int, timestamp: int, item: Ordered) -> _Press | None:
        if len(self._events) >= _MAX_EVENTS:
            return None
        digit = DIGITS[code] if code < len(DIGITS) else f"event-{code}"
        event = DtmfEvent(start, digit, code, 0.0, volume)
        self._events.append(event)
        press = self._presses[code] = _Press(event, timestamp, item.sequence, 0, 0, item.packet.arrival, start)
        return press
