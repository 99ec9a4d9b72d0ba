"""Errors of the configuration name file, key and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from siprec.cli import config_check
from siprec.proxy.authentication import Authentication
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import Rules
from siprec.proxy.script import load_script
from siprec.server.config import Config
from siprec.server.config_check import warnings
from siprec.server.config_file import ConfigError, load, parse
from siprec.server.config_reference import reference
from siprec.sip.digest import Credentials, CredentialStore
from siprec.sip.transport import Hop
from siprec.sip.users import secrets_of
from tests.simulation.proxyworld import ProxyWorld


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
        ('[recording.a]\nsrs = "sip:a"\nsrtp = "off"\nsrtp_fallback = true', "recording.a", "no meaning"),
        ('[recording.a]\nsrs = "sip:a"\nsrtp = "maybe"', "recording.a.srtp", "is none of"),
        ('[[route]]\nuser = "("', r"route\[0\]", "user: missing \\)"),
        ('[[route]]\nrecord = "nope"', r"route\[0\].record", r"no \[recording.nope\]"),
        ('[relay]\nports = "9-3"', "relay.ports", "no range"),
        ('[[route]]\nmethod = "invite"\nreply = 404', r"route\[0\].method", "case-sensitive"),
        ("[media]\ntimeout = -1.0", "media.timeout", "more than 0"),
        ('[media]\nserver = "ng:foo"', "media.server", "neither embedded"),
        ("[media]\nping = 0", "media.ping", "more than 0"),
        ('[[media_server]]\naddress = "ng:foo"', r"media_server\[0\].address", "neither embedded"),
        ('[[media_server]]\naddress = "embedded"\n' * 2, r"media_server\[1\].name", "twice"),
        ('[[media_server]]\naddress = "embedded"\nweight = -1', r"media_server\[0\].weight", "0..1000"),
        ('[[route]]\nrelay = true\nmedia_set = "west"', r"route\[0\].media_set", "west"),
        ('[recorder]\nkeep = ["documents", "names"]', "recorder.keep", "extensions"),
        ('[recorder]\nkeep = ["everything"]', "recorder.keep", "is none of"),
        ('[recorder]\nlearn = "all"', "recorder.learn", "is none of"),
        ("[recorder]\nrelearn = 0.0", "recorder.relearn", "must be more than 0"),
        ("[recorder]\nport_quarantine = -1.0", "recorder.port_quarantine", "must not be negative"),
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


def readme(monkeypatch: pytest.MonkeyPatch) -> str:
    """The configuration that the README shows."""
    monkeypatch.setenv("ALICE_PASSWORD", "of alice")
    monkeypatch.setenv("BOB_PASSWORD", "of bob")
    text = (Path(__file__).parents[3] / "README.md").read_text()
    return text.split("```toml\n", 1)[1].split("```", 1)[0]


def test_the_configuration_of_the_readme_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(readme(monkeypatch))
    assert [rule.record for rule in config.route] == ["default", "default"]
    assert config.recording["default"].targets == ("sip:192.0.2.11:5090;transport=tcp", "sip:srs2.example.com")
    assert list(warnings(config)) == []


def test_the_configuration_of_the_readme_lets_only_users_call_by_the_carrier(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(readme(monkeypatch))
    w = ProxyWorld(rules=Rules(config.route), options=ProxyOptions(trusted=config.sip.trusted))
    w.core.authentication = Authentication(w.clock, config.realm, secrets_of(config.registrar.users))
    w.hosts["gw1.carrier.example"] = [Hop("udp", "10.0.0.2", 5060)]
    w.call("sip:alice@example.com")
    w.clock.run_for(1)
    assert w.journal.events.pop() == "ended 404", "no such phone: names are not for the carrier"
    for uri in ("sip:+4930123456@example.com", "sip:+4930123456@carrier.example", "sip:0049@10.0.0.2"):
        for known in (None, CredentialStore([Credentials("alice", "guess")]), CredentialStore([Credentials("x", "")])):
            w.call(uri, credentials=known)
            w.clock.run_for(1)
            assert w.journal.events.pop() == "ended 407"
    assert w.sent("INVITE", "10.0.0.2") == []
    w.call("sip:+4930123456@carrier.example", credentials=CredentialStore([Credentials("alice", "of alice")]))
    w.clock.run_for(1)
    assert w.journal.events[-1] == "answered"
    assert b"Proxy-Authorization" not in w.sent("INVITE", "10.0.0.2")[0].data
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_the_script_of_the_readme_lets_only_users_call_by_the_carrier(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    (tmp_path / "route.py").write_text(text.replace("siprec_start_recording(", "record("))
    w = ProxyWorld(script=load_script(tmp_path / "route.py"), options=ProxyOptions(trusted=[]))
    w.core.authentication = Authentication(w.clock, "example.com", {"alice": "secret"})
    w.hosts["gw1.carrier.example"] = [Hop("udp", "10.0.0.2", 5060)]
    for uri, event in (("sip:9001@example.com", "ended 407"), ("sip:9001@10.0.0.2", "ended 407"),
                       ("sip:x@example.com", "ended 404"), ("sip:x@10.0.0.2", "ended 404")):  # fmt: skip
        w.call(uri)
        w.clock.run_for(1)
        assert w.journal.events.pop() == event
    assert w.sent("INVITE", "10.0.0.2") == []
    w.call("sip:9001@example.com", credentials=CredentialStore([Credentials("alice", "secret")]))
    w.clock.run_for(1)
    assert w.journal.events[-1] == "answered"
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_the_reference_page_is_what_the_types_say() -> None:
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    assert page.read_text() == reference(), "python -m siprec.server.config_reference > docs/configuration.md"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[recording.a]\nsrs = "sip:192.0.2.1"\nsrtp = "always"', "recording.a.srtp"),
        ('[recording.a]\nsrs = ["sips:a.example", "sip:b.example;transport=tcp"]\nsrtp = "always"', "recording.a.srtp"),
        ('[recorder]\nlisten = ["tls:192.0.2.1:5061", "tcp:192.0.2.1:5060"]\nsrtp = "require"', "recorder.listen[1]"),
        (
            '[[route]]\ntargets = ["sips:a.example", { uri = "sip:b.example" }]\ntransport_protocol = "RTP/SAVP"',
            "route[0].transport_protocol",
        ),
        ('[[route]]\ntargets = ["sip:b.example"]\ntransport_protocol = "RTP/AVP"', ""),
        (
            '[[route]]\nrelay = true\ntransport_protocol = "RTP/AVP"\n[media]\nserver = "rtpproxy:udp:192.0.2.9:7722"',
            "route[0].transport_protocol",
        ),
        ('[recording.a]\nsrs = "sip:192.0.2.1"\ntransport = "tls"\nsrtp = "always"', ""),
        ('[recording.a]\nsrs = "sip:x"\noutbound_proxy = "sip:y;transport=tls"\nsrtp = "always"', ""),
        ('[recording.a]\nsrs = "sip:127.0.0.1"\nsrtp = "always"', ""),
        ('[recording.a]\nsrs = "sip:192.0.2.1"', ""),
    ],
)
def test_keys_in_sdp_that_anybody_can_read_are_warned_of(text: str, key: str) -> None:
    if "tls:" in text:
        text += '\ntls_certificate = "a.pem"'
    found = [where for where, reason in warnings(parse(text)) if "unencrypted" in reason or "RTPProxy" in reason]
    assert found == [key] * bool(key)


@pytest.mark.parametrize(
    ("listen", "keys"),
    [
        ('"udp:192.0.2.1:5060"', ["sip.listen[0]"]),
        ('"udp:192.0.2.1:5060", "tcp:192.0.2.1:5060"', []),
        ('"udp:192.0.2.1:5060", "tcp:192.0.2.2:5060"', ["sip.listen[0]"]),
        ('"tcp:192.0.2.1:5060"', []),
        ('"udp:127.0.0.1:5060"', []),
    ],
)
def test_udp_without_tcp_is_warned_of(listen: str, keys: list[str]) -> None:  # TRN-01
    assert [key for key, _ in warnings(parse(f"[sip]\nlisten = [{listen}]\n[registrar]\nenabled = false"))] == keys


def test_the_check_of_a_configuration_tells_its_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "siprec.toml"
    file.write_text('[recording.a]\nsrs = "sip:192.0.2.1"\nsrtp = "always"\n')
    assert config_check(file) == 0
    said = capsys.readouterr()
    assert said.out.endswith("siprec.toml: can be used, with 1 warning\n")
    assert "warning: recording.a.srtp: the keys are in the SDP, which goes to sip:192.0.2.1 unencrypted" in said.err
