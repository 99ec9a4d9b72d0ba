"""What systemd hears of a service, at a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec.server.notify import Notifier
from tests.simulation.network import VirtualClock


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


def test_states_are_told_as_systemd_wants_them(manager: socket.socket) -> None:
    notifier = Notifier(environment(manager))
    notifier.ready("udp:127.0.0.1:5060")
    assert manager.recv(4096) == b"READY=1\nSTATUS=udp:127.0.0.1:5060"
    notifier.reloading()
    assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notifier.stopping("draining: 2 calls left", 12.5)
    assert manager.recv(4096) == b"STOPPING=1\nSTATUS=draining: 2 calls left\nEXTEND_TIMEOUT_USEC=12500000"
    notifier.close()


def test_signs_of_life_come_twice_as_often_as_asked_for(manager: socket.socket) -> None:
    clock = VirtualClock()
    notifier = Notifier(environment(manager, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid())))
    notifier.keep_alive(clock)
    clock.run_for(21.0)
    for _ in range(5):  # at 0, 5, 10, 15 and 20 seconds
        assert manager.recv(4096) == b"WATCHDOG=1"
    notifier.close()
    clock.run_for(60.0)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_the_watchdog_of_another_process_is_not_ours(manager: socket.socket) -> None:
    assert Notifier(environment(manager, WATCHDOG_USEC="10000000", WATCHDOG_PID="1")).watchdog == 0


def test_children_do_not_inherit_the_socket(manager: socket.socket) -> None:
    given = environment(manager, WATCHDOG_USEC="1", WATCHDOG_PID="1", HOME="/")
    Notifier(given)
    assert given == {"HOME": "/"}


def test_without_a_service_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).ready("fine")
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "x"})
    notifier.ready("fine")
    assert notifier.watchdog == 0
    notifier.close()
