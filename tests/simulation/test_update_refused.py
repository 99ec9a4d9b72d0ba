"""An SRS that does not take UPDATE although nothing in its Allow said so."""

from __future__ import annotations

import pytest

from siprec.sip.message import SipRequest
from siprec.sip.useragent import Reply
from tests.simulation.recording_world import Q, World, party_sdp


@pytest.mark.parametrize("status", [405, 488, 501, 606])
@pytest.mark.parametrize("allow", ["", "INVITE, ACK, BYE, CANCEL, UPDATE"])
def test_metadata_go_by_reinvite_once_an_update_was_refused(status: int, allow: str) -> None:
    world = World()
    world.srs.agent.allow = allow

    def refuse(request: SipRequest, reply: Reply) -> bool:
        if request.method == "UPDATE":
            reply(status)
        return request.method == "UPDATE"

    world.srs.on_request = refuse
    call = world.answered_call()
    call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2", "sendonly"), party_sdp("10.1.1.1", "recvonly")
    world.service.call_media_changed(call)
    world.clock.run_for(1)
    # Asked once; the same change then goes with the unchanged description.
    assert world.srs.methods == ["INVITE", "UPDATE", "INVITE"]
    assert world.srs.offers[1].to_bytes() == world.srs.offers[0].to_bytes()
    hold = world.srs.documents[-1]
    assert hold.findtext(f"{Q}datamode") == "partial"
    assert len(hold.findall(f"{Q}participantstreamassoc")) == 2
    world.end(call)
    world.clock.run_for(2)
    assert world.srs.methods == ["INVITE", "UPDATE", "INVITE", "INVITE"]
    assert world.srs.documents[-1].find(f"{Q}session/{Q}stop-time") is not None
    assert world.srs.ended_reasons == ["bye"]
    assert "UPDATE_FAILED" not in world.names()
    world.assert_clean()


@pytest.mark.parametrize(
    ("allow", "method"), [("INVITE, ACK, BYE, CANCEL, UPDATE", "UPDATE"), ("INVITE, ACK, BYE", "INVITE")]
)
def test_what_refreshes_the_session_requires_siprec_too(allow: str, method: str) -> None:
    world = World(profile={"session_expires": 90, "keepalive": 0.0})
    world.srs.agent.allow = allow
    call = world.answered_call()
    world.clock.run_for(60)
    refresh = world.srs.requests[1]
    assert (refresh.method, refresh.get("session-expires")) == (method, "90;refresher=uac")
    assert refresh.tokens("require") == {"siprec"}  # SRC-08
    assert "+sip.src" in str(refresh.contact)  # SRC-05
    world.end(call)
    world.assert_clean()


def test_siprec_is_required_and_never_merely_supported() -> None:
    world = World()
    call = world.answered_call()
    call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2", "sendonly"), party_sdp("10.1.1.1", "recvonly")
    world.service.call_media_changed(call)
    world.clock.run_for(1)
    call.caller_sdp = call.callee_sdp = party_sdp("10.1.1.1", formats="8")
    world.media.parties.update({call.from_tag: call.caller_sdp, call.to_tag: call.callee_sdp})
    world.service.call_media_changed(call)
    world.clock.run_for(1)
    assert world.srs.methods == ["INVITE", "UPDATE", "INVITE"]
    for request in world.srs.requests:
        assert "siprec" in request.tokens("require")  # SRC-06, SRC-08
        assert request.tokens("supported") == {"timer"}  # SRC-13
        assert "+sip.src" in str(request.contact)
    world.end(call)
    world.assert_clean()
