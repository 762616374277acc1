"""Options of authentication policies, and what becomes of config.yaml."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from mepd.ctl import authpolicy
from mepd.errors import ConfigError, ControlError

POLICY = "2340174a-1a0e-46d8-a958-7c3ddf2c834a"
NONE: dict[str, Any] = {
    "auth_policy": None,
    "auth_policy_project_id": None,
    "auth_policy_display_name": None,
    "allowed_domains": None,
    "excluded_domains": None,
    "auth_timeout": None,
}


@pytest.mark.parametrize(
    "given",
    [
        {"auth_policy": "x"},
        {"auth_policy_project_id": "x"},
        {"auth_policy": POLICY, "auth_timeout": 0},
        {"auth_policy": POLICY, "allowed_domains": "a.edu"},
        {"allowed_domains": ""},
        {"allowed_domains": " , "},
        {"excluded_domains": "a.edu,b c"},
        {"excluded_domains": "me@a.edu"},
    ],
)
def test_what_is_no_policy(given: dict[str, Any]) -> None:
    with pytest.raises(ControlError) as raised:
        authpolicy.read_options(**{**NONE, **given})
    assert raised.value.exit_code == os.EX_USAGE and "--" in str(raised.value)


def test_which_options_make_a_policy() -> None:
    assert not authpolicy.read_options(**NONE).given
    existing = authpolicy.read_options(**{**NONE, "auth_policy": POLICY.upper()})
    assert existing.given and not existing.makes_one and existing.existing == POLICY
    for key, value in (("auth_timeout", 0), ("auth_policy_display_name", "x")):
        assert authpolicy.read_options(**{**NONE, key: value}).makes_one
    assert authpolicy.domains(" *.EDU, globus.org ", "x") == ["*.edu", "globus.org"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"authentication_policy: {POLICY}\n"),
        ("public: true", f"public: true\nauthentication_policy: {POLICY}\n"),
        (
            "authentication_policy: null # none\npublic: true\n",
            f"authentication_policy: {POLICY}\npublic: true\n",
        ),
        ('"authentication_policy": null\n', f"authentication_policy: {POLICY}\n"),
        (
            "# authentication_policy: x\n",
            f"# authentication_policy: x\nauthentication_policy: {POLICY}\n",
        ),
    ],
)
def test_config_yaml_is_changed_in_one_place(tmp_path: Path, before: str, after: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(before)
    config.chmod(0o640)
    authpolicy.apply(config, POLICY)
    assert config.read_text() == after
    assert config.stat().st_mode & 0o7777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_a_config_yaml_that_cannot_be_changed_is_left(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    for text in ("{public: true}\n", "engine: x\n", "authentication_policy:\n  x: y\n"):
        config.write_text(text)
        with pytest.raises(ConfigError):
            authpolicy.apply(config, POLICY)
        assert config.read_text() == text
        assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_C4_what_a_service_calls_projects_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_: False)
    monkeypatch.setattr(click, "prompt", lambda *_, **__: 1)
    project = {"display_name": "a\x1b[31mb\n9: c", "id": POLICY}
    service = SimpleNamespace(get_projects=lambda: {"projects": [project]})
    assert authpolicy._choose_project(service) == POLICY
    assert capsys.readouterr().err == f"1: a?[31mb?9: c ({POLICY})\n"
