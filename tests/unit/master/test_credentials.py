"""The credentials file: what is wrong with it is said, what it holds is not."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from mepd.master import credentials

SECRET = {"client_id": "c", "client_secret": "s3cr3t-canary"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "service.json"
    path.touch(0o600)
    path.write_text(json.dumps(SECRET))
    return path


def test_a_file_of_ones_own_is_read_without_a_word(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert credentials.read(path) == SECRET
    assert credentials.read(None) == {}
    assert caplog.text == ""


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_D8_a_secret_that_others_can_read(
    path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(mode)
    assert credentials.read(path) == SECRET
    assert f"{path} is open to others (mode {mode:04o})" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "{", '["s3cr3t-canary"]', '"s3cr3t-canary"', '{"s3cr3t-canary']
)
def test_an_unusable_file_is_named_and_not_quoted(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(text)
    with caplog.at_level(logging.DEBUG):
        assert credentials.read(path) == {}
    assert f"{path} is unusable" in caplog.text and "s3cr3t" not in caplog.text


def test_a_missing_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert credentials.read(tmp_path / "none") == {}
    assert "none is unusable: FileNotFoundError" in caplog.text


def test_R7_a_fifo_is_not_waited_for(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)
    assert credentials.read(path) == {}
    assert f"{path} is unusable: no regular file" in caplog.text


def test_json_beyond_all_depth(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("[" * 500_000)
    assert credentials.read(path) == {}
    assert f"{path} is unusable" in caplog.text
