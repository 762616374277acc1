"""A1: mepd, its consumer and its UEPs under SIGKILL, with a broker that stays."""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from mepd_fixtures import Mepd
from rabbit import Rabbit

from mepd.master.decisions import STABLE_AFTER
from mepd.wire import message
from tests.conftest import is_gone, wait_for
from tests.figures import FULL, figure


def alive(names: list[str]) -> Counter[str]:
    """How many processes run as each of these UEPs."""
    found: Counter[str] = Counter()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        found.update(set(words) & set(names) if "start" in words else ())
    return found


@pytest.mark.figures
def test_A1_sigkill_of_the_consumer_loses_and_doubles_nothing(mepd: Mepd) -> None:
    """The UEPs stay, so each start runs exactly once however often the consumer dies."""
    mepd.start()
    chance = random.Random(1)
    names = []
    for _ in range(figure(6, 200)):
        if FULL:
            time.sleep(STABLE_AFTER)  # else the pause before it is started again grows
        requests = [mepd.request() for _ in range(figure(4, 1))]
        names += [r["kwargs"]["name"] for r in requests]
        mepd.service.publish(*requests)
        pid = wait_for(mepd.consumer, 20, "a consumer")
        time.sleep(chance.uniform(0, 0.5))  # the moment is what is tested
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: mepd.consumer() not in (None, pid), 30)  # type: ignore[misc]
    wait_for(lambda: set(mepd.runs()) == set(names), 60, "every start")
    assert set(mepd.runs().values()) == {1}
    assert alive(names) == Counter(names)
    wait_for(lambda: mepd.service.kept() == 0, 30, "every start to be settled")


@pytest.mark.figures
def test_A1_failed_starts_are_told_once_while_the_consumer_is_killed(mepd: Mepd) -> None:
    (mepd.folder / "endpoint/map.json").write_text("[]")
    mepd.start()
    chance, told = random.Random(time.time_ns()), Counter[str]()
    names = []
    for _ in range(figure(6, 200)):
        if FULL:
            time.sleep(STABLE_AFTER)
        requests = [mepd.request() for _ in range(4)]
        names += [r["kwargs"]["amqp_creds"]["endpoint_id"] for r in requests]
        mepd.service.publish(*requests)
        pid = wait_for(mepd.consumer, 20, "a consumer")
        time.sleep(chance.uniform(0, 0.3))  # the moment is what is tested
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: mepd.consumer() not in (None, pid), 30)  # type: ignore[misc]
        told.update(failures(mepd))
    wait_for(lambda: mepd.service.kept() == 0, 30, "every start to be settled")
    mepd.stop()
    told.update(failures(mepd))
    assert set(told) == set(names)
    # Twice only where the kill comes between the broker's word of a notice and the worker's.
    twice = [n for n in told.values() if n > 1]
    assert len(twice) <= len(names) / 4, told.most_common(9)


def failures(mepd: Mepd) -> list[str]:
    """Whose starts are said to have failed, since the last time."""
    return [r.endpoint_id for r in mepd.service.reports() if "error" in r.global_state]


@pytest.mark.figures
def test_A1_sigkill_of_the_master_loses_nothing(mepd: Mepd) -> None:
    """A start that had not been settled is run by the next master; none runs twice at once."""
    chance = random.Random(2)
    names: list[str] = []
    rounds = figure(6, 200)
    for _ in range(rounds):
        mepd.start()
        wait_for(lambda: mepd.service.kept() == 0, 60, "what the last one left")
        requests = [mepd.request() for _ in range(3)]
        names += [r["kwargs"]["name"] for r in requests]
        mepd.service.publish(*requests)
        before = sum(mepd.runs().values())
        wait_for(lambda before=before: sum(mepd.runs().values()) > before, 30)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.3))
        mepd.kill()
        wait_for(lambda: not alive(names), 2, "the orphans' end")
    mepd.start()
    wait_for(lambda: set(mepd.runs()) == set(names), 60, "every start")
    assert set(alive(names).values()) <= {1}
    # Only a start whose master was killed before it was settled has run again.
    assert sum(mepd.runs().values()) <= len(names) + rounds * 3
    wait_for(lambda: mepd.service.kept() == 0, 30, "every start to be settled")


@pytest.mark.figures
def test_A2_starts_outlive_restarts_of_the_broker(mepd: Mepd, rabbit: Rabbit) -> None:
    """Published while the broker is there, each runs, whenever the broker goes.

    A request that comes again is one for a UEP that runs: one that ends soon is revived.
    """
    mepd.let_ueps_live(0.5)
    mepd.start()
    chance = random.Random(3)
    names: list[str] = []
    for _ in range(figure(2, 20)):
        # A request that waits for more than three minutes is refused for its age.
        wait_for(lambda: len(mepd.runs()) > len(names) - 100, 120, "some of the former starts")
        requests = [mepd.request() for _ in range(figure(10, 100))]
        names += [r["kwargs"]["name"] for r in requests]
        mepd.service.publish(*requests)
        time.sleep(chance.uniform(0, figure(1, 6)))
        rabbit.stop()
        time.sleep(chance.uniform(0, 1))
        rabbit.start()
    wait_for(lambda: mepd.service.kept() == 0, 600, "every start to be settled")
    wait_for(lambda: set(mepd.runs()) == set(names), 60, "every start")
    wait_for(lambda: not alive(names), 60, "the last ones' ends")
    revived = mepd.log().count("stopped within grace period; using cached arguments")
    assert sum(mepd.runs().values()) == len(names) + revived


def test_R8_A1_a_notice_is_sent_once_for_a_failed_start(mepd: Mepd) -> None:
    (mepd.folder / "endpoint/map.json").write_text("[]")
    mepd.start()
    requests = [mepd.request() for _ in range(5)]
    mepd.service.publish(*requests)
    seen: Counter[str] = Counter()

    def told() -> bool:
        with mepd.service.channel() as channel:
            while (got := channel.basic_get(mepd.service.heartbeat_queue, auto_ack=True))[0]:
                report = message.unpack_status(got[2])
                if "error" in report.global_state:
                    assert "failed to map" in report.global_state["error"]
                    seen[report.endpoint_id] += 1
        return len(seen) == 5

    wait_for(told, 30, "five notices")
    wait_for(lambda: mepd.service.kept() == 0, 30, "every start to be settled")
    mepd.stop()
    assert set(seen.values()) == {1}
    assert mepd.process is not None and is_gone(mepd.process.pid)
    assert set(seen) == {str(uuid.UUID(r["kwargs"]["name"].rpartition(".")[2])) for r in requests}
