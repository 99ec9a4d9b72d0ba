"""An SRS that dies in mid-call is noticed, whatever it dies of, and replaced (ERR-09, ERR-11); others are tried first
while one is in trouble."""

from __future__ import annotations

import pytest

from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop
from siprec.sip.useragent import IncomingCall, Reply
from tests.simulation.recording_world import Srs, World

FIRST, SECOND = "sip:srs@10.0.0.2", "sip:srs@10.0.0.3"


def two(**profile: object) -> tuple[World, Srs]:
    world = World(profile={"srs": [FIRST, SECOND], **profile})
    return world, Srs(world, "10.0.0.3")


def cut(world: World, host: str = "10.0.0.2") -> None:
    """The SRS is gone: nothing goes to it, nothing comes from it."""
    world.network.drop = lambda sent: host in (sent.source[0], sent.destination[0])


def finish(world: World, second: Srs) -> None:
    world.clock.run_for(60)
    assert second.agent.counts() == {"calls": 0, "dialogs": 0}


def moved(world: World, second: Srs) -> None:
    """The recording goes on at the second SRS, with the same ids."""
    assert world.names() == ["START", "STOP", "FAILOVER", "START"]
    stop = world.events[1]
    assert stop.status == 408
    assert stop.server == FIRST
    assert world.events[-1].server == SECOND
    ids = [event.session_id for event in world.events]
    assert len(set(ids)) == 1
    assert second.documents[0].findtext("{*}datamode") == "complete"
    first, again = (
        {stream.get("stream_id") for stream in document.iter("{*}stream")}
        for document in (world.srs.documents[0], second.documents[0])
    )
    assert first == again
    assert len(world.media.flowing()) == 2


def test_icmp_errors_of_the_media_make_us_ask_and_silence_moves_the_recording() -> None:
    world, second = two()
    call = world.answered_call()
    cut(world)
    world.media.refused = 7
    world.clock.run_for(25)
    moved(world, second)
    assert "ICMP" in world.events[1].reason
    world.end(call)
    finish(world, second)
    assert world.names()[-1] == "STOP"
    assert world.events[-1].status == 0


def test_receiver_reports_that_stop_make_us_ask() -> None:
    world, second = two(rtcp_timeout=20.0)
    world.answered_call()
    world.media.reports, world.media.last_report = 3, world.clock.wall()
    world.clock.run_for(15)
    assert "OPTIONS" not in world.srs.methods
    cut(world)
    world.clock.run_for(30)
    moved(world, second)
    assert "receiver report" in world.events[1].reason


def test_an_srs_that_never_reports_is_not_suspected_for_it() -> None:
    world, _ = two(keepalive=0.0)
    world.answered_call()
    world.clock.run_for(200)
    assert world.media.queries >= 15
    assert "OPTIONS" not in world.srs.methods
    assert world.names() == ["START"]


def test_a_media_server_that_does_not_count_copies_is_asked_once_whether_media_flow_and_not_again() -> None:
    world, _ = two(keepalive=20.0)
    world.media.counts = False
    world.answered_call()
    world.clock.run_for(200)
    assert world.media.queries == 1
    assert world.srs.methods.count("OPTIONS") >= 8, "the SRS itself is asked instead"
    assert world.names() == ["START"]


def test_an_srs_that_answers_keeps_the_recording_while_reports_come_again() -> None:
    world, _ = two(keepalive=0.0)
    world.answered_call()
    world.media.refused = 3  # once, and never again
    world.clock.run_for(40)
    assert world.srs.methods.count("OPTIONS") == 1
    assert world.names() == ["START"]


def test_media_that_never_arrive_are_offered_again_and_then_go_elsewhere() -> None:
    world, second = two()
    world.answered_call()
    for _ in range(30):
        world.clock.run_for(1)
        world.media.refused += 50
        if second.requests:
            break
    # Asked, offered again, asked; and then it was enough. The SRS, being there, gets its BYE.
    assert world.srs.methods == ["INVITE", "OPTIONS", "INVITE", "OPTIONS"]
    assert world.srs.ended_reasons == ["bye"]
    world.clock.run_for(1)
    moved(world, second)


