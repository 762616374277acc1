"""The shipped completion scripts in the real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.process.mepctl_fixtures import UEP, FakeMepd, fake_mepd

CONF = Path(__file__).resolve().parents[2] / "conf"
BIN = Path(sys.executable).parent
CASES = [
    ("li", "list"),
    ("list --so", "--sort"),
    ("list --sort rs", "rss"),
    ("list --state ru", "RUNNING"),
    ("-s SOCKET kill e9", str(UEP["id"])),
    ("-s SOCKET kill uep.4a", str(UEP["name"])),
    ("-s SOCKET stop g", "gpu"),
    ("-s SOCKET tail mas", "master"),
    ("-s SOCKET kill --endpoint g", "gpu"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeMepd]:
    with fake_mepd(tmp_path / "s") as running:
        yield running


def run(*words: str) -> str:
    require(shutil.which(words[0]) is not None, words[0])
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": "/nonexistent", "TERM": "dumb"},
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    return done.stdout


@pytest.mark.parametrize(("typed", "wanted"), CASES)
def test_bash(server: FakeMepd, typed: str, wanted: str) -> None:
    words = ["mepctl", *typed.replace("SOCKET", str(server.path)).split()]
    listed = " ".join(f"'{w}'" for w in words)
    script = (
        f"source {CONF / 'mepctl.bash'}; complete -p mepctl >/dev/null || exit 1\n"
        f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}\n"
        "_mepctl_completion mepctl; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    assert wanted in run("bash", "--norc", "-c", script).split()


@pytest.mark.parametrize(("typed", "wanted"), CASES)
def test_zsh(server: FakeMepd, typed: str, wanted: str) -> None:
    """As zsh's own completion calls it; compadd and _describe say what they were given."""
    words = ["mepctl", *typed.replace("SOCKET", str(server.path)).split()]
    listed = " ".join(f"'{w}'" for w in words)
    script = (
        "compdef() { :; }; compadd() { print -l -- $completions }\n"
        "_describe() { print -l -- ${completions_with_descriptions%%:*} }\n"
        f"source {CONF / '_mepctl'}\nwords=({listed}); CURRENT={len(words)}\n"
        "_mepctl_completion\n"
    )
    assert wanted in run("zsh", "-f", "-c", script).split()


def test_without_mepd_there_is_nothing_and_no_error(tmp_path: Path) -> None:
    script = (
        f"source {CONF / 'mepctl.bash'}; COMP_WORDS=(mepctl -s {tmp_path}/none kill ''); "
        "COMP_CWORD=4; _mepctl_completion mepctl; echo \"${#COMPREPLY[@]}\"\n"
    )
    assert run("bash", "--norc", "-c", script) == "0\n"
