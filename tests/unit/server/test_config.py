"""Errors of the configuration name file, key and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from siprec.server.config import Config, ConfigError, load, parse
from siprec.server.config_reference import reference


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("x = [", "siprec.toml", "line 1|end of document"),
        ("[sip]\nfoo = 1", "sip.foo", "unknown key"),
        ("[sip]\nlisten = 5060", "sip.listen", "Expected `array`"),
        ('[sip]\nlisten = ["5060"]', r"sip.listen\[0\]", "."),
        ('[sip]\nlisten = ["udp:127.0.0.1:99999"]', r"sip.listen\[0\]", "."),
        ('[sip]\ntrusted = ["10.0.0.0/33"]', r"sip.trusted\[0\]", "."),
        ('[recording.default]\nsrs = "tel:1"', "recording.default", "srs: a sip: or sips: URI is needed"),
        ('[recording.main]\nsrs = "sip:a"\nskip_failover_codes = "("', "recording.main", "skip_failover_codes"),
        ('[recording.main]\nsrs = "sip:a"\nnope = 1', "recording.main.nope", "unknown key"),
        ('[[route]]\nuser = "("', r"route\[0\]", "user: missing \\)"),
        ('[[route]]\nrecord = "nope"', r"route\[0\].record", r"no \[recording.nope\]"),
        ('[relay]\nports = "9-3"', "relay.ports", "no range"),
        ('[[route]]\nmethod = "invite"\nreply = 404', r"route\[0\].method", "case-sensitive"),
        ("[media]\ntimeout = -1.0", "media.timeout", "more than 0"),
        ('[media]\nserver = "ng:foo"', "media.server", "neither embedded"),
        ('[log]\nlevel = "loud"', "log.level", "loud"),
        (
            '[registrar]\nusers = { bob = "env:SIPREC_TEST_UNSET" }',
            "registrar.users.bob",
            "SIPREC_TEST_UNSET is not set",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_reason(text: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"siprec.toml: .*{key}.*({reason})" if key != "siprec.toml" else reason):
        parse(text)


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPREC_TEST_SECRET", "xyzzy")
    assert parse('[registrar]\nusers = { bob = "env:SIPREC_TEST_SECRET" }').registrar.users == {"bob": "xyzzy"}


def test_no_file_means_the_defaults_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert load(None) == Config()
    with pytest.raises(ConfigError, match=r"siprec\.toml"):
        load(tmp_path / "siprec.toml")


def test_the_configuration_of_the_readme_is_fine() -> None:
    readme = Path(__file__).parents[3] / "README.md"
    text = readme.read_text().split("```toml\n", 1)[1].split("```", 1)[0]
    config = parse(text)
    assert [rule.record for rule in config.route] == ["default", "default"]
    assert config.recording["default"].targets == ("sip:192.0.2.11:5090", "sip:srs2.example.com")


def test_the_reference_page_is_what_the_types_say() -> None:
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    assert page.read_text() == reference(), "python -m siprec.server.config_reference > docs/configuration.md"
