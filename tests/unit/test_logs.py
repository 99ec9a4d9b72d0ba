"""How lines of the log look, and which fields they carry."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import siprec
from siprec import logs
from siprec.batches import Batches
from siprec.server.config_file import ConfigError, parse


def flush() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    flush()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_json_line_has_the_fields_that_its_template_names() -> None:
    out = io.StringIO()
    logs.setup_logging("info", "json", {}, out)
    log = logging.getLogger("siprec.test")
    log.warning("SRS %s: %s (call %s)", "sip:srs1", "it said call me, Call-ID x@y", "a@b", extra={"session_id": "S"})
    log.info("100%% of %d, Call-ID %s", 3, "c@d")
    log.info("E dlg_callid=%s callid=%s session_id=%s server=%s instance=%s", "1", "2", "3", "4", "5")
    log.debug("nothing of this")
    log.info('odd "text"\nsecond line \udcff')
    first, second, third, fourth = lines(out)
    assert first["level"] == "warning"
    assert first["logger"] == "siprec.test"
    assert first["message"] == "SRS sip:srs1: it said call me, Call-ID x@y (call a@b)"
    assert {name: first[name] for name in logs.FIELDS if name in first} == {
        "call_id": "a@b",
        "session_id": "S",
        "srs": "sip:srs1",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(first["time"]))
    assert second["call_id"] == "c@d"
    assert [third[name] for name in ("call_id", "rs_call_id", "session_id", "srs", "instance")] == list("12345")
    assert fourth["message"] == 'odd "text"\nsecond line \udcff'


def test_an_exception_is_part_of_its_line() -> None:
    out = io.StringIO()
    logs.setup_logging("info", "json", {}, out)
    try:
        raise ValueError("a defect")
    except ValueError:
        logging.getLogger("siprec.test").exception("it failed, Call-ID %s", "a@b")
    [line] = lines(out)
    assert line["call_id"] == "a@b"
    assert "ValueError: a defect" in str(line["exception"])


def test_rooms_have_levels_of_their_own_and_lose_them() -> None:
    out = io.StringIO()
    logs.setup_logging("warning", "text", {"siprec.recording": "debug", "siprec.sip": "error"}, out)
    logging.getLogger("siprec.recording.call_recording").debug("seen")
    logging.getLogger("siprec.proxy").info("not seen")
    logging.getLogger("siprec.sip.x").warning("not seen")
    flush()
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["seen"]
    assert logs.levels() == ("warning", {"siprec.recording": "debug", "siprec.sip": "error"})
    assert logs.child_arguments("siprec.recording.x") == ["--log-format=text", "--log-level=debug"]
    logs.setup_logging("info", "json", {}, out)
    assert logs.levels() == ("info", {})
    assert logs.child_arguments("siprec.relay") == ["--log-format=json", "--log-level=info"]
    assert logging.getLogger("siprec.recording").getEffectiveLevel() == logging.INFO


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_journal_gets_priorities_on_every_line(
    form: logs.Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.setup_logging("debug", form, {}, journal)
        log = logging.getLogger("siprec.test")
        log.error("a\nb")
        log.info("c")
        flush()
        journal.seek(0)
        text = journal.read()
    if form == "text":
        assert text == "<3>siprec.test a\\nb\n<6>siprec.test c\n"
    else:
        assert [line[:4] for line in text.splitlines()] == ["<3>{", "<6>{"]
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not logs.in_journal(io.StringIO())


def test_whoever_names_a_call_in_a_line_does_so_in_a_way_that_becomes_a_field() -> None:
    """All templates of the sources: an argument called call_id has its field."""
    found = 0
    for path in Path(siprec.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if ast.unparse(node.func) not in {f"log.{name}" for name in (*logs.LEVELS, "exception")}:
                continue
            template = node.args[0]
            assert isinstance(template, ast.Constant), f"{path}:{node.lineno}"
            record = logging.LogRecord("x", 20, "x", 1, template.value, tuple(map(ast.unparse, node.args[1:])), None)
            fields = logs.fields_of(record)
            for argument in map(ast.unparse, node.args[1:]):
                if re.search(r"call_?id\b", argument):
                    assert argument in fields.values(), f"{path}:{node.lineno}: {template.value!r} hides {argument}"
                    found += 1
    assert found > 40


def test_the_configuration_says_what_is_wrong_with_it() -> None:
    config = parse('[log]\nlevel = "debug"\nformat = "json"\n[log.levels]\n"siprec.recording" = "error"')
    assert (config.log.level, config.log.format, config.log.levels) == ("debug", "json", {"siprec.recording": "error"})
    for text in ('level = "loud"', 'format = "xml"', 'levels = {"asyncio" = "info"}', 'levels = {"siprec.sip" = "x"}'):
        with pytest.raises(ConfigError, match=r"siprec.toml: log\."):
            parse(f"[log]\n{text}")


def test_a_stranger_can_neither_begin_a_line_nor_steer_the_terminal() -> None:
    out = io.StringIO()
    logs.setup_logging("info", "text", {}, out)
    log = logging.getLogger("siprec.test")
    hostile = "a\r\n2026-11-30 00:00:00,000 INFO siprec forged\x1b[2J\x00\x9b\u2028\u202ex\udcff"
    log.info("user %s, Call-ID %s", hostile, hostile)
    try:
        raise ValueError(hostile)
    except ValueError:
        log.exception("it failed")
    text = out.getvalue()
    assert [line for line in text.split("\n") if "forged" in line and line.startswith("2026-11-30 00:00")] == []
    assert not set(text) & {"\r", "\x1b", "\x00", "\x9b", "\u2028", "\u202e", "\udcff"}
    first, *rest = text.rstrip("\n").split("\n")
    assert r"user a\r\n2026" in first
    assert all(line.startswith("  ") for line in rest[1:])
    assert "ValueError" in text


def test_each_line_of_the_journal_keeps_its_priority_whatever_a_stranger_sends() -> None:
    formatter = logs.TextFormatter(journal=True)
    record = logging.LogRecord("siprec.test", logging.INFO, "", 0, "user %s", ("a\n<2>forged",), None)
    assert formatter.format(record) == r"<6>siprec.test user a\n<2>forged"


class Slow(io.StringIO):
    """A stream that notes each write, and takes none before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.may = threading.Event()
        self.begun = threading.Event()

    def write(self, text: str) -> int:
        self.begun.set()
        assert self.may.wait(60)
        self.writes.append(text)
        return len(text)


