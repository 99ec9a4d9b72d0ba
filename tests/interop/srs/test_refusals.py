"""What an SRS may answer to the INVITE, and what comes of it: another SRS, another try, or nothing but an event."""

from __future__ import annotations

import hashlib
import re

import pytest

from siprec.sip.message import SipRequest
from siprec.sip.multipart import parts_of
from tests.interop.calls.harness import until
from tests.interop.srs.recorder import Silent, Srs, answer, nobody
from tests.interop.srs.world import World


@pytest.mark.parametrize(
    ("status", "reason", "headers"),
    [
        (302, "Moved Temporarily", ()),
        (403, "Forbidden", ()),
        (486, "Busy Here", ()),
        (488, "Not Acceptable Here", ("Warning: 305 srs \"Incompatible media format\"",)),
        (500, "Server Internal Error", ("Retry-After: 30",)),
        (503, "Service Unavailable", ("Retry-After: 30",)),
        (603, "Decline", ()),
    ],
)  # fmt: skip
def test_after_a_refusal_of_any_class_the_next_srs_records(
    world: World, status: int, reason: str, headers: tuple[str, ...]
) -> None:
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        with (
            world.recorder(Srs().refuse(status, reason, headers)) as first,
            world.recorder(Srs().accept(body).end()) as second,
            world.call(first, second) as call,
        ):
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 5 for sink in sinks))
    assert call.names() == ["FAILOVER", "START", "STOP"]
    failover = call.events()[0]
    assert (failover["status"], failover["server"]) == (status, first.uri)
    one, other = first.requests("INVITE")[0], second.requests("INVITE")[0]
    assert one.message.call_id != other.message.call_id  # another dialog (ERR-01)
    for kind in ("sessions", "participants", "streams"):
        known = [each.id for each in getattr(one.document, kind)]
        assert known == [each.id for each in getattr(other.document, kind)], kind


@pytest.mark.parametrize(("status", "reason"), [(403, "Forbidden"), (600, "Busy Everywhere")])
def test_skip_failover_codes_end_the_search(world: World, status: int, reason: str) -> None:
    with (
        world.recorder(Srs().refuse(status, reason)) as first,
        world.recorder(Srs().accept(answer((9, 9)))) as second,
        world.call(first, instance="choosy") as probe,
    ):
        assert probe.wait_for("FAILED")["status"] == status
    assert second.titles() == []
    with (
        world.recorder(Srs().refuse(status, reason)) as first,
        world.call(first, second.uri, instance="choosy") as call,
    ):
        assert call.wait_for("FAILED")["status"] == status
    assert call.names() == ["FAILED"]
    assert second.titles() == []


def test_all_refuse_and_the_call_goes_on_unrecorded(world: World) -> None:
    with (
        world.recorder(Srs().refuse(480, "Temporarily Unavailable")) as first,
        world.recorder(Srs().refuse(500, "Server Internal Error")) as second,
        world.call(first, second) as call,
    ):
        call.wait_for("FAILED")
        assert call.is_up()
    assert [(e["name"], e["status"]) for e in call.events()] == [("E_SIPREC_FAILOVER", 480), ("E_SIPREC_FAILED", 500)]


def test_a_silent_srs_is_given_up_within_its_time(world: World) -> None:
    silent = Silent()
    with silent.socket, world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        with (
            world.recorder(Srs().accept(body).end()) as second,
            world.call(silent.uri, second, instance="quick") as call,
        ):
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 5 for sink in sinks))
            asked = call.events()[0]
    assert (asked["name"], asked["status"]) == ("E_SIPREC_FAILOVER", 408)
    assert second.requests("INVITE")[0].time - call.answered < 5


def test_where_nobody_listens_the_next_srs_is_called_at_once(world: World) -> None:
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        with world.recorder(Srs().accept(body).end()) as second, world.call(nobody(), second) as call:
            call.wait_for("START")
    assert next((e["name"], e["status"]) for e in call.events()) == ("E_SIPREC_FAILOVER", 503)


