"""D8: as root mepd runs no code and believes no file that others could have changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import mepd
from tests.conftest import User, need_root, wait_for

SOURCE = Path(mepd.__file__).parent
SCRIPT = SOURCE.parent / "scripts/mepd"
CONF = """\
[mepd]
logfile = %(here)s/run/mepd.log
pidfile = %(here)s/run/mepd.pid
user = {worker}
[control]
file = %(here)s/run/mepd.sock
[service]
url = http://127.0.0.1:1
[endpoint:test]
directory = %(here)s/endpoint
[program:env]
command = /bin/sh -c 'echo "%(ENV_SITE_VALUE)s" > {out}'
autorestart = false
startsecs = 0
"""
HOSTILE = "import os\nopen({marker!r}, 'a').write(__name__ + '\\n')\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv of its own with mepd's package and script: what is in it may be spoilt."""
    need_root()
    venv = tmp_path_factory.mktemp("isolation") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python3*/site-packages")
    shutil.copytree(SOURCE, site / "mepd", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (site / "mepd").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # Only the libraries: an editable mepd beside them would not be believed here.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy(SCRIPT, venv / "bin/mepd")
    return venv


@pytest.fixture
def folder(tmp_path: Path, jessie: User) -> Path:
    """A configuration with one endpoint."""
    endpoint = tmp_path / "site/endpoint"
    endpoint.mkdir(parents=True)
    out = tmp_path / "value"
    (tmp_path / "site/mepd.conf").write_text(CONF.format(worker=jessie.name, out=out))
    (endpoint / "config.yaml").write_text("identity_mapping_config_path: map.json\n")
    (endpoint / "map.json").write_text("[]")
    (endpoint / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
    return tmp_path / "site"


def command(installed: Path, folder: Path) -> list[str]:
    return [str(installed / "bin/mepd"), "-n", "-c", str(folder / "mepd.conf")]


@pytest.mark.parametrize(
    "what", ["mepd.conf", "endpoint/config.yaml", "endpoint/map.json", "endpoint", ".", "package"]
)
def test_D8_what_others_can_write_is_refused_and_named(
    installed: Path, folder: Path, what: str
) -> None:
    if what == "package":
        (path,) = installed.glob("lib/python3*/site-packages/mepd/uep/idle.py")
    else:
        path = (folder / what).resolve()
    mode = path.stat().st_mode
    path.chmod(mode | 0o020)
    try:
        done = subprocess.run(
            command(installed, folder), env={"SITE_VALUE": "x"}, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
    finally:
        path.chmod(mode)
    assert done.returncode == os.EX_CONFIG, done.stderr
    assert f"{path}: is writable by others" in done.stderr


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of modules that leave a mark when they are imported."""
    place = tmp_path / "hostile"
    place.mkdir()
    for name in ("sitecustomize", "usercustomize", "yaml", "psutil", "argparse", "mepd"):
        text = HOSTILE.format(marker=str(place / "marker"))
        (place / f"{name}.py").write_text(text)
    return place


@pytest.fixture
def running(
    installed: Path, folder: Path, hostile: Path
) -> Iterator[subprocess.Popen[bytes]]:
    environ = {
        "PATH": f"{hostile}:/usr/bin:/bin", "PYTHONPATH": str(hostile),
        "PYTHONSTARTUP": str(hostile / "yaml.py"), "PYTHONUSERBASE": str(hostile),
        "PYTHONHOME": "", "LD_LIBRARY_PATH": str(hostile), "SITE_VALUE": "of the site",
    }  # fmt: skip
    process = subprocess.Popen(command(installed, folder), env=environ, cwd=hostile)
    yield process
    if process.poll() is None:
        process.terminate()
    assert process.wait(15) == 0


def test_D8_what_the_environment_names_is_not_run(
    running: subprocess.Popen[bytes], folder: Path, hostile: Path
) -> None:
    """PYTHONPATH, PYTHONSTARTUP, the present folder; %(ENV_X)s is still the caller's."""
    log = folder / "run/mepd.log"
    wait_for(lambda: log.exists() and "config-watcher is ready" in log.read_text())
    assert not (hostile / "marker").exists()
    title = Path(f"/proc/{running.pid}/cmdline").read_bytes()
    assert title.startswith(b"mepd: master\0")
    value = folder.parent / "value"
    wait_for(lambda: value.exists() and value.read_text() == "of the site\n")
    os.kill(running.pid, signal.SIGHUP)
    wait_for(lambda: "rereading the configuration" in log.read_text())
    assert "not reloaded" not in log.read_text()


def test_D8_run_as_a_module_it_starts_itself_again_isolated(
    installed: Path, hostile: Path
) -> None:
    """Where -I was not given, as when another script begins it: only once, all words kept."""
    (hostile / "mepd.py").unlink()  # it would not be this mepd that runs
    environ = {"PYTHONPATH": str(hostile), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [installed / "bin/python3", "-m", "mepd.master.entry", "-n", "-c", "/no such file"],
        env=environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == os.EX_NOINPUT and "/no such file" in done.stderr
    # That interpreter itself had begun before mepd could say anything.
    assert (hostile / "marker").read_text() == "sitecustomize\n"


def test_P7_D8_the_environment_of_the_daemon_is_small(installed: Path) -> None:
    probe = (
        "import json, os\n"
        "from mepd.master import entry, main\n"
        "main.main = lambda environ: print(json.dumps([dict(os.environ), dict(environ)]))\n"
        "entry.main()\n"
    )
    environ = {
        "LD_LIBRARY_PATH": "/x", "LD_BIND_NOW": "1", "PYTHONPATH": "/x", "PATH": "/x:/y",
        "HOME": "/x", "LANG": "C.UTF-8", "LC_ALL": "C", "TZ": "UTC", "SECRET": "canary",
    }  # fmt: skip
    done = subprocess.run(
        [installed / "bin/python3", "-I", "-c", probe], env=environ, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    own, given = json.loads(done.stdout)
    assert own.keys() == {"PATH", "LANG", "LC_ALL", "TZ"}
    assert own["PATH"].split(":")[-1] == "/bin" and "/x" not in own["PATH"]
    assert given == environ


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ("[mepd]\nallow_groups = no-such-group\n", "no-such-group"),
        ("[program:x]\ncommand = /bin/true\nuser = no-such-user\n", "no-such-user"),
    ],
)
def test_an_account_that_is_not_there_is_an_error_of_the_configuration(
    installed: Path, folder: Path, lines: str, word: str
) -> None:
    conf = folder / "mepd.conf"
    text = conf.read_text()
    if lines.startswith("[mepd]"):
        conf.write_text(text.replace("[mepd]\n", lines, 1))
    else:
        conf.write_text(text + lines)
    done = subprocess.run(
        command(installed, folder), env={"PATH": "/usr/bin:/bin", "SITE_VALUE": "x"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == os.EX_CONFIG and word in done.stderr and str(conf) in done.stderr
