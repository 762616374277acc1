"""mepctl check, map and render: no mepd runs; as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import User, need_root
from tests.process.mepctl_fixtures import on_a_terminal

MEPCTL = Path(sys.executable).parent / "mepctl"
TEMPLATE = """\
engine: {type: ThreadPoolEngine, max_workers: {{ workers|default(1) }}}
endpoint_setup: {{ setup|default() }}
# for {{ mapped_identity.local.uname }} with {{ user_runtime.python_version|default("-") }}
"""
MAPPING: list[dict[str, Any]] = [
    {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["/bin/false"]},
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [
            {"source": "{email}", "match": r"(.*)@nowhere\.org", "output": "{0}"},
            {"source": "{username}", "match": r"(.*)@example\.org", "output": "{0}"},
        ],
    },
]


class Folder:
    """A mepd.conf with one endpoint, gpu."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.chmod(0o755)
        self.conf = path / "mepd.conf"
        self.conf.write_text(
            "[mepd]\nuser = nobody\n[control]\nfile = mepd.sock\n[service]\n"
            "credentials = service.json\n[endpoint:gpu]\ndirectory = gpu\n"
        )
        self.credentials = path / "service.json"
        self.credentials.write_text('{"client_id": "c", "client_secret": "canary"}')
        self.credentials.chmod(0o600)
        self.gpu = path / "gpu"
        self.gpu.mkdir(mode=0o755)
        (self.gpu / "config.yaml").write_text("identity_mapping_config_path: map.json\n")
        (self.gpu / "map.json").write_text(json.dumps(MAPPING))
        (self.gpu / "user_config_template.yaml.j2").write_text(TEMPLATE)
        (self.gpu / "user_config_schema.json").write_text('{"type": "object"}')
        (self.gpu / "user_environment.yaml").write_text("A: b\n")

    def json_file(self, value: Any, name: str = "in.json") -> str:
        path = self.path / name
        path.write_text(json.dumps(value))
        return str(path)

    def ctl(
        self, *words: str, user: User | None = None, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        who: dict[str, Any] = {}
        if user is not None:
            who = {"user": user.uid, "group": user.gid, "extra_groups": []}
        return subprocess.run(
            [MEPCTL, "-c", self.conf, *words], capture_output=True, text=True, input=typed,
            cwd="/", timeout=60, env={"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8"},
            **who,
        )  # fmt: skip

    def checks(self, *words: str, user: User | None = None) -> dict[tuple[str, str], Any]:
        done = self.ctl("check", "--json", *words, user=user)
        data = json.loads(done.stdout)
        assert done.returncode == (os.EX_CONFIG if data["errors"] else 0)
        return {(c["of"], c["what"]): c for c in data["checks"]}


@pytest.fixture
def site() -> Iterator[Folder]:
    need_root()
    path = Path(tempfile.mkdtemp(prefix="mepctl-files-", dir="/var/lib"))
    yield Folder(path)
    shutil.rmtree(path)


def person(name: str, **more: Any) -> dict[str, Any]:
    return {"id": f"id-{name}", "username": f"{name}@example.org", "status": "used", **more}


class TestCheck:
    def test_all_good(self, site: Folder) -> None:
        found = site.checks()
        assert {c["state"] for c in found.values()} == {"ok"}
        for what in ("config.yaml", "identity mapping", "template", "schema", "environment",
                     "contents", "PAM", "uep_command"):  # fmt: skip
            assert ("gpu", what) in found
        assert "canary" not in json.dumps(list(found.values()))
        code, shown = on_a_terminal("-c", site.conf, "check")
        assert code == 0 and "\x1b[32mok" in shown

    def test_as_an_ordinary_user(self, site: Folder, harper: User) -> None:
        found = site.checks(user=harper)
        assert found["mepd.conf", "ownership"]["state"] == "warning"
        assert found["mepd.conf", "credentials"]["state"] == "error"
        assert found["gpu", "contents"]["state"] == "ok"
        site.gpu.chmod(0o700)
        denied = site.checks(user=harper)["gpu", "folder"]
        assert denied["state"] == "error" and "Permission denied" in denied["detail"]

    def test_d8_what_others_can_write(self, site: Folder, harper: User) -> None:
        (site.gpu / "map.json").chmod(0o666)
        found = site.checks()["gpu", "folder"]
        assert found["state"] == "error" and "map.json: is writable by others" in found["detail"]
        (site.gpu / "map.json").chmod(0o600)
        os.chown(site.conf, harper.uid, -1)
        found = site.checks()["mepd.conf", "ownership"]
        assert found["state"] == "error" and str(site.conf) in found["detail"]

    @pytest.mark.parametrize(
        ("name", "text", "what", "said"),
        [
            ("user_config_template.yaml.j2", "a: {{ b\n", "contents", "no Jinja template"),
            ("user_config_schema.json", '{"type": 5}', "contents", "no JSON schema"),
            ("config.yaml", "nosuchkey: 1\n", "folder", "nosuchkey: unknown key"),
            ("map.json", "{", "files", "not JSON"),
            ("user_environment.yaml", "a: [1]\n", "files", "must not be nested"),
        ],
    )
    def test_each_file(self, site: Folder, name: str, text: str, what: str, said: str) -> None:
        (site.gpu / name).write_text(text)
        states = {c["what"]: c for c in site.checks().values() if c["of"] == "gpu"}
        assert states[what]["state"] == "error" and said in states[what]["detail"]
        assert name in states[what]["detail"]

    def test_a_file_that_is_missing(self, site: Folder) -> None:
        (site.gpu / "user_config_schema.json").unlink()
        assert site.checks()["gpu", "schema"]["state"] == "warning"
        (site.gpu / "user_config_template.yaml.j2").unlink()
        assert "is missing" in site.checks()["gpu", "files"]["detail"]

    def test_pam_service(self, site: Folder) -> None:
        config = site.gpu / "config.yaml"
        for service, state in (("nosuch-service", "error"), ("other", "ok")):
            config.write_text(
                "identity_mapping_config_path: map.json\n"
                f"pam: {{enable: true, service_name: {service}}}\n"
            )
            assert site.checks()["gpu", "PAM"]["state"] == state

    def test_the_program_within_reach(self, site: Folder, harper: User) -> None:
        hidden = site.path / "hidden"
        hidden.mkdir(mode=0o700)
        program = hidden / "uep"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        config = site.gpu / "config.yaml"
        base = "identity_mapping_config_path: map.json\n"
        config.write_text(f"{base}uep_command: {program}\n")
        for words in ((), ("--user", harper.name)):
            found = site.checks(*words)["gpu", "uep_command"]
            assert found["state"] == "error" and str(program) in found["detail"]
            assert "Permission denied" in found["detail"]
        hidden.chmod(0o755)
        assert site.checks("--user", harper.name)["gpu", "uep_command"]["state"] == "ok"
        program.write_text("#!/root/python\n")
        assert "/root/python" in site.checks()["gpu", "uep_command"]["detail"]
        config.write_text(f"{base}uep_command: nosuchprogram\n")
        assert "not found on PATH" in site.checks()["gpu", "uep_command"]["detail"]
        assert site.ctl("check", "--user", "nosuchuser").returncode == os.EX_NOUSER

    def test_a_wrong_mepd_conf(self, site: Folder) -> None:
        site.conf.write_text("[mepd]\nlogfle = x\n")
        done = site.ctl("check", "--no-header")
        assert done.returncode == os.EX_CONFIG
        assert "unknown key 'logfle' in [mepd]; the nearest known is 'logfile'" in done.stdout
        site.conf.write_text("[mepd]\nuser = nosuchuser\n[control]\nchown = root:nosuchgroup\n")
        found = site.checks()
        detail = found["mepd.conf", "account of the workers"]["detail"]
        assert detail.startswith(f"{site.conf}:2: ") and "there is no such account" in detail
        assert found["mepd.conf", "control socket"]["state"] == "error"
        assert found["mepd.conf", "control socket"]["detail"].startswith(f"{site.conf}:4: ")

    def test_a_folder_by_name(self, site: Folder) -> None:
        assert ("gpu", "contents") in site.checks("gpu")
        done = site.ctl("check", "nosuch")
        assert done.returncode == os.EX_NOINPUT and done.stderr.count("\n") == 1


class TestConfigure:
    def test_as_an_ordinary_user(self, site: Folder, harper: User) -> None:
        home = Path(harper.home)
        for flag in (("--multi-user",), ("--multi-user", "true")):
            name = f"mep_{len(flag)}"
            words = ("configure", *flag, name, "--config-dir", str(home / "eps"))
            done = site.ctl(*words, "--json", user=harper)
            assert done.returncode == 0, done.stderr
            made = json.loads(done.stdout)
            assert made["name"] == name and len(made) == 6
            assert all(Path(p).stat().st_uid == harper.uid for k, p in made.items() if k != "name")
            again = site.ctl(*words, user=harper)
            assert again.returncode == os.EX_CANTCREAT and again.stderr.count("\n") == 1
        code, shown = on_a_terminal("configure", "--multi-user", "t", "--config-dir", site.path)
        assert code == 0 and shown.startswith("Created multi-user profile for endpoint named <t>")
        denied = site.ctl("configure", "--multi-user", "x", "--config-dir", "/root", user=harper)
        assert denied.returncode == os.EX_NOPERM and denied.stderr.count("\n") == 1


class TestMap:
    def test_which_mapping_and_which_account(self, site: Folder, harper: User) -> None:
        linked = [person("nosuch", id="x", username="a@b.c"), person(harper.name)]
        done = site.ctl("map", site.json_file(linked), "--json")
        data = json.loads(done.stdout)
        assert done.returncode == 0, done.stderr
        assert (data["mapped"], data["document"], data["rule"]) == (True, 2, 2)
        assert (data["user"], data["uid"]) == (harper.name, harper.uid)
        assert data["identity"] == f"id-{harper.name}"
        assert any("Identity mapper 1 of 2" in note for note in data["notes"])
        code, shown = on_a_terminal("-c", site.conf, "map", site.json_file(linked))
        assert code == 0 and f"user      {harper.name}" in shown

    def test_as_an_ordinary_user_from_stdin(self, site: Folder, harper: User) -> None:
        text = json.dumps({"globus_identity_set": [person(harper.name)]})
        done = site.ctl("map", "-", "--endpoint", "gpu", user=harper, typed=text)
        assert done.returncode == 0 and f"user      {harper.name}" in done.stdout

    @pytest.mark.parametrize(
        ("identity", "reason"),
        [
            (person("root"), "user 'root' has uid 0"),
            (person("nosuchperson"), "local user does not exist"),
            (person("daemon"), "below min_uid"),
            (person("Bad Name"), "is not a plain user name"),
            (person("x", username="x@other.org"), "no mapping matches"),
            (person("x", status="closed"), "no mapping matches"),
            (person("x", username=None), "no mapping matches"),
        ],
    )
    def test_why_not(self, site: Folder, identity: dict[str, Any], reason: str) -> None:
        done = site.ctl("map", site.json_file(identity), "--json")
        data = json.loads(done.stdout)
        assert done.returncode == os.EX_NOUSER and data["mapped"] is False
        assert reason in data["reason"], data
        assert done.stderr.startswith("mepctl: not mapped: ") and done.stderr.count("\n") == 1
        skipped = [n for n in data["notes"] if "its status is neither" in n]
        assert bool(skipped) is (identity["status"] == "closed")

    @pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "5", '{"username": "x"}', "[NaN]"])
    def test_files_that_are_none(self, site: Folder, text: str) -> None:
        done = site.ctl("map", "-", typed=text)
        assert done.returncode == os.EX_DATAERR and done.stderr.count("\n") == 1
        assert site.ctl("map", "/nosuchfile").returncode == os.EX_NOINPUT

    def test_which_endpoint(self, site: Folder) -> None:
        with site.conf.open("a") as f:
            f.write("[endpoint:two]\ndirectory = two\n")
        done = site.ctl("map", site.json_file(person("x")))
        assert done.returncode == os.EX_USAGE and "gpu, two" in done.stderr


