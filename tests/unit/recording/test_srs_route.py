"""How each SRS of a profile is reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from siprec.net.tls import TlsSettings
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import SettingError
from siprec.recording.srs_route import SrsRoute, SrsSettings
from siprec.server.config_check import warnings
from siprec.server.config_file import parse
from siprec.sip.digest import Credentials
from siprec.sip.errors import SipError
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

ONE, TWO, OTHER = "sips:one.test:5061", "sip:[2001:db8::2];transport=tls", "sip:192.0.2.3"


def test_a_profile_without_tables_reaches_all_alike() -> None:
    assert RecordingProfile(srs=ONE).reach(ONE) == SrsRoute()
    profile = RecordingProfile(srs=[ONE, TWO], transport="tcp", outbound_proxy="sip:edge.test", username="u", realm="r")
    assert profile.reach(ONE) == profile.reach(OTHER) == SrsRoute("tcp", "sip:edge.test", "", Credentials("u", "", "r"))


def test_credentials_without_a_realm_are_for_the_host_of_the_srs_and_for_any_only_when_said() -> None:
    profile = RecordingProfile(
        srs=[ONE, TWO, OTHER],
        username="u",
        allow_no_qop=True,
        servers={"192.0.2.3": SrsSettings(username="v", realm="*"), "[2001:db8::2]": SrsSettings(username="w")},
    )
    for server, host in ((ONE, "one.test"), (TWO, "2001:db8::2")):
        store = profile.reach(server).store
        assert store is not None
        assert [realm for realm in (host, "siprec", "elsewhere", "") if store.find(realm)] == [host, "siprec"]
    store = profile.reach(OTHER).store
    assert store is not None
    assert store.find("elsewhere") is not None
    assert [profile.reach(each).credentials for each in (ONE, TWO, OTHER)] == [
        Credentials("u", "", "one.test", allow_no_qop=True),
        Credentials("w", "", "2001:db8::2"),
        Credentials("v", "", ""),
    ]


def test_a_table_says_what_differs_and_the_profile_the_rest() -> None:
    profile = RecordingProfile(
        srs=[ONE, TWO, OTHER],
        tls_ca="ca.pem",
        tls_certificate="client.pem",
        tls_key="client.key",
        username="all",
        password="secret",
        servers={
            "ONE.test:5061": SrsSettings(
                tls_verify="chain", tls_certificate="own.pem", username="one", socket="tls:192.0.2.9:5061"
            ),
            "[2001:db8::2]": SrsSettings(tls_ca="two.pem", tls_server_name="two.test", outbound_proxy="sips:edge.test"),
            "one.test": SrsSettings(tls_verify="none"),
        },
    )
    one, two, other = (profile.reach(server) for server in (ONE, TWO, OTHER))
    # The certificate and the credentials go as a whole: no key of another certificate, no password of another user.
    assert one.tls == TlsSettings("own.pem", "", "", "ca.pem", verify_name=False)
    assert one.credentials == Credentials("one", "", "one.test")
    assert one.socket == "tls:192.0.2.9:5061"
    assert two.tls == TlsSettings("client.pem", "client.key", "", "two.pem")
    assert (two.server_name, two.route) == ("two.test", "sips:edge.test;lr")
    assert two.credentials == Credentials("all", "secret", "2001:db8::2")
    assert other.credentials == Credentials("all", "secret", "192.0.2.3")
    assert (other.server_name, other.outbound_proxy, other.socket) == ("", "", "")
    # Another port: the table for the host.
    assert profile.reach("sips:one.test:6061").tls == TlsSettings(
        "client.pem", "client.key", "", "ca.pem", False, False
    )


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"servers": {"sip:one.test": SrsSettings()}}, "servers"),
        ({"servers": {"one.test:x": SrsSettings()}}, "servers"),
        ({"servers": {"one.test;a=b": SrsSettings()}}, "HOST nor HOST:PORT"),
        ({"servers": {"one.test": SrsSettings(socket="here")}}, "socket"),
        ({"servers": {"one.test": SrsSettings(outbound_proxy="tel:1")}}, "outbound_proxy"),
        ({"servers": {"one.test": SrsSettings(password="x")}}, "username"),
        ({"servers": {"one.test": SrsSettings(tls_key="k")}}, "tls_certificate"),
        ({"tls_key_password": "k"}, "tls_certificate"),
    ],
)
def test_tables_that_cannot_work_are_refused(settings: dict[str, object], wrong: str) -> None:
    with pytest.raises(SettingError, match=wrong):
        RecordingProfile(srs=ONE, **settings)  # type: ignore[arg-type]


def test_every_way_has_the_socket_the_name_and_the_trust_of_its_srs() -> None:
    asked: list[str] = []
    told: list[list[Hop] | SipError] = []

    def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
        asked.append(uri.text)
        name = uri.host if uri.scheme == "sips" else ""
        transport = "tls" if name else uri.transport or "udp"
        hops = [Hop(transport, f"192.0.2.{n}", 5060, server_name=name) for n in (1, 2)]
        done(hops if uri.host != "nowhere.test" else SipError("no such name", status=503))

    trust = TlsSettings(ca_file="ca.pem")
    SrsRoute(tls=trust).through(resolve)(Uri.parse("sips:srs.test"), told.append)
    assert told.pop() == [Hop("tls", f"192.0.2.{n}", 5060, server_name="srs.test", tls=trust) for n in (1, 2)]
    SrsRoute(tls=trust, server_name="a.test").through(resolve)(Uri.parse("sips:srs.test"), told.append)
    assert told.pop() == [Hop("tls", f"192.0.2.{n}", 5060, server_name="a.test", tls=trust) for n in (1, 2)]
    here = SrsRoute(tls=trust).through(resolve, ("tcp", "192.0.2.9", 5070))
    here(Uri.parse("sip:srs.test"), told.append)
    assert told.pop() == [Hop("tcp", f"192.0.2.{n}", 5060, ("192.0.2.9", 5070)) for n in (1, 2)]
    assert asked[-1] == "sip:srs.test;transport=tcp"
    here(Uri.parse("sip:nowhere.test"), told.append)
    assert isinstance(told.pop(), SipError)
    assert SrsRoute("tcp").through(resolve) is resolve


def test_codes_for_the_whole_module_hold_for_profiles_without_their_own() -> None:
    config = parse(
        'skip_failover_codes = "^6"\n[recording.a]\nsrs = "sip:a"\n'
        '[recording.b]\nsrs = "sip:b"\nskip_failover_codes = "408"\n'
        '[recording.c]\nsrs = "sip:c"\nskip_failover_codes = ""\n'
    )
    found = {name: profile.skip_failover_codes for name, profile in config.recording.items()}
    assert found == {"a": "^6", "b": "408", "c": ""}
    with pytest.raises(ValueError, match="skip_failover_codes"):
        RecordingProfile(srs="sip:a", skip_failover_codes="(")


def test_files_that_are_not_there_are_warned_of_by_their_place(tmp_path: Path) -> None:
    there = tmp_path / "ca.pem"
    there.write_text("")
    config = parse(
        f'[recording.a]\nsrs = "sips:one.test"\ntls_ca = "{there}"\n'
        f'[recording.a.servers."one.test"]\ntls_certificate = "{tmp_path}/gone.pem"\n'
    )
    assert list(warnings(config)) == [
        ('recording.a.servers."one.test".tls_certificate', f"there is no file '{tmp_path}/gone.pem'")
    ]
