"""Three commands of a batch system that runs jobs as processes of nobody's.

For what a real cluster does not do on demand: forgetting a job, and giving its number to
another's. A job is a file with its name and pid; its processes are killed by scancel. They
are known by a variable of their environment: the pid of a job that has ended may be another's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

JOB = "MEPD_TEST_JOB"
_ITS = 'grep -lzx "{JOB}={state}/$id" /proc/[0-9]*/environ 2>/dev/null'

_SBATCH = """#!/bin/sh
# a job is in a session of its own, and a child of nobody
script=$1
number=$(ls "{jobs}" | wc -l)
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
{JOB}="{state}/$number"; export {JOB}
setsid sh -c 'echo $$ > "$0.pid"; exec bash "$1" >> "$1.stdout" 2>> "$1.stderr"' \\
    "{state}/$number" "$script" </dev/null >/dev/null 2>&1 &
echo "$name" > "{jobs}/$number"
echo "Submitted batch job $number"
"""
_SQUEUE = """#!/bin/sh
# --noheader --format=... --job(s) IDS: by name for us, by id and state for Parsl
for word; do ids=$word; done
found=
for id in $(echo "$ids" | tr , ' '); do
    [ -e "{jobs}/$id" ] || continue
    [ -e "{state}/$id.stays" ] || [ "$({its})" ] || continue
    case "$*" in
        *%j*) cat "{jobs}/$id" ;;
        *) echo "$id R" ;;
    esac
    found=yes
done
[ $found ] || {{ echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }}
"""
_SCANCEL = """#!/bin/sh
for id; do
    echo "$id" >> "{log}"
    while its=$({its}); [ "$its" ]; do kill -9 $(echo "$its" | cut -d/ -f3); done
done
"""


class FakeSlurm:
    """``path`` goes first into PATH."""

    def __init__(self, folder: Path) -> None:
        self.path, self.jobs, self.state = folder / "bin", folder / "jobs", folder / "state"
        self.log = folder / "cancelled"
        for made in (self.path, self.jobs, self.state):
            made.mkdir()
        words = {"jobs": self.jobs, "state": self.state, "log": self.log, "JOB": JOB}
        words["its"] = _ITS.format(**words)
        sacct = "#!/bin/sh\nexit 1\n"
        for name, text in (
            ("sbatch", _SBATCH.format(**words)),
            ("squeue", _SQUEUE.format(**words)),
            ("scancel", _SCANCEL.format(**words)),
            ("sacct", sacct),
        ):
            (self.path / name).write_text(text)
            (self.path / name).chmod(0o755)

    def cancelled(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def pids(self) -> list[int]:
        return [int(p.read_text()) for p in self.state.glob("*.pid")]

    def processes(self) -> Iterator[psutil.Process]:
        """What is left of its jobs."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(JOB, "").startswith(f"{self.state}/"):
                    yield process

    def end(self) -> None:
        while found := list(self.processes()):
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=5)
