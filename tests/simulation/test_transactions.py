"""The four transaction machines on the simulated network, transition by transition."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transaction import ClientTransaction, ServerTransaction, TransactionLayer, branch_source
from siprec.sip.transport import Hop, SendFailed
from siprec.sip.uri import Uri
from tests.simulation.network import LinkQuality, Node, Sent, SimulatedNetwork, VirtualClock


class Core:
    """A transaction user that writes down what it gets and answers by `answers` (status codes, in order)."""

    def __init__(self, node: Node, clock: VirtualClock) -> None:
        self.clock = clock
        self.node = node
        self.layer = TransactionLayer(clock, node, self)
        node.attach(self.layer)
        self.answers: list[int] = []
        self.transactions: list[ServerTransaction] = []
        self.acks: list[SipRequest] = []
        self.cancels: list[SipRequest] = []
        self.errors: list[SipError] = []
        self.ends: list[str] = []
        self.responses: list[int] = []
        self.failures: list[str] = []

    def request_received(self, transaction: ServerTransaction) -> None:
        self.transactions.append(transaction)
        transaction.on_end = self.ends.append
        for status in self.answers:
            transaction.respond(transaction.request.response(status, to_tag="callee"))

    def ack_received(self, request: SipRequest, source: Hop) -> None:
        self.acks.append(request)

    def cancel_received(self, request: SipRequest, source: Hop) -> None:
        self.cancels.append(request)

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        self.errors.append(error)

    def send(self, method: str, target: Core, transport: str = "udp", body: bytes = b"") -> ClientTransaction:
        return self.layer.send_request(
            request_of(method, body),
            target.node.hop(transport),
            on_response=lambda transaction, response: self.responses.append(response.status),
            on_failure=lambda transaction, reason: self.failures.append(reason),
        )


def request_of(method: str, body: bytes = b"") -> SipRequest:
    request = SipRequest(method, "sip:bob@example.com")
    request.add("Route", "<sip:10.0.0.2;lr>")
    request.add("Max-Forwards", "70")
    request.add("From", "<sip:alice@example.com>;tag=caller")
    request.add("To", "<sip:bob@example.com>")
    request.add("Call-ID", "call-1")
    request.add("CSeq", f"7 {method}")
    request.add("Require", "siprec")
    request.set_body(body, "text/plain" if body else None)
    return request


class World:
    def __init__(self, quality: LinkQuality | None = None, seed: int = 1, **options: bool) -> None:
        self.clock = VirtualClock()
        self.network = SimulatedNetwork(self.clock, seed, quality)
        self.a = Core(self.network.node("10.0.0.1"), self.clock)
        self.b = Core(self.network.node("10.0.0.2", **options), self.clock)

    def sent(self, start: str) -> list[Sent]:
        return [sent for sent in self.network.trace if sent.line.startswith(start)]

    def times(self, start: str) -> list[float]:
        return [round(sent.time - 1000.0, 3) for sent in self.sent(start)]

    def lose(self, *starts: str) -> None:
        self.network.drop = lambda sent: sent.line.startswith(starts)

    def finish(self) -> None:
        self.clock.run_until_idle()
        assert not any(self.a.layer.counts().values())
        assert not any(self.b.layer.counts().values())
        assert self.clock.pending == 0


def test_invite_answered_with_2xx_ends_in_accepted_until_timers_l_and_m() -> None:
    w = World()
    w.b.answers = [100, 180, 200]
    client = w.a.send("INVITE", w.b)
    w.clock.run_for(1)
    assert w.a.responses == [100, 180, 200]
    assert client.state == w.b.transactions[0].state == "accepted"
    w.clock.run_for(30)
    assert w.a.layer.counts()["invite_client"] == w.b.layer.counts()["invite_server"] == 1
    w.finish()
    assert w.clock.now() == pytest.approx(1032.02)
    assert w.b.ends == ["done"]
    assert not w.sent("ACK"), "the ACK for a 2xx is the TU's"


def test_timer_a_doubles_and_timer_b_gives_up() -> None:
    w = World()
    w.lose("INVITE")
    w.a.send("INVITE", w.b)
    w.finish()
    assert w.times("INVITE") == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert w.a.failures == ["timeout"]
    assert w.clock.now() == pytest.approx(1032)


def test_invite_is_not_retransmitted_over_tcp() -> None:
    w = World()
    w.a.send("INVITE", w.b, "tcp")
    w.clock.run_for(33)
    assert w.times("INVITE") == [0]
    assert w.a.failures == ["timeout"]
    w.b.transactions[0].respond(w.b.transactions[0].request.response(500, to_tag="x"))
    w.finish()


def test_lost_ack_is_sent_again_for_each_retransmitted_failure() -> None:
    w = World()
    w.b.answers = [486]
    w.lose("ACK")
    client = w.a.send("INVITE", w.b)
    w.clock.run_for(2)
    assert w.a.responses == [486]
    assert client.state == "completed"
    assert w.times("SIP/2.0 486") == [0.01, 0.51, 1.51]
    assert len(w.sent("ACK")) == 3
    w.network.drop = None
    w.clock.run_for(3)
    assert w.b.transactions[0].state == "confirmed"
    w.finish()
    assert w.b.ends == ["done"]
    assert w.b.acks == []


def test_timer_h_tells_the_user_that_no_ack_came() -> None:
    w = World()
    w.b.answers = [486]
    w.lose("ACK")
    w.a.send("INVITE", w.b)
    w.finish()
    assert w.b.ends == ["timeout"]
    assert w.times("SIP/2.0 486") == pytest.approx(
        [0.01, 0.51, 1.51, 3.51, 7.51, 11.51, 15.51, 19.51, 23.51, 27.51, 31.51]
    )


def test_ack_for_failure_is_built_from_the_invite() -> None:
    w = World()
    w.b.answers = [486]
    w.a.send("INVITE", w.b)
    w.finish()
    invite = parse_datagram(w.sent("INVITE")[0].data)
    ack = parse_datagram(w.sent("ACK")[0].data)
    assert isinstance(ack, SipRequest)
    assert ack.uri == "sip:bob@example.com"
    assert ack.values("via") == invite.values("via")
    assert ack.get("route") == "<sip:10.0.0.2;lr>"
    assert ack.to.tag == "callee"
    assert str(ack.cseq) == "7 ACK"
    assert ack.get("require") is None


def test_retransmitted_invite_is_answered_from_store_and_absorbed_after_2xx() -> None:
    w = World()
    w.b.answers = [180]
    w.lose("SIP/2.0 180")
    w.a.send("INVITE", w.b)
    w.clock.run_for(2)
    assert len(w.b.transactions) == 1
    assert len(w.sent("SIP/2.0 180")) == 3
    w.lose("SIP/2.0")
    server = w.b.transactions[0]
    server.respond(server.request.response(200, to_tag="callee"))
    w.clock.run_for(10)
    assert len(w.sent("SIP/2.0 200")) == 1, "RFC 6026: the TU retransmits the 2xx, not the transaction"
    w.network.drop = None
    server.respond(server.request.response(200, to_tag="callee"))
    server.respond(server.request.response(200, to_tag="callee"))
    w.clock.run_for(1)
    assert w.a.responses == [200, 200]
    w.finish()


def test_non_invite_retransmits_up_to_t2_and_gives_up() -> None:
    w = World()
    w.lose("OPTIONS")
    w.a.send("OPTIONS", w.b)
    w.finish()
    assert w.times("OPTIONS") == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert w.a.failures == ["timeout"]


def test_slow_non_invite_gets_a_100_only_when_timer_e_has_reached_t2() -> None:
    w = World()
    w.a.send("OPTIONS", w.b)
    w.clock.run_for(0.1)
    server = w.b.transactions[0]
    server.respond(server.request.response(180))
    server.respond(server.request.response(100))
    w.clock.run_for(9)
    assert w.times("SIP/2.0 1") == pytest.approx([3.51, 3.51, 7.51])
    assert w.a.responses == [100, 100, 100]
    server.respond(server.request.response(200))
    w.finish()
    assert w.a.responses[-1] == 200


def test_non_invite_is_never_answered_with_408_nor_late() -> None:
    w = World()
    w.a.send("OPTIONS", w.b)
    w.clock.run_for(1)
    server = w.b.transactions[0]
    server.respond(server.request.response(408))
    w.finish()
    assert not w.sent("SIP/2.0 408")
    w.a.send("OPTIONS", w.b)
    w.clock.run_for(40)
    assert w.b.ends[-1] == "timeout"
    w.b.transactions[1].respond(server.request.response(200))
    w.finish()
    assert not w.sent("SIP/2.0 200")
    assert w.a.failures == ["timeout", "timeout"]


def test_non_invite_slows_down_to_t2_after_a_provisional_response() -> None:
    w = World()
    w.a.send("OPTIONS", w.b)
    w.clock.run_for(0.1)
    trying = w.b.transactions[0].request.response(100)
    w.a.layer.receive(trying, w.b.node.hop())
    w.lose("SIP/2.0")
    w.clock.run_for(10)
    assert w.times("OPTIONS") == [0, 0.5, 4.5, 8.5]
    w.finish()


def test_non_invite_client_stays_for_timer_k_and_server_for_timer_j() -> None:
    w = World()
    w.b.answers = [200]
    w.a.send("OPTIONS", w.b)
    w.clock.run_for(4.9)
    assert w.a.layer.counts()["client"] == 1
    w.clock.run_for(0.2)
    assert w.a.layer.counts()["client"] == 0
    assert w.b.layer.counts()["server"] == 1
    w.finish()
    w.a.send("OPTIONS", w.b, "tcp")
    w.clock.run_for(0.1)
    assert w.a.layer.counts()["client"] == w.b.layer.counts()["server"] == 0


def test_failure_response_over_tcp_is_sent_once() -> None:
    w = World()
    w.b.answers = [486]
    w.lose("ACK")
    w.a.send("INVITE", w.b, "tcp")
    w.finish()
    assert len(w.sent("SIP/2.0 486")) == 1
    assert w.b.ends == ["timeout"]


@pytest.mark.parametrize(("method", "seconds"), [("INVITE", 32), ("OPTIONS", 0)])
def test_undeliverable_response_is_told_but_does_not_destroy_an_invite_transaction(method: str, seconds: int) -> None:
    w = World()

    def unreachable(data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        assert failed is not None
        w.clock.call_later(0.01, failed, "port unreachable")

    w.b.node.send = unreachable  # type: ignore[method-assign]
    w.b.answers = [486]
    w.a.send(method, w.b)
    w.clock.run_for(0.1)
    assert w.b.layer.counts()["invite_server"] == (method == "INVITE")
    assert w.b.ends == ([] if method == "INVITE" else ["transport"])
    w.clock.run_for(seconds)
    assert w.b.ends[0] == "transport"


def test_ack_for_an_unanswered_invite_is_not_swallowed() -> None:
    w = World()
    w.a.send("INVITE", w.b)
    w.clock.run_for(0.1)
    ack = w.b.transactions[0].request.copy()
    ack.method = "ACK"
    ack.set("cseq", "7 ACK")
    w.b.layer.receive(ack, w.a.node.hop())
    assert len(w.b.acks) == 1


def test_retransmitted_request_meets_the_same_final_response() -> None:
    w = World()
    w.b.answers = [200]
    w.network.drop = lambda sent: sent.line.startswith("SIP/2.0") and sent.time < 1002
    w.a.send("OPTIONS", w.b)
    w.finish()
    assert len(w.b.transactions) == 1
    assert w.a.responses == [200]


@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_connection_refused_is_a_transport_failure(method: str) -> None:
    w = World(accepts_streams=False)
    w.a.send(method, w.b, "tcp")
    w.finish()
    assert w.a.failures == ["transport: connection refused"]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_large_request_goes_over_tcp_and_back_to_udp_when_refused(method: str) -> None:
    w = World()
    w.b.answers = [486]
    client = w.a.send(method, w.b, body=b"x" * 2000)
    w.finish()
    assert client.hop.transport == "tcp"
    assert w.sent(method)[0].data.count(b"SIP/2.0/TCP 10.0.0.1:5060") == 1
    assert w.a.responses == [486]
    w = World(accepts_streams=False)
    w.b.answers = [486]
    client = w.a.send(method, w.b, body=b"x" * 2000)
    w.finish()
    assert [sent.transport for sent in w.sent(method)] == ["tcp", "udp"]
    assert b"SIP/2.0/UDP 10.0.0.1:5060" in w.sent(method)[1].data
    assert w.a.responses == [486]


def test_cancel_waits_for_a_provisional_response_and_stops_after_a_final() -> None:
    w = World()
    client = w.a.send("INVITE", w.b)
    w.clock.run_for(0.1)
    client.cancel([("Reason", "SIP;cause=200")])
    client.cancel()
    w.clock.run_for(2)
    assert not w.sent("CANCEL")
    server = w.b.transactions[0]
    server.on_cancel = lambda request: server.respond(server.request.response(487, to_tag="callee"))
    server.respond(server.request.response(180, to_tag="callee"))
    w.finish()
    assert w.a.responses == [180, 487]
    cancel = parse_datagram(w.sent("CANCEL")[0].data)
    invite = parse_datagram(w.sent("INVITE")[0].data)
    assert cancel.values("via") == invite.values("via")
    assert str(cancel.cseq) == "7 CANCEL"
    assert cancel.get("route") == "<sip:10.0.0.2;lr>"
    assert cancel.get("require") is None
    assert cancel.get("reason") == "SIP;cause=200"
    answer = parse_datagram(next(s for s in w.sent("SIP/2.0 200")).data)
    assert answer.to.tag == "callee"
    client.cancel()
    w.finish()
    assert len(w.sent("CANCEL")) == 1


def test_invite_is_given_up_when_a_cancel_has_no_effect() -> None:
    w = World()
    w.b.answers = [180]
    client = w.a.send("INVITE", w.b)
    w.clock.run_for(100)
    client.cancel()
    w.clock.run_for(31)
    assert w.a.failures == []
    w.clock.run_for(2)
    assert w.a.failures == ["timeout"]
    server = w.b.transactions[0]
    server.respond(server.request.response(487, to_tag="callee"))
    w.clock.run_until_idle()
    assert w.a.responses == [180], "late responses match nothing (TXN-05)"


def test_cancel_without_invite_goes_to_the_user_without_a_transaction() -> None:
    w = World()
    w.a.send("CANCEL", w.b)
    w.clock.run_for(0.1)
    assert len(w.b.cancels) == 1
    assert w.b.layer.counts()["server"] == 0
    w.finish()


def test_user_that_raises_still_answers() -> None:
    w = World()

    def broken(transaction: ServerTransaction) -> None:
        raise RuntimeError("bug above")

    w.b.request_received = broken  # type: ignore[method-assign]
    w.a.send("INVITE", w.b)
    w.a.send("OPTIONS", w.b)
    w.finish()
    assert sorted(w.a.responses) == [500, 500]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_every_outcome_is_told_once_on_a_bad_network(method: str, seed: int) -> None:
    w = World(LinkQuality(loss=0.4, duplicate=0.3, delay=0.02, jitter=0.9), seed)
    w.b.answers = [404]
    for _ in range(10):
        w.a.send(method, w.b)
    w.finish()
    assert len([s for s in w.a.responses if s == 404]) + len(w.a.failures) == 10
    assert len(w.b.transactions) <= 10


@pytest.mark.parametrize(("accepts_streams", "transports"), [(True, ["tcp"]), (False, ["tcp", "udp"])])
def test_large_ack_for_a_2xx_goes_over_tcp_and_back_to_udp_when_refused(
    accepts_streams: bool, transports: list[str]
) -> None:
    w = World(accepts_streams=accepts_streams)
    w.a.layer.send_stateless(request_of("ACK", b"x" * 2000), w.b.node.hop(), add_via="z9hG4bKack")
    w.finish()
    assert [sent.transport for sent in w.sent("ACK")] == transports
    assert [ack.body for ack in w.b.acks] == [b"x" * 2000]
    assert [via.transport for via in w.b.acks[0].vias] == [transports[-1].upper()]


def test_branches_are_unique_and_cannot_be_foreseen() -> None:
    branches = {new() for new in (branch_source(), branch_source()) for _ in range(1000)}
    assert len(branches) == 2000
    assert all(branch.startswith("z9hG4bK") and len(branch) == 27 for branch in branches)


def test_branch_of_the_caller_is_used_and_matched_without_regard_to_case() -> None:
    w = World()
    w.b.answers = [200]
    w.a.layer.send_request(
        request_of("OPTIONS"),
        w.b.node.hop(),
        on_response=lambda transaction, response: w.a.responses.append(response.status),
        on_failure=lambda transaction, reason: None,
        branch="z9hG4bKLoop-ABC",
    )
    w.finish()
    assert parse_datagram(w.sent("OPTIONS")[0].data).top_via.branch == "z9hG4bKLoop-ABC"
    assert w.a.responses == [200]


# -- matching and routing of raw messages ------------------------------------------------------------------------------


def raw(w: World, text: str, port: int = 5060) -> None:
    data = text.replace("\n", "\r\n").encode()
    w.b.node.deliver(data, Hop("udp", "192.0.2.9", port, ("10.0.0.2", 5060)))


HEAD = """From: <sip:a@x>;tag=1
To: <sip:b@x>
Call-ID: c1
CSeq: 1 {0}

