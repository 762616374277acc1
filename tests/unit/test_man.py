"""The manuals name every key, option, command and code that there is, and no other."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import pytest

from mepd.config import configyaml, ini
from mepd.config.settings import (
    ControlSection,
    EndpointSection,
    MepdSection,
    ProgramSection,
    ServiceSection,
)
from mepd.ctl.main import cli
from mepd.model import Stage
from tests.conftest import require

MAN = Path(__file__).resolve().parents[2] / "man"
PAGES = sorted(p.name for p in MAN.iterdir())
# What lint says of manuals that are not installed here, or not indexed.
_ABROAD = ("referenced manual not found", "outdated mandoc.db")


def text(page: str) -> str:
    return (MAN / page).read_text()


def part(page: str, heading: str) -> str:
    """From one .Ss or .Sh to the next."""
    pattern = rf"^\.S[sh] {re.escape(heading)}\n(.*?)(?=^\.S[sh] )"
    match = re.search(pattern, text(page), re.M | re.S)
    assert match is not None, f"{page} has no {heading}"
    return match[1]


def items(block: str) -> dict[str, str]:
    """The keys of a list of .It Ic KEY, with their descriptions."""
    found = re.split(r"^\.It Ic (\S+).*\n", block.rpartition("\n.El")[0], flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


HEADINGS = {
    "mepd": "Section mepd", "control": "Section control", "service": "Section service",
    "include": "Section include", "endpoint": "Sections endpoint:NAME",
    "program": "Sections program:NAME",
}  # fmt: skip


@pytest.mark.parametrize("section", HEADINGS)
def test_every_key_of_the_ini_file(section: str) -> None:
    keys = {**ini.LAYOUT.plain, **ini.LAYOUT.named}[section]
    assert items(part("mepd.conf.5", HEADINGS[section])).keys() == set(keys)


def test_every_key_of_config_yaml() -> None:
    assert items(part("mepd.conf.5", "config.yaml")).keys() == configyaml.HONOURED


SECTIONS: dict[str, Any] = {
    "mepd": MepdSection, "control": ControlSection, "service": ServiceSection,
    "endpoint": EndpointSection, "program": ProgramSection,
}  # fmt: skip


def shown(key: str, value: Any) -> set[str]:
    """How a default may be written."""
    if key == "chmod":
        return {f"{value:04o}"}
    if key.endswith("maxbytes"):
        return {f"{value // 1024**2}MB"}
    if isinstance(value, bool):
        return {str(value).lower()}
    if isinstance(value, float):
        return {f"{value:g}"}
    return {str(value)}


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults(section: str) -> None:
    """A key without a default, or with one that depends, is described in words."""
    described = items(part("mepd.conf.5", HEADINGS[section]))
    for spec in fields(SECTIONS[section]):
        if spec.name == "name" or spec.default in (None, (), MISSING):
            continue
        said = " ".join(described[spec.name].partition("Default:")[2].split())
        said = said.removeprefix(".Pa ").removesuffix(".").strip()
        assert said in shown(spec.name, spec.default), f"[{section}] {spec.name}"


def test_every_command_and_option_of_mepctl() -> None:
    page = text("mepctl.8")
    context = click.Context(cli)
    for name in cli.list_commands(context):
        assert f".It Ic {name}" in page
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                heading = next(x for x in page.splitlines() if x.startswith(f".It Ic {name}"))
                assert f"Fl {option[1:]}" in heading, f"{name} {option}"


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_of_a_start(stage: Stage) -> None:
    assert f".It {int(stage)} {stage.name}\n" in part("mepd.8", "The stages of a start")


@pytest.mark.parametrize("page", PAGES)
def test_lint(page: str) -> None:
    require(shutil.which("mandoc") is not None, "mandoc")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", MAN / page], capture_output=True, text=True
    )
    lines = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if not any(words in line for words in _ABROAD)
    ]
    assert lines == []
