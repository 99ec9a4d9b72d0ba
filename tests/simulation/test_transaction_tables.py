"""The tables of the transaction machines against real driving: every row is taken, over UDP and over TCP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siprec.sip import fsm, transaction_fsm
from siprec.sip.fsm import Machine, Row
from siprec.sip.transaction_base import Transaction
from siprec.sip.transport import Hop, SendFailed
from tests.simulation.test_transactions import World, request_of

Scenario = Callable[[World, str], None]
Taken = list[tuple[Transaction, Row]]

SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """The rows that transactions take; each leads where it says, at once."""
    seen: Taken = []
    original = Transaction.fire

    def fire(self: Transaction, event: str, argument: Any = None) -> None:
        steps = self.table.get((self.state, event), ())
        step = next((s for s in steps if not s.guard or bool(getattr(self, s.guard)) is s.wanted), None)
        before = self.state
        if step is not None:
            seen.append((self, step.row))
        original(self, event, argument)
        if step is None:
            assert self.state == before, f"{event} is ignored in {before}"

    monkeypatch.setattr(Transaction, "fire", fire)
    return seen


def respond(w: World, status: int, number: int = -1) -> None:
    transaction = w.b.transactions[number]
    transaction.respond(transaction.request.response(status, to_tag="callee"))


def undeliverable(w: World, *starts: bytes) -> None:
    """The transport of b takes nothing that begins so, and says so a moment later."""
    send = w.b.node.send

    def refusing(data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        if not data.startswith(starts):
            send(data, hop, failed)
        elif failed is not None:
            w.clock.call_later(0.001, failed, "refused")

    w.b.node.send = refusing  # type: ignore[method-assign]


@scenario
def answered(w: World, transport: str) -> None:
    w.a.send("INVITE", w.b, transport)
    w.clock.run_for(0.1)
    for status in (180, 180, 200, 200):
        respond(w, status)
    w.b.transactions[0].respond_again()
    ack = w.b.transactions[0].request.copy()
    ack.method = "ACK"
    ack.set("cseq", "7 ACK")
    w.b.layer.receive(ack, w.a.node.hop(transport))
    assert len(w.b.acks) == 1


@scenario
def answered_without_ringing(w: World, transport: str) -> None:
    w.b.answers = [200]
    w.a.send("INVITE", w.b, transport)


@scenario
def refused_while_messages_are_lost(w: World, transport: str) -> None:
    w.b.answers = [180]
    w.network.drop = lambda sent: sent.time < 1003 and sent.line.startswith("SIP/2.0 180")
    w.a.send("INVITE", w.b, transport)
    w.clock.run_for(4)
    w.b.transactions[0].respond_again()
    w.clock.run_for(1)
    w.network.drop = lambda sent: sent.time < 1007 and sent.line.startswith("ACK")
    respond(w, 486)
    w.clock.run_for(1)
    # Whatever the transport, a response may come twice.
    w.a.layer.receive(w.b.transactions[0].request.response(486, to_tag="callee"), w.b.node.hop(transport))
    early = w.b.transactions[0].request.copy()
    w.b.layer.receive(early, w.a.node.hop(transport))


@scenario
def refused_at_once(w: World, transport: str) -> None:
    w.b.answers = [404]
    w.a.send("INVITE", w.b, transport)


@scenario
def refused_and_never_acknowledged(w: World, transport: str) -> None:
    w.lose("ACK")
    w.b.answers = [404]
    w.a.send("INVITE", w.b, transport)


@scenario
def acknowledged_before_there_is_an_answer(w: World, transport: str) -> None:
    w.a.send("INVITE", w.b, transport)
    w.clock.run_for(0.1)
    ack = w.b.transactions[0].request.copy()
    ack.method = "ACK"
    ack.set("cseq", "7 ACK")
    w.b.layer.receive(ack, w.a.node.hop(transport))
    w.b.layer.receive(w.b.transactions[0].request.copy(), w.a.node.hop(transport))
    respond(w, 500)


@scenario
def unheard(w: World, transport: str) -> None:
    w.lose("INVITE", "OPTIONS")
    w.a.send("INVITE", w.b, transport)
    w.a.send("OPTIONS", w.b, transport)


@scenario
def cancelled_while_it_rings(w: World, transport: str) -> None:
    w.b.answers = [180]
    client = w.a.send("INVITE", w.b, transport)
    w.clock.run_for(1)
    server = w.b.transactions[0]
    server.on_cancel = lambda cancel: server.respond(server.request.response(487, to_tag="callee"))
    client.cancel()


@scenario
def cancelled_before_anybody_has_answered(w: World, transport: str) -> None:
    client = w.a.send("INVITE", w.b, transport)
    client.cancel()
    w.clock.run_for(1)
    respond(w, 180)
    w.clock.run_for(40)
    respond(w, 487)


@scenario
def unreachable(w: World, transport: str) -> None:
    w.a.send("INVITE", w.b, transport).transport_failed("refused")
    w.a.send("OPTIONS", w.b, transport).transport_failed("refused")
    options = w.a.send("OPTIONS", w.b, transport)
    w.clock.run_for(0.1)
    w.a.layer.receive(w.b.transactions[-1].request.response(100), w.b.node.hop(transport))
    options.transport_failed("reset")
    for each in w.b.transactions:
        each.respond(each.request.response(500, to_tag="callee"))


@scenario
def the_ack_of_a_failure_cannot_be_delivered(w: World, transport: str) -> None:
    w.b.answers = [486]
    client = w.a.send("INVITE", w.b, transport)
    w.clock.run_for(0.03)
    if client.state == "completed":
        client.transport_failed("reset")


@scenario
def other_requests(w: World, transport: str) -> None:
    w.a.send("OPTIONS", w.b, transport)
    w.clock.run_for(0.1)
    repeated = w.b.transactions[0].request.copy()
    respond(w, 100)
    w.clock.run_for(4)
    w.b.layer.receive(repeated, w.a.node.hop(transport))
    w.a.layer.receive(repeated.response(100), w.b.node.hop(transport))
    respond(w, 200)
    w.b.layer.receive(repeated, w.a.node.hop(transport))


@scenario
def other_requests_that_are_answered_at_once(w: World, transport: str) -> None:
    w.b.answers = [404]
    w.a.send("OPTIONS", w.b, transport)


@scenario
def other_requests_that_are_never_answered(w: World, transport: str) -> None:
    w.a.send("OPTIONS", w.b, transport)


@scenario
def other_requests_that_time_out_above(w: World, transport: str) -> None:
    w.a.send("OPTIONS", w.b, transport)
    w.clock.run_for(0.1)
    respond(w, 408)
    w.a.send("OPTIONS", w.b, transport)
    w.clock.run_for(5)
    respond(w, 408)


@scenario
def a_response_that_cannot_be_delivered(w: World, transport: str) -> None:
    undeliverable(w, b"SIP/2.0 404")
    w.b.answers = [404]
    w.a.send("OPTIONS", w.b, transport)


@scenario
def a_large_request_to_who_does_not_do_tcp(w: World, transport: str) -> None:
    w.b.node.accepts_streams = False
    w.b.answers = [404]
    w.a.send("INVITE", w.b, "udp", b"x" * 2000)
    w.a.send("MESSAGE", w.b, "udp", b"x" * 2000)


TRANSPORTS = ("udp", "tcp")
ONLY_OVER_UDP = {
    # Nothing is sent again; Timers D and J are over before anything else can happen.
    ("INVITE client transaction", "completed", "300-699"),
    ("INVITE client transaction", "completed", "transport error"),
    ("INVITE client transaction", "calling", "timer A"),
    ("Non-INVITE client transaction", "trying", "timer E"),
    ("Non-INVITE client transaction", "proceeding", "timer E"),
    ("INVITE server transaction", "completed", "timer G"),
    ("Non-INVITE server transaction", "completed", "transport error"),
}
ONLY_OVER_TCP = {("Non-INVITE server transaction", "trying", "send 100")}


def test_every_row_is_taken_over_udp_and_over_tcp(taken: Taken) -> None:
    by_row = {row: machine.name for machine in transaction_fsm.MACHINES for row in machine.rows}
    for transport in TRANSPORTS:
        taken.clear()
        for each in SCENARIOS:
            w = World()
            each(w, transport)
            w.clock.run_until_idle()
            assert not any((*w.a.layer.counts().values(), *w.b.layer.counts().values())), each.__name__
        of_this = {row for transaction, row in taken if transaction.reliable is (transport == "tcp")}
        # What was sent over TCP because of its size goes on over UDP.
        of_this |= {row for _, row in taken if row.guard == "for_size"}
        left = {(by_row[row], row.state, row.event) for row in by_row if row not in of_this}
        assert left == (ONLY_OVER_UDP if transport == "tcp" else ONLY_OVER_TCP), transport


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_transaction_is_left_at_the_end_and_nobody_is_told_of_it_any_more(taken: Taken, transport: str) -> None:
    for each in SCENARIOS:
        w = World()
        each(w, transport)
        w.finish()
    for transaction, _ in taken:
        assert transaction.state == "terminated"
        assert [getattr(transaction, name) for name in transaction.callbacks] == [None, None]
        before = len(taken)
        transaction.fire("timer A")
        assert len(taken) == before


@pytest.mark.parametrize(
    ("method", "status", "states"),
    [
        ("INVITE", 486, (["calling", "completed"], ["proceeding", "completed", "confirmed"])),
        ("OPTIONS", 200, (["trying", "completed"], ["trying", "completed"])),
    ],
)
def test_over_tcp_no_state_is_jumped_over_and_timers_d_i_j_and_k_are_zero(
    taken: Taken, method: str, status: int, states: tuple[list[str], list[str]]
) -> None:
    w = World()
    w.b.answers = [status]
    client = w.a.send(method, w.b, "tcp")
    w.clock.run_for(0.011)
    server = w.b.transactions[0]
    w.clock.run_for(0.03)
    assert client.state == server.state == "terminated"
    assert w.clock.pending == 0
    passed = [
        list(dict.fromkeys(row.to for transaction, row in taken if transaction is each)) for each in (client, server)
    ]
    assert passed == [[*states[0], "terminated"], [*states[1], "terminated"]]


@pytest.mark.parametrize("machine", transaction_fsm.MACHINES, ids=lambda machine: machine.name)
def test_every_state_can_be_reached_and_left(machine: Machine) -> None:
    reached = {""}
    while more := {row.to for row in machine.rows if row.state in reached} - reached:
        reached |= more
    assert reached == set(machine.states)
    for state in set(machine.states) - {"terminated"}:
        assert any(row.to != state for row in machine.rows if row.state == state), state
    assert not [row for row in machine.rows if row.state == "terminated"]


def test_a_transaction_that_ends_badly_does_not_keep_others_from_ending() -> None:
    w = World()
    w.b.answers = [200]
    for _ in range(3):
        w.a.send("OPTIONS", w.b)
    w.clock.run_for(1)

    def broken(reason: str) -> None:
        raise RuntimeError("bug above")

    w.b.transactions[1].on_end = broken
    with pytest.raises(RuntimeError, match="bug above"):
        w.clock.run_until_idle()
    w.clock.run_until_idle()
    assert not any(w.b.layer.counts().values())
    assert w.b.ends == ["done", "done"]


def test_a_request_stays_as_it_was_given() -> None:
    w = World()
    request = request_of("OPTIONS")
    before = request.to_bytes()
    ignore: Callable[..., None] = lambda *_: None  # noqa: E731
    w.a.layer.send_request(request, w.b.node.hop(), on_response=ignore, on_failure=ignore)
    assert request.to_bytes() == before
    assert not request.has("via")


def test_the_printed_tables_are_current() -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "fsm.md"
    assert path.read_text() == fsm.document(), "python -m siprec.sip.fsm > docs/fsm.md"


def test_a_table_with_a_missing_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        fsm.rows("calling | timer A | | calling")


def test_a_row_keeps_its_cells() -> None:
    [row] = fsm.rows("calling | timer A | not cancelling | calling | send request; restart timer A | 3261 17.1.1.2")
    assert row == Row(
        "calling", "timer A", "not cancelling", "calling", ("send request", "restart timer A"), "3261 17.1.1.2"
    )
