"""What differs between two configurations, and which of it holds at once."""

from __future__ import annotations

from siprec.server.config import Config, parse
from siprec.server.reload import AT_ONCE, compare, merged

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
