"""A private Slurm cluster of one node: this machine, on free ports, with a munge of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.conftest import free_port, wait_for

CPUS = 8
"""More than there are: jobs of several people run at once."""
_CONF = """\
ClusterName=mepdtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge.socket
CredType=cred/munge
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
_PROGRAMS = ("/usr/sbin/munged", "/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/bin/sbatch")


def installed() -> bool:
    return os.geteuid() == 0 and all(os.access(p, os.X_OK) for p in _PROGRAMS)


class Cluster:
    """``start`` and ``stop``; ``remove`` at the end. slurm.conf(5), munged(8)."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="mepd-slurm-", dir="/var/lib"))
        self.dir.chmod(0o755)
        for name in ("state", "spool"):
            (self.dir / name).mkdir(mode=0o755)
        self.conf = self.dir / "slurm.conf"
        host = socket.gethostname().partition(".")[0]
        self.conf.write_text(
            _CONF.format(
                host=host, dir=self.dir, ctld=free_port(), slurmd=free_port(), cpus=CPUS
            )
        )
        key = self.dir / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._servers: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """By which Slurm's commands find the cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        place = self.dir
        self._run(
            "/usr/sbin/munged", "--foreground", "--force", f"--socket={place}/munge.socket",
            f"--key-file={place}/munge.key", f"--pid-file={place}/munged.pid",
            f"--log-file={place}/munged.log", f"--seed-file={place}/munged.seed",
        )  # fmt: skip
        wait_for((place / "munge.socket").exists, 20, "munged")
        self._run("/usr/sbin/slurmctld", "-D", "-f", str(self.conf))
        self._run("/usr/sbin/slurmd", "-D", "-f", str(self.conf))
        wait_for(lambda: self.command("sinfo", "--noheader", "--format=%T") == "idle", 60, "Slurm")

    def _run(self, *argv: str) -> None:
        with (self.dir / "log").open("ab") as log:
            self._servers.append(
                subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.environment},
                )
            )  # fmt: skip

    def command(self, *argv: str) -> str:
        """What one of Slurm's commands prints, run as root."""
        done = subprocess.run(
            argv, env={"PATH": "/usr/bin:/bin", **self.environment}, capture_output=True, text=True,
            timeout=30,
        )  # fmt: skip
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """Of each job that is not over, its number and its user."""
        listing = self.command("squeue", "--noheader", "--format=%i %u %T").splitlines()
        rows = [line.split() for line in listing]
        return {job: user for job, user, state in rows if state not in ("COMPLETING", "CANCELLED")}

    def stop(self) -> None:
        for server in reversed(self._servers):
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        self._servers = []

    def remove(self) -> None:
        try:
            self.command("scancel", "--state=RUNNING", "--signal=KILL")
        finally:
            self.stop()
            shutil.rmtree(self.dir, ignore_errors=True)