def test_a_closed_connection_makes_us_ask_those_that_used_it() -> None:
    world, second = two()
    world.answered_call()
    world.service.context.watch.connection_closed(Hop("tcp", "10.9.9.9", 5060))
    world.clock.run_for(2)
    assert "OPTIONS" not in world.srs.methods
    cut(world)
    world.service.context.watch.connection_closed(Hop("udp", "10.0.0.2", 5060))
    world.clock.run_for(8)
    moved(world, second)


def test_keepalives_find_a_dead_srs_without_any_other_sign() -> None:
    world, second = two(keepalive=20.0, watch=0.0)
    world.answered_call()
    world.clock.run_for(65)
    assert world.srs.methods.count("OPTIONS") == 3
    assert world.media.queries == 1  # whether the streams carry anything: once
    cut(world)
    world.clock.run_for(30)
    moved(world, second)


def test_an_srs_that_forgot_the_dialog_gets_a_new_one() -> None:
    world, _ = two(keepalive=20.0)

    def forgot(request: SipRequest, reply: Reply) -> bool:
        if request.method == "OPTIONS":
            reply(481)
            return True
        return False

    world.answered_call()
    world.srs.on_request = forgot
    world.clock.run_for(25)
    assert world.names() == ["START", "STOP", "FAILOVER", "START"]
    assert world.events[-1].server == FIRST


def test_no_way_to_the_srs_is_tried_once_more_before_it_is_given_up() -> None:
    world, second = two(srs=[f"{FIRST};transport=tcp", SECOND])
    call = world.answered_call()
    world.srs.node.accepts_streams = False
    world.service.siprec_pause_recording(call)
    world.clock.run_for(0.5)
    assert world.names() == ["START"]
    world.clock.run_for(5)
    assert world.names()[:3] == ["START", "STOP", "FAILOVER"]
    assert len(second.requests) >= 1
    assert world.media.flowing() == []  # the pause holds at the second as well


def test_a_bye_that_nobody_answers_is_told() -> None:
    world = World()
    call = world.answered_call()
    cut(world)
    world.end(call)
    world.clock.run_for(60)
    stop = world.events[-1]
    assert (stop.name, stop.status) == ("E_SIPREC_STOP", 408)
    assert stop.reason.startswith("bye; the SRS did not confirm the end")
    assert world.health() == [("SRS_DOWN", FIRST)]


def test_many_recordings_are_asked_some_at_a_time() -> None:
    world = World(profile={"keepalive": 0.0})
    for _ in range(250):
        world.answered_call(run=False)
    world.clock.run_for(5)
    assert len(world.service.context.watch) == 250
    world.service.context.watch.connection_closed(Hop("udp", "10.0.0.2", 5060))
    counts = []
    for _ in range(4):
        world.clock.run_for(0.1)
        counts.append(world.srs.methods.count("OPTIONS"))
    world.clock.run_for(0.1)
    assert world.srs.methods.count("OPTIONS") == 250
    assert all(later - earlier <= 100 for earlier, later in zip([0, *counts], counts, strict=False))


# -- who is tried first ------------------------------------------------------------------------------------------------


def test_an_srs_that_is_down_is_tried_last_until_it_answers_again() -> None:
    world, second = two(setup_timeout=1.0)
    cut(world)
    first = world.answered_call()
    assert world.events[-1].server == SECOND
    assert world.health() == [("SRS_DOWN", FIRST)]
    again = world.answered_call()
    # Straight to the second one: no failover in between.
    assert [(event.dlg_id, event.name) for event in world.events if event.dlg_id == again.dlg_id] == [
        (again.dlg_id, "E_SIPREC_START")
    ]
    world.network.drop = None
    world.clock.run_for(60)
    assert world.health() == [("SRS_DOWN", FIRST), ("SRS_UP", FIRST)]
    third = world.answered_call()
    assert world.events[-1].server == FIRST
    for call in (first, again, third):
        world.end(call)
    finish(world, second)


