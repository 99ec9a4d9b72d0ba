"""``[[route]]`` rules: matching, targets, mistakes."""

from __future__ import annotations

import random

import msgspec
import pytest

from siprec.proxy.local_domain import LocalDomain, Networks
from siprec.proxy.record_route import Cookies
from siprec.proxy.routes import RouteRule, RouteTarget, Rules, weighted_order
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

SOURCE = Hop("udp", "10.1.2.3", 5060)


def invite(uri: str = "sip:alice@example.com", **headers: str) -> SipRequest:
    request = SipRequest("INVITE", uri)
    for name, value in headers.items():
        request.add(name.replace("_", "-"), value)
    return request


def decided(rule: RouteRule, request: SipRequest, source: Hop = SOURCE) -> bool:
    return Rules([rule]).decide(request, source).rule is not None


@pytest.mark.parametrize(
    ("keys", "matches"),
    [
        ({}, True),
        ({"method": "INVITE"}, True),
        ({"method": ["MESSAGE", "invite"]}, True),
        ({"method": "MESSAGE"}, False),
        ({"user": "ali.*"}, True),
        ({"user": "ali"}, False),
        ({"domain": "EXAMPLE.com"}, True),
        ({"domain": ["a.test", "b.test"]}, False),
        ({"source": "10.0.0.0/8"}, True),
        ({"source": ["192.0.2.0/24", "10.1.2.3"]}, True),
        ({"source": "10.1.2.4"}, False),
        ({"header": {"subject": "^urgent"}}, True),
        ({"header": {"Subject": "^later"}}, False),
        ({"header": {"X-None": ""}}, False),
    ],
)
def test_rule_matches(keys: dict[str, object], matches: bool) -> None:
    rule = msgspec.convert({"reply": 403, **keys}, RouteRule)
    assert decided(rule, invite(subject="urgent: call")) is matches


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"user": "("}, "user: "),
        ({"header": {"To": "["}}, "header.To: "),
        ({"source": "10.0.0.0/99"}, "source: "),
        ({"targets": ["tel:+1"]}, "no SIP URI"),
        ({"targets": ["sip:"]}, "targets: "),
        ({"targets": ["sip:a"], "reply": 404}, "only one of"),
        ({"reply": 200}, "reply: "),
        ({"reply": "no"}, "Expected `int`"),
        ({"colour": 1}, "unknown field `colour`"),
        ({"targets": [{"uri": "sip:a", "weight": -1}]}, "must not be negative"),
    ],
)
def test_mistakes_are_named(keys: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message.replace(".", r"\.")):
        msgspec.convert(keys, RouteRule)


def test_rules_without_action_add_recordings_and_the_first_with_one_decides() -> None:
    rules = Rules(
        [
            RouteRule(record="all"),
            RouteRule(user="bob", record="bob"),
            RouteRule(record=["all", "sales"], media="always"),
            RouteRule(reply=486),
            RouteRule(record="never"),
        ]
    )
    decision = rules.decide(invite(), SOURCE)
    assert decision.record == ["all", "sales"]
    assert decision.media == "always"
    assert decision.rule is not None
    assert decision.rule.rule.reply == 486
    assert Rules([]).decide(invite(), SOURCE).rule is None


def test_targets_take_the_user_along_and_loose_routes_keep_the_request_uri() -> None:
    rule = RouteRule(targets=["sip:10.0.0.1:5070", "sip:desk@10.0.0.2", "sip:edge.test;lr"])
    decision = Rules([rule]).decide(invite(), SOURCE)
    assert decision.rule is not None
    groups = decision.rule.groups(invite(), random.Random(1))
    assert [(target.uri.text, target.route) for (target,) in groups] == [
        ("sip:alice@10.0.0.1:5070", ()),
        ("sip:desk@10.0.0.2", ()),
        ("sip:alice@example.com", ("<sip:edge.test;lr>",)),
    ]
    forked = Rules([RouteRule(targets=["sip:a", "sip:b"], fork=True)]).decide(invite(), SOURCE)
    assert forked.rule is not None
    assert [len(group) for group in forked.rule.groups(invite(), random.Random(1))] == [2]


def test_tel_uri_becomes_a_user() -> None:
    decision = Rules([RouteRule(targets=["sip:gw.test"])]).decide(invite("tel:+123"), SOURCE)
    assert decision.rule is not None
    (target,) = decision.rule.groups(invite("tel:+123"), random.Random(1))[0]
    assert target.uri.text == "sip:+123@gw.test;user=phone"


def test_priorities_come_in_order_and_weights_share_the_load() -> None:
    entries = [("a", 1, 0), ("b", 3, 0), ("c", 1, 1)]
    targets = [
        (Uri.parse(f"sip:{name}"), RouteTarget(uri=f"sip:{name}", weight=weight, priority=priority))
        for name, weight, priority in entries
    ]
    rng = random.Random(5)
    firsts = [weighted_order(targets, rng) for _ in range(2000)]
    assert all(order[2][0].host == "c" for order in firsts)
    share = sum(order[0][0].host == "b" for order in firsts) / 2000
    assert 0.70 < share < 0.80
    same = [(uri, RouteTarget(uri=uri.text)) for uri, _ in targets]
    assert weighted_order(same, rng) == same, "equal weights: as written"


def test_networks() -> None:
    networks = Networks(["10.0.0.0/8", "::1"])
    assert "10.9.9.9" in networks
    assert "::1" in networks
    assert "::ffff:10.1.1.1" in networks
    assert "11.0.0.1" not in networks
    assert "example.com" not in networks


def test_identity_knows_routes_to_us_and_domains_of_ours() -> None:
    identity = LocalDomain([("udp", "10.0.0.1", 5060), ("tcp", "10.0.0.1", 5080)], ["Example.COM"])
    assert identity.is_us(Uri.parse("sip:10.0.0.1"))
    assert identity.is_us(Uri.parse("sip:10.0.0.1:5080;lr"))
    assert identity.is_us(Uri.parse("sip:example.com;lr"))
    assert not identity.is_us(Uri.parse("sip:10.0.0.1:5070"))
    assert not identity.is_us(Uri.parse("tel:+1"))
    assert identity.serves(Uri.parse("sip:x@example.com:5099"))
    assert not identity.serves(Uri.parse("sip:x@10.0.0.1:5099"))
    assert LocalDomain([("udp", "127.0.0.1", 5070)]).serves(Uri.parse("sip:x@localhost:5070"))
    assert identity.has_udp("10.0.0.1", 5060)
    assert not identity.has_udp("10.0.0.1", 5080)


def test_cookies_are_bound_to_call_and_secret() -> None:
    cookies = Cookies(b"secret")
    cookie = cookies.make("d1", "call")
    assert cookies.check(cookie, "call") == "d1"
    assert Cookies(b"secret").check(cookie, "call") == "d1", "survives a restart with the same secret"
    assert cookies.check(cookie, "other") is None
    assert cookies.check(cookie.replace("d1", "d2"), "call") is None
    assert Cookies(b"other").check(cookie, "call") is None
    assert cookies.check("", "call") is None
    assert cookies.check("d1-\u00e9", "call") is None


def test_a_rule_without_an_end_names_the_set_of_media_servers_for_the_rules_after_it() -> None:
    rules = Rules([RouteRule(media_set="west"), RouteRule(user="bob", relay=True), RouteRule(relay=True)])
    assert rules.decide(invite(), SOURCE).media_set == "west"
    rules = Rules([RouteRule(media_set="west"), RouteRule(relay=True, media_set="east")])
    assert rules.decide(invite(), SOURCE).media_set == "east"
