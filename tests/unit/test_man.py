"""The manuals name every key, option, command and code that there is, and no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import psutil
import pytest

from mepd.config import changes, configyaml, ini, write
from mepd.config.settings import (
    ControlSection,
    EndpointSection,
    EndpointSnapshot,
    MepdSection,
    MetricsSection,
    ProgramSection,
    ServiceSection,
)
from mepd.ctl import usage
from mepd.ctl.findings import Finding
from mepd.ctl.main import cli
from mepd.launch import render
from mepd.master import main as master
from mepd.master import acting, verbs, views
from mepd.master.endpoints import Endpoint
from mepd.master.filebook import FileBook
from mepd.master.history import History, Kind
from mepd.master.reloadreport import ReloadReport
from mepd.master.table import Uep
from mepd.model import ProgramState, Stage, StartRequest, UepState
from mepd.posix.peer import Peer
from mepd.posix.process import ProcessId
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
    "metrics": "Section metrics", "include": "Section include",
    "endpoint": "Sections endpoint:NAME", "program": "Sections program:NAME",
}  # fmt: skip


@pytest.mark.parametrize("section", HEADINGS)
def test_every_key_of_the_ini_file(section: str) -> None:
    keys = {**ini.LAYOUT.plain, **ini.LAYOUT.named}[section]
    assert items(part("mepd.conf.5", HEADINGS[section])).keys() == set(keys)


def test_every_key_of_config_yaml() -> None:
    assert items(part("mepd.conf.5", "config.yaml")).keys() == configyaml.HONOURED


def test_every_ignored_key_of_config_yaml() -> None:
    said = re.search(r"are ignored, with a warning.*?\nAny other", text("mepd.conf.5"), re.S)
    assert said is not None
    named = {w for line in said[0].split("\n.Ic ")[1:] for w in re.findall(r"\w+", line)}
    assert configyaml.IGNORED <= named


def test_every_name_that_a_user_cannot_pass() -> None:
    block = part("mepd.conf.5", "The template")
    assert set(render.RESERVED) == items(block).keys()
    said = re.search(r"something to Jinja: (.*?)\.\n", block, re.S)
    assert said is not None
    assert set(said[1].replace("\n", " ").split(", ")) == set(render._JINJA_NAMES)


def test_every_key_that_counts_only_at_the_start() -> None:
    said = part("mepd.8", "Changes of the configuration")
    said = said[said.index("The keys\n") : said.index("count only when")]
    for section, keys in changes.ONLY_AT_START.items():
        if set(keys) == set(ini.LAYOUT.plain[section]):
            assert f"[{section}]" in said
        else:
            assert set(keys) <= set(re.findall(r"\w+", said))


SECTIONS: dict[str, Any] = {
    "mepd": MepdSection, "control": ControlSection, "service": ServiceSection,
    "metrics": MetricsSection, "endpoint": EndpointSection,
    "program": ProgramSection,
}  # fmt: skip


def shown(key: str, value: Any) -> set[str]:
    """How a default may be written."""
    if key == "chmod":
        return {f"{value:04o}"}
    if key.endswith("maxbytes"):
        return {f"{value // 1024**2}MB"}
    if isinstance(value, bool):
        return {str(value).lower()}
    if isinstance(value, tuple):
        return {", ".join(value)}
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


OF_EVERY_COMMAND = {"-c", "--configuration", "-s", "--socket", "--json", "--no-header"}


def test_every_command_and_option_of_mepctl() -> None:
    page = text("mepctl.8")
    context = click.Context(cli)
    for name in cli.list_commands(context):
        assert f".It Ic {name}" in page
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            options = parameter.opts if isinstance(parameter, click.Option) else []
            for option in set(options) - OF_EVERY_COMMAND:
                heading = next(x for x in page.splitlines() if x.startswith(f".It Ic {name}"))
                assert re.search(rf"(Fl|\|) {option[1:]}\b", heading), f"{name} {option}"


def test_options_of_every_command() -> None:
    own = text("mepctl.8").partition(".Ss Commands")[0]
    for option in OF_EVERY_COMMAND:
        assert re.search(rf"^\.It .*Fl {option[1:]}\b", own, re.M), option
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert {o for p in command.params for o in p.opts} >= OF_EVERY_COMMAND, name


def test_every_option_of_mepctl_itself() -> None:
    own = text("mepctl.8").partition(".Ss Commands")[0]
    names = [o for p in cli.params for o in p.opts] + cli.context_settings["help_option_names"]
    assert {"--configuration", "--socket", "--version", "--help"} <= set(names)
    for option in names:
        assert re.search(rf"^\.It .*Fl {option[1:]}\b", own, re.M), option


def test_every_option_of_mepd(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        master._arguments(["--help"])
    shown = capsys.readouterr().out.partition("options:")[2]
    names = re.findall(r"(?:^  |, )(--?[\w-]+)", shown, re.M)
    assert {"-c", "--configuration", "--nodaemon", "--version"} <= set(names)
    described = part("mepd.8", "DESCRIPTION")
    for option in names:
        assert re.search(rf"^\.It .*Fl {option[1:]}\b", described, re.M), option


def uep() -> Uep:
    request = StartRequest("n", "m", "u", "e", "h", (), 0, {})
    return Uep("n", "gpu", request, ProcessId(2, 0.0), ProcessId(2, 0.0), "c", 0.0,
               UepState.RUNNING, user="harper", uid=1000)  # fmt: skip


def asked(verb: str, **args: Any) -> Any:
    """What mepd answers root."""
    stopper = SimpleNamespace(
        stop=lambda *_: True, reap=lambda *_: None, reapable=lambda *_: [(uep(), "idle")]
    )
    status = {"master": {}, "workers": [], "programs": [], "endpoints": []}
    commander: Any = SimpleNamespace(
        table=[uep()], stopper=stopper, now=lambda: 0.0, history=History(), status=lambda: status
    )
    commander.history.note_uep(Kind.FAILED, uep())
    return verbs.Verbs(commander, None).handle(Peer(1, 0, 0), verb, args)


def previewed(verb: str) -> dict[str, Any]:
    """What mepctl map and render print, for an endpoint of the test's own."""
    with tempfile.TemporaryDirectory() as folder:
        write.configure(Path(folder), "gpu")
        job = {"verb": verb, "config": "", "name": "gpu", "directory": f"{folder}/gpu"}
        done = subprocess.run(
            [sys.executable, "-I", "-m", "mepd.launch.preview"], input=json.dumps(job),
            capture_output=True, text=True, check=True, cwd="/",
        )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def shown_to_mepctl() -> dict[str, Any]:
    """One object of each kind that the answers of mepd hold."""
    running = ProgramState.RUNNING
    process: Any = SimpleNamespace(
        name="x", section=SimpleNamespace(name="x"), process=None, state=running, since=0.0,
        restarts=0, description="",
    )  # fmt: skip
    snapshot = EndpointSnapshot(
        "gpu", Path("/e"), None, {}, "t", "", None, None, None, {}, versions={"t": "0"}
    )
    endpoint = views.endpoint(Endpoint(snapshot), [uep()])
    listed = asked("list")["ueps"][0]
    shown = asked("show", target="2")
    report: list[dict[str, Any]] = []
    reload = ReloadReport(report.append)
    reload.settings("changed", "", "")
    reload.told("gpu", "", "wrong")
    reload.complete()
    measured, *_ = usage.tree((os.getpid(), psutil.Process().create_time()))
    return {
        "master": views.master(0.0, 1.0, "RUNNING", "/c", FileBook(Path("/"))),
        "workers": views.worker(process, 1.0),
        "programs": views.program(process, 1.0),
        "endpoints": endpoint,
        "files": endpoint["files"][0],
        "ueps": {**listed, "cpu": None, "rss": None},
        "failure": listed["failure"],
        "details": shown.keys() - listed.keys() - {"events"},
        "processes": measured,
        "events": asked("events")["events"][0],
        "killed": asked("kill", all=True)["killed"][0],
        "reaped": asked("reap")["reaped"][0],
        "done": {"name": "gpu", "kind": "endpoint", "state": "online"},
        "changes": report[0]["changes"][0],
        "errors": report[0]["errors"][0],
        "checks": asdict(Finding("gpu", "PAM", "ok")),
        "map": previewed("map"),
        "render": previewed("render"),
    }


def test_every_field_of_json() -> None:
    said = re.findall(r"^\.Ic (\w+)(?:\[\])? Pq (.*?) [;.]$", text("mepctl.8"), re.M)
    documented = {name: set(re.findall(r"\w+", listing)) for name, listing in said}
    assert documented == {name: set(shown) for name, shown in shown_to_mepctl().items()}


def test_every_signal_of_mepctl_kill() -> None:
    block = text("mepctl.8").partition(".It Ic kill")[2].partition(".It Ic reap")[0]
    assert set(re.findall(r"\bSIG([A-Z]+\d?)\b", block)) == set(acting.SIGNALS)


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
