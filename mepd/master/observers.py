"""Who listens to what happens: the audit trail and the numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mepd.config.settings import MetricsSection
from mepd.master.audit import Audit
from mepd.master.endpoints import Endpoint
from mepd.master.history import History
from mepd.master.logs import LogWriter
from mepd.master.loop import Loop
from mepd.master.metrics import Metrics, Sources
from mepd.master.table import UepTable
from mepd.master.workers import Worker


class Observers:
    """Keeps the audit trail, and has the log-writer write the metrics' file."""

    def __init__(
        self,
        loop: Loop,
        history: History,
        table: UepTable,
        endpoints: Callable[[], Iterable[Endpoint]],
        workers: Callable[[], Iterable[Worker]],
        log_writer: LogWriter,
        section: Callable[[], MetricsSection],
    ) -> None:
        self._loop = loop
        self._log_writer = log_writer
        self._section = section

        def restarts() -> dict[str, int]:
            return {"log-writer": log_writer.restarts, **{w.name: w.restarts for w in workers()}}

        self.metrics = Metrics(
            Sources(lambda: table, endpoints, restarts, lambda: log_writer.lost)
        )
        history.listen(self.metrics.heard)
        history.listen(Audit().heard)

    def begin(self) -> None:
        """Write the file now, and again and again, by what the configuration says then."""
        section = self._section()
        self._loop.call_later(section.interval, self.begin)  # first: whatever happens
        self._log_writer.publish(
            section.textfile, self.metrics.text() if section.textfile else ""
        )