@pytest.mark.parametrize(("status", "algorithm"), [(401, "MD5"), (407, "MD5"), (401, "SHA-256"), (407, "SHA-256")])
def test_digest_credentials_are_right(world: World, status: int, algorithm: str) -> None:
    name = "WWW-Authenticate" if status == 401 else "Proxy-Authenticate"
    challenge = f'{name}: Digest realm="srs", nonce="abc123", algorithm={algorithm}, qop="auth", opaque="xyz"'
    with world.sinks() as sinks:
        scenario = Srs().refuse(status, "Unauthorized", (challenge,))
        scenario.expect_invite("second").respond_invite(
            200, "OK", answer((sinks[0].port, sinks[1].port)), prefix="second"
        )
        scenario.expect("ACK").end()
        with world.recorder(scenario) as srs, world.call(srs, instance="secret") as call:
            call.wait_for("START")
    assert call.names() == ["START", "STOP"]
    plain, again = srs.requests("INVITE")
    assert again.message.cseq.number == plain.message.cseq.number + 1
    assert (again.message.call_id, again.message.from_.tag) == (plain.message.call_id, plain.message.from_.tag)
    assert again.message.body == plain.message.body
    given = again.message.get("authorization" if status == 401 else "proxy-authorization") or ""
    fields = dict(re.findall(r'(\w+)="?([^",]+)"?', given))
    digest = hashlib.md5 if algorithm == "MD5" else hashlib.sha256
    assert isinstance(again.message, SipRequest)

    def h(text: str) -> str:
        return digest(text.encode()).hexdigest()

    a1, a2 = h("siprec:srs:open sesame"), h(f"INVITE:{fields['uri']}")
    assert fields["response"] == h(f"{a1}:{fields['nonce']}:{fields['nc']}:{fields['cnonce']}:auth:{a2}")
    assert fields["opaque"] == "xyz"
    assert fields["username"] == "siprec"
    assert "open sesame" not in str(srs.messages[-1].octets)


def test_wrong_credentials_are_not_tried_for_ever(world: World) -> None:
    challenge = 'WWW-Authenticate: Digest realm="srs", nonce="n{}", algorithm=MD5, qop="auth"'
    scenario = Srs().refuse(401, "Unauthorized", (challenge.format(1),))
    scenario.expect_invite("second").respond_invite(
        401, "Unauthorized", headers=(challenge.format(2),), prefix="second"
    ).expect("ACK")
    with world.recorder(scenario) as srs, world.call(srs, instance="secret") as call:
        assert call.wait_for("FAILED")["status"] == 401
    assert len(srs.requests("INVITE")) == 2


def test_415_for_the_older_media_type_is_answered_with_that(world: World) -> None:
    with world.sinks() as sinks:
        scenario = Srs().older_only(answer((sinks[0].port, sinks[1].port)))
        with world.recorder(scenario, calls=2) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 5 for sink in sinks))
    assert call.names() == ["START", "STOP"]
    one, other = srs.requests("INVITE")
    kinds = [[part.media_type for part in parts_of(invite.message)][1] for invite in (one, other)]
    assert kinds == ["application/rs-metadata+xml", "application/rs-metadata"]
    assert one.metadata == other.metadata
    assert srs.requests("UPDATE")[0].message.get("content-type") == "application/rs-metadata"


def test_a_415_without_the_older_media_type_is_a_refusal(world: World) -> None:
    refusing = Srs().refuse(415, "Unsupported Media Type", ("Accept: application/sdp",))
    with world.recorder(refusing) as srs, world.call(srs) as call:
        assert call.wait_for("FAILED")["status"] == 415
    assert len(srs.requests("INVITE")) == 1


def test_redirections_are_followed_by_policy(world: World) -> None:
    with world.sinks() as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port))).end()
        with (
            world.recorder(scenario) as target,
            world.recorder(
                Srs().refuse(302, "Moved Temporarily", (f"Contact: <{nobody()}>;q=0.9, <{target.uri}>;q=0.5",))
            ) as first,
            world.call(first, target, instance="redirected") as call,
        ):
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 5 for sink in sinks))
    # No E_SIPREC_FAILOVER: all this is the first SRS's doing; its first Contact is tried before the second.
    assert [(e["name"], e["server"]) for e in call.events()] == [
        ("E_SIPREC_START", first.uri),
        ("E_SIPREC_STOP", first.uri),
    ]
    assert first.requests("INVITE")[0].message.call_id != target.requests("INVITE")[0].message.call_id


def test_an_srs_that_said_when_to_come_again_is_tried_last_until_then(world: World) -> None:
    busy = Srs().refuse(503, "Service Unavailable", ("Retry-After: 60 (backup);duration=10",))
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        with world.recorder(busy) as first, world.recorder(Srs().accept(body).end(), calls=2) as second:
            for names in (["FAILOVER", "START", "STOP"], ["START", "STOP"]):
                with world.call(first.uri, second.uri) as call:
                    call.wait_for("START")
                assert call.names() == names
            second.sipp.finish()
    assert len(first.requests("INVITE")) == 1
