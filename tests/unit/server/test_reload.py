"""What differs between two configurations, and which of it holds at once."""

from __future__ import annotations

import pytest

from siprec.server.config import Config
from siprec.server.config_file import parse
from siprec.server.reload import AT_ONCE, compare, merged, recording_changes, refusal

OLD = parse('[sip]\ndomains = ["a.test"]\n[recording.default]\nsrs = "sip:a"\n')
NEW = parse(
    '[sip]\ndomains = ["b.test"]\nlisten = ["udp:127.0.0.1:5070"]\n[recording.default]\nsrs = "sip:b"\n'
    '[relay]\npreroll = 3.0\n[recorder]\ndirectory = "elsewhere"\n[[route]]\nrelay = true\n[log]\nlevel = "debug"\n'
)


def test_what_takes_effect_at_once_and_what_needs_a_restart_are_told_apart() -> None:
    result = compare(OLD, NEW)
    assert set(result.changed) == {"sip.domains", "recording", "route", "log.level"}
    assert set(result.restart) == {"sip.listen", "relay.preroll"}
    assert "after a restart: sip.listen" in str(result)


def test_the_same_configuration_changes_nothing() -> None:
    result = compare(OLD, OLD)
    assert (result.changed, result.restart) == ((), ())
    assert str(result) == "in effect: nothing new"


def test_keys_that_need_a_restart_are_named_again_at_the_next_reload() -> None:
    running = merged(OLD, NEW)
    assert running.sip.domains == ("b.test",)
    assert running.recording == NEW.recording
    assert running.sip.listen == OLD.sip.listen
    assert compare(running, NEW).changed == ()
    assert set(compare(running, NEW).restart) == {"sip.listen", "relay.preroll"}


def test_every_key_said_to_take_effect_at_once_exists() -> None:
    config = Config()
    for key in AT_ONCE:
        section, _, name = key.partition(".")
        assert hasattr(getattr(config, section), name) if name else hasattr(config, section), key


RECORDED = """
[recording.default]
srs = "sip:a"
[[route]]
name = "sales"
user = "1.*"
record = "default"
targets = ["sip:10.0.0.1"]
[[route]]
user = "2.*"
record = ["default", "second"]
[recording.second]
srs = "sip:b"
"""


@pytest.mark.parametrize(
    ("new", "refused"),
    [
        ("", True),
        ('[log]\nlevel = "debug"\n', True),
        ('[recording.other]\nsrs = "sip:c"\n[[route]]\nrelay = true\n', True),
        ('[recording.default]\nsrs = "sip:c"\n', False),
        ('[[route]]\nuser = "2.*"\nrecord = ["default", "second"]\n[recording.default]\nsrs = "sip:c"\n', False),
    ],
    ids=["empty", "neither", "all others", "a profile is left", "a route is left"],
)
def test_a_file_that_has_nothing_of_what_runs_is_a_mistake(new: str, refused: bool) -> None:
    other = parse(new.replace('record = ["default", "second"]', 'record = "default"'))
    assert bool(refusal(parse(RECORDED), other)) is refused
    assert refusal(Config(), other) == ""


def test_routes_of_a_proxy_that_records_nothing_may_all_be_others() -> None:
    before, after = parse("[[route]]\nrelay = true\n"), parse('[[route]]\ntargets = ["sip:10.0.0.1"]\n')
    assert refusal(before, after) == ""
    assert refusal(before, Config())


def test_what_changes_in_what_is_recorded_is_told_with_the_names_of_the_routes() -> None:
    after = parse(
        '[recording.default]\nsrs = "sip:a"\n[[route]]\nuser = "3.*"\nrecord = "default"\n'
        '[[route]]\nname = "support"\nrecord = "default"\n'
    )
    assert recording_changes(parse(RECORDED), after) == [
        "route sales is gone: it recorded with default",
        "route route[1] is gone: it recorded with default, second",
        "route route[0] records with default (new)",
        "route support records with default (new)",
        "recording profiles are gone: second; recordings that run keep theirs",
    ]
    assert recording_changes(parse(RECORDED), parse(RECORDED)) == []
    moved = parse('[[route]]\nuser = "9"\n' + RECORDED)
    assert recording_changes(parse(RECORDED), moved) == []
    quiet = parse(RECORDED.replace('record = "default"', "record = []"))
    assert recording_changes(parse(RECORDED), quiet) == ["route sales records with nothing (before: default)"]
