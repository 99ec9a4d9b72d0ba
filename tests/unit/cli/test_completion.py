"""Shells complete our commands with what `siprec completion` prints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def script(shell: str) -> str:
    command = [sys.executable, "-m", "siprec", "completion", shell]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    file = tmp_path / "siprec.bash"
    file.write_text(script("bash"))

    def complete(*words: str) -> set[str]:
        program = (
            'source "$1"; shift; COMP_WORDS=(siprec "$@"); COMP_CWORD=$#; COMP_LINE="siprec $*"; '
            'COMP_POINT=${#COMP_LINE}; _siprec siprec "${@: -1}" ""; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        bash = ["bash", "-c", program, "bash", str(file), *words]
        done = subprocess.run(bash, check=True, capture_output=True, text=True, timeout=30)
        return set(done.stdout.split())

    assert complete("re") == {"recorder", "registrations", "relay", "reload", "resume"}
    assert complete("config", "") >= {"check", "example"}
    assert complete("pause", "--ins") == {"--instance"}
    assert complete("log-level", "inh") == {"inherit"}


@pytest.mark.parametrize(("shell", "sign"), [("zsh", "#compdef siprec"), ("fish", "complete -c siprec")])
def test_zsh_and_fish_have_theirs(shell: str, sign: str, tmp_path: Path) -> None:
    text = script(shell)
    assert sign in text
    assert all(name in text for name in ("srs-probe", "log-level", "example", "instance"))
    if shutil.which(shell) is not None:
        file = tmp_path / "script"
        file.write_text(text)
        assert subprocess.run([shell, "-n", str(file)], capture_output=True, timeout=30).returncode == 0
