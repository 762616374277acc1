from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from mepd.uep import journal as module
from mepd.uep.journal import FINISHED_KEPT, Journal, Past, replay
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
    monkeypatch.setattr(module, "COMPACT_LINES", 100)
    path = tmp_path / "j"
    journal = Journal(path)
    journal.begun([A])
    for _ in range(FINISHED_KEPT + 500):
        task = str(uuid.uuid4())
        journal.begun([task])
        journal.finished([task])
    assert len(journal._finished) == FINISHED_KEPT
    assert path.stat().st_size < 100 * (FINISHED_KEPT + 600)
    assert journal.past(A) is Past.BEGUN
    assert Journal(path).past(A) is Past.BEGUN


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
