"""Who may have recordings made, and who may ask for them: real processes, real certificates, real calls."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.parallel import share

pytestmark = pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is missing: apt-get install sip-tester")
openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_SHARE = share(500, 7)


def certificates(directory: Path) -> None:
    """``ca.pem``, and certificates of ``srs`` and ``src`` for the loopback address."""

    def run(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True, timeout=60)

    run("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA")
    for name in ("srs", "src"):
        names = f"subjectAltName=IP:{HOST},DNS:{name}.test"
        run("req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext", names)
        issue = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        run(*issue, "-out", f"{name}.pem", "-days", "2", "-copy_extensions", "copy")


def tls(directory: Path, name: str) -> str:
    return "".join(
        f"tls_{key} = {json.dumps(str(directory / file))}\n"
        for key, file in (("certificate", f"{name}.pem"), ("key", f"{name}.key"), ("ca", "ca.pem"))
    )


@contextmanager
def recorder(directory: Path, more: str, transport: str) -> Iterator[Command]:
    text = (
        f'[recorder]\nlisten = ["{transport}:{HOST}:0"]\n'
        f'directory = "recordings"\nports = "{46000 + _SHARE}-{46400 + _SHARE}"\n{more}'
    )
    with Command("recorder", text, directory / "recorder") as process:
        yield process


@contextmanager
def proxy(directory: Path, more: str, callee: int) -> Iterator[Command]:
    text = (
        f'[sip]\nlisten = ["udp:{HOST}:0", "tcp:{HOST}:0"]\n{more}\n'
        f'[relay]\nports = "{36000 + _SHARE}-{36400 + _SHARE}"\n'
        f'[[route]]\nuser = "bob"\ntargets = ["sip:{HOST}:{callee}"]\n'
    )
    with Command("serve", text, directory / "serve") as process:
        yield process


def recordings(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in (directory / "recorder").rglob("recording.json")]


def call(directory: Path, server: Command, callee_port: int) -> None:
    """One call of a second."""
    with (
        Sipp(scenarios.callee(), directory / "callee", port=callee_port) as callee,
        Sipp(scenarios.caller(1), directory / "caller", port=free_port(), proxy=server.port()) as caller,
    ):
        caller.finish()
        callee.finish()


@openssl
@pytest.mark.parametrize("shown", ["right", "other name", "no certificate", "wrong password"])
def test_a_client_shows_its_certificate_and_its_password_or_is_not_let_in(tmp_path: Path, shown: str) -> None:
    certificates(tmp_path)
    name = "src.test" if shown != "other name" else "somebody.test"
    access = (
        tls(tmp_path, "srs")
        + f'tls_verify_clients = true\nclient_names = ["{name}"]\nclients = ["{HOST}"]\nusers = {{ src = "secret" }}\n'
    )
    password = "secret" if shown != "wrong password" else "guess"
    with recorder(tmp_path, access, "tls") as srs:
        own = tls(tmp_path, "src") if shown != "no certificate" else tls(tmp_path, "src").partition("tls_ca")[2]
        if shown == "no certificate":
            own = "tls_ca" + own
        profile = (
            f'{own}\n[recording.default]\nsrs = "sip:{HOST}:{srs.port("tls")};transport=tls"\n'
            f'session = "persistent"\nusername = "src"\npassword = "{password}"\n'
        )
        with proxy(tmp_path, profile, free_port()) as server:
            if shown == "right":
                assert until(lambda: "standing recording session of 'default' with" in server.text), server.text
                assert server.counts()["agent"]["dialogs"] == 1
            else:
                assert until(lambda: "standing recording session of 'default' with" in server.text), server.text
                wanted = {"other name": ": 403", "no certificate": ": 503", "wrong password": ": 401"}[shown]
                assert until(lambda: wanted in server.text), server.text
                assert server.counts()["agent"]["dialogs"] == 0
        if shown == "other name":
            assert "is not among the clients" in srs.text
        assert "secret" not in srs.text + server.text
        assert "guess" not in srs.text + server.text


def test_a_recorder_asks_for_all_calls_and_gets_them(tmp_path: Path) -> None:
    callee = free_port()
    with proxy(tmp_path, f'[srs_requests]\nallow = ["{HOST}"]', callee) as server:
        asks = f'invite = ["sip:{HOST}:{server.port("tcp")};transport=tcp"]\n'
        with recorder(tmp_path, asks, "tcp") as srs:
            assert until(lambda: "recording from sip:" in srs.text), srs.text + server.text
            call(tmp_path, server, callee)

            def done() -> bool:
                found = recordings(tmp_path)
                return len(found) == 1 and found[0]["state"] == "complete"

            assert until(done), srs.text + server.text
            (found,) = recordings(tmp_path)
            assert len(found["streams"]) == 2
            assert found["communication_sessions"][0]["stop"]
            assert not [finding for entry in found["metadata"] for finding in entry["findings"]]
        # The recorder has gone; nothing of its session is left.
        assert until(lambda: not any(server.counts()["agent"].values())), server.text


def test_a_recorder_that_is_not_allowed_is_told_so(tmp_path: Path) -> None:
    with (
        proxy(tmp_path, '[srs_requests]\nallow = ["192.0.2.1"]', free_port()) as server,
        recorder(tmp_path, f'invite = ["sip:{HOST}:{server.port("tcp")};transport=tcp"]\n', "tcp") as srs,
    ):
        assert until(lambda: "403" in srs.text), srs.text
        assert "not allowed" in server.text


def test_a_configuration_that_cannot_work_is_explained(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed, recorder(tmp_path, 'client_names = ["a"]\n', "tls"):
        pass
    assert "recorder.listen[0]: TLS needs recorder.tls_certificate" in str(failed.value)
    assert "recorder.client_names: needs recorder.tls_verify_clients" in str(failed.value)
