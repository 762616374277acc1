"""How a pool takes its leave: every task that the interchange sent is told of."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from mepd.uep.htex.leaving import take_leave
from mepd.uep.htex.slot import SlotTask

LONG = 60.0


def task(number: int) -> SlotTask:
    return SlotTask(number, f"task {number}", (), b"")


class Interchange:
    """Says the end when it was asked to drain and had word of each task that it sent."""

    def __init__(self, *sent: int) -> None:
        self.outstanding = set(sent)
        self.said: list[str] = []
        self.end = threading.Event()

    def drain(self) -> None:
        self.said.append("drain")

    def lost(self, lost: SlotTask) -> None:
        self.said.append(lost.task_id)
        self.outstanding.remove(lost.number)
        if not self.outstanding:
            self.end.set()


def test_it_asks_for_no_more_before_it_tells_of_what_is_lost() -> None:
    ix = Interchange(1, 2)
    assert take_leave(ix.drain, lambda: [task(1), task(2)], ix.lost, ix.end, LONG)
    assert ix.said == ["drain", "task 1", "task 2"]


def test_R5_what_was_on_its_way_to_a_block_that_ends_is_told_too() -> None:
    ix = Interchange(1, 2)
    looks = iter([[], [task(1)], [task(1)]])

    def held() -> Iterable[SlotTask]:
        return next(looks, [task(1), task(2)])

    assert take_leave(ix.drain, held, ix.lost, ix.end, LONG)
    assert ix.said == ["drain", "task 1", "task 2"]


def test_an_interchange_that_does_not_hear_is_not_waited_for() -> None:
    ix = Interchange(1, 2)
    assert not take_leave(ix.drain, lambda: [task(1)], ix.lost, ix.end, 0.0)
    assert ix.said == ["drain", "task 1"]
