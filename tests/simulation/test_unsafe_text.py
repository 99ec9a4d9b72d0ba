"""What scripts, the API, recorders and the configuration put into messages can begin no line of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from siprec import Reply, Request
from siprec.proxy.script import Script, ScriptError
from siprec.recording.recording_commands import check_indialog
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import RecordingSettings, SettingError
from siprec.server.config_file import ConfigError, parse
from siprec.sip.errors import SipError, UnsafeText
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.uri import Uri
from siprec.sip.useragent import IncomingCall
from tests.simulation.proxyworld import ProxyWorld, raw_request
from tests.simulation.recording_world import World

ENDS = ["\r\n", "\n", "\r", "\r\n\r\n", "\n ", "\r\n\t"]
CONTROLS = ["\0", "\x01", "\x0b", "\x1b", "\x7f"]
EVIL = "X-Evil: yes"


# -- where messages are built ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_a_line_end_in_a_value_is_an_error_of_who_sets_it(end: str) -> None:
    request = raw_request("INVITE", "sip:bob@example.com")
    value = f"a{end}{EVIL}"
    for write in (request.add, request.set, request.prepend, request.replace_first_value):
        with pytest.raises(UnsafeText, match="Subject: a line end"):
            write("Subject", value)
    with pytest.raises(UnsafeText, match="reason phrase"):
        request.response(486, value)
    with pytest.raises(UnsafeText, match="X-Note"):
        request.response(486, headers=[("X-Note", value)])
    with pytest.raises(UnsafeText, match="content-type"):
        request.response(200, body=b"x", content_type=value)
    with pytest.raises(SipError, match="control character in URI"):
        Uri.parse(f"sip:bob@example.com;x=1{end}{EVIL}")
    with pytest.raises(SipError):
        NameAddr.parse(f"<sip:bob@example.com;x=1{end}{EVIL}>").uri  # noqa: B018
    assert b"Evil" not in request.to_bytes()


@pytest.mark.parametrize("control", CONTROLS)
def test_other_control_characters_become_blanks(control: str) -> None:
    request = raw_request("INVITE", "sip:bob@example.com")
    request.set("Subject", f"a{control}b\tc\udce4")
    assert request.get("subject") == "a b\tc\udce4"
    assert request.response(486, f"Bu{control}sy").reason == "Bu sy"
    with pytest.raises(SipError):
        Uri.parse(f"sip:bob@example.com;x={control}")


@pytest.mark.parametrize("end", ENDS)
def test_what_is_written_past_the_methods_stays_one_line(end: str) -> None:
    request = raw_request("INVITE", "sip:bob@example.com")
    request.write_line("x-note", f"X-Note: a{end}{EVIL}")
    request.uri = f"sip:bob@example.com{end}{EVIL}"
    octets = request.to_bytes()
    assert b"\nX-Evil" not in octets
    assert b"\rX-Evil" not in octets
    assert octets.count(b"\r\n\r\n") == 1
    response = SipResponse(486, lines=list(request.lines))
    response.reason = f"Busy{end}{EVIL}"
    octets = response.to_bytes()
    assert b"\nX-Evil" not in octets
    assert b"\rX-Evil" not in octets


def test_folded_lines_of_others_are_forwarded_as_they_came() -> None:
    octets = raw_request("INVITE", "sip:bob@example.com").to_bytes().replace(b"Max", b"Subject: one\r\n two\r\nMax")
    assert parse_datagram(octets).to_bytes() == octets


# -- scripts -----------------------------------------------------------------------------------------------------------


def reply_reason(request: Request, text: str) -> None:
    request.reply(486, f"Busy{text}")


def reply_header(request: Request, text: str) -> None:
    request.reply(486, headers=[("X-Note", f"a{text}")])


def reply_header_name(request: Request, text: str) -> None:
    request.reply(486, headers=[(f"X-Note{text}", "a")])


def set_header(request: Request, text: str) -> None:
    request.set_header("X-Note", f"a{text}")


def add_header(request: Request, text: str) -> None:
    request.add_header(f"X-Note{text}", "a")


def uri(request: Request, text: str) -> None:
    request.uri = f"sip:bob@10.0.0.2;x=1{text}"


def forward(request: Request, text: str) -> None:
    request.forward(f"sip:bob@10.0.0.2;x=1{text}")


def fork(request: Request, text: str) -> None:
    request.fork(["sip:bob@10.0.0.2", f"sip:bob@10.0.0.2;lr{text}"])


@pytest.mark.parametrize("text", [f"\r\n{EVIL}", f"\r{EVIL}", f"\n{EVIL}", f"\0{EVIL}", "\x1b[2J"])
@pytest.mark.parametrize(
    "do", [reply_reason, reply_header, reply_header_name, set_header, add_header, uri, forward, fork]
)
def test_a_script_that_lets_text_of_others_in_gets_an_error_and_nothing_is_sent(
    do: Callable[[Request, str], None], text: str
) -> None:
    errors: list[Exception] = []

    async def on_invite(request: Request) -> None:
        try:
            do(request, text)
        except Exception as error:
            errors.append(error)
            request.reply(488)

    w = ProxyWorld(script=Script({"on_invite": on_invite}))
    w.call()
    w.clock.run_for(1)
    assert [type(error) for error in errors] == [ScriptError]
    assert [sent.line for sent in w.sent("SIP/2.0 4")] == ["SIP/2.0 488 Not Acceptable Here"]
    assert not any(b"Evil" in sent.data for sent in w.network.trace)
    w.finish()


def test_a_blank_does_not_end_a_request_uri() -> None:
    errors: list[str] = []

    async def on_invite(request: Request) -> None:
        for do in (uri, forward):
            try:
                do(request, " SIP/2.0")
            except ScriptError as error:
                errors.append(str(error))
        request.reply(488)

    w = ProxyWorld(script=Script({"on_invite": on_invite}))
    w.call()
    w.clock.run_for(1)
    assert len(errors) == 2
    w.finish()


def test_a_reply_handler_is_held_to_the_same() -> None:
    errors: list[Exception] = []

    async def reply(reply: Reply) -> None:
        attempts: list[Callable[[], None]] = [
            lambda: reply.set_header("X-Note", f"\r\n{EVIL}"),
            lambda: reply.set_header(f"X-Note: \r\n{EVIL}\r\nX", "a"),
            lambda: reply.forward(f"sip:carol@10.0.0.2;x=\r\n{EVIL}"),
        ]
        for attempt in attempts:
            try:
                attempt()
            except ScriptError as error:
                errors.append(error)
        reply.message.reason = f"Busy\r\n{EVIL}"

    w = ProxyWorld(script=Script({"reply": reply}))
    w.bob.take = lambda call: call.answer(486)
    w.call()
    w.clock.run_for(1)
    assert len(errors) == 3
    assert not any(b"\nX-Evil" in sent.data for sent in w.network.trace)
    w.finish()


# -- recordings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("headers", f"X-A: b\r{EVIL}\r\n"),
        ("headers", "X-A: b\0\r\n"),
        ("headers", "X-A: \x1b[2J\r\n"),
        ("from_uri", f"sip:a@b;x=\r\n{EVIL}"),
        ("to_uri", f"sip:a@b;x=\n{EVIL}"),
        ("to_uri", "sip:a@b;x=\x07"),
        ("to_uri", "sip:a@b;x=1 2"),
        ("media", f"192.0.2.1\r\n{EVIL}"),
        ("socket", "udp:192.0.2.1:5060\r\n"),
    ],
)
def test_settings_and_profiles_hold_no_line_ends(field: str, value: str) -> None:
    if field != "socket":  # stripped
        with pytest.raises(SettingError, match=field):
            RecordingSettings(**{field: value})
        with pytest.raises(ValueError, match=field):
            RecordingProfile(srs="sip:a", **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="srs"):
        RecordingProfile(srs=f"sip:a;x=\r\n{EVIL}")
    with pytest.raises(ValueError, match="outbound_proxy"):
        RecordingProfile(srs="sip:a", outbound_proxy=f"sip:b;lr;x=\r\n{EVIL}")


@pytest.mark.parametrize(
    ("method", "headers", "content_type"),
    [
        (f"INFO sip:x SIP/2.0\r\n{EVIL}", (), ""),
        ("INFO", [("X-A", f"b\r\n{EVIL}")], ""),
        ("INFO", [(f"X-A: b\r\n{EVIL}\r\nX", "c")], ""),
        ("INFO", f"X-A: b\r{EVIL}\r\n", ""),
        ("INFO", (), f"text/plain\r\n{EVIL}"),
        ("INFO", (), "text/\0plain"),
        ("INFO", [("c", f"text/plain\n{EVIL}")], ""),
    ],
)
def test_requests_to_a_recorder_hold_what_was_meant_and_no_more(method: str, headers: Any, content_type: str) -> None:
    with pytest.raises(SettingError):
        check_indialog(method, headers, content_type)
    world = World()
    call = world.answered_call()
    sent = len(world.network.trace)
    assert not call.siprec_send_indialog(method, headers, b"x", content_type)
    world.clock.run_for(1)
    assert len(world.network.trace) == sent
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("octet", [b"\0", b"\x01", b"\x0b", b"\x7f"])
@pytest.mark.parametrize("place", ["contact", "record-route", "retry-after", "reason"])
def test_control_characters_of_a_recorder_go_no_further(octet: bytes, place: str) -> None:
    world = World(profile={"redirect": "any"})
    marker = octet.decode("latin-1")

    def invited(call: IncomingCall) -> None:
        transaction = call.transaction
        respond = transaction.respond

        def changed(response: SipResponse) -> None:
            if response.status >= 300 and place == "contact":
                response.write_line("contact", f"Contact: <sip:srs@10.0.0.3;x={marker}>")
            elif place == "retry-after":
                response.write_line("retry-after", f"Retry-After: 1{marker}")
            elif place == "record-route" and response.status == 200:
                response.write_line("record-route", f"Record-Route: <sip:10.0.0.2;lr>;x={marker}")
            elif place == "reason":
                response.reason = f"No{marker}"
            respond(response)

        transaction.respond = changed  # type: ignore[method-assign]
        if place == "record-route":
            world.srs.answer_call(call)
        else:
            call.answer(302 if place == "contact" else 503)

    world.srs.on_invite = invited
    call = world.answered_call()
    world.end(call)
    world.clock.run_for(60)
    ours = [sent for sent in world.network.trace if sent.source[0] != "10.0.0.2"]
    assert not [sent.data for sent in ours if octet in sent.data]


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (r'[sip]' "\n" r'user_agent = "x\r\nEvil: 1"', "sip.user_agent"),
        (r'[sip]' "\n" r'domains = ["a.example", "b\u0000"]', r"sip.domains\[1\]"),
        (r'[sip]' "\n" r'advertise = "a\n"', "sip.advertise"),
        (r'[registrar]' "\n" r'realm = "a\r\nb"', "registrar.realm"),
        (r'[recorder]' "\n" r'advertise = "192.0.2.1\r\na=evil"', "recorder.advertise"),
        (r'[[route]]' "\n" r'reply = 404' "\n" r'reason = "No\r\nEvil: 1"', r"route\[0\].reason"),
        (r'[[route]]' "\n" r'targets = ["sip:a", { uri = "sip:b;x=\r\n" }]', r"route\[0\].targets\[1\].uri"),
        (r'[recording.a]' "\n" r'srs = "sip:a"' "\n" r'username = "u\r\n"', "recording.a.username"),
        (r'[recording.a]' "\n" r'srs = "sip:a"' "\n" r'headers = "X-N: a\rb\r\n"', "recording.a.*headers"),
        (r'[registrar.users]' "\n" r'"a\r\nb" = "x"', "registrar.users"),
    ],
)  # fmt: skip
def test_a_control_character_in_the_configuration_is_an_error_with_its_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"siprec.toml: .*{key}.*control character"):
        parse(text)


def test_lines_that_may_have_ends_are_left_alone() -> None:
    text = '[recording.a]\nsrs = "sip:a"\nheaders = "X-A: 1\\r\\nX-B: 2\\r\\n"\n'
    text += 'caller = """<nameID\n\taor="sip:a@b"/>"""\n'
    assert parse(text).recording["a"].settings.headers == "X-A: 1\r\nX-B: 2\r\n"


def test_octets_of_strangers_stay_as_they_are() -> None:
    request = raw_request("INVITE", "sip:bob@10.0.0.2")
    request.write_line("subject", "Subject: a\x01\udce4")
    again = parse_datagram(request.to_bytes())
    assert isinstance(again, SipRequest)
    assert again.get("subject") == "a\x01\udce4"
