"""`siprec config check` and the start warn of what is open to strangers."""

from __future__ import annotations

from pathlib import Path

import pytest

from siprec.cli import config_check
from siprec.server.config_check import log_warnings
from siprec.server.config_exposure import exposures
from siprec.server.config_file import parse

PUBLIC = '[sip]\nlisten = ["udp:192.0.2.1:5060", "tcp:192.0.2.1:5060"]\n'
CLOSED = PUBLIC + '[registrar]\nusers = { bob = "x" }\n'
CARRIER = '[[route]]\nmethod = "INVITE"\nuser = "[0-9]+"\ntargets = ["sip:gw.example"]\n'


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (CLOSED + CARRIER, ["route[0].targets"]),
        (CLOSED + CARRIER + 'header = { X-Pbx = "yes" }\ndomain = "a.example"\n', ["route[0].targets"]),
        (CLOSED + CARRIER + 'source = "0.0.0.0/0"\n', ["route[0].targets"]),
        (CLOSED + CARRIER + 'source = ["192.0.2.7", "::/0"]\n', ["route[0].targets"]),
        (CLOSED + CARRIER + "source = []\n", ["route[0].targets"]),
        (CLOSED + CARRIER + 'source = "192.0.2.7"\n', []),
        (CLOSED + CARRIER + "authenticated = true\n", []),
        ('[registrar]\nusers = { bob = "x" }\n' + CARRIER, []),
        ('[sip]\nlisten = ["udp:[::1]:5060", "tls:localhost:5061"]\ntls_certificate = "a"\n' + CARRIER, []),
        ('[sip]\nlisten = ["udp:127.0.0.1:5060", "tcp:0.0.0.0:5060"]\n' + CARRIER, ["route[0].targets", "registrar"]),
        (CLOSED + "[[route]]\nrelay = true\n", ["route[0].relay"]),
        (CLOSED + '[[route]]\nrelay = true\nsource = "192.0.2.0/24"\n', []),
        (CLOSED + "[[route]]\nregistrar = true\n[[route]]\nreply = 403\n", []),
        (CLOSED.replace("[reg", 'trusted = ["10.0.0.0/8", "0.0.0.0/0"]\n[reg'), ["sip.trusted[1]"]),
        (PUBLIC, ["registrar.users"]),
        (PUBLIC + "[registrar]\nenabled = false\n", []),
        ('[relay]\nlisten = "0.0.0.0:2223"\n', ["relay.listen"]),
        ('[relay]\nlisten = "127.0.0.1:2223"\n', []),
        ('[recorder]\nlisten = ["udp:127.0.0.1:5090", "tcp:192.0.2.1:5090"]\n', ["recorder.listen[1]"]),
        ('[recorder]\nlisten = ["tcp:192.0.2.1:5090"]\nclients = ["0.0.0.0/0"]\n', ["recorder.listen[0]"]),
        ('[recorder]\nlisten = ["tcp:192.0.2.1:5090"]\nclients = ["192.0.2.2"]\n', []),
        ('[recorder]\nlisten = ["tcp:192.0.2.1:5090"]\nusers = { src = "x" }\n', []),
        ('[recorder]\nlisten = ["tls:192.0.2.1:5091"]\ntls_certificate = "a"\ntls_verify_clients = true\n', []),
        ('[recorder]\nlisten = ["tls:192.0.2.1:5091"]\ntls_certificate = "a"\n', ["recorder.listen[0]"]),
        (f'[api]\nlisten = "192.0.2.1:80"\ntokens = {{ {"x" * 16} = "read" }}\n', ["api.tokens"]),
        (f'[recorder.api]\nlisten = "192.0.2.1:80"\ntokens = {{ {"x" * 16} = "read" }}\n', ["recorder.api.tokens"]),
        (f'[api]\nlisten = "127.0.0.1:80"\ntokens = {{ {"x" * 16} = "read" }}\n', []),
        ('[sip]\nlisten = ["udp:127.0.0.1:5060"]\n[srs_requests]\nallow = ["192.0.2.9"]\n', ["srs_requests.allow"]),
        ('[recording.a]\nsrs = "sip:127.0.0.1"\nusername = "u"\nrealm = "*"\n', ["recording.a.realm"]),
        (
            f'[registrar]\nalgorithms = ["SHA-256", "MD5"]\nusers = {{ bob = {{ ha1 = "{"0" * 32}" }} }}\n',
            ["registrar.users.bob"],
        ),
    ],
)
def test_what_is_open_to_strangers_is_warned_of(text: str, keys: list[str]) -> None:
    found = [key for key, _ in exposures(parse(text))]
    assert len(found) == len(keys), found
    assert all(key.startswith(wanted) for key, wanted in zip(found, keys, strict=True)), found


def test_a_users_file_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    file, users = tmp_path / "siprec.toml", tmp_path / "users.toml"
    file.write_text('[registrar]\nusers_file = "users.toml"\n')
    users.write_text('bob = "secret"\n')
    config = parse(file.read_text(), str(file))
    users.chmod(0o644)
    assert [key for key, _ in exposures(config, file)] == ["registrar.users_file"]
    users.chmod(0o640)
    assert list(exposures(config, file)) == []


def test_the_check_does_not_call_an_open_relay_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "siprec.toml"
    file.write_text(PUBLIC + CARRIER)
    assert config_check(file) == 0
    said = capsys.readouterr()
    assert said.out.endswith("siprec.toml: can be used, with 2 warnings\n")
    assert "warning: route[0].targets: open to whoever reaches udp:192.0.2.1:5060" in said.err
    assert "warning: registrar.users: an open registrar" in said.err


def test_each_process_warns_of_its_own_sections_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    config = parse(PUBLIC + '[recorder]\nlisten = ["tcp:192.0.2.1:5090"]\n')
    log_warnings(config, None, but="recorder.")
    assert [line.split(":")[0] for line in caplog.messages] == ["registrar.users"]
    caplog.clear()
    log_warnings(config, None, only="recorder.")
    assert [line.split(":")[0] for line in caplog.messages] == ["recorder.listen[0]"]
