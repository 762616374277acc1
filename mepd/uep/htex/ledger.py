"""The blocks of this UEP on disk, so that those of a killed UEP are cancelled by the next.

A job id may be another's by then: a job is ours if it has the name that we gave it, a
process if it was created when ours was, in the same boot of the same machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mepd.posix import process
from mepd.uep import files

log = logging.getLogger(__name__)

FILE = "blocks.json"
SIZE_MAX = 1024 * 1024
PATIENCE = 30.0
"""Seconds for a command of the batch system."""
LOCAL = "LocalProvider"
NAME_KEPT = 15
"""Characters of a job's name that every batch system shows."""
_NO_SUCH_JOB = re.compile(r"(?i)invalid job id|unknown job|not found|not exist|has finished")
_JOB_ID = re.compile(r"[A-Za-z0-9][^\s\x00-\x1f]{0,200}")
_CLUSTER = re.compile(r"[\w.,-]{0,200}")


@dataclass(frozen=True)
class Block:
    """``created`` is a local process's creation time in the boot ``boot``; ``cluster`` is
    Slurm's cluster."""

    provider: str
    job_id: str
    name: str
    created: float = 0.0
    boot: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Commands:
    """How to see the names of jobs by id, and how to cancel one; ``field`` is what stands
    before the name in the output, if anything does."""

    show: tuple[str, ...]
    cancel: tuple[str, ...]
    field: str = ""


ID = "ID"
"""Stands for the job's id in the commands."""
COMMANDS = {
    "SlurmProvider": Commands(
        ("squeue", "--noheader", "--format=%j", "--jobs", ID), ("scancel", ID)
    ),
    "PBSProProvider": Commands(("qstat", "-f", ID), ("qdel", ID), "Job_Name ="),
    "TorqueProvider": Commands(("qstat", "-f", ID), ("qdel", ID), "Job_Name ="),
    "GridEngineProvider": Commands(("qstat", "-j", ID), ("qdel", ID), "job_name:"),
    "LSFProvider": Commands(("bjobs", "-noheader", "-o", "job_name", ID), ("bkill", ID)),
    # a job has no name there; its output file has
    "CondorProvider": Commands(("condor_q", ID, "-af", "Out"), ("condor_rm", ID)),
}


def command(base: Sequence[str], block: Block) -> list[str]:
    """``base`` for one job."""
    where = [f"--clusters={block.cluster}"] if block.cluster else []
    return [base[0], *where, *(block.job_id if word == ID else word for word in base[1:])]


def is_ours(block: Block, output: str) -> bool:
    """Whether what a batch system shows of a job is the job of that name.

    Parsl adds to names, and some batch systems cut them off; the start is unique.
    """
    field, start = COMMANDS[block.provider].field, block.name[:NAME_KEPT]
    return any(
        start in line for line in output.splitlines() if line.strip().startswith(field)
    )


def _is_sound(block: Block) -> bool:
    texts = (block.provider, block.job_id, block.name, block.boot, block.cluster)
    return (
        all(type(t) is str for t in texts)
        and type(block.created) in (int, float)
        and len(block.name) >= NAME_KEPT
        and (block.provider != LOCAL or block.job_id.isdecimal())
        and _JOB_ID.fullmatch(block.job_id) is not None
        and _CLUSTER.fullmatch(block.cluster) is not None
    )


def parse(data: bytes) -> list[Block]:
    """The blocks in a file's bytes; what cannot be understood is left out."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        found = [Block(**entry) for entry in json.loads(data)["blocks"]]
        return [b for b in found if _is_sound(b)]
    return []


def _run(argv: list[str]) -> tuple[bool, str]:
    """Whether a command went well, and its output."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        return False, str(e)
    return done.returncode == 0, done.stdout if done.returncode == 0 else done.stderr


def _cancel_job(block: Block) -> bool:
    commands = COMMANDS[block.provider]
    well, output = _run(command(commands.show, block))
    if not well:
        gone = _NO_SUCH_JOB.search(output) is not None
        if not gone:
            log.error("job %s cannot be seen: %s", block.job_id, output.strip()[:500])
        return gone
    if not is_ours(block, output):
        return True
    well, output = _run(command(commands.cancel, block))
    if not well:
        log.error("cannot cancel job %s: %s", block.job_id, output.strip()[:500])
    return well


def _kill_local(block: Block) -> bool:
    if block.boot and block.boot == boot_id():
        process.kill_tree(process.ProcessId(int(block.job_id), block.created))
    return True


def boot_id() -> str:
    """Of this machine and this boot, see random(4); empty if it cannot be known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Ledger:
    """The file in the UEP's folder. A disk that is full costs the next start its knowledge,
    not this one its blocks."""

    def __init__(self, folder: Path, cancel_other: Callable[[Block], bool]) -> None:
        """``cancel_other`` serves providers that have no commands."""
        self._path = folder / FILE
        self._cancel_other = cancel_other
        self._lock = threading.Lock()
        self._blocks: dict[str, Block] = {}
        self._leftovers = self._read()

    def _read(self) -> list[Block]:
        try:
            fd = files.open_regular(self._path, os.O_RDONLY)
        except OSError:
            return []
        with open(fd, "rb") as f:
            return parse(f.read(SIZE_MAX))

    @property
    def leftovers(self) -> int:
        """How many blocks of earlier lives are listed."""
        return len(self._leftovers)

    def cancel_leftovers(self) -> None:
        """Cancel what an earlier life of this UEP left; what fails stays for another time."""
        failed = [block for block in self._leftovers if not self._cancel(block)]
        with self._lock:
            self._leftovers = failed
            self._write()

    def _cancel(self, block: Block) -> bool:
        log.warning("job %s was left by an earlier start; cancelling it if ours", block.job_id)
        if block.provider == LOCAL:
            return _kill_local(block)
        if block.provider in COMMANDS:
            return _cancel_job(block)
        return self._cancel_other(block)

    def add(self, block: Block) -> None:
        """A block was launched."""
        if block.provider == LOCAL:
            known = process.identify(int(block.job_id)) if block.job_id.isdigit() else None
            if known is not None:
                block = replace(block, created=known.created, boot=boot_id())
        with self._lock:
            self._blocks[block.job_id] = block
            self._write()

    def keep(self, job_ids: Iterable[str]) -> None:
        """All other blocks have ended."""
        alive = set(job_ids)
        with self._lock:
            gone = [job_id for job_id in self._blocks if job_id not in alive]
            for job_id in gone:
                del self._blocks[job_id]
            if gone:
                self._write()

    def _write(self) -> None:
        blocks = [asdict(b) for b in (*self._leftovers, *self._blocks.values())]
        try:
            files.replace(self._path, json.dumps({"version": 1, "blocks": blocks}).encode())
        except OSError as e:
            log.error("%s cannot be written: %s", self._path, e.strerror)
