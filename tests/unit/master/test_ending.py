"""The last resorts: what outlives a shutdown, children without end, forks that are refused."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.master import reaper as reaping
from mepd.master import shutdown, spawner
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from mepd.master.shutdown import Shutdown
from mepd.model import ProgramState
from mepd.posix.accounts import Account
from mepd.posix.process import ProcessId
from tests.root import launching

REFUSED = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


class Clock:
    """Time passes only by itself: each look is a tenth of a second later."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


class TestShutdown:
    def shut_down(self, monkeypatch: pytest.MonkeyPatch, ueps: list[Any], worker: Any) -> list[Any]:
        """Shut down with these; whose trees were killed, and what was told, in order."""
        said: list[Any] = []
        worker.stop = lambda: said.append("worker asked")
        monkeypatch.setattr(shutdown.process, "kill_tree", said.append)
        monkeypatch.setattr(shutdown.process, "kill_all", said.extend)
        stopper: Any = SimpleNamespace(stopwaitsecs=60.0, stop_all=lambda *_: None)
        loop = Loop(Clock())
        table: Any = ueps
        ends: Any = None
        over = Shutdown(
            loop, table, stopper, ends, [worker], [], lambda: said.append("done") or loop.stop(),
            lambda: said.append("no uep is left"),
        )  # fmt: skip
        loop.call_later(0.0, lambda: over.begin(signal.SIGTERM))
        loop.run()
        assert stopper.stopwaitsecs == 5.0
        return said

    def test_what_does_not_end_is_killed(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        uep = SimpleNamespace(label="[(harper, uep.a) sleep]", child=ProcessId(7, 1.0))
        worker = SimpleNamespace(state=ProgramState.STOPPING, process=ProcessId(8, 1.0))
        said = self.shut_down(monkeypatch, [uep], worker)
        assert said == [uep.child, "no uep is left", "worker asked", worker.process, "done"]
        assert "killing what is left of a user endpoint [(harper, uep.a) sleep]" in caplog.text

    def test_what_ends_by_itself_is_not(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = SimpleNamespace(state=ProgramState.STOPPED, process=None)
        said = self.shut_down(monkeypatch, [], worker)
        assert said == ["no uep is left", "worker asked", "done"] and not caplog.records

    def test_an_order_that_met_a_fault_ends_in_time(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fails(*_: Any) -> None:
            raise OSError(23, "Too many open files in system")

        monkeypatch.setattr(shutdown.process, "kill_all", fails)
        monkeypatch.setattr(shutdown, "_ALL_MAX", 0.05)
        stopper: Any = SimpleNamespace(stopwaitsecs=60.0, stop_all=fails)
        loop, table, ends = Loop(), [], None
        ended: list[str] = []
        over = Shutdown(
            loop, table, stopper, ends, [], [], lambda: ended.append("in order"),  # type: ignore
            overdue=lambda: ended.append("overdue") or loop.stop(),
        )  # fmt: skip
        loop.call_later(0.0, lambda: over.begin(signal.SIGTERM))
        loop.run()
        assert ended == ["overdue"] and "going on" in caplog.text


class TestReaper:
    @pytest.fixture
    def dead(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The pids of children that have ended, as waitid(2) and waitpid(2) tell them."""
        pids: list[int] = []

        def waitid(*_: Any) -> Any:
            return SimpleNamespace(si_pid=pids[0]) if pids else None

        def waitpid(pid: int, _: int) -> tuple[int, int]:
            pids.remove(pid)
            return pid, pid << 8

        monkeypatch.setattr(os, "waitid", waitid)
        monkeypatch.setattr(os, "waitpid", waitpid)
        return pids

    def test_children_without_end_do_not_hold_the_loop(
        self, dead: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[tuple[int, int]] = []
        seen: list[int] = []
        monkeypatch.setattr(reaping, "_TURN_MAX", 3)
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
        reaper = Reaper()
        for pid in (1, 2, 3, 4):
            reaper.watch(pid, lambda status: seen.append(status >> 8))
            dead.append(pid)
        reaper.collect()
        assert seen == [1, 2, 3] and sent == [(os.getpid(), signal.SIGCHLD)]
        reaper.collect()
        assert seen == [1, 2, 3, 4] and len(sent) == 1

    def test_an_end_that_is_not_handled_does_not_hide_the_others(
        self, dead: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[int] = []
        reaper = Reaper()
        reaper.watch(11, lambda status: 1 // 0)  # type: ignore[arg-type, return-value]
        reaper.watch(12, seen.append)
        dead += [11, 12]
        reaper.collect()
        assert seen == [12 << 8] and "the end of pid 11 was not handled" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    @pytest.mark.parametrize("session", [0, 5])
    def test_a_child_that_goes_while_it_is_looked_at_is_no_stray(
        self, session: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(pid: int) -> Any:
            raise ProcessLookupError

        reaper = Reaper()
        monkeypatch.setattr(reaping.process, "children", lambda: [21])
        monkeypatch.setattr(reaping.orphans, "reap", lambda pid: False)
        monkeypatch.setattr(reaping.process, "real_uid", lambda pid: None)
        monkeypatch.setattr(os, "getsid", gone)
        assert reaper.strays(session) == []

    def test_a_child_of_the_ended_session_is_a_stray_even_of_a_spared_account(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reaper = Reaper()
        reaper.spares = lambda _uid: True
        monkeypatch.setattr(reaping.process, "children", lambda: [os.getpid()])
        monkeypatch.setattr(reaping.orphans, "reap", lambda pid: False)
        monkeypatch.setattr(os, "getsid", lambda pid: 5)
        assert reaper.strays() == reaper.strays(6) == []
        assert reaper.strays(5) == [os.getpid()]


class TestForks:
    @pytest.fixture
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fork(_: Any) -> int:
            raise REFUSED

        monkeypatch.setattr(spawner.process, "fork", fork)
        gc.collect()  # what earlier tests left open is not closed meanwhile

    @pytest.mark.parametrize("audit", [None, Path("/nonexistent/audit")])
    @pytest.mark.parametrize("pam", [True, False])
    def test_a_refused_launch_leaves_nothing_open(
        self, refused: None, audit: Path | None, pam: bool
    ) -> None:
        snapshot = launching.snapshot(("x",), audit_log_path=audit, pam_enable=pam)
        plan = launching.plan(snapshot, launching.request("a@example.org"))
        records: Any = None
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(BlockingIOError):
            spawner.launch(plan, records)
        assert sorted(os.listdir("/proc/self/fd")) == before

    def test_a_launch_has_a_socket_for_audit_records_if_there_is_a_log(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spawner.process, "fork", lambda _: 4321)
        request = launching.request("a@example.org")
        records: Any = None
        for path in (Path("/nonexistent/audit"), None):
            snapshot = launching.snapshot(("x",), audit_log_path=path)
            launched = spawner.launch(launching.plan(snapshot, request), records)
            assert launched.pid == 4321 and launched.lifeline is None
            assert (launched.audit is not None) == (path is not None)
            for sock in (launched.stages, launched.notify, launched.audit):
                if sock is not None:
                    sock.close()
            again = spawner.launch(launching.plan(snapshot, request), records, launched.file)
            assert again.audit is None and again.file is launched.file
            again.stages.close()
            again.notify.close()
            os.close(launched.file.fd)

    def test_a_refused_audit_writer_leaves_nothing_open(self, refused: None) -> None:
        account = Account("nobody", 65534, 65534, "", "/", "/bin/false")
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(BlockingIOError):
            spawner.audit_writer("t", "m", account, Path("/nonexistent/audit"), "id")
        assert sorted(os.listdir("/proc/self/fd")) == before

    def test_what_cannot_be_loaded_is_logged_and_survived(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def missing(name: str) -> Any:
            raise ImportError(f"no {name}")

        monkeypatch.setattr(importlib, "import_module", missing)
        spawner.preload_launch()
        assert "what starts need cannot be loaded" in caplog.text
        assert "no mepd.launch.preload" in caplog.text
