"""Loop, channel, reaper, workers, programs and control server, with real descriptors."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.config.settings import ProgramSection
from mepd.errors import ControlError
from mepd.master import control, workers
from mepd.master.channel import Channel
from mepd.master.later import Stream
from mepd.master.loop import Loop, LoopFailure
from mepd.master.programs import Program
from mepd.master.reaper import Reaper
from mepd.master.workers import Worker
from mepd.model import ProgramState
from mepd.posix import accounts, process
from mepd.posix.peer import Peer
from mepd.wire import control as control_wire
from mepd.wire import worker as wire
from mepd.wire.framing import FrameReader, encode_frame
from tests.conftest import User, is_gone, wait_for


def run_until(loop: Loop, condition: Callable[[], Any], timeout: float = 20.0) -> None:
    """Run the loop until ``condition`` holds; fail at the deadline."""
    deadline = time.monotonic() + timeout

    def look() -> None:
        if condition() or time.monotonic() > deadline:
            loop.stop()
        else:
            loop.call_later(0.01, look)

    loop.call_later(0.0, look)  # in the loop: one left over would stop the next run
    loop.run()
    assert condition(), "the condition was not met in time"


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    old = signal.getsignal(signal.SIGCHLD)
    yield made
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, old)


@pytest.fixture
def reaper(loop: Loop) -> Reaper:
    made = Reaper()
    loop.on_signal(signal.SIGCHLD, made.collect)
    return made


def test_timers_run_in_order_and_can_be_cancelled(loop: Loop) -> None:
    seen: list[int] = []
    loop.call_later(0.03, lambda: seen.append(3))
    loop.call_later(0.01, lambda: seen.append(1))
    loop.call_later(0.02, lambda: seen.append(2)).cancel()
    run_until(loop, lambda: len(seen) == 2)
    assert seen == [1, 3]


def test_R8_an_exception_in_the_loop_is_logged_and_survived(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    loop.call_later(0.0, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    loop.call_later(0.01, lambda: seen.append(1))
    run_until(loop, lambda: seen)
    assert "ZeroDivisionError" in caplog.text


def test_R8_endless_exceptions_end_the_loop(loop: Loop) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    loop.watch(reader, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(LoopFailure):
        loop.run()
    os.close(reader)
    os.close(writer)


def test_signals_arrive_in_the_loop(loop: Loop) -> None:
    seen: list[str] = []
    old = signal.getsignal(signal.SIGUSR1)
    loop.on_signal(signal.SIGUSR1, lambda: seen.append("usr1"))
    loop.call_later(0.01, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    run_until(loop, lambda: seen)
    signal.signal(signal.SIGUSR1, old)


def test_R9_no_signal_is_lost_behind_a_flood_of_others(loop: Loop) -> None:
    """More than the wakeup descriptor has room for, while a turn takes long."""
    seen: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.on_signal(number, lambda number=number: seen.append(number))  # type: ignore[misc]

    def long_turn() -> None:
        for _ in range(70_000):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)

    loop.call_later(0.0, long_turn)
    try:
        run_until(loop, lambda: signal.SIGUSR2 in seen)
        assert seen.count(signal.SIGUSR2) == 1 and signal.SIGUSR1 in seen
    finally:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)


def test_channel_both_ways_and_end_of_file(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    got: list[Any] = []
    closed: list[str] = []
    channel = Channel(loop, ours, got.append, closed.append)
    channel.send({"n": 1})
    assert list(FrameReader().feed(theirs.recv(100))) == [{"n": 1}]
    theirs.sendall(encode_frame([1]) + encode_frame([2])[:3])
    run_until(loop, lambda: got == [[1]])
    theirs.close()
    run_until(loop, lambda: closed == [""])
    assert not channel.is_open


def test_R8_channels_closed_in_the_turn_in_which_their_peers_end(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """Many UEPs die at once: their ends of file and their deaths come in one turn.

    An owner closes the channel first then, and what is left of the turn must not count as
    so many errors that the loop gives up.
    """
    closed: list[str] = []
    pairs = [socket.socketpair() for _ in range(60)]
    reader, writer = os.pipe()
    channels: list[Channel] = []
    loop.watch(reader, lambda: [c.close() for c in channels] and loop.forget(reader))
    channels += [Channel(loop, ours, lambda _: None, closed.append) for ours, _ in pairs]
    os.write(writer, b"x")
    for _, theirs in pairs:
        theirs.close()
    run_until(loop, lambda: not any(c.is_open for c in channels))
    assert not caplog.records
    os.close(reader)
    os.close(writer)


def test_channel_to_a_peer_that_does_not_read_never_blocks(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    closed: list[str] = []
    channel = Channel(loop, ours, lambda _: None, closed.append)
    for _ in range(200):
        channel.send("x" * 1_000_000)
    assert closed == ["the peer does not read"]
    theirs.close()


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\xff", b"\0\0\0\x02{x", b"\0\0\0\x03NaN"])
def test_channel_with_junk_is_closed(loop: Loop, junk: bytes) -> None:
    ours, theirs = socket.socketpair()
    closed: list[str] = []
    Channel(loop, ours, lambda _: None, closed.append)
    theirs.sendall(junk)
    run_until(loop, lambda: closed)
    assert closed[0]
    theirs.close()


def test_one_that_sends_without_end_takes_no_whole_turn(loop: Loop) -> None:
    """Frames wait for later turns, in their order, and nothing more is read meanwhile."""
    got: list[int] = []
    others: list[int] = []
    ours, theirs = socket.socketpair()
    closed: list[str] = []

    def slow(frame: Any) -> None:
        time.sleep(0.003)
        got.append(frame)

    Channel(loop, ours, slow, closed.append)
    theirs.sendall(b"".join(encode_frame(n) for n in range(100)))

    def other() -> None:
        others.append(len(got))
        loop.call_later(0.0, other)

    other()
    run_until(loop, lambda: len(got) == 100)
    assert got == list(range(100))
    assert max(b - a for a, b in zip(others, others[1:], strict=False)) < 50
    theirs.close()
    run_until(loop, lambda: closed == [""])


def test_many_that_send_without_end_share_a_turn(loop: Loop) -> None:
    others: list[float] = []
    got: list[int] = []
    pairs = [socket.socketpair() for _ in range(40)]

    def slow(frame: Any) -> None:
        time.sleep(0.002)
        got.append(frame)

    for ours, theirs in pairs:
        Channel(loop, ours, slow, lambda _: None)
        theirs.sendall(b"".join(encode_frame(n) for n in range(10)))

    def other() -> None:
        others.append(len(got))
        loop.call_later(0.0, other)

    other()
    run_until(loop, lambda: len(got) == 400)
    assert max(b - a for a, b in zip(others, others[1:], strict=False)) < 200
    for _, theirs in pairs:
        theirs.close()


def test_frames_after_one_that_met_a_fault_are_handled(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[int] = []
    ours, theirs = socket.socketpair()

    def faulty(frame: Any) -> None:
        got.append(frame)
        if frame == 1:
            raise KeyError("a fault of ours")

    channel = Channel(loop, ours, faulty, lambda _: None)
    theirs.sendall(b"".join(encode_frame(n) for n in range(3)))
    run_until(loop, lambda: got == [0, 1, 2])
    theirs.sendall(b"".join(encode_frame(n) for n in range(3)))
    channel.drain()
    assert got == [0, 1, 2, 0, 1, 2]
    assert "going on" in caplog.text and "a last word was not handled" in caplog.text
    channel.close()
    theirs.close()


def _echo_worker(sock: socket.socket) -> int:
    """A worker for the tests: ready, then says what it is told to register."""
    from mepd.wire import codec

    sys.stderr.write(json.dumps({"level": "INFO", "message": f"uid {os.getuid()}"}) + "\n")
    sock.sendall(encode_frame(codec.encode(wire.Ready())))
    reader = FrameReader()
    while data := sock.recv(65536):
        for frame in reader.feed(data):
            if frame["kind"] == "Stop":
                return 0
            if frame["kind"] == "Ping":
                sock.sendall(encode_frame(codec.encode(wire.Pong())))
            if frame["kind"] == "DropEndpoint":
                sock.sendall(encode_frame({"kind": frame["name"]}))
    return 0


def make_worker(loop: Loop, reaper: Reaper, user: User) -> Worker:
    account = accounts.lookup(user.name)
    entry = f"{__name__}:_echo_worker"
    return Worker(loop, reaper, "echo", entry, account, wire.FROM_CONSUMER)


def test_a_worker_that_dies_is_started_again(
    loop: Loop, reaper: Reaper, harper: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    worker = make_worker(loop, reaper, harper)
    ups: list[int] = []
    worker.on_up = lambda: ups.append(worker.process.pid if worker.process else 0)
    worker.start()
    run_until(loop, lambda: len(ups) == 1)
    status = Path(f"/proc/{ups[0]}/status").read_text()
    assert f"Uid:\t{harper.uid}\t{harper.uid}\t{harper.uid}" in status
    assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
    run_until(loop, lambda: f"uid {harper.uid}" in caplog.text)
    os.kill(ups[0], signal.SIGKILL)
    run_until(loop, lambda: len(ups) == 2)
    assert ups[1] != ups[0] and worker.restarts == 1
    worker.stop()
    run_until(loop, lambda: worker.state is ProgramState.STOPPED)


def test_a_worker_that_hangs_is_replaced(
    loop: Loop, reaper: Reaper, harper: User, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(workers, "PING_EVERY", 0.3)
    worker = make_worker(loop, reaper, harper)
    ups: list[int] = []
    worker.on_up = lambda: ups.append(worker.process.pid if worker.process else 0)
    worker.start()
    until = time.monotonic() + 2
    run_until(loop, lambda: time.monotonic() > until)
    assert len(ups) == 1  # it answers, and stays
    os.kill(ups[0], signal.SIGSTOP)
    run_until(loop, lambda: len(ups) == 2)
    assert "has not answered" in caplog.text and worker.restarts == 1
    worker.stop()
    run_until(loop, lambda: worker.state is ProgramState.STOPPED)


def test_a_worker_that_breaks_the_protocol_is_replaced(
    loop: Loop, reaper: Reaper, harper: User
) -> None:
    worker = make_worker(loop, reaper, harper)
    ups: list[int] = []
    worker.on_up = lambda: ups.append(1)
    worker.start()
    run_until(loop, lambda: ups)
    worker.send(wire.DropEndpoint("no such kind"))
    run_until(loop, lambda: len(ups) == 2)
    worker.stop()
    run_until(loop, lambda: worker.state is ProgramState.STOPPED)


def _ready_again(sock: socket.socket) -> int:
    from mepd.wire import codec

    for _ in range(1000):
        sock.sendall(encode_frame(codec.encode(wire.Ready())))
    sock.recv(1)
    return 0


def test_a_worker_is_ready_once(loop: Loop, reaper: Reaper, harper: User) -> None:
    """Each time it is given all that it is to serve: one that is ready without end is not."""
    account = accounts.lookup(harper.name)
    worker = Worker(
        loop, reaper, "again", f"{__name__}:_ready_again", account, wire.FROM_CONSUMER
    )
    ups: list[int] = []
    downs: list[int] = []
    worker.on_up = lambda: ups.append(1)
    worker.on_down = lambda: downs.append(1)
    worker.start()
    run_until(loop, lambda: downs)
    assert len(ups) == 1
    worker.stop()
    run_until(loop, lambda: worker.state is ProgramState.STOPPED)


def test_workers_are_not_of_the_terminals_group(loop: Loop, reaper: Reaper, harper: User) -> None:
    """^C is for the master, which ends the others in their order."""
    worker = make_worker(loop, reaper, harper)
    ups: list[int] = []
    worker.on_up = lambda: ups.append(worker.process.pid if worker.process else 0)
    worker.start()
    run_until(loop, lambda: ups)
    assert os.getpgid(ups[0]) == ups[0]
    worker.stop()
    run_until(loop, lambda: worker.state is ProgramState.STOPPED)


def test_what_is_not_to_stop_goes_on(
    loop: Loop, reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that writes a log: nothing else would tell that it does no more."""
    pid = process.fork(lambda: time.sleep(600) or 0)  # type: ignore[func-returns-value]
    ended: list[int] = []
    reaper.watch(pid, ended.append, unstoppable=True)

    def stopped() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        wait_for(stopped, 5)
        run_until(loop, lambda: not stopped())
    assert caplog.text.count("was stopped") == 1
    os.kill(pid, signal.SIGKILL)
    run_until(loop, lambda: ended)


