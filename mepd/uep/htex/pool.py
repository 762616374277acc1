"""The pool of a block: Parsl's manager, with workers of the UEP's own kind.

Parsl's manager finds the interchange, registers, beats, drains and schedules MPI tasks;
its workers are replaced, since the death of one is noticed late there, and can hold up
the others. Started by the script of ship.py, with Parsl's own arguments.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from mepd.uep.htex import pinning
from mepd.uep.htex.lean import import_little
from mepd.uep.htex.leaving import take_leave
from mepd.uep.htex.slot import Slot, SlotTask, WorkerPlan
from mepd.uep.worker import set_title

import_little()

from parsl.executors.high_throughput import process_worker_pool as stock  # noqa: E402
from parsl.serialize import serialize  # noqa: E402

log = logging.getLogger("mepd.uep.htex.pool")

LAST_WORDS, ALONE = 5.0, 1.5
"""Seconds for the news of lost tasks to reach the interchange; where the job's script has
gone, the interchange may have, too."""
TOLD_TO_END = (
    "WorkerLost: the workers were told to end while this task was theirs, as when a batch"
    " system cancels a job or its time is over"
)


class _Counter:
    """Stands for a multiprocessing.Value that one process uses."""

    def __init__(self, _kind: str, value: int) -> None:
        self.value = value
        self._lock = threading.Lock()

    def get_lock(self) -> threading.Lock:
        return self._lock


class _OneProcess:
    """Stands for multiprocessing's context: queues and counters between threads."""

    Queue = queue.Queue
    Value = _Counter
    dict = dict

    def Manager(self) -> _OneProcess:
        return self

    def cpu_count(self) -> int:
        return len(os.sched_getaffinity(0))


def _gpus() -> int | None:
    """How many NVIDIA GPUs this node has; None if it cannot be known."""
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return len(found.stdout.splitlines()) if found.returncode == 0 else None


class Pool(stock.Manager):  # type: ignore[misc]
    """``settings`` is what the workers are set up with, see mepd.uep.worker."""

    def __init__(self, settings: dict[str, Any], uid: str, **arguments: Any) -> None:
        # The probe for an address and the connection that follows need names of their own:
        # while the interchange has not seen the end of the first, it ignores a second of
        # that name, and the pool would wait for its answer without end.
        super().__init__(uid=f"{uid}-probe", **arguments)
        self.uid = uid
        self._settings = settings
        self._slots: list[Slot] = []
        self._failure = ""

    def start(self) -> None:
        """Serve until the interchange says the end, or is gone. Raises RuntimeError."""
        bound = threading.Event()
        signal.signal(signal.SIGTERM, self._on_stop)
        self._slots = [self._slot(rank) for rank in range(self.worker_count)]
        for target, arguments in (
            (self.interchange_communicator, (bound,)),
            (self.ferry_result, (bound,)),
        ):
            threading.Thread(target=target, args=arguments, daemon=True).start()
        for slot in self._slots:
            slot.start()
        parent = os.getppid()
        while not self._stop_event.wait(0.5):  # a wait without end would defer signals
            if os.getppid() != parent:
                # A batch system may end the job's script alone; where it does not hold the
                # job's processes together, nobody would end this one.
                parent = os.getppid()
                self._leave(ALONE)
        self._kill()
        if self._failure:
            raise RuntimeError(self._failure)

    def _slot(self, rank: int) -> Slot:
        count, block = self.worker_count, str(self.block_id)
        accelerator = self.available_accelerators[rank] if self.accelerators_available else None
        cores = pinning.cores(self.cpu_affinity, list(os.sched_getaffinity(0)), rank, count)
        environment = {
            "PARSL_WORKER_RANK": str(rank),
            "PARSL_WORKER_COUNT": str(count),
            "PARSL_WORKER_POOL_ID": str(self.uid),
            "PARSL_WORKER_BLOCK_ID": block,
            **pinning.core_variables(cores),
            **pinning.accelerator_variables(accelerator, count, _gpus() if accelerator else None),
        }
        plan = WorkerPlan(self._settings, environment, tuple(cores))
        return Slot(plan, self._take, self._done, self._lost, self._unable)

    def _take(self) -> SlotTask:
        request = self.pending_task_queue.get()
        context = request["context"]
        mpi: dict[str, str] = {}
        resources = context.get("resource_spec") or {}
        if self.enable_mpi_mode:
            mpi = {f"PARSL_{k}".upper(): str(v) for k, v in resources.items()}
            nodes = resources.get("MPI_NODELIST")
            if nodes:
                mpi.update(
                    stock.compose_all(
                        self.mpi_launcher, resource_spec=resources, node_hostnames=nodes.split(",")
                    )
                )
        mine = context["mepd"]
        return SlotTask(
            request["task_id"], mine["id"], tuple(mine["serializers"]), request["buffer"], mpi
        )

    def _answer(self, task: SlotTask, value: Any) -> None:
        message = {
            "type": "result",
            "task_id": task.number,
            "result": serialize(value, buffer_threshold=sys.maxsize),
        }
        self.pending_result_queue.put(pickle.dumps(message))

    def _done(self, task: SlotTask, packed: bytes) -> None:
        self._answer(task, packed)

    def _lost(self, task: SlotTask, text: str) -> None:
        self._answer(task, {"lost": text})

    def _unable(self, text: str) -> None:
        self._failure = text
        self._stop_event.set()

    def _on_stop(self, *_: object) -> None:
        """SIGTERM: say what is lost and end; the batch system waits a little."""
        self._leave(LAST_WORDS)

    def _leave(self, patience: float) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=self._give_up, args=(patience,), daemon=True).start()

    def _give_up(self, patience: float) -> None:
        log.warning("told to end")
        heard = take_leave(
            # the interchange forgets a pool that drains and has no task, and says so
            lambda: self.pending_result_queue.put(pickle.dumps({"type": "drain"})),
            self._held,
            lambda task: self._lost(task, TOLD_TO_END),
            self._stop_event,
            patience,
        )
        self._kill()
        # where the provider looks at exit codes: a block that ended in order is no failure
        os._exit(os.EX_OK if heard else 128 + signal.SIGTERM)

    def _held(self) -> list[SlotTask]:
        held = [task for slot in self._slots if (task := slot.task) is not None]
        with contextlib.suppress(queue.Empty):
            while True:
                request = self.pending_task_queue.get_nowait()
                mine = request["context"]["mepd"]
                held.append(SlotTask(request["task_id"], mine["id"], (), b""))
        return held

    def _kill(self) -> None:
        for slot in self._slots:
            slot.kill()


