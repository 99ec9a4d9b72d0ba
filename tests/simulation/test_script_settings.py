"""A script sets something for the recording that cannot be: the call and its recording go on without it, and say so."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from siprec import Request, extension
from siprec.proxy.script import Script
from siprec.recording.proof_collector import ProofCollector
from siprec.recording.settings import SiprecVariable
from tests.simulation.proxyworld import ProxyWorld
from tests.simulation.recording_world import Q
from tests.simulation.transferworld import TransferWorld

LATIN_1 = "Gr\udcf6\udcdfe"  # as the octets of a header that is no UTF-8 are read


def bad(field: str, value: Any) -> Any:
    return pytest.param(field, value, id=f"{field}={value!r}"[:50])


def recorded(set_up: Any) -> tuple[TransferWorld, list[dict[str, Any]]]:
    """A recorded call with what a script sets, to its end; and the lines of the proof."""

    async def on_invite(request: Request) -> None:
        set_up(request)
        request.forward()

    w = TransferWorld(script=Script({"on_invite": on_invite}))
    lines: list[bytes] = []

    def active(dlg_id: str, instance: str) -> Any:
        recorder = w.service.recorder(dlg_id)
        return recorder.recordings.get(instance) if recorder is not None else None

    proofs = ProofCollector(w.clock, lines.append, w.core.calls.get, active)
    w.core.observers._observers.insert(0, proofs)
    w.service.events.subscribe(proofs.event)
    w.service.context.observers.append(proofs)
    w.call()
    w.clock.run_for(2)
    assert w.core.counters["script_errors"] == 0
    w.alice.agent.calls()[0].bye()
    w.clock.run_for(60)
    w.finish()
    return w, [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        bad("session_custom_extension", "<company>AT&T</company>"),
        bad("session_custom_extension", f"<city>{LATIN_1}</city>"),
        bad("group_custom_extension", "<open>"),
        bad("session_custom_extension", '<x xmlns="urn:ietf:params:xml:ns:recording:1"/>'),
        bad("caller", "<name>Bob</name>"),
        bad("callee", f'<nameID aor="sip:{LATIN_1}@x"/>'),
        bad("headers", "Via: me\r\n"),
        bad("headers", "X-A: b\rEvil: yes\r\n"),
        bad("from_uri", "sip:a@b\r\nEvil: yes"),
        bad("to_uri", "mailto:a@b"),
        bad("socket", "udp:nowhere"),
        bad("media", "a\r\nb"),
        bad("group", 17),
        bad("group", b"sales"),
        bad("headers", ["X-A: 1"]),
        bad("colour", "red"),
    ],
)
@pytest.mark.parametrize("instance", ["", "default"])
def test_a_bad_setting_is_ignored_and_told(
    field: str, value: object, instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    def set_up(request: Request) -> None:
        request.siprec.group = "sales"
        setattr(request.siprec[instance] if instance else request.siprec, field, value)

    with caplog.at_level(logging.WARNING, "siprec.recording.service"):
        w, lines = recorded(set_up)
    assert w.told() == ["FAILED", "START", "STOP"]
    told = next(event for event in w.events if event.name == "E_SIPREC_FAILED")
    assert told.reason.startswith(f"setting ignored: {field}: ")
    assert (told.instance, told.status, told.dlg_callid) == ("default", 0, w.journal.calls[0].call_id)
    (line,) = [record for record in caplog.records if "setting ignored" in record.message]
    assert line.levelname == "WARNING"
    # What was right is kept, and the proof has the line.
    assert w.journal.calls[0].settings.group == "sales"
    (proof,) = [line for line in lines if line["type"] == "end"]
    assert [text.partition(":")[0] for text in proof["ignored"]] == [field]
    assert proof["refusals"] == []


def test_extensions_made_by_the_helper_hold_any_text() -> None:
    def set_up(request: Request) -> None:
        request.siprec.group = "sales"
        request.siprec.session_custom_extension = extension("company", "AT&T <Berlin>", namespace="urn:example:crm")
        request.siprec.group_custom_extension = request.siprec.extension("city", LATIN_1)

    w, lines = recorded(set_up)
    assert w.told() == ["START", "STOP"]
    document = w.srs.documents[0]
    assert document.findtext(f"{Q}session/{{urn:example:crm}}company") == "AT&T <Berlin>"
    assert document.findtext(f"{Q}group/{{urn:x-siprec:metadata:1}}city") == "Größe"
    assert next(line for line in lines if line["type"] == "end")["ignored"] == []


def test_plain_text_and_elements_without_a_namespace_get_ours() -> None:
    def set_up(request: Request) -> None:
        request.siprec.group = "sales"
        request.siprec.session_custom_extension = "AT&T"
        request.siprec.group_custom_extension = "<callcenterID> 17</callcenterID>"

    w, _ = recorded(set_up)
    assert w.told() == ["START", "STOP"]
    document = w.srs.documents[0]
    assert document.findtext(f"{Q}session/{{urn:x-siprec:metadata:1}}text") == "AT&T"
    assert document.findtext(f"{Q}group/{{urn:x-siprec:metadata:1}}callcenterID") == " 17"


def test_after_the_answer_a_bad_setting_reaches_the_proof_as_well() -> None:
    async def in_dialog(request: Request) -> None:
        request.siprec.media = "\r\n"

    w = TransferWorld(script=Script({"in_dialog": in_dialog}))
    w.call()
    w.clock.run_for(2)
    w.alice.agent.calls()[0].bye()
    w.clock.run_for(60)
    assert w.told() == ["START", "FAILED", "STOP"]
    assert w.core.counters["script_errors"] == 0
    w.finish()


def test_without_a_recorder_a_bad_setting_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def on_invite(request: Request) -> None:
        request.siprec.to_uri = "nonsense"
        request.reply(486)

    w = ProxyWorld(script=Script({"on_invite": on_invite}), settings=SiprecVariable)
    w.call()
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 486"]
    assert "setting ignored: to_uri" in caplog.text
    w.finish()
