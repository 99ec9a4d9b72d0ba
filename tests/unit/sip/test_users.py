"""Tables and files of users: passwords, or hashes by algorithm."""

from __future__ import annotations

from pathlib import Path

import pytest

from siprec.server.config_file import ConfigError, parse
from siprec.sip.digest import hash_password
from siprec.sip.users import parse_htdigest, secrets_of

MD5 = hash_password("MD5", "bob", "example.com", "xyzzy")
SHA = hash_password("SHA-256", "bob", "example.com", "xyzzy")


def users(text: str) -> object:
    return secrets_of(parse(text).registrar.users)


def test_a_user_has_a_password_or_hashes_by_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPREC_TEST_HA1", SHA)
    text = f"""[registrar.users]
alice = "secret"
carol = {{ password = "hidden" }}
bob = {{ ha1 = {{ md5 = "{MD5}", SHA-256 = "env:SIPREC_TEST_HA1" }} }}
dave = {{ ha1 = "{MD5}" }}
eve = {{ ha1 = "{SHA}" }}
"""
    assert users(text) == {
        "alice": "secret",
        "carol": "hidden",
        "bob": {"MD5": MD5, "SHA-256": SHA},
        "dave": {"MD5": MD5},
        "eve": {"SHA-256": SHA},
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('""', "registrar.users.bob: an empty password would let anyone in"),
        ("{}", "either password or ha1"),
        (f'{{ password = "x", ha1 = "{MD5}" }}', "either password or ha1"),
        ('{ ha1 = "abc" }', "hexadecimal digits"),
        (f'{{ ha1 = {{ SHA-256 = "{MD5}" }} }}', "a hash of SHA-256 has 64 hexadecimal digits"),
        (f'{{ ha1 = {{ MD4 = "{MD5}" }} }}', "'MD4' is none of MD5, SHA-256"),
        (f'{{ ha1 = "{"x" * 32}" }}', "hexadecimal digits"),
        ('{ passwort = "x" }', "unknown key"),
    ],
)
def test_a_mistake_in_a_user_is_named_without_the_secret(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(f"[registrar]\nusers = {{ bob = {entry} }}")
    assert MD5 not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('algorithms = ["SHA1"]', "registrar.*algorithms: unsupported 'SHA1'; supported: MD5"),
        ("algorithms = []", "registrar.*algorithms: at least one"),
        ('legacy_agents = ["("]', "registrar.*legacy_agents"),
    ],
)
def test_a_mistake_in_the_algorithms_is_named(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(f"[registrar]\n{line}")


def test_rules_that_want_a_password_need_users() -> None:
    with pytest.raises(ConfigError, match=r"route\[0\].authenticated: there are no users"):
        parse("[[route]]\nauthenticated = true\nrelay = true")
    with pytest.raises(ConfigError, match=r"route\[0\].*algorithms: only with authenticated"):
        parse('[[route]]\nalgorithms = ["MD5"]\nrelay = true')
    with pytest.raises(ConfigError, match=r"route\[0\].*algorithms: unsupported"):
        parse('[registrar]\nusers = { a = "b" }\n[[route]]\nauthenticated = true\nalgorithms = ["X"]\nrelay = true')


def test_files_of_htdigest_have_a_line_per_user_realm_and_algorithm() -> None:
    text = f"# users\n\nbob:example.com:{MD5}\r\nbob:example.com:{SHA}\nbob:elsewhere:{MD5}\n"
    text += f"eve:example.com:{SHA}:SHA-256\n"
    assert secrets_of(parse_htdigest(text, "example.com")) == {
        "bob": {"MD5": MD5, "SHA-256": SHA},
        "eve": {"SHA-256": SHA},
    }
    for wrong, message in (
        ("bob:secret", "line 1: not of the form"),
        (f"\nbob:r:{MD5[:-1]}", "line 2: ha1: a hash of SHA-256 has 64"),
        (f"bob:r:{MD5}\nbob:r:{MD5}", "line 2: 'bob' has a hash for MD5 already"),
        (f"bob:r:{MD5}:MD4", "line 1: ha1: 'MD4'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_htdigest(wrong, "r")


@pytest.mark.parametrize(
    ("name", "content"),
    [("users", f"bob:example.com:{MD5}\n"), ("users.toml", f'bob = {{ ha1 = "{MD5}" }}\n')],
)
def test_the_users_of_a_file_join_those_of_the_table(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    text = f'[sip]\ndomains = ["Example.com"]\n[registrar]\nusers_file = "{name}"\nusers = {{ alice = "x" }}\n'
    config = parse(text, str(tmp_path / "siprec.toml"))
    assert secrets_of(config.registrar.users) == {"alice": "x", "bob": {"MD5": MD5}}
    with pytest.raises(ConfigError, match=r"'bob' is in registrar\.users, too"):
        parse(text.replace("alice", "bob"), str(tmp_path / "siprec.toml"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "No such file"),
        ("users", b"nonsense", "line 1"),
        ("users", f"bob:other:{MD5}".encode(), "no user of realm 'siprec' in it"),
        ("users", b"\xff", "utf-8"),
        ("users.toml", b"bob = ", "value"),
        ("users.toml", b"bob = 7", "bob"),
        ("users.toml", b'bob = ""', "empty password"),
        ("users.toml", b'bob = "env:SIPREC_TEST_UNSET"', "SIPREC_TEST_UNSET is not set"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        parse(f'[registrar]\nusers_file = "{name}"\n', str(tmp_path / "siprec.toml"))