def _none(text: str | None) -> str | None:
    return None if text in (None, "None") else text


def manager_arguments(args: Any) -> dict[str, Any]:
    """What Parsl's manager is made with, of its parsed command line."""
    most = float(args.max_workers_per_node)
    memory, drain = _none(args.mem_per_worker), _none(args.drain_period)
    found: dict[str, Any] = {
        "port": args.port,
        "addresses": args.addresses,
        "address_probe_timeout": int(args.address_probe_timeout),
        "uid": args.uid,
        "block_id": args.block_id,
        "cores_per_worker": float(args.cores_per_worker),
        "mem_per_worker": None if memory is None else float(memory),
        "max_workers_per_node": most if most == float("inf") else int(most),
        "prefetch_capacity": int(args.prefetch_capacity),
        "heartbeat_threshold": int(args.hb_threshold),
        "heartbeat_period": int(args.hb_period),
        "drain_period": None if drain is None else int(drain),
        "poll_period": int(args.poll),
        "cpu_affinity": args.cpu_affinity,
        "enable_mpi_mode": args.enable_mpi_mode,
        "mpi_launcher": args.mpi_launcher,
        "available_accelerators": args.available_accelerators,
        "cert_dir": _none(args.cert_dir),
        "log_config": None,
    }
    known = inspect.signature(stock.Manager.__init__).parameters
    return {k: v for k, v in found.items() if k in known}


def main(argv: list[str]) -> int:
    settings = json.loads(Path(argv[1]).read_text())
    args = stock.get_arg_parser().parse_args(argv[2:])
    set_title(settings.pop("pool_title"))
    folder = Path(args.logdir) / f"block-{args.block_id}" / args.uid
    folder.mkdir(parents=True, exist_ok=True)
    level = logging.DEBUG if args.debug else logging.INFO
    stock.set_file_logger(str(folder / "manager.log"), level=level)
    stock.set_file_logger(str(folder / "manager.log"), name="mepd", level=level)
    log.info("Python %s, arguments %s", sys.version.split()[0], argv[2:])
    stock.SpawnContext = _OneProcess()
    try:
        Pool(settings, **manager_arguments(args)).start()
    except Exception as e:
        log.critical("ending", exc_info=True)
        print(f"mepd: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        # threads of the pool may be in the middle of anything
        os._exit(os.EX_SOFTWARE)
    return os.EX_OK


if __name__ == "__main__":
    code = main(sys.argv)
    logging.shutdown()
    os._exit(code)