def test_R6_fork_refused_is_tried_again(
    loop: Loop, reaper: Reaper, harper: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = [True, True]

    def fork(child: Callable[[], int], real: Any = process.fork) -> int:
        if refuse:
            refuse.pop()
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return int(real(child))

    monkeypatch.setattr(process, "fork", fork)
    worker = make_worker(loop, reaper, harper)
    ups: list[int] = []
    worker.on_up = lambda: ups.append(1)
    gc.collect()  # what earlier tests left open is not closed meanwhile
    before = os.listdir("/proc/self/fd")
    worker.start()
    assert worker.state is ProgramState.BACKOFF
    assert len(os.listdir("/proc/self/fd")) == len(before)
    run_until(loop, lambda: ups)
    worker.stop()
    run_until(loop, lambda: worker.state is ProgramState.STOPPED)


def program(loop: Loop, reaper: Reaper, tmp_path: Path, script: str, **keys: Any) -> Program:
    section = ProgramSection(name="p", command=("/bin/sh", "-c", script), **keys)
    return Program(loop, reaper, section, tmp_path)


def test_a_program_runs_is_restarted_and_stops(loop: Loop, reaper: Reaper, tmp_path: Path) -> None:
    p = program(
        loop, reaper, tmp_path, 'echo "A=$A"; exec sleep 60', startsecs=0.1,
        environment=(("A", "b c"),),
    )  # fmt: skip
    p.start()
    log = tmp_path / "program-p.log"
    run_until(loop, lambda: p.state is ProgramState.RUNNING and log.read_text() == "A=b c\n")
    first = p.process
    assert first is not None
    title = Path(f"/proc/{first.pid}/cmdline").read_bytes()
    assert title.startswith(b"mepd: program p")
    (child,) = process.descendants(first.pid)
    process.signal_process(first, signal.SIGKILL)
    run_until(loop, lambda: p.process not in (None, first) and p.state is ProgramState.RUNNING)
    wait_for(lambda: is_gone(child.pid), 2)
    p.stop()
    run_until(loop, lambda: p.state is ProgramState.STOPPED)


def test_a_program_that_cannot_start_becomes_fatal(
    loop: Loop, reaper: Reaper, tmp_path: Path
) -> None:
    p = program(loop, reaper, tmp_path, "exit 3", startsecs=5.0, startretries=1)
    p.start()
    run_until(loop, lambda: p.state is ProgramState.BACKOFF)
    run_until(loop, lambda: p.state is ProgramState.FATAL)
    assert "return code: 3" in p.description


def test_R7_a_log_of_a_program_that_cannot_be_opened_is_named(
    loop: Loop, reaper: Reaper, tmp_path: Path
) -> None:
    """A FIFO that nobody reads, or a folder: the master does not wait for it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, reason in ((fifo, "No such device or address"), (tmp_path, "Is a directory")):
        p = program(loop, reaper, tmp_path, "exit 0", startretries=0, stdout_logfile=path)
        p.start()
        run_until(loop, lambda p=p: p.state is ProgramState.FATAL)  # type: ignore[misc]
        assert f"log {path}: {reason}" in p.description


def test_R7_the_guard_waits_for_a_stuck_disk_not_the_master(
    loop: Loop, reaper: Reaper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, opened = os.getpid(), os.open

    def stuck(path: Any, *args: Any, **keys: Any) -> int:
        if str(path).endswith("program-p.log"):
            assert os.getpid() != master
            signal.pause()
        return opened(path, *args, **keys)

    monkeypatch.setattr(os, "open", stuck)
    p = program(loop, reaper, tmp_path, "exit 0", startsecs=0.0, stopwaitsecs=0.1)
    p.start()
    run_until(loop, lambda: p.state is ProgramState.RUNNING)
    p.stop()
    run_until(loop, lambda: p.state is ProgramState.STOPPED)


def test_the_guard_waits_for_a_directory_that_hangs_not_the_master(
    loop: Loop, reaper: Reaper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = os.getpid()

    def hangs(_name: str) -> Any:
        assert os.getpid() != master
        signal.pause()

    monkeypatch.setattr(accounts, "lookup", hangs)
    p = program(loop, reaper, tmp_path, "exit 0", user="x", startsecs=0.0, stopwaitsecs=0.1)
    p.start()
    run_until(loop, lambda: p.state is ProgramState.RUNNING)
    p.stop()
    run_until(loop, lambda: p.state is ProgramState.STOPPED)


def test_an_account_of_a_program_that_there_is_not_is_named(
    loop: Loop, reaper: Reaper, tmp_path: Path
) -> None:
    p = program(loop, reaper, tmp_path, "exit 0", user="no-such-user", startretries=0)
    p.start()
    run_until(loop, lambda: p.state is ProgramState.FATAL)
    assert "user = no-such-user: there is no such account" in p.description


def test_the_folder_of_a_program_that_there_is_not_is_named(
    loop: Loop, reaper: Reaper, tmp_path: Path
) -> None:
    p = program(loop, reaper, tmp_path, "exit 0", directory=tmp_path / "none", startretries=0)
    p.start()
    run_until(loop, lambda: p.state is ProgramState.FATAL)
    log = (tmp_path / "program-p.log").read_text()
    assert log == f"mepd: program p: directory {tmp_path}/none: No such file or directory\n"


def test_a_program_that_ignores_its_signal_is_killed(
    loop: Loop, reaper: Reaper, tmp_path: Path
) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    p = program(loop, reaper, tmp_path, script, startsecs=0.1, stopwaitsecs=0.2)
    p.start()
    log = tmp_path / "program-p.log"
    run_until(loop, lambda: p.state is ProgramState.RUNNING and log.read_text() == "up\n")
    assert p.process is not None
    family = process.descendants(p.process.pid)
    p.stop()
    run_until(loop, lambda: p.state is ProgramState.STOPPED)
    wait_for(lambda: all(is_gone(m.pid) for m in family), 2)


# --- control socket ----------------------------------------------------------------------
BEGUN = threading.Event()


@pytest.fixture
def served(loop: Loop, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sock"
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest-", "popen-", "test_")):
            folder.chmod(0o755)

    def begin(send: Callable[[Any], None]) -> Callable[[], None]:
        send({"events": ["more"]})
        BEGUN.set()
        return lambda: None

    def handle(peer: Peer, verb: str, args: dict[str, Any]) -> Any:
        if verb == "boom":
            raise ValueError("internal detail")
        if verb == "no":
            raise ControlError("refused", 77)
        if verb == "events":
            return Stream([{"events": ["x" * 1_000_000]}], begin)
        return {"uid": peer.uid, "verb": verb, "args": args}

    server = control.ControlServer(loop, control.listen(path, 0o666, "root"), handle)
    loop.call_later(60, loop.stop)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield path
    loop.stop()
    os.write(loop._wakeup_w, b"\0")
    thread.join(5)
    server.close()


def ask(path: Path, frame: Any) -> Any:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(path))
        s.sendall(encode_frame(frame))
        reader = FrameReader()
        while data := s.recv(65536):
            for answer in reader.feed(data):
                return answer
    return None


def test_T13_C1_the_socket_has_its_mode_from_the_first_moment(tmp_path: Path) -> None:
    seen: list[int] = []
    real = os.chmod

    def chmod(path: Any, mode: int) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        real(path, mode)

    os.chmod, old = chmod, os.chmod  # type: ignore[assignment]
    try:
        control.listen(tmp_path / "s", 0o660, "root").close()
    finally:
        os.chmod = old
    assert seen == [0o600]
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


def test_control_answers_with_the_peers_uid(served: Path, harper: User) -> None:
    assert ask(served, control_wire.request("x", {}))["data"]["uid"] == 0
    script = (
        "import socket\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({str(served)!r})\n"
        "import json, struct\n"
        "b = json.dumps({'v': 1, 'verb': 'x', 'args': {}}).encode()\n"
        "s.sendall(struct.pack('>I', len(b)) + b)\n"
        "print(json.loads(s.recv(65536)[4:])['data']['uid'])\n"
    )
    out = subprocess.run(
        ["/usr/bin/python3", "-c", script], user=harper.uid, group=harper.gid, cwd="/",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(out.stdout) == harper.uid


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"v": 1, "verb": "no", "args": {}}, 77),
        ({"v": 2, "verb": "x", "args": {}}, 64),
        ({"v": 1, "verb": 7, "args": {}}, 64),
        ([], 64),
        ({"v": 1, "verb": "boom", "args": {}}, 70),
    ],
)
def test_C1_control_refusals(served: Path, frame: Any, code: int) -> None:
    answer = ask(served, frame)
    assert answer["ok"] is False and answer["error"]["code"] == code
    assert "internal detail" not in answer["error"]["message"]


def test_C2_a_client_that_stalls_or_lies_holds_up_nobody(served: Path) -> None:
    half = []
    for _ in range(20):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(served))
        try:
            s.sendall(b"\0\0")
        except BrokenPipeError:
            pass
        half.append(s)
    with socket.socket(socket.AF_UNIX) as liar:
        liar.settimeout(10)
        liar.connect(str(served))
        liar.sendall(b"\xff\xff\xff\xff")
        (answer,) = FrameReader().feed(liar.recv(1000))
        told = "frame of 4294967295 bytes exceeds 131072"
        assert answer["error"] == {"message": told, "code": 64}
        assert liar.recv(10) == b""
    assert ask(served, control_wire.request("x", {}))["ok"]
    for s in half:
        s.close()


def test_c2_a_byte_at_a_time_is_cut_off(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has its time as a whole; that bytes come does not prolong it."""
    monkeypatch.setattr(control, "_REQUEST_MAX", 1.0)
    frame = encode_frame(control_wire.request("x", {"long": "x" * 1000}))
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(served))
        begun = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for n in range(len(frame)):
                slow.sendall(frame[n : n + 1])
                time.sleep(0.05)
        assert 0.9 < time.monotonic() - begun < 20
    assert ask(served, control_wire.request("x", {}))["ok"]


