"""mepctl's preview: a job that cannot be done is answered, with a reason and a code."""

from __future__ import annotations

import io
import json
import os
import pwd
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config.settings import MepdSection, Settings
from mepd.launch import mapping, preview

JOB = {"verb": "map", "config": "", "name": "gpu", "directory": "/nonexistent-folder"}


def answer_to(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert preview.main() == os.EX_OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("{", os.EX_DATAERR, "not JSON"),
        ("[1]", os.EX_DATAERR, ""),
        (json.dumps({**JOB, "more": 1}), os.EX_DATAERR, "more"),
        (json.dumps({**JOB, "verb": 5}), os.EX_DATAERR, "verb"),
        (json.dumps(JOB), os.EX_CONFIG, "/nonexistent-folder"),
        (json.dumps({**JOB, "config": "/nonexistent.conf"}), os.EX_NOINPUT, "/nonexistent.conf"),
    ],
)
def test_what_cannot_be_done(
    text: str, code: int, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = answer_to(text, monkeypatch, capsys)
    assert found["exit_code"] == code and said in found["error"] and "Traceback" not in str(found)


def test_an_account_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: preview.Job) -> dict[str, Any]:
        raise KeyError("there is no account nobody")

    monkeypatch.setattr(preview, "run", run)
    found = answer_to(json.dumps(JOB), monkeypatch, capsys)
    assert found == {"error": "there is no account nobody", "exit_code": os.EX_CONFIG}


def test_whose_ids_the_workers_have(tmp_path: Path) -> None:
    def settings(user: str) -> Settings:
        return Settings(path=tmp_path, mepd=MepdSection(user=user))

    nobody = pwd.getpwnam("nobody")
    assert preview._policy(settings("root")).forbidden_uids == (0,)
    assert preview._policy(settings("nosuch-account-x")).forbidden_gids == (0,)
    found = preview._policy(settings("nobody"))
    assert found.forbidden_uids == (0, nobody.pw_uid)
    assert found.forbidden_gids == (0, nobody.pw_gid)


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ({"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["/bin/map"]}, None),
        (
            {
                "DATA_TYPE": "expression_identity_mapping#1.0.0",
                "mappings": [
                    {"source": "{email}", "match": "(.*)@x", "output": "{0}"},
                    {"source": "{username}", "match": "(.*)@y", "output": "{0}"},
                ],
            },
            2,
        ),
    ],
)
def test_which_rule_it_was(document: dict[str, Any], rule: int | None) -> None:
    """A program has no rules to name."""
    who = {"id": "00000000-0000-4444-8888-111111111111", "username": "harper@y", "email": "h@z",
           "status": "used"}  # fmt: skip
    hit = mapping.MappedIdentity("harper", who["id"], [])
    assert preview._rule(document, (who,), hit) == rule