def test_retry_after_is_honoured_and_over_when_it_is_over() -> None:
    world, _ = two()

    def busy(call: IncomingCall) -> None:
        call.answer(503, headers=(("Retry-After", "30 (maintenance);duration=5"),))

    world.srs.on_invite = busy
    world.answered_call()
    assert world.events[-1].server == SECOND
    assert world.health() == []
    assert 26 < world.service.context.health.retry_in(FIRST) <= 30
    before = len(world.srs.requests)
    world.answered_call()
    assert len(world.srs.requests) == before
    world.srs.on_invite = None
    world.clock.run_for(30)
    world.answered_call()
    assert world.events[-1].server == FIRST


def test_one_that_is_alone_is_asked_whatever_is_known_of_it() -> None:
    world = World(profile={"setup_timeout": 1.0})
    cut(world)
    world.answered_call()
    assert world.names() == ["FAILED"]
    world.network.drop = None
    world.answered_call()
    assert world.names() == ["FAILED", "START", "START"]  # the first call is recorded now, too


def test_a_refusal_is_the_word_of_a_server_that_is_well() -> None:
    world, _ = two()
    world.srs.status = 486
    world.answered_call()
    assert world.health() == []
    assert world.service.context.health.state(FIRST) == "up"


def test_pings_tell_whether_an_srs_is_there() -> None:
    world = World(profile={"ping": 10.0})
    world.clock.run_for(25)
    assert [line for line in world.network.lines() if line.startswith("OPTIONS")] == [f"OPTIONS {FIRST} SIP/2.0"] * 2
    state = world.service.context.health.state(FIRST)
    assert state == "up"
    cut(world)
    world.clock.run_for(60)
    assert world.health() == [("SRS_DOWN", FIRST)]
    assert world.events == []


# -- 3xx ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redirect", "contact", "followed"),
    [
        ("never", "<sip:srs@10.0.0.3>", False),
        ("any", "<sip:srs@10.0.0.3>", True),
        ("same-host", "<sip:srs@10.0.0.3>", False),
        ("same-host", "<sip:other@10.0.0.2>", True),
        ("any", "<tel:+15551234>", False),
        ("any", "nonsense", False),
    ],
)
def test_a_redirection_is_followed_as_the_profile_says(redirect: str, contact: str, followed: bool) -> None:
    world = World(profile={"redirect": redirect})
    second = Srs(world, "10.0.0.3")
    turn = iter([True])

    def redirecting(call: IncomingCall) -> None:
        if next(turn, False):
            call.answer(302, headers=(("Contact", contact),))
        else:
            world.srs.answer_call(call)

    world.srs.on_invite = redirecting
    call = world.answered_call()
    assert world.names() == (["START"] if followed else ["FAILED"])
    if followed:
        target = second.requests[0] if "10.0.0.3" in contact else world.srs.requests[1]
        assert target.call_id != world.srs.requests[0].call_id
    world.end(call)
    finish(world, second)
    world.assert_clean()


def test_a_sips_srs_never_redirects_to_less() -> None:
    world = World(profile={"srs": "sips:srs@10.0.0.4", "redirect": "any"})
    secure, second = Srs(world, "10.0.0.4", port=5061), Srs(world, "10.0.0.3")
    secure.on_invite = lambda call: call.answer(302, headers=(("Contact", "<sip:srs@10.0.0.3>"),))
    world.answered_call()
    assert second.requests == []
    assert world.names() == ["FAILED"]


@pytest.mark.parametrize(("contact", "followed"), [("<sip:srs@10.0.0.3;transport=udp>", 0), ("<sip:srs@10.0.0.3>", 1)])
def test_a_profile_of_tls_never_redirects_to_less_either(contact: str, followed: int) -> None:
    world = World(profile={"transport": "tls", "redirect": "any"})
    second = Srs(world, "10.0.0.3")
    world.srs.on_invite = lambda call: call.answer(302, headers=(("Contact", contact),))
    call = world.answered_call()
    assert len(second.requests) == followed
    assert {sent.transport for sent in world.network.trace if sent.line.startswith("INVITE")} == {"tls"}
    world.end(call)
    finish(world, second)


def test_redirections_in_a_circle_end() -> None:
    world = World(profile={"redirect": "any"})
    world.srs.on_invite = lambda call: call.answer(302, headers=(("Contact", f"<{FIRST}>"),))
    call = world.answered_call()
    assert len(world.srs.requests) == 6
    assert world.names() == ["FAILED"]
    world.end(call)
    world.assert_clean()