def test_c2_who_follows_a_long_history_is_not_left_for_it(served: Path) -> None:
    """Something happens before what had happened is read."""
    BEGUN.clear()
    reader, answers = FrameReader(), []
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(served))
        s.sendall(encode_frame(control_wire.request("events", {})))
        assert BEGUN.wait(10)
        while len(answers) < 2 and (data := s.recv(65536)):
            answers += [len(answer["data"]["events"][0]) for answer in reader.feed(data)]
    assert answers == [1_000_000, 4]


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    control.listen(tmp_path / "s", 0o600, "root").close()
    control.listen(tmp_path / "s", 0o600, "root").close()


def test_R10_a_program_without_startsecs_that_ends_at_once_takes_its_time(tmp_path: Path) -> None:
    loop, reaper = Loop(), Reaper()
    loop.on_signal(signal.SIGCHLD, reaper.collect)
    section = ProgramSection(name="x", command=("/bin/false",), startsecs=0.0)
    program = Program(loop, reaper, section, tmp_path)
    pids: set[int] = set()

    def look() -> None:
        if program.process is not None:
            pids.add(program.process.pid)
        loop.call_later(0.002, look)

    program.start()
    look()
    loop.call_later(1.5, loop.stop)
    loop.run()
    program.stop(0.0)
    assert 1 <= len(pids) <= 3
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
