"""A private PostgreSQL: a free port, an account of its own, no fsync."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.conftest import free_port, wait_for

ACCOUNT = "postgres"  # Debian's package makes it; the server refuses to run as root


def programs() -> Path | None:
    """The folder of initdb and postgres, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and os.geteuid() == 0 else None


class Postgres:
    """``start`` and ``stop`` as often as needed; ``remove`` at the end."""

    def __init__(self, bin_dir: Path) -> None:
        self._bin = bin_dir
        self.dir = Path(tempfile.mkdtemp(prefix="mepd-pg-"))
        account = pwd.getpwnam(ACCOUNT)
        os.chown(self.dir, account.pw_uid, account.pw_gid)
        self.port = free_port()
        self._server: subprocess.Popen[bytes] | None = None
        data = str(self.dir / "data")
        self._as_account(["initdb", "-D", data, "-A", "trust", "-N", "-E", "UTF8"])

    def _as_account(self, argv: list[str]) -> None:
        argv[0] = str(self._bin / argv[0])
        done = subprocess.run(
            argv, user=ACCOUNT, group=ACCOUNT, extra_groups=[], cwd=self.dir, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{ACCOUNT}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        argv = [self._bin / "postgres", "-D", self.dir / "data", "-p", str(self.port)]
        argv += ["-h", "127.0.0.1", "-k", self.dir, "-c", "fsync=off"]
        with (self.dir / "log").open("ab") as log:
            self._server = subprocess.Popen(
                argv, user=ACCOUNT, group=ACCOUNT, extra_groups=[], cwd=self.dir,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(self._ready, 60, "PostgreSQL")

    def _ready(self) -> bool:
        assert self._server is not None and self._server.poll() is None, self.log()
        argv = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(argv).returncode == 0

    def log(self) -> str:
        return (self.dir / "log").read_text()

    def create(self, name: str) -> str:
        """The URL of a new, empty database."""
        port = str(self.port)
        self._as_account(["createdb", "-h", "127.0.0.1", "-p", port, "-T", "template0", name])
        return self.url(name)

    def stop(self) -> None:
        """At once: sessions are cut off (a "fast" shutdown)."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(30)
            self._server = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
