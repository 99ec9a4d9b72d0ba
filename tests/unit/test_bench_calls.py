"""The pure parts of bench/calls.py: the search, SIPp's statistics, configurations, ratios."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.call_load import Load, highest_clean, parse_statistics, srs_scenario, statistic
from bench.call_servers import KINDS, kamailio_configuration, siprec_configuration
from bench.calls import Result, ratios
from siprec.server.config_file import parse


def clean_up_to(highest: float, asked: list[float]) -> Callable[[float], bool]:
    def clean(rate: float) -> bool:
        asked.append(rate)
        return rate <= highest

    return clean


@pytest.mark.parametrize("highest", [3.0, 47.0, 99.0, 100.0, 130.0, 433.0, 1599.0])
def test_the_search_ends_within_a_tenth_below_the_highest_clean_rate(highest: float) -> None:
    asked: list[float] = []
    found = highest_clean(clean_up_to(highest, asked), start=100, limit=1600)
    assert highest / 1.1 <= found <= highest
    assert len(asked) <= 12
    assert max(asked) <= 1600


def test_the_search_stops_at_the_limit() -> None:
    asked: list[float] = []
    assert highest_clean(clean_up_to(1e9, asked), start=100, limit=300) == 300
    assert asked == [100, 200, 300]


def test_the_search_gives_up_when_no_rate_is_clean() -> None:
    asked: list[float] = []
    assert highest_clean(clean_up_to(0, asked), start=64, limit=1600) == 0
    assert asked == [64, 32, 16, 8, 4, 2, 1]


STATISTICS = """\
StartTime;LastResetTime;CurrentTime;SuccessfulCall(P);SuccessfulCall(C);FailedCall(P);FailedCall(C);Retransmissions(C);
x;y;z;0;3;0;0;0;
x;y;z;2;5;1;1;4;
"""


def test_statistics_are_those_of_the_last_whole_row() -> None:
    row = parse_statistics(STATISTICS)
    assert [statistic(row, name) for name in ("SuccessfulCall", "FailedCall", "Retransmissions")] == [5, 1, 4]
    assert parse_statistics(STATISTICS + "x;y;z;2;") == row


@pytest.mark.parametrize("text", ["", "StartTime;FailedCall(C);\n", "StartTime;FailedCall(C);\nx;1"])
def test_statistics_before_the_first_row_are_zero(text: str) -> None:
    assert parse_statistics(text) == {}
    assert statistic(parse_statistics(text), "FailedCall") == 0


@pytest.mark.parametrize(
    ("load", "clean"),
    [
        (Load(10, 10, 0, 0, 5.0), True),
        (Load(10, 9, 0, 0, 5.0), False),
        (Load(10, 10, 1, 0, 5.0), False),
        (Load(10, 10, 0, 1, 5.0), False),
    ],
)
def test_a_run_is_clean_when_nothing_failed_and_nothing_was_sent_twice(load: Load, clean: bool) -> None:
    assert load.clean is clean


@pytest.mark.parametrize("ng", [None, 2223])
def test_each_kind_of_call_has_its_route(ng: int | None) -> None:
    config = parse(siprec_configuration(callee=6001, srs=6002, ng=ng))
    routes = {route.user: route for route in config.route}
    assert set(routes) == set(KINDS.values())
    assert routes[KINDS["proxied"]].media == "never"
    assert routes[KINDS["relayed"]].media == "always"
    assert routes[KINDS["recorded"]].record == "default"
    assert config.media.server == ("embedded" if ng is None else "ng:udp:127.0.0.1:2223")


def test_kamailio_gets_the_same_work() -> None:
    text = kamailio_configuration(port=6000, callee=6001, ng=2223, modules="/modules")
    assert all(f'loadmodule "{name}.so"' in text for name in ("tm", "rr", "dialog", "rtpengine"))
    assert "listen=udp:127.0.0.1:6000" in text
    assert '"udp:127.0.0.1:2223"' in text
    assert '"@127.0.0.1:6001"' in text
    assert f'$rU == "{KINDS["relayed"]}"' in text
    assert text.count("{") == text.count("}")


def test_the_ratio_is_that_of_equal_kind_and_rate() -> None:
    load = Load(10, 10, 0, 0, 5.0)
    results = [
        Result("siprec", "proxied", 50, load, {"proxy": 1500.0}),
        Result("siprec", "proxied", 150, load, {"proxy": 900.0}),
        Result("siprec", "recorded", 50, load, {"proxy": 5000.0}),
        Result("kamailio", "proxied", 50, load, {"proxy": 500.0}),
        Result("kamailio", "proxied", 150, load, {"proxy": 300.0}),
    ]
    assert ratios(results) == ["proxied   at   50/s: 3.00 x Kamailio's", "proxied   at  150/s: 3.00 x Kamailio's"]


def test_the_srs_takes_metadata_before_the_end_of_the_session() -> None:
    text = srs_scenario().xml()
    order = [text.index(f'request="{method}"') for method in ("INVITE", "ACK", "UPDATE", "BYE")]
    assert order == sorted(order)
