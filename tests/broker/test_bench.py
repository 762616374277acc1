"""scripts/bench measures."""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rabbit import server_script

from tests.conftest import User, need_root, require

BENCH = Path(__file__).resolve().parents[2] / "scripts/bench"
sys.path.append(str(BENCH.parent))

from benchmarks import rows, run  # noqa: E402


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCH, *args], capture_output=True, text=True)


def test_a_row_of_mepd_alone() -> None:
    need_root()
    require(server_script() is not None, "rabbitmq-server")
    done = bench("--row", "round-trip", "--peer-off", "--json")
    assert done.returncode == 0, done.stderr
    [line] = json.loads(done.stdout)
    assert (line["row"], line["unit"]) == ("round-trip", "ms")
    assert set(line["sides"]) == {"mepd", "floor"}
    assert 0 < line["sides"]["floor"]["median"] < line["sides"]["mepd"]["median"] < 30_000


def test_a_row_that_there_is_not() -> None:
    done = bench("--row", "speed", "--peer-off")
    assert done.returncode == 64
    assert done.stderr == "bench: no such row: speed; see --list\n"


def test_every_row_says_in_a_line_what_it_is() -> None:
    done = bench("--list")
    assert done.returncode == 0, done.stderr
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(listed) == [row.name for row in rows.ROWS]
    assert all(text.endswith(".") and len(text) < 100 for text in listed.values())


@dataclass
class Nothing:
    """What a row measures that needs neither broker nor manager."""

    users: list[User]
    name: str = "mepd"
    closed: list[str] = field(default_factory=list)

    def log(self) -> str:
        return "the end of its log"

    def close(self) -> None:
        self.closed.append(self.name)


def broken(_side: Nothing) -> Any:
    raise KeyError("what is broken")


def too_slow(_side: Nothing) -> Any:
    pytest.fail("timed out")


def fine(_side: Nothing) -> Any:
    return {"it": [2.0]}


def row(measure: Any, made: list[Nothing], floor: Any = None, start: Any = None) -> rows.Row:
    def begin(_rabbit: Any, users: list[User], _worker: User) -> Nothing:
        made.append(Nothing(users))
        return made[-1]

    return rows.Row(
        measure.__name__, measure, (("it", "s", None),), floor, start=start or begin, peer=False
    )


def test_a_row_that_fails_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_root()
    monkeypatch.setattr(run.Bench, "_broker", lambda _self: None)
    made: list[Nothing] = []
    comparison = run.Bench(with_peer=True)
    lines = list(
        comparison.run(
            [row(broken, made), row(too_slow, made), row(fine, made, broken),
             row(fine, made, fine), row(broken, made, start=lambda *_: broken(made[0]))]
        )
    )  # fmt: skip
    ours, floor = {"mepd": [2.0]}, {"floor": [2.0]}
    assert [line.samples for line in lines] == [{}, {}, ours, floor | ours, {}]
    assert comparison.failed == ["broken", "too_slow", "fine", "broken"]
    assert [side.closed for side in made] == [["mepd"]] * 4
    left = {entry.pw_name for entry in pwd.getpwall()}
    assert not left & {user.name for side in made for user in side.users}
    said = capsys.readouterr().err
    assert "KeyError: 'what is broken'" in said and "the end of its log" in said
