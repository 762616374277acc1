"""Template, schema and environment as researchers and tasks see them."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.e2e.site import Site

TEMPLATE = """\
debug: {{ DEBUG|default(false) }}
display_name: {{ ACCOUNT_ID }}
engine:
  type: ThreadPoolEngine
{% if '3.11' in user_runtime.python_version %}
  max_workers: 3
{% endif %}
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
"""
ASK = (
    "def f():\n    return 1\n"
    "with executor({options}) as ex:\n"
    "    e = ex.submit(f).exception(60)\n"
    "print(getattr(e, 'message', e))\n"
)
SEEN = """
def seen():
    import os, subprocess
    out = {}
    for line in open('/proc/self/status'):
        key, _, value = line.partition(':')
        out[key] = value.split()
    out['fds'] = {f: os.readlink('/proc/self/fd/' + f) for f in os.listdir('/proc/self/fd')
                  if os.path.lexists('/proc/self/fd/' + f)}
    out['groups'] = sorted(os.getgroups())
    out['env'] = dict(os.environ)
    out['id'] = subprocess.run(SETUID, capture_output=True, text=True).stdout
    umask = os.umask(0o077)
    out['umask'] = umask
    return out
"""


def edit(site: Site, path: Path, text: str) -> None:
    """Write a file of the endpoint and wait until it is in force."""
    changes = site.log().count("Configuration of endpoint demo changed")
    path.write_text(text)
    wait_for(
        lambda: site.log().count("Configuration of endpoint demo changed") > changes, 30,
        "the reload",
    )  # fmt: skip


@pytest.fixture(scope="module")
def templated(site: Site) -> Iterator[Site]:
    """The site with the template of this module in force."""
    folder = site.demo.dir / "demo"
    schema = {
        "type": "object",
        "properties": {"ACCOUNT_ID": {"type": "string"}, "DEBUG": {"type": "boolean"}},
        "additionalProperties": False,
    }
    edit(site, folder / "user_config_schema.json", json.dumps(schema))
    edit(site, folder / "user_config_template.yaml.j2", TEMPLATE)
    yield site


def uep_log(site: Site, uep_id: str) -> Path:
    home = Path(pwd.getpwnam(site.module.PEOPLE[0].account).pw_dir)
    return home / ".globus_compute" / f"uep.{site.demo.endpoint_id}.{uep_id}" / "endpoint.log"


def test_a_missing_variable_is_named(templated: Site) -> None:
    out = templated.research(ASK.format(options=""))
    assert "[exit code: 77; " in out and "'ACCOUNT_ID' is undefined" in out


def test_the_schema_says_which_property_and_why(templated: Site) -> None:
    out = templated.research(ASK.format(options="ACCOUNT_ID=7"))
    assert "[exit code: 77; (ValueError) ACCOUNT_ID: 7 is not of type 'string']" in out
    out = templated.research(ASK.format(options="ACCOUNT_ID='x', MORE='y'"))
    assert "'MORE' was unexpected" in out


def test_debug_puts_the_configuration_between_the_sentinels(templated: Site) -> None:
    code = "def f():\n    return 1\nwith executor(ACCOUNT_ID='a: b', DEBUG=True) as ex:\n"
    before = {u["id"] for u in templated.ctl("list")["ueps"]}
    assert templated.research(code + "    print(ex.submit(f).result(60))\n") == "1\n"
    (uep,) = {u["id"] for u in templated.ctl("list")["ueps"]} - before
    out = subprocess.run(
        ["sed", "-n", "/Begin Compute/,/End Compute/p", uep_log(templated, uep)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "Begin Compute endpoint configuration" in out.splitlines()[0]
    assert out.splitlines()[-1] == "End Compute endpoint configuration"
    assert '  | display_name: "a: b"' in out and "  |   max_workers: 3" in out


def test_what_a_task_sees_of_its_process(templated: Site) -> None:
    """D1, D5, F1 by a task: no right, no group, no descriptor, no variable of mepd's."""
    tool = templated.demo.dir / "id"
    tool.write_bytes(Path("/usr/bin/id").read_bytes())
    tool.chmod(0o4755)
    code = SEEN.replace("SETUID", repr([str(tool), "-u"])) + (
        "import json\n"
        "with executor(ACCOUNT_ID='seen') as ex:\n"
        "    print(json.dumps(ex.submit(seen).result(60)))\n"
    )
    out = json.loads(templated.research(code))
    entry = pwd.getpwnam(templated.module.PEOPLE[0].account)
    assert out["Uid"] == [str(entry.pw_uid)] * 4 and out["Gid"] == [str(entry.pw_gid)] * 4
    assert out["groups"] == sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))
    assert all(int(out[c][0], 16) == 0 for c in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    assert out["NoNewPrivs"] == ["1"] and out["umask"] == 0o077
    assert out["id"].strip() == str(entry.pw_uid)
    assert int(out["SigBlk"][0], 16) == 0
    own = ("socket:", "pipe:", "/dev/null", "anon_inode:", entry.pw_dir, "/proc/", "/memfd:")
    assert all(link.startswith(own) for link in out["fds"].values()), out["fds"]
    env = out["env"]
    assert (env["HOME"], env["USER"]) == (entry.pw_dir, entry.pw_name)
    assert env["GC_USER_PYTHON_VERSION"].startswith("3.") and env["GC_USER_SDK_VERSION"]
    assert not any(name.startswith(("MEPD", "RABBITMQ")) for name in env)


def test_the_manuals_wrapper_on_the_path(templated: Site) -> None:
    """A program of the administrator's, first on PATH, with the name of the command."""
    folder = templated.demo.dir / "admin_scripts"
    folder.mkdir(mode=0o755)
    real = templated.prefix / "bin"
    wrapper = folder / "mepd-uep"
    wrapper.write_text(
        f"#!/bin/sh\nexport SET_BY_WRAPPER=yes\nexport PATH={real}:/usr/bin:/bin\n"
        f'exec {real}/mepd-uep "$@"\n'
    )
    wrapper.chmod(0o755)
    environment = templated.demo.dir / "demo/user_environment.yaml"
    old = environment.read_text()
    edit(templated, environment, f"PATH: {folder}:/usr/bin:/bin\nNUMBER: 7\nTRUTH: true\n")
    try:
        code = (
            "def f():\n    import os\n"
            "    return [os.environ.get(k) for k in ('SET_BY_WRAPPER', 'NUMBER', 'TRUTH')]\n"
            "with executor(ACCOUNT_ID='wrapped') as ex:\n    print(ex.submit(f).result(60))\n"
        )
        assert templated.research(code).startswith("['yes', '7', ")
    finally:
        environment.write_text(old)


def test_a_virtual_environment_by_the_users_python(templated: Site) -> None:
    """The wrapper chooses by GC_USER_PYTHON_VERSION; the template by user_runtime."""
    folder = templated.demo.dir / "by_version"
    folder.mkdir(mode=0o755)
    chosen = templated.demo.dir / "venv"
    umask = os.umask(0o022)
    try:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", chosen], check=True)
        (packages,) = chosen.glob("lib/python3*/site-packages")
        (real,) = templated.prefix.glob("lib/python3*/site-packages")
        (packages / "site.pth").write_text(f"import site; site.addsitedir({str(real)!r})\n")
    finally:
        os.umask(umask)
    wrapper = folder / "mepd-uep"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'case "$GC_USER_PYTHON_VERSION" in 3.*) python={chosen}/bin/python ;;\n'
        f"*) python={templated.prefix}/bin/python ;; esac\n"
        'exec "$python" -m mepd.uep.entry "$@"\n'
    )
    wrapper.chmod(0o755)
    environment = templated.demo.dir / "demo/user_environment.yaml"
    old = environment.read_text()
    edit(templated, environment, f"PATH: {folder}:/usr/bin:/bin\n")
    try:
        code = (
            "def f():\n    import sys\n    return sys.prefix\n"
            "with executor(ACCOUNT_ID='venv') as ex:\n    print(ex.submit(f).result(60))\n"
        )
        assert templated.research(code) == f"{chosen}\n"
    finally:
        environment.write_text(old)


def test_functions_that_the_template_allows(templated: Site) -> None:
    """The manual's second error text, of the user endpoint; the first is the service's."""
    template = templated.demo.dir / "demo/user_config_template.yaml.j2"
    edit(templated, template, f"{TEMPLATE}allowed_functions: [{uuid.uuid4()}]\n")
    code = (
        "def f():\n    return 1\n"
        "with executor(ACCOUNT_ID='listed') as ex:\n"
        "    function = ex.register_function(f)\n"
        "    e = ex.submit_to_registered_function(function).exception(60)\n"
        "print(type(e).__name__, function, str(e).strip().splitlines()[-1].strip())\n"
    )
    before = {u["id"] for u in templated.ctl("list")["ueps"]}
    kind, function, said = templated.research(code).strip().split(" ", 2)
    (uep,) = {u["id"] for u in templated.ctl("list")["ueps"]} - before
    assert kind == "TaskExecutionFailed"
    assert said == f"Function {function} not permitted on endpoint {uep}"
