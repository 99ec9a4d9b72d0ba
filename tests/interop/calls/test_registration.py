"""A real baresip registers with a password, and calls by a rule that wants one."""

from __future__ import annotations

from pathlib import Path

import pytest

from siprec.audio.melody import callee_melody, caller_melody
from siprec.sip.digest import hash_password
from tests.interop.calls import softphone
from tests.interop.calls.harness import HOST, Command, until
from tests.interop.calls.softphone import RATE, phone

pytestmark = softphone.needed

HASHES = {name: hash_password(name, "dave", "example.test", "of_dave") for name in ("MD5", "SHA-256")}


def configuration(algorithms: str) -> str:
    return f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
domains = ["example.test"]
trusted = []
[media]
use = "never"
[registrar]
{algorithms}
[registrar.users]
carol = "of_carol"
dave = {{ ha1 = {{ MD5 = "{HASHES["MD5"]}", SHA-256 = "{HASHES["SHA-256"]}" }} }}
[[route]]
method = "INVITE"
authenticated = true
registrar = true
"""


@pytest.mark.parametrize(
    "algorithms",
    [
        pytest.param("", id="by default"),
        pytest.param(
            'algorithms = ["SHA-256", "MD5"]\nlegacy_agents = ["^baresip v[01]\\\\."]', id="legacy agent beside SHA-256"
        ),
        pytest.param('algorithms = ["SHA-256"]\nlegacy_agents = ["baresip"]', id="legacy agent where MD5 is off"),
    ],
)
def test_baresip_registers_and_calls_with_its_password(algorithms: str, tmp_path: Path) -> None:
    with Command("serve", configuration(algorithms), tmp_path / "serve") as proxy:
        says = caller_melody(5.0, RATE), callee_melody(5.0, RATE)
        with phone(proxy.port(), tmp_path / "dave", "dave", says[1], password="of_dave") as dave:
            assert until(lambda: "200 OK" in dave.text), dave.text
            dial = f"/dial sip:dave@{HOST}:{proxy.port()}"
            with phone(proxy.port(), tmp_path / "carol", "carol", says[0], dial, password="of_carol") as carol:
                assert until(lambda: "Call established" in carol.text, 40), carol.text
        assert "refused" not in proxy.text


def test_baresip_with_a_wrong_password_gets_nowhere(tmp_path: Path) -> None:
    says = caller_melody(1.0, RATE)
    with (
        Command("serve", configuration(""), tmp_path / "serve") as proxy,
        phone(proxy.port(), tmp_path / "carol", "carol", says, password="guess") as carol,
    ):
        assert until(lambda: "REGISTER of 'carol' refused: wrong user or password" in proxy.text), proxy.text
        assert "200 OK" not in carol.text