class TestRender:
    def test_as_the_user_would_get_it(self, site: Folder, harper: User) -> None:
        options = site.json_file({"workers": 4, "setup": 'a: "b"\n`id`'}, "o.json")
        identity = site.json_file(person(harper.name), "i.json")
        runtime = site.json_file({"python_version": "3.12.1"}, "r.json")
        words = ("render", "gpu", "--user-opts", options, "--identity", identity)
        done = site.ctl(*words, "--runtime", runtime)
        assert done.returncode == 0, done.stderr
        config = yaml.safe_load(done.stdout)
        assert config["engine"]["max_workers"] == 4 and config["endpoint_setup"] == 'a: "b"\n`id`'
        assert f'# for {harper.name} with "3.12.1"' in done.stdout
        data = json.loads(site.ctl(*words, "--json").stdout)
        assert data["user"] == harper.name and f"# for {harper.name} with -" in data["text"]
        code, shown = on_a_terminal("-c", site.conf, *words)
        assert code == 0 and "max_workers: 4" in shown

    def test_as_whom(self, site: Folder, harper: User) -> None:
        def who(*words: str, user: User | None = None) -> Any:
            done = site.ctl("render", "gpu", *words, user=user)
            assert done.returncode == 0, done.stderr
            return done.stdout.partition("# for ")[2].split()[0]

        assert who() == "nobody"
        assert who("--user", harper.name) == harper.name
        assert who(user=harper) == harper.name
        refused = site.ctl("render", "gpu", "--user", "root")
        assert refused.returncode == os.EX_NOUSER and "has uid 0" in refused.stderr

    def test_the_template_has_no_roots_rights(self, site: Folder) -> None:
        """What evaluates a template is the user already, and cannot go back."""
        script = site.path / "probe.py"
        script.write_text(
            "import os, sys\nfrom mepd.launch import preview, render\n"
            "def probe(*_):\n"
            "    assert os.getresuid() == (65534,) * 3 and os.getgroups() != [0]\n"
            "    try: os.setuid(0)\n"
            "    except PermissionError: return ('a: 1', {})\n"
            "    return ('root again', {})\n"
            "render.configuration = probe\nsys.exit(preview.main())\n"
        )
        job = {"verb": "render", "config": str(site.conf), "name": "gpu",
               "directory": str(site.gpu)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-I", script], input=json.dumps(job), capture_output=True, text=True
        )
        assert json.loads(done.stdout)["text"] == "a: 1", done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("options", "code", "said"),
        [
            ({"parent_config": 1}, 77, "'parent_config' is a reserved word"),
            ({"workers": {"a": 1}}, 77, "engine"),
            ([1], 65, "must be a JSON object"),
        ],
    )
    def test_what_cannot_be_rendered(
        self, site: Folder, options: Any, code: int, said: str
    ) -> None:
        (site.gpu / "user_config_schema.json").write_text(
            '{"properties": {"workers": {"type": "integer"}}}'
        )
        said = "workers" if said == "engine" else said
        done = site.ctl("render", "gpu", "--user-opts", site.json_file(options))
        assert done.returncode == code and done.stdout == ""
        assert said in done.stderr and done.stderr.count("\n") == 1

    def test_a_folder_that_is_not_configured(self, site: Folder) -> None:
        shutil.copytree(site.gpu, site.path / "other/new")
        words = ("render", "new", "--config-dir", str(site.path / "other"))
        assert site.ctl(*words).returncode == 0
        assert site.ctl("render", "nosuch").returncode == os.EX_NOINPUT
