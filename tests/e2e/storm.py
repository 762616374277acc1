"""A storm: a task mix through the stock Executor while parts of a site are killed.

Every future must be done in the end, each with the right value or an error that tells the
truth. Used by the tests in its short form and by scripts/bench in its long one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e import judge
from tests.e2e.site import Site

VICTIMS = ("uep", "worker", "broker", "gateway")
WIDTH = 2
"""Tasks that the user endpoint runs at a time."""

# The first lines of every task: it notes by its id that it runs.
_NOTE = """\
    import os
    with open(os.path.expanduser("~/FILE"), "a") as f:
        f.write(os.environ["GC_TASK_UUID"] + "\\n")
"""
# Run as the researcher; what the futures ended in is for tests/e2e/judge.py to say.
SCRIPT = '''
import concurrent.futures, json, random, time

def fast(n):
NOTE
    return n * 2
def slow(n):
NOTE
    import time
    time.sleep(0.3)
    return n * 3
def failing(n):
NOTE
    raise ValueError(f"failing {n}")
def leaving(n):
NOTE
    import sys
    sys.exit(n)
def crashing(n):
NOTE
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
def huge(n):
NOTE
    return "x" * 11_000_000
def unpicklable(n):
NOTE
    return (x for x in range(n))

WEIGHTS = {fast: 70, slow: 12, failing: 8, leaving: 3, crashing: 2, huge: 1, unpicklable: 4}

def ending(kind, n, future):
    if not future.done():
        return kind, n, future.task_id, "open", "", ""
    if future.cancelled():
        return kind, n, future.task_id, "cancelled", "", ""
    error = future.exception()
    if error is None:
        return kind, n, future.task_id, "value", "", repr(future.result())[:80]
    text = getattr(error, "remote_data", None) or str(error)
    return kind, n, future.task_id, "error", type(error).__name__, text[-4000:]

def storm(total, seed, patience):
    chance = random.Random(seed)
    kinds = list(WEIGHTS)
    futures, left = [], total
    begun = time.monotonic()
    end = begun + patience
    while left and time.monotonic() < end:
        ex = executor(ENGINE="ProcessPoolEngine", NODES_PER_BLOCK=WIDTH)
        mine = []
        try:
            while left and time.monotonic() < end:
                kind = chance.choices(kinds, WEIGHTS.values())[0]
                n = total - left
                mine.append((kind.__name__, n, ex.submit(kind, n)))
                left -= 1
                if n % 25 == 24:  # spread over the time of the kills
                    due = begun + patience / 2 * n / total
                    time.sleep(max(0.2, due - time.monotonic()))
        except RuntimeError:  # the SDK's executor gave up: its futures say why; a new one
            time.sleep(1)
        futures += mine
        waiting = [f for _, _, f in mine]
        concurrent.futures.wait(waiting, timeout=max(1, end - time.monotonic()))
        ex.shutdown(wait=False, cancel_futures=False)
    return futures, left
'''.replace("NOTE\n", _NOTE).replace("WIDTH", str(WIDTH))


@dataclass
class Outcome:
    """``verdicts`` counts what became of the tasks by kind; ``wrong`` must be empty."""

    verdicts: dict[str, int]
    wrong: list[str]
    unsubmitted: int
    kills: dict[str, int] = field(default_factory=dict)


class Storm:
    """Kills a random victim every ``period`` seconds, on average, for ``length`` seconds."""

    def __init__(self, site: Site, seed: int, period: float, length: float) -> None:
        self._end = time.monotonic() + length
        self.kills = dict.fromkeys(VICTIMS, 0)
        self._site = site
        self._chance = random.Random(seed)
        self._period = period
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(self._chance.uniform(0.5, 1.5) * self._period):
            if time.monotonic() > self._end:
                return
            what = self._chance.choice(VICTIMS)
            with contextlib.suppress(subprocess.CalledProcessError, ProcessLookupError):
                pid = self._pid(what)
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    self.kills[what] += 1

    def _pid(self, what: str) -> int:
        """The process to kill; 0 if there is none now."""
        import psutil

        if what in ("broker", "gateway"):
            programs = self._site.ctl("status")["programs"]
            return int(next((p["pid"] for p in programs if p["name"] == what), 0) or 0)
        ueps = [u["pid"] for u in self._site.ctl("list")["ueps"] if u["state"] == "RUNNING"]
        if not ueps:
            return 0
        pid: int = self._chance.choice(ueps)
        if what == "uep":
            return pid
        try:
            workers = psutil.Process(pid).children()
        except psutil.Error:
            return 0
        return int(self._chance.choice(workers).pid) if workers else 0


def run(site: Site, total: int, seed: int, period: float, patience: float) -> Outcome:
    """The whole storm; ``patience`` is how many seconds the futures have in all.

    The second half of them is calm: a future that is not done then hangs.
    """
    notes = Path(pwd.getpwnam(site.module.PEOPLE[0].account).pw_dir) / site.demo.dir.name
    code = (
        f"{SCRIPT.replace('FILE', notes.name)}\n"
        f"futures, left = storm({total}, {seed}, {patience})\n"
        "print(json.dumps([[ending(*f) for f in futures], left]), flush=True)\n"
        "os._exit(0)\n"
    )
    begun = time.monotonic()
    with Storm(site, seed, period, patience / 2) as storm:
        said: list[Any] = json.loads(site.research(code, timeout=patience + 60).splitlines()[-1])
    endings = [judge.Ending(*e) for e in said[0]]
    verdicts, wrong = judge.judge(endings, judge.Kills(storm.kills, WIDTH))
    ran = notes.read_text().split()
    notes.unlink()
    verdicts["ran"], verdicts["seconds"] = len(ran), round(time.monotonic() - begun)
    return Outcome(verdicts, wrong + judge.run_twice(ran), said[1], storm.kills)


MEMORY = '''
import json, subprocess
def double(n):
    return 2 * n
def resident():
    out = subprocess.run(["mepctl", "list", "--json"], capture_output=True).stdout
    (uep,) = json.loads(out)["ueps"]
    with open(f"/proc/{uep['pid']}/statm") as f:
        return int(f.read().split()[1]) * 4096
def run(ex, count):
    for begin in range(0, count, 1000):
        numbers = range(begin, min(begin + 1000, count))
        assert [f.result(300) for f in [ex.submit(double, n) for n in numbers]] == [
            2 * n for n in numbers]
    return resident()
'''


def memory(site: Site, few: int, many: int) -> tuple[int, int]:
    """Resident bytes of a user endpoint after ``few`` tasks, and after ``many`` in all."""
    code = (
        f"{MEMORY}with executor(x='memory') as ex:\n"
        f"    print(json.dumps([run(ex, {few}), run(ex, {many - few})]))\n"
    )
    first, last = json.loads(site.research(code, timeout=3600))
    return first, last
