"""What the service manager is told, in the words of sd_notify(3)."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.master.loop import Loop
from mepd.master.service import READY_AFTER_AT_MOST, Service, status_line
from mepd.master.table import UepTable
from mepd.posix.notify import Notifier


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Manager:
    """The other end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return said


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(tmp_path / "notify")


def endpoint(name: str, online: bool = False) -> Any:
    return SimpleNamespace(name=name, online=online)


class Rig:
    def __init__(self, manager: Manager, *endpoints: Any, **environ: str) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.rereading = False
        notifier = Notifier({"NOTIFY_SOCKET": str(manager.path), **environ})
        self.service = Service(
            self.loop, notifier, UepTable(), lambda: endpoints, lambda: self.rereading
        )

    def run_for(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += 0.1
            self.loop.call_later(0.0, lambda: None)
            self.loop._turn()


def test_ready_when_every_endpoint_is_online(manager: Manager) -> None:
    gpu = endpoint("gpu")
    rig = Rig(manager, gpu)
    rig.service.begin()
    rig.run_for(5)
    assert "READY=1" not in manager.told()
    gpu.online = True
    rig.run_for(1)
    assert manager.told()[-2:] == ["STATUS=1 of 1 endpoint online; 0 user endpoints of 0 users",
                                   "READY=1"]  # fmt: skip


def test_ready_all_the_same_when_the_web_service_is_down(manager: Manager) -> None:
    rig = Rig(manager, endpoint("gpu"))
    rig.service.begin()
    rig.run_for(READY_AFTER_AT_MOST - 1)
    assert "READY=1" not in manager.told()
    rig.run_for(2)
    assert "READY=1" in manager.told()


def test_the_watchdog_is_fed_by_the_loop(manager: Manager) -> None:
    rig = Rig(manager, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
    rig.service.begin()
    rig.run_for(3.05)
    assert manager.told().count("WATCHDOG=1") in (3, 4)


def test_a_watchdog_for_another_process_is_not_ours(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "3000000",
                         "WATCHDOG_PID": str(os.getpid() + 1)})  # fmt: skip
    assert notifier.watchdog == 0


def test_a_reload_lasts_until_all_is_checked(manager: Manager) -> None:
    rig = Rig(manager)
    rig.service.begin()
    manager.told()
    rig.rereading = True
    rig.service.reloading()
    rig.run_for(1)
    (said,) = manager.told()
    assert said.startswith("RELOADING=1\nMONOTONIC_USEC=")
    rig.rereading = False
    rig.run_for(0.3)
    assert manager.told() == ["READY=1"]


def test_stopping_is_the_last_word(manager: Manager) -> None:
    rig = Rig(manager, endpoint("gpu"))
    rig.service.begin()
    rig.service.stopping()
    rig.run_for(READY_AFTER_AT_MOST + 1)
    assert [m for m in manager.told() if not m.startswith("STATUS")] == ["STOPPING=1"]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    assert not notifier.is_managed and not notifier.watchdog
    notifier.tell(READY=1)


def test_a_manager_that_is_gone_or_does_not_read_holds_nothing_up(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(manager.path)})
    for _ in range(1000):
        notifier.tell(STATUS="x" * 1000)
    manager.path.unlink()
    notifier.tell(READY=1)


def test_status_line() -> None:
    line = status_line([endpoint("gpu"), endpoint("cpu", True)], [7, 7, 8, -1])
    assert line == "1 of 2 endpoints online (offline: gpu); 4 user endpoints of 2 users"
