"""I6: external mappers that misbehave, as real programs."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from mepd.launch import external
from mepd.posix import process
from tests.conftest import is_gone, wait_for

ME = {"id": "00000000-0000-4444-8888-111111111111", "username": "alicia@example.org"}
OTHER = {"id": "00000000-0000-4444-8888-222222222222", "username": "b@example.org"}
HEAD = (
    "#!/usr/bin/python3 -I\nimport json, os, sys, time\n"
    "def answer(*result, **more):\n"
    "    print(json.dumps({'DATA_TYPE': 'identity_mapping_output#1.0.0',"
    " 'result': list(result), **more}))\n"
)


def run(folder: Path, body: str, timeout: float = 10.0) -> list[dict[str, list[str]]]:
    script = folder / "mapper"
    script.write_text(HEAD + body)
    script.chmod(0o755)
    document = {"command": [str(script), "--flag"]}
    gc.collect()  # what earlier tests left is not for this one to count
    before = set(os.listdir("/proc/self/fd"))
    try:
        return external.map_external(document, [ME, OTHER], "endpoint-id", timeout)
    finally:
        assert set(os.listdir("/proc/self/fd")) <= before
        assert not process.descendants(os.getpid())


def test_the_manuals_documents(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    body = (
        "d = json.load(sys.stdin)\n"
        f"open({str(seen)!r}, 'w').write(json.dumps([d, sys.argv[1:], dict(os.environ)]))\n"
        "answer({'id': d['identities'][0]['id'], 'output': 'alicia'})\n"
    )
    assert run(tmp_path, body) == [{ME["id"]: ["alicia"]}]
    document, argv, environ = json.loads(seen.read_text())
    assert document == {"DATA_TYPE": "identity_mapping_input#1.0.0", "identities": [ME, OTHER]}
    assert argv[0] == "--flag" and argv[-5:][1::2] == [external.CONNECTOR_ID, "endpoint-id"]
    assert argv[-1] == "-a" and set(environ) <= {"PATH", "LC_ALL", "LC_CTYPE", "PWD"}


def test_I6_only_descriptors_0_to_2(tmp_path: Path) -> None:
    spare = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(spare, True)
    seen = tmp_path / "fds"
    body = f"open({str(seen)!r}, 'w').write(' '.join(sorted(os.listdir('/proc/self/fd'))))\n"
    try:
        assert run(tmp_path, body) == []
    finally:
        os.close(spare)
    assert set(seen.read_text().split()) <= {"0", "1", "2", "3", "4"}  # and its own listing's


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"answer({{'id': {ME['id']!r}, 'output': 'root'}})\nsys.exit(1)", "exit code 1"),
        ("answer({'id': 'ffffffff', 'output': 'x'})", "Invalid ID in result"),
        (f"a = {{'id': {ME['id']!r}, 'output': 'x'}}\nanswer(a, a)", "duplicate ID"),
        (f"answer({{'id': {ME['id']!r}, 'output': 7}})", "no output"),
        ("answer('x')", "no id"),
        ("answer(DATA_TYPE='x')", "is no identity_mapping_output"),
        ("print('alicia')", "not JSON"),
        ("print('[' * 100000)", "too deeply"),
        ("while True: sys.stdout.write('x' * 65536)", "bytes of output"),
        ("sys.stdin.close(); time.sleep(60)", "no answer within"),
        ("os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_I6_refused(tmp_path: Path, body: str, reason: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Exception, match=reason):
        run(tmp_path, body, timeout=1.0 if "sleep" in body else 10.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10 * 1024  # KB


def test_I6_an_early_close_of_stdin_is_its_own_business(tmp_path: Path) -> None:
    body = f"os.close(0)\nanswer({{'id': {ME['id']!r}, 'output': 'alicia'}})"
    assert run(tmp_path, body) == [{ME["id"]: ["alicia"]}]


@pytest.mark.parametrize("hang", [True, False])
def test_I6_one_that_daemonizes_leaves_nothing(tmp_path: Path, hang: bool) -> None:
    pidfile = tmp_path / "pid"
    body = (
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(pidfile)!r}, 'w').write(str(os.getpid()))\n"
        "        os.closerange(0, 3)\n"
        "        time.sleep(300)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        f"while not os.path.exists({str(pidfile)!r}): time.sleep(0.01)\n"
        + ("time.sleep(300)\n" if hang else "")
    )
    begun = time.monotonic()
    if hang:
        with pytest.raises(external.MapperError, match="no answer"):
            run(tmp_path, body, timeout=1.0)
        assert time.monotonic() - begun < 30
    else:
        assert run(tmp_path, body) == []
    pid = int(wait_for(pidfile.read_text, 5))
    wait_for(lambda: is_gone(pid), 1, "the daemon's end")


def test_I6_one_that_daemonizes_with_its_stdout_open(tmp_path: Path) -> None:
    """The answer is complete only at the end of file: bounded by the timeout, then killed."""
    body = "if os.fork() == 0:\n    time.sleep(300)\nanswer()\n"
    with pytest.raises(external.MapperError, match="no answer"):
        run(tmp_path, body, timeout=1.0)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    document: dict[str, Any] = {"command": [str(tmp_path / "missing")]}
    with pytest.raises(FileNotFoundError):
        external.map_external(document, [ME], "e", 1.0)


def test_one_that_reads_slowly_gets_all(tmp_path: Path) -> None:
    """More than a pipe holds."""
    many = [{**ME, "about": "x" * 1000, "number": n} for n in range(1000)]
    script = tmp_path / "mapper"
    script.write_text(
        HEAD + "data = b''\nwhile chunk := os.read(0, 100_000): data += chunk\n"
        "d = json.loads(data)\n"
        f"answer({{'id': {ME['id']!r}, 'output': 'n%d' % len(d['identities'])}})\n"
    )
    script.chmod(0o755)
    found = external.map_external({"command": [str(script)]}, many, "endpoint-id", 20.0)
    assert found == [{ME["id"]: ["n1000"]}]


def test_I6_an_answer_without_an_end(tmp_path: Path) -> None:
    """It has said all and lives on: an exit code belongs to an answer."""
    body = f"answer({{'id': {ME['id']!r}, 'output': 'x'}})\nsys.stdout.flush()\nos.close(1)\n"
    with pytest.raises(external.MapperError, match="no answer within"):
        run(tmp_path, body + "time.sleep(300)\n", timeout=1.0)


def test_a_pipe_that_is_full_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What epoll(7) says may be over by the time of the write(2); a wait may be cut short."""
    write, refused = os.write, []

    def full(fd: int, data: bytes) -> int:
        if not refused:
            refused.append(fd)
            raise BlockingIOError
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    assert run(tmp_path, f"answer({{'id': {ME['id']!r}, 'output': 'alicia'}})")
    assert refused and external._late(time.monotonic() + 60) == []
    with pytest.raises(TimeoutError):
        external._late(time.monotonic())


def test_a_mapper_that_is_not_there_leaves_no_subreaper(tmp_path: Path) -> None:
    """prctl(2), PR_GET_CHILD_SUBREAPER: it would survive the exec of the user endpoint."""
    with pytest.raises(FileNotFoundError):
        external.map_external({"command": [str(tmp_path / "none")]}, [ME], "endpoint-id", 10.0)
    value = ctypes.c_int(-1)
    assert ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0) == 0 and value.value == 0
