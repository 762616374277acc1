"""R9, R10: mepd under signals at every moment, and under a worker that keeps dying."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mepd_fixtures import Mepd

from tests.conftest import is_gone, wait_for
from tests.root import pammodule

SLOW_MAPPER = [
    {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["/bin/sh", "-c", "sleep 300"]}
]
MUTE = "#!/bin/sh\nexec /bin/sleep 300\n"
HARMLESS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE,
            signal.SIGWINCH, signal.SIGCONT, signal.SIGURG, signal.SIGALRM, signal.SIGVTALRM,
            signal.SIGPROF, signal.SIGIO, signal.SIGPWR, signal.SIGTSTP, signal.SIGTTIN,
            signal.SIGTTOU, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)]  # fmt: skip


def family(mepd: Mepd) -> list[psutil.Process]:
    assert mepd.process is not None
    master = psutil.Process(mepd.process.pid)
    return [master, *master.children(recursive=True)]


def titles(mepd: Mepd) -> str:
    found = []
    for process in family(mepd):
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return "\n".join(found)


def idle(mepd: Mepd) -> None:
    mepd.start()


def mapping(mepd: Mepd) -> None:
    (mepd.folder / "endpoint/map.json").write_text(json.dumps(SLOW_MAPPER))
    mepd.start()
    mepd.service.publish(mepd.request())
    wait_for(lambda: "sleep 300" in titles(mepd), 20, "the mapper")


def unready(mepd: Mepd) -> None:
    """The UEP runs and has not reported."""
    (mepd.folder / "shared/uep").write_text(MUTE)
    mepd.start()
    mepd.service.publish(mepd.request())
    wait_for(lambda: "sleep 300" in titles(mepd), 20, "the UEP")


def running(mepd: Mepd) -> None:
    mepd.start()
    mepd.service.publish(*[mepd.request() for _ in range(3)])
    wait_for(lambda: sum(mepd.runs().values()) == 3, 30, "three UEPs")


def reloading(mepd: Mepd) -> None:
    running(mepd)
    assert mepd.process is not None
    for number in range(50):
        (mepd.folder / "endpoint/config.yaml").open("a").write(f"# {number}\n")
        mepd.process.send_signal(signal.SIGHUP)


def starting(mepd: Mepd) -> None:
    """Twenty requests are anywhere between the broker and their exec."""
    mepd.start()
    mepd.service.publish(*[mepd.request() for _ in range(20)])
    wait_for(lambda: "mepd-uep" in titles(mepd) or sum(mepd.runs().values()) > 0, 20, "a start")


@pytest.mark.parametrize("stage", [idle, mapping, unready, running, reloading, starting])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_R9_one_orderly_stop_at_each_stage(
    mepd: Mepd, stage: Callable[[Mepd], None], number: signal.Signals
) -> None:
    """Twice, as an impatient administrator or a terminal and a service manager send it."""
    stage(mepd)
    before = family(mepd)
    assert mepd.process is not None
    mepd.process.send_signal(number)
    time.sleep(random.uniform(0, 0.2))  # the moment is what is tested
    mepd.process.send_signal(number)
    assert mepd.process.wait(30) == 0, mepd.log()[-3000:]
    wait_for(lambda: all(is_gone(p.pid) for p in before), 5, "the end of all that it began")
    log = mepd.log()
    assert log.count("mepd stopped") == 1 and "Traceback" not in log


def test_R2_one_that_forks_and_exits_without_end_does_not_outlive_mepd(mepd: Mepd) -> None:
    """Its account has a user endpoint: until that ends it may do what it likes."""
    runner = pammodule.program(mepd.folder / "shared", "runner", pammodule.RUNNER)
    running(mepd)
    text = mepd.program.read_text()
    fork = f"if os.fork() == 0: os.setsid(); os.execv({str(runner)!r}, ['runner'])\nreport()\n"
    mepd.program.write_text(text.replace("report()\nend", fork + "end"))
    mepd.service.publish(mepd.request())
    wait_for(lambda: "runner" in comms(mepd.user.uid), 20)
    mepd.stop()
    assert not [name for _ in range(20) for name in comms(mepd.user.uid)]


def comms(uid: int) -> list[str]:
    """The names of all that runs as ``uid``, zombies too."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                found.append(Path(f"/proc/{name}/comm").read_text().strip())
        except OSError:
            continue
    return found


def test_R9_ten_thousand_signals(mepd: Mepd) -> None:
    """Whatever does not mean the end changes nothing: it goes on starting and answering."""
    running(mepd)
    assert mepd.process is not None
    chance = random.Random(9)
    ueps = set(mepd.runs())
    for count in range(10_000):
        os.kill(mepd.process.pid, chance.choice(HARMLESS))
        if count % 100 == 0:
            time.sleep(0.01)
    assert mepd.process.poll() is None, mepd.log()[-3000:]
    mepd.service.publish(mepd.request())
    wait_for(lambda: len(mepd.runs()) == 4, 60, "a start afterwards")
    told = json.loads(_mepctl(mepd, "list"))
    assert ueps < {u["name"] for u in told["ueps"]} and len(told["ueps"]) == 4


def test_R10_a_worker_that_keeps_dying(mepd: Mepd) -> None:
    """It is started ever later, status says so, UEPs stay, and it serves when it can again."""
    running(mepd)
    ueps = {p.pid for p in family(mepd) if "mepd-a1-" in " ".join(p.cmdline())}
    assert len(ueps) == 3
    seen: list[int] = []
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        pid = mepd.consumer()
        if pid is not None and pid not in seen:
            seen.append(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    assert 3 <= len(seen) <= 12  # without a backoff: hundreds
    (row,) = [w for w in json.loads(_mepctl(mepd, "status"))["workers"] if "consumer" in w["name"]]
    assert row["restarts"] >= len(seen) - 1
    assert not any(is_gone(pid) for pid in ueps)
    mepd.service.publish(mepd.request())
    wait_for(lambda: len(mepd.runs()) == 4, 60, "a start afterwards")


def _mepctl(mepd: Mepd, *words: str) -> str:
    done = subprocess.run(
        [Path(sys.prefix) / "bin/mepctl", "-s", mepd.folder / "mepd.sock", *words, "--json"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.stdout
