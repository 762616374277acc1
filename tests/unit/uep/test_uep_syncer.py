"""The syncer: many requests, few syncs, each answered by one that began after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mepd.uep.amqp import IOLoop
from mepd.uep.syncer import Syncer


@pytest.fixture
def loop() -> Iterator[IOLoop]:
    made = IOLoop()
    made.call_later(20, made.stop)
    yield made
    made.close()


class Disk:
    """A sync that waits for the test; ``error`` is raised once."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: OSError | None = None

    def sync(self) -> None:
        self.begun.release()
        assert self.go.acquire(timeout=20)
        if self.error is not None:
            error, self.error = self.error, None
            raise error


def test_requests_during_a_sync_share_the_next(loop: IOLoop) -> None:
    disk, done = Disk(), []
    syncer = Syncer(loop, disk.sync, lambda _e: None)
    syncer.request(lambda: done.append("a") or loop.stop())  # type: ignore[func-returns-value]
    assert disk.begun.acquire(timeout=20)
    for name in "bc":
        syncer.request(lambda name=name: done.append(name))  # type: ignore[misc]
    syncer.request(loop.stop)
    disk.go.release()
    loop.start()
    assert done == ["a"]
    assert disk.begun.acquire(timeout=20)
    disk.go.release()
    loop.start()
    assert done == ["a", "b", "c"]
    assert not disk.begun.acquire(timeout=0.1)


def test_a_failure_is_told_and_the_work_goes_on(loop: IOLoop) -> None:
    disk, told = Disk(), []
    disk.error = OSError(28, "No space left on device")
    syncer = Syncer(loop, disk.sync, told.append)
    disk.go.release()
    syncer.request(loop.stop)
    loop.start()
    assert [e.strerror for e in told] == ["No space left on device"]
    disk.go.release()
    syncer.request(loop.stop)
    loop.start()
    assert len(told) == 1
