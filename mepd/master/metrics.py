"""Numbers for Prometheus, counted from what happens and from what there is."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import mepd
from mepd.master import exposition
from mepd.master.endpoints import Endpoint
from mepd.master.exposition import Counter, Histogram, labels
from mepd.master.history import Entry, Kind
from mepd.master.table import Uep
from mepd.model import Stage

_BOUNDS = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_STAGES = frozenset(stage.name for stage in Stage) | {"LAUNCH", "TIMEOUT", "REFUSED", "REQUEST"}
_REAPS = (("hung", "hung"), ("idle_heartbeats_soft", "soft"), ("idle_heartbeats_hard", "hard"))
OTHER = "other"


@dataclass(frozen=True)
class Sources:
    """Where what is not counted here is looked up."""

    ueps: Callable[[], Iterable[Uep]]
    endpoints: Callable[[], Iterable[Endpoint]]
    restarts: Callable[[], Mapping[str, int]]
    lines_lost: Callable[[], int]


class Metrics:
    """A listener of History's; :meth:`text` is what Prometheus reads."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._began = time.time()
        self._online_once: set[str] = set()
        self.starts = Counter("mepd_starts_total", "User endpoints that became ready.")
        self.failures = Counter(
            "mepd_start_failures_total", "Starts that failed, by the stage of mepd(8)."
        )
        self.durations = Histogram(
            "mepd_start_duration_seconds", "From the fork to the user endpoint's first report.",
            _BOUNDS,
        )  # fmt: skip
        self.ends = Counter("mepd_uep_ends_total", "User endpoints that had run and ended.")
        self.reaps = Counter("mepd_reaps_total", "User endpoints that mepd ended, by reason.")
        self.reconnects = Counter(
            "mepd_broker_reconnects_total", "Links to the broker that came back."
        )

    def heard(self, entry: Entry) -> None:
        """One thing that happened."""
        where = self._endpoint(entry.endpoint)
        if entry.kind is Kind.READY:
            self.starts.add(endpoint=where)
            self.durations.observe(entry.seconds or 0.0, endpoint=where)
        elif entry.kind is Kind.FAILED:
            stage = entry.stage if entry.stage in _STAGES else OTHER
            self.failures.add(endpoint=where, stage=stage)
        elif entry.kind in (Kind.STOPPED, Kind.DIED):
            self.ends.add(endpoint=where, how="normal" if entry.kind is Kind.STOPPED else "died")
        elif entry.kind is Kind.REAPED:
            self.reaps.add(endpoint=where, reason=reap_label(entry.reason))
        elif entry.kind is Kind.ONLINE:
            if entry.endpoint in self._online_once:
                self.reconnects.add(endpoint=where)
            self._online_once.add(entry.endpoint)

    def _endpoint(self, name: str) -> str:
        """A name that is configured, so that nobody makes labels without end."""
        return name if any(e.name == name for e in self._sources.endpoints()) else OTHER

    def text(self) -> str:
        ueps = Tally((u.state.value, u.user or "-") for u in self._sources.ueps())
        restarts = Counter("mepd_worker_restarts_total", "Workers that were started again.")
        for worker, number in self._sources.restarts().items():
            restarts.set(number, worker=worker)
        lost = Counter("mepd_log_lines_lost_total", "Lines that the log-writer did not take.")
        lost.set(self._sources.lines_lost())
        for endpoint in self._sources.endpoints():  # a rate needs a zero to begin with
            for counter in (self.starts, self.reconnects):
                counter.add(0, endpoint=endpoint.name)
        online = {labels(endpoint=e.name): float(e.online) for e in self._sources.endpoints()}
        return exposition.text([
            exposition.gauge("mepd_build_info", "The version, as a label.",
                             {labels(version=mepd.__version__): 1}),
            exposition.gauge("mepd_start_time_seconds", "When mepd started, from 1970.",
                             {(): round(self._began, 3)}),
            exposition.gauge("mepd_endpoint_online", "Whether an endpoint takes requests.", online),
            exposition.gauge(
                "mepd_ueps", "User endpoints, by state and account.",
                {labels(state=s, user=u): n for (s, u), n in ueps.items()},
            ),
            self.starts, self.failures, self.durations, self.ends, self.reaps, self.reconnects,
            restarts, lost,
        ])  # fmt: skip


def reap_label(reason: str) -> str:
    """hung, soft or hard; asked where an administrator's mepctl reap was the reason."""
    return next((label for sign, label in _REAPS if sign in reason), "asked")