def test_a_warning_is_written_at_once_after_all_that_was_queued_before_it() -> None:
    out = Slow()
    out.may.set()
    handler = logs.BatchHandler(out)
    log = logging.Logger("siprec.test")
    log.addHandler(handler)
    for number in range(50):
        log.info("%d", number)
    log.warning("look")
    assert "".join(out.writes).split() == [*map(str, range(50)), "look"]
    log.info("later")
    handler.close()
    assert "".join(out.writes).split()[-1] == "later"


def test_nobody_waits_for_a_stream_that_takes_nothing_and_what_it_costs_is_said() -> None:
    out = Slow()
    handler = logs.BatchHandler(out, limit=10)
    log = logging.Logger("siprec.test")
    log.addHandler(handler)
    log.info("first")
    assert out.begun.wait(60)
    for number in range(25):
        log.info("%d", number)  # the thread is stuck in a write
    assert handler.dropped == 15
    out.may.set()
    handler.close()
    assert "".join(out.writes).splitlines() == [
        "first",
        *map(str, range(10)),
        "15 lines of the log were dropped: its stream took none",
    ]


def test_a_warning_is_written_although_there_is_no_room_for_more() -> None:
    out = io.StringIO()
    handler = logs.BatchHandler(out, limit=0)
    log = logging.Logger("siprec.test")
    log.addHandler(handler)
    log.info("no room")
    log.warning("look")
    assert out.getvalue() == "look\n1 lines of the log were dropped: its stream took none\n"
    handler.close()


def test_nobody_waits_with_a_warning_for_a_pipe_that_is_full() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    with os.fdopen(writing, "w") as out:
        handler = logs.BatchHandler(out)
        warn = logging.LogRecord("a", logging.WARNING, __file__, 1, "look", (), None)

        def emit() -> None:
            for _ in range(3):
                handler.emit(warn)

        emitting = threading.Thread(target=emit, daemon=True)
        emitting.start()
        try:
            emitting.join(10)
            assert not emitting.is_alive(), "whoever logs waits for the reader"
            while filled:
                filled -= len(os.read(reading, filled))
            handler.close()
            assert os.read(reading, 100) == b"look\n" * 3
        finally:
            os.close(reading)


def test_a_thread_that_writes_survives_an_error_of_its_work(caplog: pytest.LogCaptureFixture) -> None:
    failed, done = threading.Event(), threading.Event()

    def work() -> None:
        if not failed.is_set():
            failed.set()
            raise ValueError("broken")
        done.set()

    batches = Batches("test", work)
    batches.wake()
    assert failed.wait(10)
    batches.wake()
    assert done.wait(10)
    assert batches.close(10)
    assert "error in the thread that writes: test" in caplog.text


def test_lines_are_written_in_batches() -> None:
    out = Slow()
    handler = logs.BatchHandler(out)
    log = logging.Logger("siprec.test")
    log.addHandler(handler)
    log.info("first")
    assert out.begun.wait(60)
    for number in range(200):
        log.info("%d", number)
    out.may.set()
    handler.close()
    assert len(out.writes) == 2
    assert len("".join(out.writes).splitlines()) == 201


def test_a_process_that_ends_in_order_has_written_all_its_lines() -> None:
    code = "import logging; from siprec.logs import setup_logging; setup_logging(); logging.info('the end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.endswith("the end\n")
