"""What conf/ ships is accepted, complete, and says the truth about the defaults."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mepd.config import ini
from mepd.config.settings import EndpointSection, ProgramSection, Settings

TOP = Path(__file__).resolve().parents[3]
CONF = TOP / "conf/mepd.conf"


def test_as_shipped_it_means_the_defaults(tmp_path: Path) -> None:
    path = Path(shutil.copy(CONF, tmp_path))
    assert ini.load(path) == Settings(path=path, files=(path,))


def test_each_commented_key_shows_its_default(tmp_path: Path) -> None:
    path = tmp_path / "mepd.conf"
    path.write_text(re.sub(r"^;(?=[\w\[])", "", CONF.read_text(), flags=re.M))
    settings, default = ini.load(path), Settings(path=path)
    assert settings.mepd == default.mepd and settings.metrics == default.metrics
    assert settings.control == default.control
    assert settings.service.url == default.service.url
    (endpoint,), (program,) = settings.endpoints, settings.programs
    assert endpoint.autostart is EndpointSection.autostart
    assert program.priority == ProgramSection.priority


@pytest.mark.parametrize("section", ["mepd", "control", "service", "metrics", "endpoint"])
def test_each_key_is_there(section: str) -> None:
    keys = {**ini.LAYOUT.plain, **ini.LAYOUT.named}[section]
    text = CONF.read_text()
    start = re.search(rf"^;?\[{section}[\]:]", text, re.M)
    assert start is not None
    block = text[start.start() :].split("\n\n")[0]
    assert set(re.findall(r"^;?(\w+) =", block, re.M)) == set(keys)


@pytest.mark.parametrize("script", ["scripts/init.d"])
def test_init_script(script: str) -> None:
    path = TOP / script
    assert subprocess.run(["sh", "-n", path]).returncode == 0
    done = subprocess.run([path, "frobnicate"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith("usage: ")) == (2, True)
    headers = re.findall(r"^# ([A-Z][\w-]+):", path.read_text(), re.M)
    assert {"Provides", "Required-Start", "Default-Start", "Short-Description"} <= set(headers)
