"""Three commands of a batch system that runs jobs as processes of nobody's.

For what a real cluster does not do on demand: forgetting a job, and giving its number to
another's. A job is a file with its name and pid; its processes are killed by scancel.
"""

from __future__ import annotations

from pathlib import Path

_SBATCH = """#!/bin/sh
# a job is in a session of its own, and a child of nobody
script=$1
number=$(ls "{jobs}" | wc -l)
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
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
    [ -e "{state}/$id.stays" ] || kill -0 -$(cat "{state}/$id.pid") 2>/dev/null || continue
    case "$*" in
        *%j*) cat "{jobs}/$id" ;;
        *) echo "$id R" ;;
    esac
    found=yes
done
[ $found ] || {{ echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }}
"""
_SCANCEL = """#!/bin/sh
for id; do echo "$id" >> "{log}"; kill -9 -$(cat "{state}/$id.pid"); done
"""


class FakeSlurm:
    """``path`` goes first into PATH."""

    def __init__(self, folder: Path) -> None:
        self.path, self.jobs, self.state = folder / "bin", folder / "jobs", folder / "state"
        self.log = folder / "cancelled"
        for made in (self.path, self.jobs, self.state):
            made.mkdir()
        words = {"jobs": self.jobs, "state": self.state, "log": self.log}
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
