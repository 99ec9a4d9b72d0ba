"""Two SRSs of different worlds: each has an authority, wants a client certificate and is trusted in its own way."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.parallel import share

pytestmark = [
    pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is missing: apt-get install sip-tester"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed"),
]
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_PORTS = 22000 + share(300, 6)


def authority(directory: Path, name: str, names: str) -> None:
    """An authority `name`, with a certificate ``srs`` for `names` and one for its client ``src``."""
    own = directory / name
    own.mkdir()

    def run(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=own, check=True, capture_output=True, timeout=60)

    run("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", f"/CN=CA {name}")
    for who, alternative in (("srs", names), ("src", f"DNS:src.{name}.test")):
        subject = ("-subj", f"/CN={who}", "-addext", f"subjectAltName={alternative}")
        run("req", *_KEY, "-keyout", f"{who}.key", "-out", f"{who}.csr", *subject)
        issue = ("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        run(*issue, "-out", f"{who}.pem", "-days", "2", "-copy_extensions", "copy")


def keys(directory: Path, who: str, ca: Path) -> str:
    """The TLS settings of `who` of the authority in `directory`, with trust in the authority in `ca`."""
    files = (("certificate", directory / f"{who}.pem"), ("key", directory / f"{who}.key"), ("ca", ca / "ca.pem"))
    return "".join(f"tls_{key} = {json.dumps(str(file))}\n" for key, file in files)


@dataclass
class TlsWorld:
    """The first SRS is known by the name ``srs.one.test`` only, the second by its address."""

    directory: Path
    servers: tuple[Command, Command]
    proxy: Command
    callee: int

    def recordings(self, number: int) -> int:
        """How many complete recordings the SRS has."""
        files = (self.directory / f"recorder{number}").rglob("recording.json")
        return sum(json.loads(file.read_text())["state"] == "complete" for file in files)

    def call(self, user: str) -> list[str]:
        """A call to `user`, whose name is that of the profile: the events it came to, with the URIs of the SRSs."""
        self.proxy_said = len(self.proxy.text)
        where = self.directory / user
        with (
            Sipp(scenarios.callee(), where / "callee", port=self.callee) as callee,
            Sipp(
                scenarios.caller(0.7), where / "caller", port=free_port(), proxy=self.proxy.port(), service=user
            ) as caller,
        ):
            caller.finish()
            callee.finish()
        assert until(lambda: "E_SIPREC_STOP" in self.said()), self.said()
        assert until(lambda: self.proxy.counts()["agent"] == {"calls": 0, "dialogs": 0}), self.said()
        return [line for line in self.said().splitlines() if " E_SIPREC_" in line]

    def said(self) -> str:
        """What the proxy said of the present call."""
        return self.proxy.text[self.proxy_said :]

    proxy_said = 0


CASES = {
    "right": "",
    "chain": 'tls_server_name = "other.test"\ntls_verify = "chain"\n',
    "none": 'tls_server_name = "other.test"\ntls_verify = "none"\n',
    "name": 'tls_server_name = "other.test"\n',
    "address": 'tls_server_name = ""\n',
    "authority": "",
    "client": "",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsWorld]:
    directory = tmp_path_factory.mktemp("tls")
    authority(directory, "one", "DNS:srs.one.test")
    authority(directory, "two", f"IP:{HOST}")
    one, two = directory / "one", directory / "two"
    texts = [
        f'[recorder]\nlisten = ["tls:{HOST}:0"]\ndirectory = "recordings"\n'
        f'ports = "{_PORTS + 100 * number}-{_PORTS + 100 * number + 99}"\n'
        f'{keys(own, "srs", own)}tls_verify_clients = true\nclient_names = ["src.{own.name}.test"]\n'
        for number, own in enumerate((one, two))
    ]
    callee = free_port()
    with (
        Command("recorder", texts[0], directory / "recorder0") as first,
        Command("recorder", texts[1], directory / "recorder1") as second,
    ):
        ports = first.port("tls"), second.port("tls")
        profiles = ""
        for case, more in CASES.items():
            name = "" if "tls_server_name" in more else 'tls_server_name = "srs.one.test"\n'
            trust = keys(two if case == "client" else one, "src", two if case == "authority" else one)
            # The user tells apart what is known of an SRS that is in trouble.
            profiles += (
                f"[recording.{case}]\n"
                f'srs = ["sips:{case}@{HOST}:{ports[0]}", "sip:{case}@{HOST}:{ports[1]};transport=tls"]\n'
                f'[recording.{case}.servers."{HOST}:{ports[0]}"]\n{trust}{name}{more}'
                f'[recording.{case}.servers."{HOST}:{ports[1]}"]\n{keys(two, "src", two)}'
                f'[[route]]\nuser = "{case}"\ntargets = ["sip:{HOST}:{callee}"]\nrecord = "{case}"\n'
            )
        text = (
            f'[sip]\nlisten = ["udp:{HOST}:0", "tcp:{HOST}:0"]\n'
            f'[relay]\nports = "{_PORTS + 200}-{_PORTS + 299}"\n{profiles}'
        )
        with Command("serve", text, directory / "serve") as proxy:
            yield TlsWorld(directory, (first, second), proxy, callee)


@pytest.mark.parametrize("case", ["right", "chain", "none"])
def test_each_srs_gets_its_certificate_and_is_trusted_as_its_table_says(world: TlsWorld, case: str) -> None:
    before = world.recordings(0), world.recordings(1)
    told = world.call(case)
    assert [line.split(" E_SIPREC_")[1].split()[0] for line in told] == ["START", "STOP"]
    assert until(lambda: (world.recordings(0), world.recordings(1)) == (before[0] + 1, before[1]))


@pytest.mark.parametrize("case", ["name", "address", "authority", "client"])
def test_an_srs_that_does_not_fit_costs_neither_call_nor_recording(world: TlsWorld, case: str) -> None:
    before = world.recordings(0), world.recordings(1)
    told = world.call(case)
    names = [line.split(" E_SIPREC_")[1].split()[0] for line in told]
    assert [name for name in names if not name.startswith("SRS_")] == ["FAILOVER", "START", "STOP"], told
    assert until(lambda: (world.recordings(0), world.recordings(1)) == (before[0], before[1] + 1))
    reason = next(line for line in told if "FAILOVER" in line)
    assert ("certificate not accepted" in reason) == (case != "client"), reason
