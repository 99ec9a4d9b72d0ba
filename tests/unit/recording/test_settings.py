"""Settings and profiles: checked at once, with errors that name field and reason."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import (
    FIELDS,
    RecordingSettings,
    SettingError,
    SiprecVariable,
    check_headers,
    check_socket,
    check_srs,
)


def test_srs_lists_keep_their_order() -> None:
    assert check_srs(" sip:a@x ,<sips:b>, sip:c:5070;transport=tcp") == (
        "sip:a@x",
        "sips:b",
        "sip:c:5070;transport=tcp",
    )
    assert RecordingProfile(srs=["sip:a", "sip:b,sip:c"]).targets == ("sip:a", "sip:b", "sip:c")


@pytest.mark.parametrize("bad", ["", " , ", "a.example.com", "tel:+1", "sip:a:99999", "http://x"])
def test_an_srs_that_is_no_sip_uri_is_refused(bad: str) -> None:
    with pytest.raises(SettingError, match="srs: "):
        RecordingProfile(srs=bad)


def test_headers_are_lines_and_not_ours() -> None:
    assert check_headers("X-A: 1\r\nX-B:  two words\r\n") == (("X-A", "1"), ("X-B", "two words"))
    for bad, reason in (
        ("no colon\r\n", "not a header line"),
        ("Bad Name: x\r\n", "not a header line"),
        ("Via: x\r\n", "written by the recording client"),
        ("m: <sip:x>\r\n", "written by the recording client"),
        ("CONTENT-TYPE: x\r\n", "written by the recording client"),
    ):
        with pytest.raises(SettingError, match=reason):
            check_headers(bad)


def test_sockets() -> None:
    assert check_socket("UDP:10.0.0.1:5060") == ("udp", "10.0.0.1", 5060)
    assert check_socket("tls:[2001:db8::1]:5061") == ("tls", "2001:db8::1", 5061)
    for bad in ("10.0.0.1:5060", "udp:10.0.0.1", "sctp:x:1", "udp:x:0", "udp:x:70000", "udp:2001:db8::1:5060"):
        with pytest.raises(SettingError, match="socket: "):
            check_socket(bad)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("caller", "<nameID/>", "caller: .*aor"),
        ("callee", "<x", "callee: .*well-formed"),
        ("group_custom_extension", '<a xmlns=""/>', "group_custom_extension: .*namespace"),
        ("session_custom_extension", "<a/>text", "session_custom_extension: .*text"),
        ("from_uri", "tel:+1", "from_uri: "),
        ("to_uri", "nonsense", "to_uri: "),
        ("socket", "x", "socket: "),
        ("headers", "x", "headers: "),
        ("media", "a\r\nb", "media: "),
    ],
)
def test_a_bad_value_is_refused_when_it_is_set(field: str, value: str, reason: str) -> None:
    settings = RecordingSettings()
    with pytest.raises(SettingError, match=reason):
        setattr(settings, field, value)
    assert settings.as_dict() == {}
    with pytest.raises(SettingError, match=reason):
        RecordingProfile(srs="sip:a", **cast(Any, {field: value}))


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(AttributeError):
        RecordingSettings().colour = "red"
    with pytest.raises(SettingError, match="unknown setting 'colour'"):
        RecordingSettings(colour="red")
    with pytest.raises(AttributeError, match="no setting 'colour'"):
        SiprecVariable().colour  # noqa: B018


def test_the_variable_is_per_instance_with_a_short_form() -> None:
    siprec = SiprecVariable()
    siprec.group = "sales"
    siprec["copy"].group = "copies"
    assert (siprec.group, siprec["default"].group, siprec["copy"].group) == ("sales", "sales", "copies")
    siprec.group = None
    assert siprec.group == ""


def test_a_script_goes_over_the_profile() -> None:
    profile = RecordingProfile(srs="sip:a", group="all", media="10.0.0.1")
    merged = RecordingSettings(group="sales").over(profile.settings)
    assert merged.as_dict() == {"group": "sales", "media": "10.0.0.1"}
    assert set(profile.settings.as_dict()) <= set(FIELDS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "srs"),
        ({"srs": "sip:a", "skip_failover_codes": "("}, "skip_failover_codes"),
        ({"srs": "sip:a", "setup_timeout": 0}, "setup_timeout"),
        ({"srs": "sip:a", "rebuilds": -1}, "rebuilds"),
        ({"srs": "sip:a", "session_expires": 30}, "session_expires"),
        ({"srs": "sip:a", "password": "x"}, "username"),
        ({"srs": "sip:a", "on_failure": "panic"}, "panic"),
        ({"srs": "sip:a", "typo": 1}, "typo"),
        ({"srs": "sip:a", "outbound_proxy": "proxy"}, "outbound_proxy"),
    ],
)
def test_a_profile_from_a_file_is_checked_with_the_reason(data: dict[str, object], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert(data, RecordingProfile)


def test_a_tone_is_audible_and_has_pauses() -> None:
    assert RecordingProfile(srs="sip:a", indication="both", tone_frequency=440).tone_interval == 15.0
    for wrong, reason in (
        ({"tone_frequency": 20}, "tone_frequency"),
        ({"tone_frequency": 8000}, "tone_frequency"),
        ({"tone_duration": 0.0}, "tone_duration"),
        ({"tone_interval": 0.5}, "tone_interval"),
        ({"tone_duration": 1.0, "tone_interval": 1.2}, "must exceed"),
    ):
        with pytest.raises(SettingError, match=reason):
            RecordingProfile(srs="sip:a", **cast("dict[str, Any]", wrong))
