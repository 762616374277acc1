from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

import pytest

from mepd.uep import files
from mepd.uep import journal as module
from mepd.uep.journal import Journal, Past, replay
from mepd.uep.results import ResultStore
from mepd.wire.message import Result, pack_result, unpack_result

A, B = str(uuid.uuid4()), str(uuid.uuid4())


def test_survives_a_death(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.begun([A, B])
    journal.finished([A])
    again = Journal(tmp_path / "j")
    assert again.past(A) is Past.FINISHED
    assert again.past(B) is Past.BEGUN
    assert again.past(str(uuid.uuid4())) is Past.UNKNOWN
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


def test_a_task_run_again_is_begun_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.begun([A])
    journal.finished([A])
    journal.begun([A])
    assert journal.past(A) is Past.BEGUN
    assert Journal(tmp_path / "j").past(A) is Past.BEGUN


def test_a_line_cut_short_is_skipped_and_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(f"B {A}\nF {A[:20]}".encode())
    journal = Journal(path)
    assert journal.past(A) is Past.BEGUN
    journal.begun([B])
    again = Journal(path)
    assert again.past(A) is Past.BEGUN and again.past(B) is Past.BEGUN


def test_binary_garbage_is_no_journal() -> None:
    assert replay(b"\x00\xff\nB nonsense\nF \n" + bytes(range(256))) == ({}, {})


@pytest.mark.parametrize("size", range(118))
def test_cut_at_any_byte_the_whole_lines_count(tmp_path: Path, size: int) -> None:
    path = tmp_path / "j"
    whole = f"B {A}\nB {B}\nF {A}\n".encode()
    path.write_bytes(whole[:size])
    journal = Journal(path)
    line = len(whole) // 3
    assert (journal.past(A) is not Past.UNKNOWN) == (size >= line - 1)
    assert (journal.past(B) is Past.BEGUN) == (size >= 2 * line - 1)
    journal.begun([A, B])
    again = Journal(path)
    assert again.past(A) is again.past(B) is Past.BEGUN


@pytest.mark.parametrize("filling", [b"\0", b"\n", b"x\n"])
def test_a_huge_file_costs_little_and_becomes_small(tmp_path: Path, filling: bytes) -> None:
    path = tmp_path / "j"
    if filling == b"\0":
        with path.open("wb") as f:
            f.truncate(2**40)
    else:
        path.write_bytes(filling * (8 * 1024 * 1024))
    with path.open("ab") as f:
        f.write(f"\nB {A}\n".encode())
    journal = Journal(path)
    assert journal.past(A) is Past.BEGUN
    journal.begun([B])
    assert path.stat().st_size < 1000
    again = Journal(path)
    assert again.past(A) is again.past(B) is Past.BEGUN


@pytest.mark.parametrize("room", [0, 1, 20, 38, 39, 50])
def test_R7_what_a_full_disk_did_not_take_follows_from_the_very_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        left = room - path.stat().st_size
        if left <= 0:
            raise OSError(28, "No space left on device")
        return write(fd, bytes(data)[:left])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with contextlib.suppress(OSError):
            journal.begun([A])
        with pytest.raises(OSError):
            journal.begun([A])
    journal.finished([A])
    journal.begun([B])
    again = Journal(path)
    assert again.past(A) is Past.FINISHED and again.past(B) is Past.BEGUN


def test_R7_a_disk_that_stays_full_costs_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "UNWRITTEN_MAX", 10_000)
    monkeypatch.setattr(module, "FINISHED_KEPT", 50)
    journal = Journal(tmp_path / "j")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for n in range(2000):
            task = str(uuid.UUID(int=n))
            for step in (journal.begun, journal.finished):
                with pytest.raises(OSError):
                    step([task])
        with pytest.raises(OSError):
            journal.begun([A])
        assert len(journal._unwritten) <= 10_000
    journal.flush()
    again = Journal(tmp_path / "j")
    assert again.past(A) is Past.BEGUN and again.past(str(uuid.UUID(int=1999))) is Past.FINISHED


@pytest.mark.parametrize("fails", ["rename", "fsync", "sync_folder"])
def test_R7_a_rewrite_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def broken(*_args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "COMPACT_LINES", 4)
    monkeypatch.setattr(module, "FINISHED_KEPT", 2)
    path = tmp_path / "j"
    journal = Journal(path)
    tasks = [str(uuid.uuid4()) for _ in range(12)]
    with monkeypatch.context() as patch:
        patch.setattr(files if fails == "sync_folder" else os, fails, broken)
        for task in tasks:
            with contextlib.suppress(OSError):
                journal.begun([task])
            with contextlib.suppress(OSError):
                journal.finished([task])
        with contextlib.suppress(OSError):
            journal.begun([A])
        assert A in replay(path.read_bytes())[0]
    journal.begun([B])
    again = Journal(path)
    assert again.past(A) is again.past(B) is Past.BEGUN
    assert again.past(tasks[-1]) is Past.FINISHED
    assert os.listdir(tmp_path) == ["j"]