"""


@pytest.mark.parametrize(
    ("via", "expected_via", "destination"),
    [
        ("192.0.2.9;branch=z9hG4bK1", "192.0.2.9;branch=z9hG4bK1", ("192.0.2.9", 5060)),
        ("192.0.2.9:5099;branch=z9hG4bK1", "192.0.2.9:5099;branch=z9hG4bK1", ("192.0.2.9", 5099)),
        ("10.9.9.9:5099;branch=z9hG4bK1", "10.9.9.9:5099;branch=z9hG4bK1;received=192.0.2.9", ("192.0.2.9", 5099)),
        (
            "pc.example.com;rport;branch=z9hG4bK1",
            "pc.example.com;rport=4444;branch=z9hG4bK1;received=192.0.2.9",
            ("192.0.2.9", 4444),
        ),
        ("192.0.2.9;rport", "192.0.2.9;rport=4444;received=192.0.2.9", ("192.0.2.9", 4444)),
        ("192.0.2.9;maddr=10.0.0.77", "192.0.2.9;maddr=10.0.0.77", ("192.0.2.9", 5060)),
        ("192.0.2.9;received=10.0.0.1", "192.0.2.9;received=192.0.2.9", ("192.0.2.9", 5060)),
    ],
)
def test_received_rport_and_response_routing(via: str, expected_via: str, destination: tuple[str, int]) -> None:
    w = World()
    w.b.answers = [200]
    raw(w, f"OPTIONS sip:b@x SIP/2.0\nVia: SIP/2.0/UDP {via}, SIP/2.0/UDP first\n{HEAD.format('OPTIONS')}", 4444)
    [sent] = w.network.trace
    assert sent.destination == destination
    response = parse_datagram(sent.data)
    assert response.values("via") == [f"SIP/2.0/UDP {expected_via}", "SIP/2.0/UDP first"]


@pytest.mark.parametrize("maddr", ["224.0.1.75", "255.255.255.255", "0.0.0.0", "host.example.com", "[ff02::1]"])
def test_response_to_a_multicast_or_nameless_address_is_dropped(maddr: str) -> None:
    w = World()
    w.b.answers = [200]
    raw(w, f"OPTIONS sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9;maddr={maddr}\n{HEAD.format('OPTIONS')}")
    assert w.network.trace == []
    assert len(w.b.transactions) == 1


def test_rfc2543_client_is_matched_by_what_identifies_its_request() -> None:
    w = World()
    w.b.answers = [486]
    invite = f"INVITE sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9\n{HEAD.format('INVITE')}"
    raw(w, invite)
    raw(w, invite)
    assert len(w.b.transactions) == 1
    ack = invite.replace("INVITE", "ACK")
    raw(w, ack.replace("<sip:b@x>", "<sip:b@x>;tag=other"))
    assert w.b.transactions[0].state == "completed"
    assert len(w.b.acks) == 1
    raw(w, ack.replace("<sip:b@x>", "<sip:b@x>;tag=callee"))
    assert w.b.transactions[0].state == "confirmed"
    raw(w, invite.replace("Call-ID: c1", "Call-ID: c2"))
    assert len(w.b.transactions) == 2
    w.b.answers = []
    raw(w, invite.replace("Call-ID: c1", "Call-ID: c3"))
    cancelled: list[SipRequest] = []
    w.b.transactions[2].on_cancel = cancelled.append
    raw(w, invite.replace("Call-ID: c1", "Call-ID: c3").replace("INVITE", "CANCEL"))
    assert len(cancelled) == 1


def test_branch_of_a_request_is_matched_without_regard_to_case() -> None:  # RFC 3261 7.3.1
    w = World()
    w.b.answers = [486]
    invite = f"INVITE sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKAbC\n{HEAD.format('INVITE')}"
    raw(w, invite)
    raw(w, invite.replace("z9hG4bKAbC", "Z9hG4BKaBc"))
    assert len(w.b.transactions) == 1
    raw(w, invite.replace("z9hG4bKAbC", "z9hg4bkabc").replace("INVITE", "ACK"))
    assert w.b.transactions[0].state == "confirmed"
    assert w.b.acks == []


def test_same_branch_from_another_sent_by_or_method_is_another_transaction() -> None:
    w = World()
    options = f"OPTIONS sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKsame\n{HEAD.format('OPTIONS')}"
    raw(w, options)
    raw(w, options)
    raw(w, options.replace("192.0.2.9;", "192.0.2.10;"))
    raw(w, options.replace("OPTIONS", "MESSAGE"))
    assert [t.method for t in w.b.transactions] == ["OPTIONS", "OPTIONS", "MESSAGE"]


def test_response_with_foreign_sent_by_or_wrong_method_or_branch_is_dropped() -> None:
    w = World()
    client = w.a.send("OPTIONS", w.b)
    w.clock.run_for(0.1)
    good = w.b.transactions[0].request.response(200, to_tag="t")
    source = w.b.node.hop()
    for change in (
        ("via", good.values("via")[0].replace("10.0.0.1", "10.0.0.66", 1)),
        ("via", good.values("via")[0].replace(client.branch, "z9hG4bKnot")),
        ("cseq", "7 INVITE"),
        ("cseq", "7 BYE"),
        ("cseq", "garbage"),
    ):
        bad = good.copy()
        bad.set(*change)
        w.a.layer.receive(bad, source)
    assert w.a.responses == []
    w.a.layer.receive(SipResponse(200), source)
    w.a.layer.receive(good, source)
    assert w.a.responses == [200]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("OPTIONS sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9\n" + HEAD.format("INVITE"), 400),
        (
            "OPTIONS sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9\n" + HEAD.format("OPTIONS").replace("<sip:a@x>", ""),
            400,
        ),
        (
            "OPTIONS sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9\n"
            + HEAD.format("OPTIONS").replace("Call-ID: c1\n", ""),
            400,
        ),
        ("OPTIONS sip:b@x SIP/7.0\nVia: SIP/2.0/UDP 192.0.2.9\n" + HEAD.format("OPTIONS"), 505),
        ("OPTIONS sip:b@x SIP/2.0\nContent-Length: 99\nVia: SIP/2.0/UDP 192.0.2.9\n" + HEAD.format("OPTIONS"), 400),
        ("ACK sip:b@x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.9\n" + HEAD.format("INVITE"), None),
        ("OPTIONS sip:b@x SIP/2.0\n" + HEAD.format("OPTIONS"), None),
        ("OPTIONS sip:b@x SIP/2.0\nVia: nonsense\n" + HEAD.format("OPTIONS"), None),
    ],
)
def test_malformed_requests_are_answered_without_a_transaction(text: str, status: int | None) -> None:
    w = World()
    raw(w, text)
    assert [int(sent.line.split()[1]) for sent in w.network.trace] == ([status] if status else [])
    assert not any(w.b.layer.counts().values())
    assert len(w.b.errors) == 1 or status is None


def test_response_over_tcp_opens_a_new_connection_when_the_old_one_is_gone() -> None:
    w = World()
    caller = w.network.node("10.0.0.3", 5070)
    received: list[SipRequest | SipResponse] = []
    caller.on_message = lambda message, source: received.append(message)
    text = f"OPTIONS sip:b@x SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.3:5070;branch=z9hG4bK1\n{HEAD.format('OPTIONS')}"
    w.b.answers = [200]
    # The source port, 40000, is that of a connection which does not exist any more.
    w.b.node.deliver(text.replace("\n", "\r\n").encode(), Hop("tcp", "10.0.0.3", 40000, ("10.0.0.2", 5060), 99))
    w.clock.run_until_idle()
    assert [sent.destination for sent in w.network.trace] == [("10.0.0.3", 40000), ("10.0.0.3", 5070)]
    assert len(received) == 1


@pytest.mark.parametrize(
    ("transport", "sent_by", "found", "arrives"),
    [
        ("tcp", "client.example.com", ["10.0.0.66", "10.0.0.3"], True),  # DNS-06: by SRV, where there is no port
        ("tcp", "client.example.com:5070", ["10.0.0.3"], True),
        ("udp", "client.example.com", ["10.0.0.3"], True),
        ("tcp", "client.example.com", [], False),
        ("udp", "client.example.com", [], False),
        ("tcp", "10.0.0.77:5070", ["10.0.0.3"], False),  # a number says no more than where it came from
    ],
)
def test_response_that_cannot_be_delivered_goes_where_the_name_in_via_leads(
    transport: str, sent_by: str, found: list[str], arrives: bool
) -> None:
    w = World()
    client = w.network.node("10.0.0.3")
    received: list[SipRequest | SipResponse] = []
    client.on_message = lambda message, source: received.append(message)
    asked: list[str] = []

    def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
        asked.append(uri.text)
        done([Hop(transport, host, 5060) for host in found] or SipError("no such host", 503))

    w.b.layer.resolve = resolve
    send = w.b.node.send

    def unreachable(data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        if hop.host == "10.0.0.3":
            send(data, hop, failed)
        elif failed is not None:
            w.clock.call_later(0.01, failed, "refused")

    w.b.node.send = unreachable  # type: ignore[method-assign]
    w.b.answers = [200]
    text = (
        f"MESSAGE sip:b@x SIP/2.0\nVia: SIP/2.0/{transport.upper()} {sent_by};branch=z9hG4bK1\n{HEAD.format('MESSAGE')}"
    )
    w.b.node.deliver(text.replace("\n", "\r\n").encode(), Hop(transport, "10.0.0.77", 40000, ("10.0.0.2", 5060), 99))
    w.clock.run_until_idle()
    assert len(received) == arrives
    assert asked == ([] if sent_by[0] == "1" else [f"sip:{sent_by};transport={transport}"])
    # Over TCP it is over with the final response, whatever becomes of that (Timer J is 0).
    assert w.b.ends == (["done"] if arrives or transport == "tcp" else ["transport"])
    assert not any(w.b.layer.counts().values())
