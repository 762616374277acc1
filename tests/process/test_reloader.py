"""Rereading of endpoints' folders, with a watcher that answers when the test says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mepd.config import folder
from mepd.master.endpoints import Endpoint
from mepd.master.reload import Reloader
from mepd.wire.worker import Validate, Validated

TEMPLATE = "user_config_template.yaml.j2"


class Bench:
    def __init__(self, *directories: Path) -> None:
        self.endpoints = []
        for directory in directories:
            directory.mkdir()
            (directory / "config.yaml").write_text("public: true\n")
            (directory / TEMPLATE).write_text("n: 1\n")
            snapshot = folder.load(directory.name, directory, False)
            self.endpoints.append(Endpoint(snapshot))
        self.sent: list[Validate] = []
        self.swapped: list[str] = []
        self.up = True
        self.reloader = Reloader(self.send, lambda e: self.swapped.append(e.name), False)
        self.reloader.poll(self.endpoints)
        assert not self.sent

    def send(self, message: Any) -> bool:
        if self.up:
            self.sent.append(message)
        return self.up

    def edit(self, number: int, text: str) -> None:
        (self.endpoints[number].snapshot.directory / TEMPLATE).write_text(text)
        self.reloader.poll(self.endpoints)

    def answer(self, error: str = "") -> None:
        self.reloader.validated(Validated(self.sent[-1].token, error))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "a", tmp_path / "b")


def test_polling_finds_what_nobody_told(bench: Bench) -> None:
    a = bench.endpoints[0]
    bench.edit(0, "n: 22\n")
    assert [m.endpoint for m in bench.sent] == ["a"] and a.snapshot.template == "n: 1\n"
    bench.answer()
    assert a.snapshot.template == "n: 22\n" and bench.swapped == ["a"]
    bench.reloader.poll(bench.endpoints)
    bench.reloader.poll(bench.endpoints)
    assert len(bench.sent) == 1


def test_an_answer_about_an_older_text_is_no_answer(bench: Bench) -> None:
    a = bench.endpoints[0]
    bench.edit(0, "n: 22\n")
    bench.edit(0, "n: 333\n")
    assert len(bench.sent) == 1  # one at a time
    bench.answer()
    assert a.snapshot.template == "n: 1\n" and len(bench.sent) == 2
    bench.reloader.validated(Validated("v0", "forged"))
    bench.answer()
    assert a.snapshot.template == "n: 333\n" and not a.files.error


def test_what_is_to_be_examined_is_so_even_if_it_is_read_again(bench: Bench) -> None:
    a = bench.endpoints[0]
    bench.reloader.examine(a)
    bench.reloader.reread(a)  # the watcher told of the folder, and nothing has changed
    bench.answer()
    assert len(bench.sent) == 2, "the withdrawn question is asked anew"
    bench.answer("t:1: wrong")
    assert "wrong" in a.files.error


def test_what_ends_the_watcher_is_refused_and_delays_nobody(bench: Bench) -> None:
    a, b = bench.endpoints
    bench.edit(0, "bomb: 1\n")
    bench.edit(1, "good: 1\n")
    for _ in range(2):
        assert bench.sent[-1].endpoint == "a"
        bench.up = False
        bench.reloader.forget(on_purpose=False)
        bench.up = True
        bench.reloader.resume()
        if bench.sent[-1].endpoint == "b":
            bench.answer()
    if bench.sent[-1].endpoint == "b" and b.snapshot.template != "good: 1\n":
        bench.answer()
    assert b.snapshot.template == "good: 1\n"
    assert a.snapshot.template == "n: 1\n" and "config-watcher ended" in a.files.error
    sent = len(bench.sent)
    bench.reloader.poll(bench.endpoints)
    assert len(bench.sent) == sent  # not again until it changes


def test_a_watcher_that_makes_room_is_asked_again(bench: Bench) -> None:
    bench.edit(0, "n: 22\n")
    for _ in range(5):
        bench.reloader.forget(on_purpose=True)
        bench.reloader.resume()
    bench.answer()
    assert bench.endpoints[0].snapshot.template == "n: 22\n"


def test_a_folder_that_is_away_and_comes_back(bench: Bench, tmp_path: Path) -> None:
    a = bench.endpoints[0]
    (tmp_path / "a").rename(tmp_path / "away")
    bench.reloader.poll(bench.endpoints)
    assert "there is no such folder" in a.files.error
    (tmp_path / "away").rename(tmp_path / "a")
    bench.reloader.poll(bench.endpoints)
    assert not a.files.error and not bench.sent


class TestPreview:
    """What mepctl reload --dry-run asks."""

    @pytest.fixture
    def told(self) -> list[tuple[str, str, str]]:
        return []

    def ask(self, bench: Bench, told: list[tuple[str, str, str]]) -> None:
        bench.reloader.preview(bench.endpoints[0], lambda *words: told.append(words))

    def write(self, bench: Bench, name: str, text: str) -> None:
        (bench.endpoints[0].snapshot.directory / name).write_text(text)

    def test_what_would_change_is_told_and_not_done(
        self, bench: Bench, told: list[tuple[str, str, str]]
    ) -> None:
        self.ask(bench, told)
        assert told == [("a", "", "")] and not bench.sent
        self.write(bench, TEMPLATE, "n: 22\n")
        self.ask(bench, told)
        assert len(told) == 1 and len(bench.sent) == 1
        bench.answer()
        assert told[1][0] == "a" and "template" in told[1][1] and told[1][2] == ""
        assert bench.endpoints[0].snapshot.template == "n: 1\n" and not bench.swapped

    def test_what_is_wrong_is_told(
        self, bench: Bench, told: list[tuple[str, str, str]]
    ) -> None:
        self.write(bench, TEMPLATE, "{{ n\n")
        self.ask(bench, told)
        bench.answer("no Jinja template")
        self.write(bench, "config.yaml", "public: maybe\n")
        self.ask(bench, told)
        bench.answer()
        (bench.endpoints[0].snapshot.directory / "config.yaml").unlink()
        self.ask(bench, told)
        errors = [error for _, _, error in told]
        assert errors[0] == "no Jinja template" and "public" in errors[1]
        assert "config.yaml" in errors[2] and not bench.endpoints[0].files.error

    def test_asked_for_twice_while_there_is_no_watcher(
        self, bench: Bench, told: list[tuple[str, str, str]]
    ) -> None:
        bench.up = False
        self.write(bench, TEMPLATE, "n: 22\n")
        self.ask(bench, told)
        self.ask(bench, told)
        assert told == [("a", "", "asked for twice")] and bench.reloader.is_busy
        bench.up = True
        bench.reloader.resume()
        bench.answer()
        assert len(told) == 2 and told[1][1] and not bench.reloader.is_busy

    def test_files_that_end_the_watcher(
        self, bench: Bench, told: list[tuple[str, str, str]]
    ) -> None:
        self.write(bench, TEMPLATE, "n: 22\n")
        self.ask(bench, told)
        while not told:
            bench.reloader.forget(on_purpose=False)
            bench.reloader.resume()
        assert told[0][0] == "a" and told[0][2] and not bench.endpoints[0].files.error


def test_what_the_watcher_accepts_and_the_master_does_not(bench: Bench) -> None:
    a = bench.endpoints[0]
    (a.snapshot.directory / "config.yaml").write_text("public: maybe\n")
    bench.reloader.reread(a)
    bench.answer()
    assert "public" in a.files.error and not bench.swapped
    (a.snapshot.directory / "config.yaml").write_text("public: true\n")
    bench.reloader.reread(a)
    if bench.reloader.is_busy:
        bench.answer()
    assert not a.files.error


def test_an_endpoint_whose_folder_is_gone_when_it_is_examined(bench: Bench) -> None:
    a = bench.endpoints[0]
    (a.snapshot.directory / "config.yaml").unlink()
    bench.reloader.examine(a)
    assert "config.yaml" in a.files.error and not bench.sent
    (a.snapshot.directory / "config.yaml").write_text("public: true\n")
    bench.reloader.poll(bench.endpoints)
    if bench.reloader.is_busy:
        bench.answer()
    assert not a.files.error
