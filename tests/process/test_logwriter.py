"""The log-writer with real files, sockets and signals: what stalls it does not stall mepd."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mepd.config.settings import MepdSection
from mepd.logwriter import sinks
from mepd.master import logs
from mepd.master.logs import LogFailure, LogWriter
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from tests.conftest import is_gone, wait_for
from tests.process.test_master_parts import loop as loop  # noqa: F401
from tests.process.test_master_parts import reaper as reaper  # noqa: F401
from tests.process.test_master_parts import run_until

Make = Callable[..., LogWriter]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[LogWriter] = []

    def make(**keys: Any) -> LogWriter:
        section = MepdSection(**{"logfile": tmp_path / "mepd.log", **keys})
        made.append(LogWriter(section))
        return made[-1]

    yield make
    for writer in made:
        if writer.process is not None and not is_gone(writer.process.pid):
            os.kill(writer.process.pid, signal.SIGCONT)
        writer.close()


def say(writer: LogWriter, text: str, level: int = logging.INFO, **extra: Any) -> None:
    record = logging.LogRecord("mepd", level, "", 0, "%s", (text,), None)
    record.__dict__.update({"title": "mepd: master", **extra})
    writer.handle(record)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def pid(writer: LogWriter) -> int:
    assert writer.process is not None
    return writer.process.pid


def test_what_was_said_is_written_when_it_is_closed(make: Make, tmp_path: Path) -> None:
    writer = make()
    for n in range(500):
        say(writer, f"line {n}")
    process = pid(writer)
    writer.close()
    assert is_gone(process)
    assert [text.rpartition(" ")[2] for text in lines(tmp_path / "mepd.log")] == [
        str(n) for n in range(500)
    ]
    assert (tmp_path / "mepd.log").stat().st_mode & 0o777 == 0o640


def test_rotation_by_size(make: Make, tmp_path: Path) -> None:
    writer = make(logfile_maxbytes=1000, logfile_backups=2)
    for n in range(60):
        say(writer, f"line {n:04d} " + "x" * 40)
    writer.close()
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["mepd.log", "mepd.log.1", "mepd.log.2"]
    assert all(p.stat().st_size <= 1000 for p in tmp_path.iterdir())
    text = "".join((tmp_path / n).read_text() for n in ("mepd.log.2", "mepd.log.1", "mepd.log"))
    numbers = [int(x.split("line ")[1][:4]) for x in text.splitlines()]
    assert numbers == list(range(numbers[0], 60))


def test_R7_a_log_that_cannot_be_rotated_grows(
    make: Make, tmp_path: Path, loop: Loop, reaper: Reaper,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """No line is lost for it, and it is told once."""
    (tmp_path / "mepd.log.1").mkdir()
    writer = make(logfile_maxbytes=1000, logfile_backups=1)
    writer.attach(loop, reaper)
    for n in range(60):
        say(writer, f"line {n:04d} " + "x" * 40)
    run_until(loop, lambda: writer.alert)
    assert "cannot be rotated, and grows: Is a directory" in writer.alert
    writer.close()
    said = [x for x in lines(tmp_path / "mepd.log") if " line " in x]
    assert [int(x.split("line ")[1][:4]) for x in said] == list(range(60))
    assert [r.message for r in caplog.records].count(writer.alert) == 1


def test_rotation_without_backups_empties_the_log(make: Make, tmp_path: Path) -> None:
    writer = make(logfile_maxbytes=1000, logfile_backups=0)
    for n in range(60):
        say(writer, f"line {n:04d} " + "x" * 40)
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["mepd.log"]
    assert (tmp_path / "mepd.log").stat().st_size <= 1000
    assert "line 0059" in lines(tmp_path / "mepd.log")[-1]


def test_reopened_after_it_was_moved(make: Make, tmp_path: Path) -> None:
    writer = make(logfile_maxbytes=0)
    say(writer, "before")
    wait_for(lambda: lines(tmp_path / "mepd.log"), 5)
    (tmp_path / "mepd.log").rename(tmp_path / "mepd.log.old")
    say(writer, "still the old one")
    writer.reopen()
    say(writer, "after")
    writer.close()
    old = lines(tmp_path / "mepd.log.old")
    assert [x.endswith(("before", "old one")) for x in old] == [True, True]
    assert [x.endswith("after") for x in lines(tmp_path / "mepd.log")] == [True]


def test_R7_a_full_disk_costs_lines_and_one_alert(
    make: Make,
    tmp_path: Path,
    loop: Loop,  # noqa: F811
    reaper: Reaper,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = tmp_path / "real.log"
    (tmp_path / "mepd.log").symlink_to("/dev/full")
    writer = make(logfile_maxbytes=0)
    writer.attach(loop, reaper)
    for n in range(100):
        say(writer, f"lost {n}")
    run_until(loop, lambda: writer.alert)
    assert "No space left on device" in writer.alert
    assert [r.message for r in caplog.records].count(writer.alert) == 1
    (tmp_path / "mepd.log").unlink()
    (tmp_path / "mepd.log").symlink_to(real)
    writer.reopen()
    say(writer, "there is room again")
    run_until(loop, lambda: not writer.alert)
    said = lines(real)
    assert said[0].endswith("100 lines of the log were lost: No space left on device")
    assert said[1].endswith("there is room again")


def test_R7_no_part_of_a_line_is_left_where_the_disk_is_full(tmp_path: Path) -> None:
    """A limit on the size of files is a disk that is full in the middle of a line."""
    script = (
        "import resource, signal, sys, logging\n"
        "from pathlib import Path\n"
        "from mepd.logwriter.sinks import RotatingFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"f = RotatingFile(Path({str(tmp_path / 'l')!r}), 0, 0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))\n"
        "for n in range(5):\n"
        "    r = logging.LogRecord('x', 20, '', 0, 'y' * 60, (), None); r.title = 't'\n"
        "    try: f.emit(r)\n"
        "    except OSError as e: print(e.errno)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    text = (tmp_path / "l").read_text()
    assert len(out.split()) == 5 - text.count("\n") > 0
    assert text.endswith("\n") and all(x.endswith("y" * 60) for x in text.splitlines())


def test_R7_a_stuck_disk_never_stalls_the_master(
    make: Make, tmp_path: Path, loop: Loop, reaper: Reaper  # noqa: F811
) -> None:
    """A log-writer that stands still is what a stuck disk makes of it."""
    writer = make()
    writer.attach(loop, reaper)
    os.kill(pid(writer), signal.SIGSTOP)
    total = logs._WAITING_MAX + 5000
    before = time.monotonic()
    for n in range(total):
        say(writer, f"line {n} " + "x" * 200)
    assert time.monotonic() - before < 15  # it is work, but it is not waiting
    assert 0 < writer.lost < total - logs._WAITING_MAX
    lost = writer.lost
    os.kill(pid(writer), signal.SIGCONT)
    run_until(loop, lambda: not writer._waiting)
    say(writer, "going on")
    writer.close()
    said = lines(tmp_path / "mepd.log")
    assert len(said) == total - lost + 2
    assert f"{lost} lines of the log were lost" in said[-2] and said[-1].endswith("going on")


def test_it_is_started_again_and_nothing_is_lost_meanwhile(
    make: Make, tmp_path: Path, loop: Loop, reaper: Reaper  # noqa: F811
) -> None:
    writer = make()
    writer.attach(loop, reaper)
    first = pid(writer)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: is_gone(first), 5)
    for n in range(10):
        say(writer, f"meanwhile {n}")
    run_until(loop, lambda: len(lines(tmp_path / "mepd.log")) == 10)
    assert pid(writer) != first


def test_signals_of_a_terminal_do_not_end_it(make: Make, tmp_path: Path) -> None:
    writer = make()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2):
        os.kill(pid(writer), number)
    say(writer, "still there")
    wait_for(lambda: lines(tmp_path / "mepd.log"), 5)


_MASTER = """
import logging, os, signal, sys, time
from pathlib import Path
from mepd import log as mepdlog
from mepd.config.settings import MepdSection
from mepd.master.logs import LogWriter
writer = LogWriter(MepdSection(logfile=Path(sys.argv[1])))
mepdlog.configure("mepd: master", [writer])
logging.info("last words")
print(writer.process.pid, flush=True)
if sys.argv[2] == "stopped":
    os.kill(writer.process.pid, signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_R1_it_ends_with_a_master_that_is_killed_while_the_log_is_opened(tmp_path: Path) -> None:
    """A FIFO that nobody reads stands for a disk that is stuck."""
    path = tmp_path / "mepd.log"
    os.mkfifo(path)
    master = subprocess.Popen([sys.executable, "-c", _MASTER, str(path), "running"])

    def writer() -> list[psutil.Process]:
        found = psutil.Process(master.pid).children()
        return [p for p in found if "log-writer" in " ".join(p.cmdline())]

    (one,) = wait_for(writer, 10)
    wait_for(lambda: one.status() == psutil.STATUS_SLEEPING, 10)
    time.sleep(0.2)
    master.kill()
    master.wait()
    wait_for(lambda: is_gone(one.pid), 3, "the end of the log-writer")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_R1_it_ends_with_a_killed_master_and_its_last_line(tmp_path: Path, state: str) -> None:
    path = tmp_path / "mepd.log"
    done = subprocess.run(
        [sys.executable, "-c", _MASTER, str(path), state], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(lambda: is_gone(int(done.stdout)), 3)
    assert [x.endswith("last words") for x in lines(path)] == [True]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"logfile": Path("/proc/no/mepd.log")}, "log /proc/no/mepd.log: No such file"),
        ({"log_to": ("syslog",)}, "log syslog: No such file or directory"),
        ({"log_to": ("journald",)}, "log journald: No such file or directory"),
    ],
)
def test_what_cannot_be_opened_is_named(
    make: Make, keys: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "SYSLOG", "/nowhere/log")
    monkeypatch.setattr(sinks, "JOURNAL", "/nowhere/journal")
    with pytest.raises(LogFailure, match=said):
        make(**keys)


def listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(10)
    return made


def test_syslog(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "SYSLOG", str(tmp_path / "dev-log"))
    with listener(tmp_path / "dev-log") as server:
        writer = make(log_to=("syslog",))
        say(writer, "two\nlines", logging.WARNING, uep="uep.a.b", user="harper")
        data = server.recv(8192).decode()
    daemon, warning = 3, 4
    assert data.startswith(f"<{daemon * 8 + warning}>mepd[{os.getpid()}]: mepd: master ")
    assert data.endswith("[(harper, uep.a.b)] two\\nlines")
    assert not (tmp_path / "mepd.log").exists()


def test_journald_with_fields_and_beside_the_file(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "JOURNAL", str(tmp_path / "journal"))
    with listener(tmp_path / "journal") as server:
        writer = make(log_to=("file", "journald"))
        say(writer, "hello\nMESSAGE=forged", logging.ERROR, uep="uep.a.b", user="harper")
        fields = dict(x.split("=", 1) for x in server.recv(8192).decode().splitlines())
    assert fields["MESSAGE"] == "hello\\nMESSAGE=forged" and fields["PRIORITY"] == "3"
    assert (fields["MEPD_UEP"], fields["MEPD_USER"]) == ("uep.a.b", "harper")
    writer.close()
    assert len(lines(tmp_path / "mepd.log")) == 1


