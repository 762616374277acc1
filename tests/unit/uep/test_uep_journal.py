from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from mepd.uep import files
from mepd.uep import journal as module
from mepd.uep.journal import Journal, Past, replay
from mepd.uep.results import ResultStore

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


def test_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_LINES", 20)
    monkeypatch.setattr(module, "FINISHED_KEPT", 50)
    rewrites = []
    replace = files.replace
    monkeypatch.setattr(files, "replace", lambda *a: rewrites.append(1) or replace(*a))
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
    store.put(A, b"one")
    store.put(A, b"two")
    again = ResultStore(tmp_path)
    assert A in again and again.pending() == [A] and again.get(A) == b"two"
    again.discard(A)
    again.discard(A)
    assert ResultStore(tmp_path).pending() == []


def test_result_store_sees_only_results(tmp_path: Path) -> None:
    ResultStore(tmp_path).put(A, b"x")
    (tmp_path / "unacked_results" / ".half.new").write_bytes(b"cut")
    (tmp_path / "unacked_results" / "README").write_bytes(b"no result")
    assert ResultStore(tmp_path).pending() == [A]


def test_result_store_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "unacked_results").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        ResultStore(tmp_path)
