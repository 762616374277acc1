"""mepctl as a process against a fake mepd: what it asks, prints and exits with."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mepd.wire import control
from tests.process.mepctl_fixtures import (
    IDLE,
    STATUS,
    UEP,
    FakeMepd,
    fake_mepd,
    mepctl,
    on_a_terminal,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeMepd]:
    with fake_mepd(tmp_path / "mepd.sock") as running:
        yield running


class TestStatus:
    def test_running(self, server: FakeMepd) -> None:
        done = mepctl("-s", server.path, "status")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "PROCESS          STATE     PID   UPTIME  NOTE\n"
            "master           RUNNING  4200  3d05:05  mepd 0.1.0\n"
            "amqp-consumer    RUNNING  4201     1:00  2 restarts\n"
            "program:gateway  FATAL       -     0:05  exit code 1, three times\n"
            "\n"
            "ENDPOINT  ID  STATE    BROKER  UEPS  STARTS  FAILURES  NOTE\n"
            "gpu       -   offline  -          2       3         1  [bold]broker[/] is gone\n"
        )

    def test_files_with_their_versions(self, server: FakeMepd) -> None:
        file = {"path": "/e/mepd.conf", "version": "0123456789ab", "since": 1e9, "error": ""}
        bad = {"path": "/e/gpu/config.yaml", "version": None, "since": None, "error": "wrong"}
        gpu = {**STATUS["endpoints"][0], "files": [bad], "state": "draining"}
        server.answers["status"] = {
            **STATUS, "master": {**STATUS["master"], "files": [file]}, "endpoints": [gpu],
        }  # fmt: skip
        shown = mepctl("-s", server.path, "status", TZ="UTC").stdout
        assert "gpu       -   draining" in shown
        assert shown.partition("\n\nFILE OF")[2].splitlines()[1:] == [
            "mepd.conf  0123456789ab  2001-09-09 01:46:40  /e/mepd.conf        -",
            "gpu        -             -                    /e/gpu/config.yaml  wrong",
        ]

    def test_json_is_the_answer(self, server: FakeMepd) -> None:
        done = mepctl("-s", server.path, "status", "--json")
        assert json.loads(done.stdout) == STATUS

    def test_not_running_is_3(self, tmp_path: Path) -> None:
        done = mepctl("-s", tmp_path / "none.sock", "status")
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == (
            f"mepctl: mepd is not running: nobody listens at {tmp_path}/none.sock; start mepd,"
            " or name its socket with -s\n"
        )

    def test_stale_socket_is_3(self, tmp_path: Path) -> None:
        with fake_mepd(tmp_path / "mepd.sock"):
            pass
        assert mepctl("-s", tmp_path / "mepd.sock", "status").returncode == 3

    def test_unknown_is_4(self, server: FakeMepd, tmp_path: Path) -> None:
        server.answers["status"] = b"\0\0\0\x01{"
        done = mepctl("-s", server.path, "status")
        assert done.returncode == 4
        assert done.stderr.startswith(f"mepctl: {server.path}: not JSON")
        assert mepctl("-c", tmp_path / "none.conf", "status").returncode == 4

    def test_no_answer_is_4(self, server: FakeMepd) -> None:
        server.answers["status"] = b""
        done = mepctl("-s", server.path, "status")
        assert done.returncode == 4
        assert done.stderr == "mepctl: mepd closed the connection without an answer\n"


class TestList:
    def test_columns(self, server: FakeMepd) -> None:
        done = mepctl("-s", server.path, "list")
        assert (done.returncode, done.stderr) == (0, "")
        header, first, second = done.stdout.splitlines()
        assert header.split() == [
            "USER", "ID", "PID", "STATE", "UPTIME", "RUN", "DONE", "IDLE", "%CPU", "RSS", "FAILURE"
        ]  # fmt: skip
        assert first.split() == [
            "harper", "e9090000", "4242", "RUNNING", "1:01:01", "2", "14", "-", "-", "-", "-"
        ]  # fmt: skip
        assert second.split()[0:2] + second.split()[7:11] == [
            "jessie", "77b10000", "3/10", "-", "-", "TEMPLATE"
        ]  # fmt: skip
        assert second.endswith(" ago")

    def test_no_header(self, server: FakeMepd) -> None:
        assert len(mepctl("-s", server.path, "list", "--no-header").stdout.splitlines()) == 2

    def test_filters_are_the_servers_business(self, server: FakeMepd) -> None:
        mepctl("-s", server.path, "list", "--user", "harper", "--endpoint", "gpu")
        mepctl("-s", server.path, "list")
        assert server.requests == [("list", {"user": "harper", "endpoint": "gpu"}), ("list", {})]

    def test_colours_on_a_terminal_only(self, server: FakeMepd) -> None:
        code, shown = on_a_terminal("-s", server.path, "status")
        assert code == 0
        assert "\x1b[32mRUNNING" in shown and "\x1b[31mFATAL" in shown
        assert "[bold]broker[/] is gone" in shown
        assert "\x1b" not in mepctl("-s", server.path, "status").stdout


class TestKill:
    def test_what_is_asked_and_said(self, server: FakeMepd) -> None:
        done = mepctl("-s", server.path, "kill", "e909", "--signal", "INT")
        asked = {"targets": ["e909"], "all": False, "ambiguous": False}
        assert server.requests == [("kill", {**asked, "signal": "INT", "now": False})]
        assert done.stdout == f"{UEP['id']}: signalled INT (pid 4242, harper)\n"
        mepctl("-s", server.path, "kill", "e909", "--now")
        assert server.requests[1:] == [("kill", {**asked, "now": True})]

    def test_now_and_a_signal_contradict(self, server: FakeMepd) -> None:
        done = mepctl("-s", server.path, "kill", "e909", "--now", "--signal", "INT")
        assert done.returncode == os.EX_USAGE and server.requests == []

    def test_a_refusal_is_one_line_and_its_code(self, server: FakeMepd) -> None:
        server.answers["kill"] = control.refusal("no user endpoint matches 'zz'", 69)
        done = mepctl("-s", server.path, "kill", "zz")
        assert (done.returncode, done.stdout) == (69, "")
        assert done.stderr == "mepctl: no user endpoint matches 'zz'\n"

    def test_all_and_targets_contradict(self, server: FakeMepd) -> None:
        assert mepctl("-s", server.path, "kill", "--all", "e909").returncode == os.EX_USAGE
        assert server.requests == []

    @pytest.mark.parametrize(("typed", "code", "killed"), [("y\n", 0, True), ("n\n", 64, False)])
    def test_asks_on_a_terminal_before_more_than_one(
        self, server: FakeMepd, typed: str, code: int, killed: bool
    ) -> None:
        status, shown = on_a_terminal("-s", server.path, "kill", "--all", typed=typed)
        assert "End 2 user endpoints? [y/N]" in shown
        assert "e9090000  harper  pid 4242" in shown and "77b10000  jessie  pid 4343" in shown
        assert status == code
        asked = [args for _, args in server.requests if not args.get("dry_run")]
        # Those that were shown are ended, no other that came meanwhile.
        names = [IDLE["name"], UEP["name"]]
        assert [sorted(args["targets"]) for args in asked] == ([sorted(names)] if killed else [])

    @pytest.mark.parametrize("words", [("e909",), ("--all", "--yes"), ("e909", "-y")])
    def test_does_not_ask(self, server: FakeMepd, words: tuple[str, ...]) -> None:
        code, shown = on_a_terminal("-s", server.path, "kill", *words)
        assert code == 0 and "[y/N]" not in shown


class TestSteering:
    def test_quiet_when_it_works(self, server: FakeMepd) -> None:
        done = mepctl("-s", server.path, "shutdown")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert server.requests == [("shutdown", {})]

    def test_reload_says_what_changed(self, server: FakeMepd) -> None:
        assert mepctl("-s", server.path, "reload").stdout == "nothing changed\n"
        changes = [{"of": "mepd.conf", "change": "[mepd] max_ueps"}]
        server.answers["reload"] = {
            "changes": changes, "waiting": "[mepd] pidfile",
            "errors": [{"of": "gpu", "error": "/e/config.yaml:1: wrong"}],
        }  # fmt: skip
        done = mepctl("-s", server.path, "reload", "--dry-run", "--no-header")
        assert done.returncode == os.EX_CONFIG
        assert done.stdout == (
            "mepd.conf  [mepd] max_ueps\n"
            "in force only when mepd is started again: [mepd] pidfile\n"
        )
        assert done.stderr == "mepctl: gpu: /e/config.yaml:1: wrong\n"
        assert [args["dry_run"] for _, args in server.requests] == [False, True]

    def test_not_running(self, tmp_path: Path) -> None:
        assert mepctl("-s", tmp_path / "none", "shutdown").returncode == os.EX_UNAVAILABLE

    def test_version(self, server: FakeMepd, tmp_path: Path) -> None:
        assert mepctl("-s", server.path, "version").stdout.splitlines()[1] == "mepd 9.9.9"
        done = mepctl("-s", tmp_path / "none", "version")
        assert (done.returncode, done.stdout.splitlines()[1]) == (0, "mepd is not running")

    def test_start_names_the_folder(self, server: FakeMepd, tmp_path: Path) -> None:
        mepctl("-s", server.path, "start", "gpu", GLOBUS_COMPUTE_USER_DIR=str(tmp_path))
        mepctl("-s", server.path, "start", "gpu", HOME="/root")
        assert [args["directory"] for _, args in server.requests] == [
            f"{tmp_path}/gpu", "/root/.globus_compute/gpu"
        ]  # fmt: skip


class TestWhichMepd:
    def test_the_configurations_socket(self, server: FakeMepd, tmp_path: Path) -> None:
        conf = tmp_path / "mepd.conf"
        conf.write_text("[control]\nfile = mepd.sock\n")
        assert mepctl("-c", conf, "status").returncode == 0
        assert mepctl("status", MEPD_CONFIG=str(conf)).returncode == 0

    def test_after_the_command_as_before_it(self, server: FakeMepd, tmp_path: Path) -> None:
        conf = tmp_path / "mepd.conf"
        conf.write_text("[control]\nfile = mepd.sock\n")
        assert mepctl("list", "-s", server.path).returncode == 0
        assert mepctl("-s", "/none", "status", "--socket", server.path).returncode == 0
        assert mepctl("list", "-c", conf, "--json").returncode == 0
        assert mepctl("kill", "e909", "--configuration", conf).returncode == 0
        assert mepctl("list", "-s", tmp_path / "none").returncode == os.EX_UNAVAILABLE

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ("[endpont:x]\n", ":3: unknown section [endpont:x]"),
            ("nonsense\n", ":3: neither a [section] nor key = value"),
            ("[mepd]\nlogfil=x\n", ":4: unknown key 'logfil' in [mepd]"),
            ("[mepd]\nuser=a\nuser=b\n", ":5: [mepd] user stands twice"),
        ],
    )
    def test_an_error_elsewhere_hides_no_mepd(
        self, server: FakeMepd, tmp_path: Path, wrong: str, said: str
    ) -> None:
        """Just then one wants to ask the one that runs."""
        conf = tmp_path / "mepd.conf"
        conf.write_text(f"[control]\nfile = mepd.sock\n{wrong}")
        done = mepctl("-c", conf, "status")
        assert done.returncode == 0 and "RUNNING" in done.stdout
        assert done.stderr.startswith(f"mepctl: {conf}{said}")

    def test_a_wrong_configuration(self, tmp_path: Path) -> None:
        conf = tmp_path / "mepd.conf"
        conf.write_text("[control]\nfil = mepd.sock\n")
        done = mepctl("-c", conf, "list")
        assert done.returncode == os.EX_CONFIG
        assert done.stderr == (
            f"mepctl: {conf}:2: unknown key 'fil' in [control]; the nearest known is 'file'\n"
        )

    def test_no_permission(self, server: FakeMepd, tmp_path: Path) -> None:
        done = mepctl("-s", tmp_path / ("x" * 200), "list")
        assert done.returncode == os.EX_IOERR
        assert done.stderr.count("\n") == 1


class TestUsage:
    @pytest.mark.parametrize("words", [("frob",), ("status", "--frob"), ("start",), ("list", "x")])
    def test_one_line_that_says_where_to_look(self, words: tuple[str, ...]) -> None:
        done = mepctl(*words)
        assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
        assert done.stderr.startswith("mepctl: ") and done.stderr.endswith("--help\n")
        assert done.stderr.count("\n") == 1

    def test_help(self) -> None:
        assert mepctl("--help").returncode == 0
        nothing = mepctl()
        assert (nothing.returncode, nothing.stdout) == (os.EX_USAGE, "")
        assert nothing.stderr.startswith("Usage: mepctl")


class TestConfigure:
    """The lines of the administrator's manual, word for word up to the command."""

    @staticmethod
    def expected(folder: str) -> str:
        return f"""\
Created multi-user profile for endpoint named <mep_debug>

    Configuration file: {folder}/config.yaml

    Example identity mapping configuration: {folder}/example_identity_mapping_config.json

    User endpoint configuration template: {folder}/user_config_template.yaml.j2
    User endpoint configuration schema: {folder}/user_config_schema.json
    User endpoint environment variables: {folder}/user_environment.yaml

Use the `start` subcommand to run it:

    $ mepctl start mep_debug

"""

    @pytest.mark.parametrize(
        "words",
        [
            ("--multi-user", "mep_debug"),
            ("--multi-user", "true", "mep_debug"),
            ("mep_debug", "--multi-user"),
        ],
    )
    def test_both_forms(self, tmp_path: Path, words: tuple[str, ...]) -> None:
        done = mepctl("configure", "--config-dir", tmp_path, *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == self.expected(f"{tmp_path}/mep_debug")
        assert stat.S_IMODE((tmp_path / "mep_debug").stat().st_mode) == 0o700

    def test_default_folders(self, tmp_path: Path) -> None:
        words = ("configure", "--multi-user", "mep_debug")
        mepctl(*words, HOME=str(tmp_path / "home"))
        assert (tmp_path / "home/.globus_compute/mep_debug/config.yaml").exists()
        mepctl(*words, GLOBUS_COMPUTE_USER_DIR=str(tmp_path / "own"))
        assert (tmp_path / "own/mep_debug/config.yaml").exists()

    def test_a_second_time_is_a_clean_error(self, tmp_path: Path) -> None:
        words = ("configure", "--config-dir", tmp_path, "--multi-user", "a")
        assert mepctl(*words).returncode == 0
        done = mepctl(*words)
        assert (done.returncode, done.stdout) == (os.EX_CANTCREAT, "")
        assert done.stderr == (
            f"mepctl: {tmp_path}/a: there is such a folder already; nothing is changed\n"
        )

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (("a",), os.EX_USAGE),
            (("--multi-user",), os.EX_USAGE),
            (("--multi-user", "false", "a"), os.EX_USAGE),
            (("--multi-user", "a b"), os.EX_CONFIG),
            (("--multi-user", "../a"), os.EX_CONFIG),
        ],
    )
    def test_refused(self, tmp_path: Path, words: tuple[str, ...], code: int) -> None:
        done = mepctl("configure", "--config-dir", tmp_path, *words)
        assert done.returncode == code
        assert done.stderr.startswith("mepctl: ") and done.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_the_home_of_nobody(self) -> None:
        done = mepctl("configure", "--config-dir", "~nosuch/x", "--multi-user", "a")
        assert (done.returncode, done.stderr.count("\n")) == (os.EX_USAGE, 1)
        assert done.stderr.startswith("mepctl: ~nosuch/x: ")

    def test_no_place_to_write(self) -> None:
        done = mepctl("configure", "--config-dir", "/proc/none", "--multi-user", "a")
        assert done.returncode == os.EX_CANTCREAT
        assert done.stderr == "mepctl: /proc/none: No such file or directory\n"
