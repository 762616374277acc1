"""What is the truth about a task of the storm: its value, or which errors, and how many.

An error that blames a killed part is true only as often as that part was killed while it
could have had the task.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

REMOTE = "TaskExecutionFailed"
WORKER = r"^\s*WorkerLost: the worker process running this task was killed by SIGKILL"
VALUES: dict[str, Callable[[int], int]] = {"fast": lambda n: n * 2, "slow": lambda n: n * 3}
TRUTHS: dict[str, Callable[[int], str]] = {
    "failing": lambda n: rf"ValueError: failing {n}$",
    "leaving": lambda n: rf"SystemExit: {n}$",
    "crashing": lambda n: WORKER,
    "huge": lambda n: r"^\s*MaxResultSizeExceeded: ",
    "unpicklable": lambda n: r"(?i)cannot pickle|can't pickle|serializ",
}
"""By kind: what its error says, of the task itself."""
ENDPOINT = r"^\s*the endpoint died while running this task; it was not run again$"
GIVEN_UP = (
    r"^\s*The user endpoint went away before this task was done: User endpoint process for \S+"
    r" ended unexpectedly \[terminated by signal 9\]$"
)
API_ERRORS = ("GlobusAPIError", "ComputeAPIError")
START_ENDED = (
    r"SEMANTICALLY_INVALID.*(User endpoint process for \S+ ended unexpectedly"
    r" \[terminated by signal 9\]|User endpoint \S+ did not check in within \d+ seconds)"
)
"""What a submission is told that waited for a user endpoint meanwhile killed, or for one that
could not report since the broker was."""
UNREACHABLE = {
    "NetworkError": r".",
    "GlobusConnectionError": r".",
    "GlobusConnectionTimeoutError": r".",
    "GlobusTimeoutError": r".",
    **dict.fromkeys(API_ERRORS, r"\b50[234]\b"),
    "AMQPConnectionError": r"",
    "AMQPConnectorException": r"",
    "RuntimeError": r"SDK thread quit|Unable to sustain channel|is shutdown|after shutdown",
}
"""What the client itself raises without the gateway or the broker: its type, and a pattern."""


@dataclass(frozen=True)
class Ending:
    """How a future ended: ``how`` is value, error, cancelled or open."""

    kind: str
    n: int
    task_id: str | None
    how: str
    type: str = ""
    text: str = ""


@dataclass(frozen=True)
class Kills:
    """How often each part was killed; ``width``: tasks that a user endpoint runs at a time."""

    count: dict[str, int] = field(default_factory=dict)
    width: int = 2


def _own_end(end: Ending) -> str | None:
    """What the task itself was to end in, if it did: 'value' or 'error'."""
    if end.how == "value":
        wanted = VALUES.get(end.kind)
        return "value" if wanted is not None and end.text == repr(wanted(end.n)) else None
    truth = TRUTHS.get(end.kind)
    if end.how == "error" and end.type == REMOTE and truth is not None:
        return "error" if re.search(truth(end.n), end.text.rstrip(), re.MULTILINE) else None
    return None


def _blames(end: Ending) -> str | None:
    """Which kill the ending blames: worker, uep, given up, start, client."""
    if end.how == "cancelled":
        return "client"
    if end.how != "error":
        return None
    if end.type == REMOTE:
        for name, pattern in (("worker", WORKER), ("uep", ENDPOINT), ("given up", GIVEN_UP)):
            if re.search(pattern, end.text):
                return name
        return None
    if end.type in API_ERRORS and re.search(START_ENDED, end.text):
        return "start"
    pattern = UNREACHABLE.get(end.type)
    return "client" if pattern is not None and re.search(pattern, end.text) else None


def judge(endings: Iterable[Ending], kills: Kills) -> tuple[dict[str, int], list[str]]:
    """How many ended how, by kind; and everything that is not the truth."""
    verdicts: Counter[str] = Counter()
    blamed: Counter[str] = Counter()
    wrong = []
    for end in endings:
        verdict = _own_end(end)
        if verdict is None:
            verdict = _blames(end)
            if verdict is not None:
                blamed[verdict] += 1
        if verdict is None:
            wrong.append(f"{end.kind} {end.n} {end.task_id}: {end.how} {end.type} {end.text[:600]}")
        else:
            verdicts[f"{end.kind} {verdict}"] += 1
    return dict(verdicts), wrong + _too_often(blamed, kills)


def _too_often(blamed: Counter[str], kills: Kills) -> list[str]:
    """Blame beyond what the kills can have cost."""
    uep, worker = kills.count.get("uep", 0), kills.count.get("worker", 0)
    far = kills.count.get("gateway", 0) + kills.count.get("broker", 0)
    most = {
        "worker": worker,
        "uep": uep * kills.width,
        "given up": blamed["given up"] if uep >= 3 else 0,  # so many deaths without a result
        "start": blamed["start"] if uep + far else 0,
        "client": blamed["client"] if far else 0,
    }
    return [
        f"{count} tasks blame {name}, which {kills.count} can have cost {most[name]} at most"
        for name, count in blamed.items()
        if count > most[name]
    ]


def run_twice(task_ids: Iterable[str]) -> list[str]:
    """The tasks that ran more than once."""
    return [f"task {i} ran {n} times" for i, n in Counter(task_ids).items() if n > 1]
