"""Live changes of endpoints: read by the master, checked by the watcher, swapped as a whole.

The watcher, which has no rights, parses first: a file that crashes or stalls a parser costs
the watcher, not the UEPs. (Of config.yaml the master must read before which other files it
names; that is bounded in size.) One folder is checked at a time, so that it is known whose
files ended the watcher.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from mepd.config import changes, folder, watchplan
from mepd.config import endpoint as endpoint_config
from mepd.errors import ConfigError
from mepd.master.endpoints import Endpoint
from mepd.wire.worker import Validate, Validated

log = logging.getLogger(__name__)

_DEATHS_MAX = 2
_ERROR_MAX = 2000
_BOMB = "config-watcher ended while it checked the files"

Told = Callable[[str, str, str], None]
"""Called once with the endpoint's name, what changed, and what is wrong."""


@dataclass(frozen=True)
class _Job:
    token: str
    endpoint: Endpoint
    files: dict[str, str]
    deaths: int = 0
    withdrawn: bool = False
    in_force: bool = False
    preview: Told | None = None

    @property
    def key(self) -> str:
        """A preview takes no reread's place."""
        return f"preview of {self.endpoint.name}" if self.preview else self.endpoint.name


class Reloader:
    """Re-reads endpoints' folders; ``swapped`` is called with each endpoint that changed."""

    def __init__(
        self,
        send: Callable[[Any], bool],
        swapped: Callable[[Endpoint], None],
        privileged: bool,
    ) -> None:
        """``send`` gives a message to the watcher; False if there is none."""
        self._send = send
        self._swapped = swapped
        self._privileged = privileged
        self._tokens = itertools.count(1)
        self._waiting: dict[str, _Job] = {}
        self._checking: _Job | None = None
        self._seen: dict[str, watchplan.Signature] = {}
        self._unreadable: set[str] = set()
        self._faulty: set[str] = set()
        self._told: dict[str, list[Told]] = {}

    @property
    def is_busy(self) -> bool:
        return self._checking is not None or bool(self._waiting)

    def reread(self, endpoint: Endpoint, told: Told | None = None) -> None:
        """Read the folder again and, if it changed, have it checked.

        ``told`` hears the outcome, now or later.
        """
        unexamined = self._cancel(endpoint)
        if told is not None:
            self._told.setdefault(endpoint.name, []).append(told)
        self._seen[endpoint.name] = _signature(endpoint)
        try:
            files = folder.read(endpoint.snapshot.directory, self._privileged)
        except (ConfigError, OSError) as e:
            self._refused(endpoint, str(e))
            self._unreadable.add(endpoint.name)
            return
        same = endpoint_config.versions(files) == endpoint.files.versions
        if same and endpoint.name not in self._faulty and not unexamined:
            self._unchanged(endpoint)
        else:
            self._queue(endpoint, files, same)

    def examine(self, endpoint: Endpoint) -> None:
        """Have the watcher look at an endpoint that is served already, unlike those that
        mepd was started with. What is wrong is said; there is nothing older to keep."""
        try:
            self._queue(
                endpoint, folder.read(endpoint.snapshot.directory, self._privileged), True
            )
        except (ConfigError, OSError) as e:
            self._refused(endpoint, str(e))
            self._unreadable.add(endpoint.name)

    def _queue(self, endpoint: Endpoint, files: dict[str, str], in_force: bool) -> None:
        token = f"v{next(self._tokens)}"
        self._waiting[endpoint.name] = _Job(token, endpoint, files, in_force=in_force)
        self._next()

    def preview(self, endpoint: Endpoint, told: Told) -> None:
        """What a reread would change; nothing is put in force."""
        try:
            files = folder.read(endpoint.snapshot.directory, self._privileged)
        except (ConfigError, OSError) as e:
            told(endpoint.name, "", str(e))
            return
        if endpoint_config.versions(files) == endpoint.files.versions:
            told(endpoint.name, "", "")
            return
        job = _Job(f"v{next(self._tokens)}", endpoint, files, preview=told)
        if job.key in self._waiting:
            told(endpoint.name, "", "asked for twice")
            return
        self._waiting[job.key] = job
        self._next()

    def _previewed(self, job: _Job, told: Told, error: str) -> None:
        endpoint, change = job.endpoint, ""
        try:
            if not error:
                old = endpoint.snapshot
                new = folder.parse(old.name, old.directory, job.files, self._privileged)
                change = changes.of_endpoint(old, new)
        except (ConfigError, OSError) as e:
            error = str(e)
        told(endpoint.name, change, error)

    def _tell(self, name: str, change: str, error: str) -> None:
        for told in self._told.pop(name, ()):
            told(name, change, error)

    def reread_changed(self, endpoints: Iterable[Endpoint], paths: list[str]) -> None:
        """Re-read the endpoints whose files may be among ``paths``."""
        for endpoint in endpoints:
            plan = watchplan.plan_for(watchplan.endpoint_paths(endpoint.snapshot))
            if any(plan.concerns(path) for path in paths):
                self.reread(endpoint)

    def poll(self, endpoints: Iterable[Endpoint]) -> None:
        """Re-read those that look otherwise than when they were last read.

        And those that could not be read then, be it for what is not theirs, such as the
        mode of a folder above.
        """
        for endpoint in endpoints:
            changed = self._seen.get(endpoint.name) != _signature(endpoint)
            if changed or endpoint.name in self._unreadable:
                self.reread(endpoint)

    def validated(self, answer: Validated) -> bool:
        """The watcher's answer; False if it was asked nothing of the kind."""
        job = self._checking
        if job is None or job.token != answer.token:
            return False
        self._checking = None
        error = answer.error[:_ERROR_MAX]
        if job.preview is not None:
            self._previewed(job, job.preview, error)
        elif not job.withdrawn:
            self._judge(job, error)
        self._next()
        return True

    def _judge(self, job: _Job, error: str) -> None:
        self._faulty.discard(job.endpoint.name)
        if error:
            if job.in_force:
                self._faulty.add(job.endpoint.name)
            self._refused(job.endpoint, error)
        elif job.in_force:
            self._unchanged(job.endpoint)
        else:
            self._swap(job)

    def forget(self, on_purpose: bool) -> None:
        """The watcher is gone, and with it its answer; files that end it are refused."""
        job, self._checking = self._checking, None
        if job is None or job.withdrawn:
            return
        job = job if on_purpose else replace(job, deaths=job.deaths + 1)
        if job.deaths < _DEATHS_MAX:
            self._waiting[job.key] = job
        elif job.preview is not None:
            job.preview(job.endpoint.name, "", _BOMB)
        else:
            self._refused(job.endpoint, _BOMB)

    def resume(self) -> None:
        """There is a watcher again."""
        self._next()

    def drop(self, endpoint: Endpoint) -> None:
        """The endpoint is gone, or another has its name."""
        self._cancel(endpoint)
        self._seen.pop(endpoint.name, None)
        self._unreadable.discard(endpoint.name)
        self._faulty.discard(endpoint.name)
        self._tell(endpoint.name, "", "no longer served")

    def _cancel(self, endpoint: Endpoint) -> bool:
        """What was read before is out of date.

        Returns whether that was in force already, and so is yet to be examined.
        """
        waiting = self._waiting.pop(endpoint.name, None)
        self._unreadable.discard(endpoint.name)
        checked = self._checking
        if checked is not None and checked.endpoint is endpoint and checked.preview is None:
            self._checking = replace(checked, withdrawn=True)
            waiting = waiting or checked
        return waiting is not None and waiting.in_force

    def _next(self) -> None:
        if self._checking is not None or not self._waiting:
            return
        job = next(iter(self._waiting.values()))
        if self._send(Validate(job.token, job.endpoint.name, job.files)):
            del self._waiting[job.key]
            self._checking = job

    def _swap(self, job: _Job) -> None:
        endpoint, old = job.endpoint, job.endpoint.snapshot
        try:
            new = folder.parse(old.name, old.directory, job.files, self._privileged)
        except (ConfigError, OSError) as e:
            self._refused(endpoint, str(e))
            self._unreadable.add(endpoint.name)
            return
        endpoint.snapshot = folder.accept(new, self._privileged)
        endpoint.files.accept(new.versions)
        change = changes.of_endpoint(old, new)
        log.info(
            "Configuration of endpoint %s changed: %s; in force from the next start",
            old.name, change,
        )  # fmt: skip
        self._tell(old.name, change, "")
        self._seen.pop(endpoint.name, None)  # other files may count now
        self._swapped(endpoint)

    def _unchanged(self, endpoint: Endpoint) -> None:
        if endpoint.files.error:
            log.info("Configuration of endpoint %s is again what is in force", endpoint.name)
            endpoint.files.accept(endpoint.files.versions)
        self._tell(endpoint.name, "", "")

    def _refused(self, endpoint: Endpoint, reason: str) -> None:
        self._tell(endpoint.name, "", reason)
        if not endpoint.files.refuse(reason, endpoint_config.CONFIG, endpoint_config.KNOWN):
            return
        if endpoint.name in self._faulty:
            log.error("Configuration of endpoint %s is faulty -- %s", endpoint.name, reason)
        else:
            log.error(
                "Unable to update the configuration of endpoint %s -- %s; the previous one"
                " remains in force", endpoint.name, reason,
            )  # fmt: skip


def _signature(endpoint: Endpoint) -> watchplan.Signature:
    return watchplan.signature(watchplan.endpoint_paths(endpoint.snapshot))
