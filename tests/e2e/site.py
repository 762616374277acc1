"""A whole site in one folder: mepd with its broker and gateway, and two people.

It is the demo's own code that makes it, so that what the README shows is what is tested.
"""

from __future__ import annotations

import fcntl
import importlib.machinery
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.conftest import free_port, is_gone, wait_for

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_demo() -> ModuleType:
    """scripts/demo as a module."""
    loader = importlib.machinery.SourceFileLoader("mepd_demo", str(SCRIPTS / "demo"))
    spec = importlib.util.spec_from_loader("mepd_demo", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mepd_demo"] = module
    loader.exec_module(module)
    return module


class Site:
    """One running mepd. ``port`` is 5000 where that is free, for stock clients.

    With ``apart`` it may run beside another: it leaves port 5000 and the other's accounts.
    """

    def __init__(self, directory: Path, apart: str = "") -> None:
        self.module = load_demo()
        if apart:
            self.module.PEOPLE = tuple(
                replace(p, username=f"{apart}{p.username}", account=f"mepd-{apart}{p.account[5:]}")
                for p in self.module.PEOPLE
            )
        self.prefix = Path(sys.prefix)
        self.demo: Any = self.module.Demo(directory, self.prefix)
        wanted: int = self.module.SDK_PORT
        self.port = wanted if not apart and self.module.port_is_free(wanted) else free_port()

    @property
    def stock(self) -> bool:
        """Whether a stock client finds the gateway by the environment alone."""
        return self.port == self.module.SDK_PORT

    def prepare(self) -> None:
        with open(Path(tempfile.gettempdir()) / "mepd-test-accounts.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.module.make_accounts()
        self.demo.prepare(self.port)

    def start(self) -> None:
        self.demo.start()
        self.demo.write_scripts(self.port)

    @property
    def pid(self) -> int:
        pid = self.demo.master_pid()
        assert pid is not None, self.log()
        return int(pid)

    def ctl(self, *words: str) -> Any:
        """mepctl WORDS --json, parsed."""
        out = subprocess.run(
            [self.prefix / "bin/mepctl", "-c", self.demo.conf, *words, "--json"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(out.stdout)

    def log(self) -> str:
        try:
            return str((self.demo.dir / "log/mepd.log").read_text())
        except OSError:
            return ""

    def logged(self, text: str, timeout: float = 20) -> None:
        wait_for(lambda: text in self.log(), timeout, f"{text!r} in the log")

    def environment(self, person: int = 1) -> dict[str, str]:
        """What env.sh (or env2.sh) exports."""
        name = "env.sh" if person == 1 else f"env{person}.sh"
        script = f'set -a; . "{self.demo.dir / name}"; exec env -0'
        out = subprocess.run(
            ["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin", "HOME": str(self.demo.dir)},
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        pairs = (item.split("=", 1) for item in out.decode().split("\0") if "=" in item)
        return dict(pairs)

    def research(self, code: str, person: int = 1, timeout: float = 120) -> str:
        """Run a researcher's script; ``ex`` is an Executor of the demo's endpoint.

        The script says ``with executor(...) as ex``. Returns what it prints.
        """
        script = self.begin(code, person)
        try:
            out, errors = script.communicate(timeout=timeout)
        finally:
            script.kill()
        assert script.returncode == 0, f"{out}\n{errors[-4000:]}\n{self.log()[-3000:]}"
        return out

    def begin(self, code: str, person: int = 1) -> subprocess.Popen[str]:
        """The same, not waited for; what it prints and reads is the caller's to see to."""
        client = "" if self.stock else "client=client(E['MEPD_URL'], E['MEPD_TOKEN']), "
        head = (
            "import os, sys\nfrom globus_compute_sdk import Client, Executor\n"
            "from mepd.sdk import client\nE = os.environ\n"
            "def executor(**config):\n"
            f"    return Executor(endpoint_id=E['MEPD_ENDPOINT_ID'], {client}"
            "user_endpoint_config=config or None)\n"
        )
        script = self.demo.dir / f"script{person}.py"
        script.write_text(head + code)
        return subprocess.Popen(
            [self.prefix / "bin/python", "-I", script], env=self.environment(person), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def family(self) -> list[int]:
        """The pids of the master and all its descendants."""
        import psutil

        master = psutil.Process(self.pid)
        return [master.pid, *(p.pid for p in master.children(recursive=True))]

    def stop(self) -> None:
        self.demo.stop()

    def kill(self) -> list[int]:
        """SIGKILL to the master; the pids that it had below it."""
        family = self.family()
        os.kill(family[0], signal.SIGKILL)
        wait_for(lambda: is_gone(family[0]), 5)
        return family[1:]
