"""ng over a network: without the secret nothing gets in, a message counts once, and a reply has to be signed too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.media.ngauth import TOLERANCE, Refused, Stale, Verifier, check_secret, signing
from siprec.media.request_tracker import Connection

SECRET = "correct horse battery staple"
OTHER = "incorrect horse battery staple"


class Wire:
    """A connection to a relay that verifies."""

    reliable = False

    def __init__(self, secret: str = SECRET) -> None:
        self.now = 1_700_000_000.0
        self.verifier = Verifier(SECRET.encode(), lambda: self.now)
        self.sent: list[bytes] = []
        self.heard: list[bytes] = []
        self.deliver: Callable[[bytes], None] = lambda message: None
        self.client = signing(self._open, secret, lambda: self.now)(self.heard.append, lambda reason: None)

    def _open(self, on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
        self.deliver = on_message
        return self

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def close(self) -> None: ...


def test_a_signed_message_and_its_reply_come_through() -> None:
    wire = Wire()
    wire.client.send(b"abc_1 d7:command4:pinge")
    opened, first = wire.verifier.open(wire.sent[0])
    assert (opened.message, first) == (b"abc_1 d7:command4:pinge", True)
    wire.deliver(opened.sealed(b"abc_1 d6:result4:ponge"))
    assert wire.heard == [b"abc_1 d6:result4:ponge"]
    wire.deliver(opened.sealed(b"abc_1 d6:result4:ponge"))
    assert len(wire.heard) == 1


def test_a_repetition_is_known_as_one_and_its_reply_too() -> None:
    wire = Wire()
    for _ in range(2):
        wire.client.send(b"abc_1 de")
        wire.now += 2
    opened = [wire.verifier.open(message) for message in wire.sent]
    assert [first for _, first in opened] == [True, False]
    wire.deliver(opened[0][0].sealed(b"abc_1 d1:a1:be"))
    assert len(wire.heard) == 1


def test_what_overtakes_is_taken_and_what_is_too_old_is_not() -> None:
    wire = Wire()
    for number in (1, 3, 2, 6000, 5000, 1500):
        wire.client.send(b"abc_%d de" % number)
    assert [wire.verifier.open(message)[1] for message in wire.sent] == [True] * 5 + [False]
    assert [wire.verifier.open(message)[1] for message in wire.sent] == [False] * 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.replace(b"ping", b"pong"), "another secret"),
        (lambda m: b"abd" + m[3:], "another secret"),
        (lambda m: m.replace(b"~17", b"~18", 1), "another secret"),
        (lambda m: m.replace(b"~", b"", 1), "not signed"),
        (lambda m: b"abc_1 d7:command4:pinge", "not signed"),
        (lambda m: b"", "not signed"),
        (lambda m: b"~~ " + m, "another secret"),
    ],
)
def test_what_is_not_signed_or_was_changed_is_refused(change: Callable[[bytes], bytes], reason: str) -> None:
    wire = Wire()
    wire.client.send(b"abc_1 d7:command4:pinge")
    with pytest.raises(Refused, match=reason) as refused:
        wire.verifier.open(change(wire.sent[0]))
    assert not isinstance(refused.value, Stale)


def test_another_secret_is_refused_and_its_replies_are_not_heard() -> None:
    wire = Wire(OTHER)
    wire.client.send(b"abc_1 de")
    with pytest.raises(Refused):
        wire.verifier.open(wire.sent[0])
    right = Wire()
    right.client.send(b"abc_1 de")
    opened, _ = right.verifier.open(right.sent[0])
    for forged in (b"abc_1 de", b"abc_1~" + b"0" * 32 + b" de", opened.sealed(b"abc_1 de")[:-1] + b"x", b"", b"~"):
        right.deliver(forged)
    wire.deliver(opened.sealed(b"abc_1 de"))
    assert right.heard == wire.heard == []


@pytest.mark.parametrize("apart", [-TOLERANCE - 2, TOLERANCE + 2])
def test_clocks_that_are_apart_are_told_of_to_who_knows_the_secret(apart: float) -> None:
    wire = Wire()
    wire.client.send(b"abc_1 de")
    wire.now += apart
    with pytest.raises(Stale, match="clocks of client and relay are 62 s apart") as stale:
        wire.verifier.open(wire.sent[0])
    wire.deliver(stale.value.answer.sealed(b"abc_1 de"))
    assert wire.heard == [b"abc_1 de"]


def test_a_secret_has_sixteen_characters() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        check_secret("fifteen letters")
    check_secret("sixteen letters!")


@given(st.binary(max_size=200))
def test_any_octets_are_refused_and_no_more(message: bytes) -> None:
    with pytest.raises(Refused):
        Verifier(SECRET.encode(), lambda: 0.0).open(message)