def test_packets_carry_no_credential(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redaction is done before a line leaves the process that knows the secret."""
    packets: list[bytes] = []
    writer = make()
    monkeypatch.setattr(writer, "_put", packets.append)
    say(writer, "amqp://u:canary@h")
    assert json.loads(packets[0])["message"] == "amqp://***@h"


def test_a_published_file_is_whole_replaced_and_removed(make: Make, tmp_path: Path) -> None:
    one, two = tmp_path / "one.prom", tmp_path / "two.prom"
    writer = make()
    writer.publish(one, "x 1\n" * 20_000)
    wait_for(lambda: one.exists(), 5)
    assert one.read_text() == "x 1\n" * 20_000 and one.stat().st_mode & 0o777 == 0o644
    writer.publish(two, "x 2\n")
    wait_for(lambda: two.exists(), 5)
    assert not one.exists()
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["mepd.log"]


def test_a_file_that_cannot_be_published_is_an_alert(
    make: Make, tmp_path: Path, loop: Loop, reaper: Reaper  # noqa: F811
) -> None:
    writer = make()
    writer.attach(loop, reaper)
    writer.publish(tmp_path / "no/such.prom", "x 1\n")
    run_until(loop, lambda: writer.alert)
    assert "such.prom cannot be written: No such file or directory" in writer.alert


def test_publishing_to_a_writer_that_stands_still_keeps_the_newest_only(
    make: Make, tmp_path: Path, loop: Loop, reaper: Reaper  # noqa: F811
) -> None:
    writer = make()
    writer.attach(loop, reaper)
    os.kill(pid(writer), signal.SIGSTOP)
    for n in range(200):
        writer.publish(tmp_path / "m.prom", f"x {n} " + "y" * 50_000)
    os.kill(pid(writer), signal.SIGCONT)
    run_until(loop, lambda: not writer._to_publish)
    wait_for(lambda: (tmp_path / "m.prom").read_text().startswith("x 199 "), 5)


def test_a_file_beyond_all_measure_is_not_published(
    make: Make,
    tmp_path: Path,
    loop: Loop,  # noqa: F811
    reaper: Reaper,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = make()
    writer.attach(loop, reaper)
    writer.publish(tmp_path / "m.prom", "x" * logs._PUBLISH_MAX)
    assert "m.prom is not written: it would be larger" in caplog.text
    writer.publish(tmp_path / "m.prom", "x" * (logs._PUBLISH_MAX - 200 - len(str(tmp_path))))
    wait_for((tmp_path / "m.prom").exists, 5)