def test_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_LINES", 20)
    monkeypatch.setattr(module, "FINISHED_KEPT", 50)
    rewrites = []
    renew = files.renew
    monkeypatch.setattr(files, "renew", lambda *a: rewrites.append(1) or renew(*a))
    path = tmp_path / "j"
    journal = Journal(path)
    journal.begun([A])
    for _ in range(200):
        task = str(uuid.uuid4())
        journal.begun([task])
        journal.finished([task])
    assert len(journal._finished) == 50
    assert path.stat().st_size < 40 * 2 * 55
    assert len(rewrites) < 400 / 40  # it is rewritten when it has doubled, not all the time
    assert journal.past(A) is Past.BEGUN
    assert Journal(path).past(A) is Past.BEGUN


def test_what_was_written_is_synced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    path = tmp_path / "j"
    monkeypatch.setattr(os, "fdatasync", lambda _fd: synced.append(path.read_bytes()))
    journal = Journal(path)
    journal.begun([A, B])
    journal.finished([A])
    assert synced == []
    journal.sync()
    journal.sync()
    assert synced == [f"B {A}\nB {B}\nF {A}\n".encode()]


def test_a_sync_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    journal = Journal(tmp_path / "j")
    journal.begun([A])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError):
            journal.sync()
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    journal.sync()
    assert len(synced) == 1


def test_a_result_on_disk_is_there_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are synced before it gets its name, and its folder after."""
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", lambda *a: steps.append("rename") or rename(*a))
    ResultStore(tmp_path).put(A, b"result")
    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize("what", ["link", "dangling", "folder", "fifo"])
def test_follows_no_link(tmp_path: Path, what: str) -> None:
    import os

    path, outside = tmp_path / "j", tmp_path / "outside"
    if what == "link":
        outside.write_text("keep")
    if what in ("link", "dangling"):
        path.symlink_to(outside)
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(OSError):
        Journal(path)
    assert outside.exists() == (what == "link")
    if what == "link":
        assert outside.read_text() == "keep"


def test_result_store_keeps_and_forgets(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.put(A, pack_result(Result(A, "one")))
    store.put(A, pack_result(Result(A, "two")))
    again = ResultStore(tmp_path)
    assert A in again and again.pending() == [A]
    assert unpack_result(again.get(A)).data == "two"
    again.discard(A)
    again.discard(A)
    assert ResultStore(tmp_path).pending() == []


def test_result_store_sees_only_results(tmp_path: Path) -> None:
    ResultStore(tmp_path).put(A, b"x")
    folder = tmp_path / "unacked_results"
    (folder / ".half.new").write_bytes(b"cut")
    (folder / f".{B}.new").write_bytes(b"cut off by a death")
    (folder / "README").write_bytes(b"no result")
    (folder / B).mkdir()
    assert ResultStore(tmp_path).pending() == [A]
    assert {p.name for p in folder.iterdir()} == {".half.new", "README", A, B}


@pytest.mark.parametrize("what", ["link", "fifo", "rest"])
def test_what_stands_in_the_way_of_a_new_file_is_removed(tmp_path: Path, what: str) -> None:
    store = ResultStore(tmp_path)
    way = tmp_path / "unacked_results" / f".{A}.new"
    if what == "link":
        way.symlink_to(tmp_path / "outside")
    elif what == "fifo":
        os.mkfifo(way)
    else:
        way.write_bytes(b"x" * 1000)
    store.put(A, pack_result(Result(A, "value")))
    assert unpack_result(store.get(A)).data == "value"
    assert not way.exists() and not (tmp_path / "outside").exists()


def test_result_store_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "unacked_results").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        ResultStore(tmp_path)


def test_R7_a_line_cut_short_keeps_no_next_life_from_its_start_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "j", os.write

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path.write_bytes(f"B {A}\nF {A[:9]}".encode())
    monkeypatch.setattr(os, "write", full)
    journal = Journal(path)
    assert journal.past(A) is Past.BEGUN
    monkeypatch.setattr(os, "write", write)
    journal.begun([B])
    assert path.read_bytes().endswith(f"\nB {B}\n".encode())


def test_as_many_finished_tasks_are_known_as_acks_may_be_lost(tmp_path: Path) -> None:
    many = [str(uuid.uuid4()) for _ in range(module.FINISHED_KEPT + 3)]
    journal = Journal(tmp_path / "j", unacked=len(many) - 1)
    journal.begun(many)
    journal.finished(many)
    again = Journal(tmp_path / "j", unacked=len(many) - 1)
    for known in (journal, again):
        assert known.past(many[0]) is Past.UNKNOWN
        assert {known.past(i) for i in many[1:]} == {Past.FINISHED}
