"""mepctl at a socket of somebody else's, and with outputs that cannot be written."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from mepd.ctl import client
from mepd.ctl.main import main
from mepd.errors import ControlError
from mepd.wire.framing import encode_frame

ESCAPE = "a\x1b[31mb\x1b]0;t\x07"
Serve = Callable[[Callable[[socket.socket], None]], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def start(talk: Callable[[socket.socket], None]) -> Path:
            def run() -> None:
                with server.accept()[0] as one:
                    one.recv(65536)
                    with contextlib.suppress(BrokenPipeError):
                        talk(one)

            threading.Thread(target=run, daemon=True).start()
            return path

        yield start


@pytest.mark.parametrize(
    "answer",
    [
        {"v": 1, "ok": True, "data": None},
        {"v": 1, "ok": True, "data": {}},
        {"v": 1, "ok": True, "data": []},
        {"v": 1, "ok": True, "data": {"ueps": [{}]}},
        {"v": 1, "ok": False, "error": [1]},
        {"v": 1, "ok": False, "error": {"message": "x", "code": "z"}},
        {"v": 1, "ok": False, "error": {"message": "x", "code": 0}},
    ],
)
@pytest.mark.parametrize(("command", "code"), [("list", 76), ("status", 4)])
def test_an_answer_of_another_form_is_told(
    serve: Serve, answer: Any, command: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = serve(lambda one: one.sendall(encode_frame(answer)))
    assert main(["-s", str(path), command]) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"v": 1, "ok": False, "error": {"message": ESCAPE, "code": 1}}, ["list"]),
        ({"v": 1, "ok": True, "data": {"version": ESCAPE}}, ["version"]),
        ({"v": 1, "ok": True, "data": {"kind": ESCAPE, "name": ESCAPE, "state": ESCAPE}},
         ["stop", "x"]),
    ],
)  # fmt: skip
def test_C4_an_answer_steers_no_terminal(
    serve: Serve, answer: Any, words: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_: False)
    main(["-s", str(serve(lambda one: one.sendall(encode_frame(answer)))), *words])
    said = capsys.readouterr()
    assert "a?[31mb" in said.out + said.err and "\x1b" not in said.out + said.err


def test_an_answer_a_byte_at_a_time_is_not_waited_for(serve: Serve) -> None:
    def talk(one: socket.socket) -> None:
        one.sendall(b"\0\0\1\0")
        for _ in range(100):
            one.sendall(b" ")
            time.sleep(0.05)

    path = serve(talk)
    with pytest.raises(ControlError, match="no answer"):  # not that it has hung up
        client.call(path, "list", 0.5)


@pytest.mark.parametrize("how", [">&-", "2>/dev/full", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(("command", "code"), [("status", 3), ("list", 69)])
def test_the_exit_code_says_it_where_no_output_can(how: str, command: str, code: int) -> None:
    words = f'"$0" -m mepd.ctl.main -s /nowhere {command} {how}'
    assert subprocess.run(["/bin/sh", "-c", words, sys.executable]).returncode == code


@pytest.mark.parametrize("words", ["version", "version --json", "--help"])
def test_an_output_that_takes_nothing_is_told(words: str) -> None:
    command = f'"$0" -m mepd.ctl.main -s /nowhere {words} >/dev/full'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable], capture_output=True)
    assert done.returncode == os.EX_IOERR and b"No space left on device" in done.stderr


@pytest.mark.parametrize(("words", "code"), [("kill ab", 69), ("map -", 65)])
def test_an_input_that_is_closed_is_an_empty_one(words: str, code: int) -> None:
    command = f'"$0" -m mepd.ctl.main -s /nowhere {words} <&-'
    done = subprocess.run(["/bin/sh", "-c", command, sys.executable], capture_output=True)
    assert (done.returncode, done.stderr.count(b"\n")) == (code, 1), done.stderr
