"""TLS on real sockets, with certificates made by the openssl command."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from siprec.net.tcp import StreamLimits
from siprec.net.tls import TlsSettings
from siprec.sip.transport import Hop
from tests.unit.net.net_support import Peer, Run, open_descriptors, options, until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a directory."""

    directory: Path

    def _openssl(self, *args: str) -> None:
        subprocess.run(["openssl", *args], cwd=self.directory, check=True, capture_output=True, timeout=60)

    def create(self) -> None:
        """Make the authority's own certificate."""
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "ca.key")
        self._openssl("req", "-x509", *key, "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA")

    def issue(self, name: str) -> TlsSettings:
        """A certificate for the host `name`, and trust in this authority only."""
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
        self._openssl(
            "req", *key, "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"
        )
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-copy_extensions", "copy"),
        )
        path = self.directory
        return TlsSettings(str(path / f"{name}.pem"), str(path / f"{name}.key"), ca_file=str(path / "ca.pem"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One authority for all tests of this file."""
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.create()
    return authority


def test_the_name_is_verified_and_mutual_tls_shows_the_client(run: Run, authority: Authority) -> None:
    server, client = authority.issue("srs.test"), authority.issue("src.test")

    async def once() -> None:
        alice = Peer(tls=client)
        bob = Peer(tls=replace(server, verify_client="required"), answers=True)
        there = await bob.listen("tls:127.0.0.1:0")
        alice.transport.send(options(b"x"), replace(there, server_name="srs.test"))
        await until(lambda: alice.messages)
        connection = bob.transport.connection(bob.messages[0][1].connection)
        assert connection is not None
        assert ("DNS", "src.test") in connection.peer_certificate()["subjectAltName"]
        for wrong in ("other.test", ""):  # no name: the address is verified, and the certificate has none
            failures: list[str] = []
            alice.transport.send(options(), replace(there, server_name=wrong), failures.append)
            await until(failures.__len__)
            assert "certificate not accepted" in failures[0]
        assert bob.bodies == [b"x"]
        await alice.transport.close()
        await bob.transport.close()

    async def main() -> None:
        await once()  # event loops open a few descriptors of their own when first used
        before = open_descriptors()
        for _ in range(4):
            await once()
        await until(lambda: open_descriptors() <= before)

    run(main())


def test_who_is_not_trusted_gets_nowhere(run: Run, authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    stranger.create()
    foreign, server = stranger.issue("src.test"), authority.issue("srs.test")

    async def main() -> None:
        bob = Peer(tls=replace(server, verify_client="required"))
        there = replace(await bob.listen("tls:127.0.0.1:0"), server_name="srs.test")
        # A client that does not trust the server; one the server does not trust; one without a certificate.
        for settings in (foreign, replace(foreign, ca_file=server.ca_file), TlsSettings(ca_file=server.ca_file)):
            alice = Peer(tls=settings)
            failures: list[str] = []
            alice.transport.send(options(), there, failures.append)
            await until(failures.__len__)
            await alice.transport.close()
        assert bob.messages == []
        await until(lambda: bob.transport.connections == 0)
        # And one that does not look: allowed by its owner, still refused by a server that wants a certificate.
        carol = Peer(answers=True, tls=server)
        open_to_all = await carol.listen("tls:127.0.0.1:0")
        alice = Peer(tls=TlsSettings(verify_server=False))
        alice.transport.send(options(), open_to_all)
        await until(lambda: alice.messages)
        for peer in (alice, bob, carol):
            await peer.transport.close()

    run(main())


def test_old_protocol_versions_and_missing_certificates_are_refused(authority: Authority) -> None:
    settings = authority.issue("srs.test")
    assert settings.server_context().minimum_version == ssl.TLSVersion.TLSv1_2
    assert settings.client_context().minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(ValueError, match="certificate"):
        TlsSettings().server_context()
    with pytest.raises(OSError):
        TlsSettings(certificate="/nonexistent.pem").server_context()


def test_only_authenticated_encryption_with_forward_secrecy_is_agreed_on(authority: Authority) -> None:  # SEC-02
    settings = authority.issue("srs.test")
    for context in (settings.server_context(), settings.client_context()):
        found = context.get_ciphers()
        assert {cipher["protocol"] for cipher in found} == {"TLSv1.2", "TLSv1.3"}
        assert all(cipher["aead"] for cipher in found)
        names = [cipher["name"] for cipher in found if cipher["protocol"] == "TLSv1.2"]
        assert all(name.startswith(("ECDHE-", "DHE-")) for name in names), names
    with pytest.raises(ssl.SSLError):
        replace(settings, ciphers="NO-SUCH-CIPHER").client_context()


def test_half_handshakes_take_a_share_and_leave_room_for_others(run: Run, authority: Authority) -> None:
    settings = authority.issue("srs.test")
    data = options(transport="TLS")

    async def main() -> None:
        bob = Peer(tls=settings, answers=True, limits=StreamLimits(connect=60.0))
        there = await bob.listen("tls:127.0.0.1:0")
        bob.transport.handshakes._per_source, bob.transport.handshakes._most = 8, 20
        before = open_descriptors()
        held = []
        for number in range(60):
            sock = socket.socket()
            sock.bind((f"127.0.0.{2 + number % 5}", 0))
            sock.connect((there.host, there.port))
            sock.sendall(b"\x16\x03\x01\x02\x00"[: number % 6])
            held.append(sock)
        await until(lambda: len(bob.transport.handshakes) == 20)
        await until(lambda: open_descriptors() < before + 60 + 30)
        context = ssl.create_default_context(cafile=settings.ca_file)
        for _ in range(5):  # somebody else, in the middle of it
            reader, writer = await asyncio.open_connection(
                there.host, there.port, ssl=context, server_hostname="srs.test"
            )
            writer.write(data)  # comes together with the end of the handshake
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"SIP/2.0 200")
            writer.close()
        assert len(bob.transport.handshakes) <= 20
        for sock in held:
            sock.close()
        await until(lambda: len(bob.transport.handshakes) == 0)
        await bob.transport.close()
        await until(lambda: open_descriptors() <= before)

    run(main())


def test_a_handshake_has_a_time_limit(run: Run, authority: Authority) -> None:
    settings = authority.issue("srs.test")

    async def main() -> None:
        bob = Peer(tls=settings, limits=StreamLimits(connect=0.2))
        there = await bob.listen("tls:127.0.0.1:0")
        reader, writer = await asyncio.open_connection(there.host, there.port)
        await until(lambda: len(bob.transport.handshakes) == 1)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        await until(lambda: len(bob.transport.handshakes) == 0)
        assert bob.transport.handshakes.failed == 1
        writer.close()
        await bob.transport.close()

    run(main())


def test_plain_text_on_a_tls_port_harms_nobody(run: Run, authority: Authority) -> None:
    settings = authority.issue("srs.test")

    async def main() -> None:
        alice, bob = Peer(tls=settings), Peer(tls=settings, answers=True)
        there = await bob.listen("tls:127.0.0.1:0")
        alice.transport.send(options(), Hop("tcp", there.host, there.port))
        alice.transport.send(options(), replace(there, server_name="srs.test"))
        await until(lambda: alice.messages)
        assert len(bob.messages) == 1
        await alice.transport.close()
        await bob.transport.close()

    run(main())
