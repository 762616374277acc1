"""Parsl's executors with two things added: tasks that wait here, and names of jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parsl.executors.errors import ScalingFailed
from parsl.executors.high_throughput.executor import HighThroughputExecutor
from parsl.executors.high_throughput.mpi_executor import MPIExecutor


class _Additions:
    """``waiting`` counts the tasks that the UEP keeps until a worker is free; blocks are
    added for them too. ``token`` is this start's own, within the 15 characters of a name
    that every batch system keeps. ``launched(job_id, name)`` is told of every job."""

    waiting = 0
    token = ""
    launched: Callable[[str, str], None] | None = None

    def outstanding(self: Any) -> int:
        return len(self.tasks) + int(self.waiting)

    def _launch_block(self: Any, block_id: str) -> Any:
        name = f"parsl.{self.token}.{self.label}.block-{block_id}"
        job_id = self.provider.submit(self._get_launch_command(block_id), 1, name)
        if not job_id:
            raise ScalingFailed(self, "the provider returned no job id")
        if self.launched is not None:
            self.launched(str(job_id), name)
        return job_id


class PoolExecutor(_Additions, HighThroughputExecutor):  # type: ignore[misc]
    """GlobusComputeEngine's."""


class MpiPoolExecutor(_Additions, MPIExecutor):  # type: ignore[misc]
    """GlobusMPIEngine's."""


CLASSES = (PoolExecutor, MpiPoolExecutor)
