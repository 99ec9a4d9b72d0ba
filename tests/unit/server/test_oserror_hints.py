"""Errors of the system in words."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from siprec.cli.audit import main as audit
from siprec.cli.vcon import main as vcon
from siprec.server import recorder_process, relay_process, serve
from siprec.server.oserror_hints import why


def test_what_may_be_done_is_said() -> None:
    assert why(ValueError("a reason")) == "a reason"
    assert why(OSError("no port")) == "no port"
    assert why(FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")) == "/x: No such file or directory"
    assert "another process has that port" in why(OSError(errno.EADDRINUSE, "cannot listen on udp:1"))
    assert "CAP_NET_BIND_SERVICE" in why(PermissionError(errno.EACCES, "cannot listen on udp:1"))


@pytest.mark.parametrize(
    ("main", "section"),
    [(serve.main, "sip"), (recorder_process.main, "recorder"), (relay_process.main, "relay")],
)
def test_a_process_that_cannot_listen_says_where_and_why(
    main: object, section: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    file = tmp_path / "siprec.toml"
    assert main(file) == 1
    assert "there is no such file; `siprec config example`" in capfd.readouterr().err
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        listen = f'"{where}"' if section == "relay" else f'["udp:{where}"]'
        file.write_text(
            f'[{section}]\nlisten = {listen}\n[log]\nlevel = "error"\n[recorder]\n' * (section != "recorder")
        )
        if section == "recorder":
            file.write_text(f'[recorder]\nlisten = {listen}\ndirectory = "{tmp_path}"\n[log]\nlevel = "error"')
        assert main(file) == 1
    said = capfd.readouterr().err
    assert where in said
    assert "another process has that port" in said
    assert "Errno" not in said


def test_a_directory_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vcon(tmp_path, None, streams=False) == 1
    assert "is no recording: it has no recording.json" in capsys.readouterr().err
    assert audit(tmp_path / "nothing", "24h", "", as_json=False) == 2
    assert "[proof]" in capsys.readouterr().err
