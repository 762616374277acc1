"""The INI file: expansions, conversions, includes, and errors that name their place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.config import ini
from mepd.config.settings import Settings
from mepd.errors import ConfigError


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "mepd.conf"
    path.write_text(text)
    return ini.load(path, environ)


def fault(tmp_path: Path, text: str, **environ: str) -> str:
    """The error's text without the folder: ``mepd.conf:LINE: MESSAGE``."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert settings == Settings(path=tmp_path / "mepd.conf", files=(tmp_path / "mepd.conf",))


def test_every_section(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
[mepd]
logfile = log/mepd.log        ; relative to this file
logfile_maxbytes = 5MB
loglevel = WARN
stopwaitsecs = 2.5
max_ueps = 100
min_uid = 2000
deny_users = postgres, www-data
mapped_name_pattern = [A-Z]{1,8}
mapper_timeout = 2.5
render_timeout = 1
[control]
file = %(here)s/run/mepd.sock
chmod = 0660
chown = root:adm
[service]
url = https://compute.example.org/
credentials = service.json
[endpoint:gpu.large]
directory = /etc/mepd/gpu
autostart = no
[program:gateway]
command = "/opt/my tools/gateway" serve --name "%(ENV_SITE)s" 100%%
environment = A="x, y; z",B='q',
  C=%(here)s
user = mepd
stopsignal = SIGQUIT
""",
        SITE="example.org",
    )
    assert settings.mepd.logfile == tmp_path / "log/mepd.log"
    assert settings.mepd.logfile_maxbytes == 5 * 1024 * 1024
    assert settings.mepd.loglevel == "warning"
    assert settings.mepd.stopwaitsecs == 2.5
    assert (settings.mepd.max_ueps, settings.mepd.min_uid) == (100, 2000)
    assert settings.mepd.mapped_name_pattern == "[A-Z]{1,8}"
    assert (settings.mepd.mapper_timeout, settings.mepd.render_timeout) == (2.5, 1.0)
    assert settings.mepd.deny_users == ("postgres", "www-data")
    assert settings.control.file == tmp_path / "run/mepd.sock"
    assert (settings.control.chmod, settings.control.chown) == (0o660, "root:adm")
    assert settings.service.url == "https://compute.example.org"
    assert settings.service.credentials == tmp_path / "service.json"
    (endpoint,) = settings.endpoints
    assert (endpoint.name, endpoint.directory) == ("gpu.large", Path("/etc/mepd/gpu"))
    assert endpoint.autostart is False
    (program,) = settings.programs
    assert program.command == (
        "/opt/my tools/gateway", "serve", "--name", "example.org", "100%"
    )  # fmt: skip
    assert program.environment == (("A", "x, y; z"), ("B", "q"), ("C", str(tmp_path)))
    assert (program.user, program.stopsignal) == ("mepd", "QUIT")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mepd]\nlogfil = x\n", "mepd.conf:2: unknown key 'logfil' in [mepd]; the nearest"
         " known is 'logfile'"),
        ("\n[mepdd]\n", "mepd.conf:2: unknown section [mepdd]; the nearest known is 'mepd'"),
        ("[endpont:a]\n", "mepd.conf:1: unknown section [endpont:a]; the nearest known is"
         " 'endpoint:NAME'"),
        ("[mepd]\n[mepd]\n", "mepd.conf:2: [mepd] stands twice"),
        ("[mepd]\nuser=a\n\nuser=b\n", "mepd.conf:4: [mepd] user stands twice"),
        ("user = a\n", "mepd.conf:1: a key before the first [section]"),
        ("[mepd]\nuser\n", "mepd.conf:2: neither a [section] nor key = value"),
        ("[endpoint:a]\n", "mepd.conf:1: [endpoint:a] needs directory"),
        ("[program:a]\nuser=x\n", "mepd.conf:1: [program:a] needs command"),
        ("[endpoint:a]\ndirectory=x\n[endpoint:b]\nautostart=no\ndirectory=../%(ENV_HERE)s/x\n",
         "mepd.conf:5: [endpoint:b] directory: x is that of [endpoint:a], too"),
        ("[endpoint:a/b]\ndirectory=/x\n", "mepd.conf:1: Invalid endpoint name: 'a/b'; up to"),
        ("[program:a/b]\ncommand=x\n", "mepd.conf:1: Invalid program name: 'a/b'; up to"),
        ("[mepd]\nuser=%(ENV_NOPE)s\n", "mepd.conf:2: [mepd] user: %(ENV_NOPE)s is not known"),
        ("[mepd]\nuser=%(nope)s\n", "mepd.conf:2: [mepd] user: %(nope)s is not known"),
        ("[mepd]\nuser=50%\n", "mepd.conf:2: [mepd] user: a lone % must be written %%"),
        ("[mepd]\nuser=a b\n", "mepd.conf:2: [mepd] user: must be one word"),
        ("[mepd]\nlogfile_maxbytes=5XB\n", "mepd.conf:2: [mepd] logfile_maxbytes: '5XB' is no"),
        ("[mepd]\nstopwaitsecs=-1\n", "mepd.conf:2: [mepd] stopwaitsecs: '-1' is no number"),
        ("[mepd]\nmax_ueps=1e3\n", "mepd.conf:2: [mepd] max_ueps: '1e3' is no whole number"),
        ("[mepd]\nmapped_name_pattern=[a\n", "mepd.conf:2: [mepd] mapped_name_pattern: '[a' is no"),
        ("[mepd]\nmapper_timeout=0\n", "mepd.conf:2: [mepd] mapper_timeout: must be above 0"),
        ("[mepd]\nmapper_timeout=2500000\n", "mepd.conf:2: [mepd] mapper_timeout: must be above 0,"
         " and 1,000,000 at the most"),
        ("[mepd]\nlogfile_backups=1001\n", "mepd.conf:2: [mepd] logfile_backups: must be 1,000"),
        ("[mepd]\nstart_timeout=0\n", "mepd.conf:2: [mepd] start_timeout: must be above 0"),
        ("[mepd]\nloglevel=loud\n", "mepd.conf:2: [mepd] loglevel: 'loud' is not one of"),
        ("[mepd]\nlogfile=\n", "mepd.conf:2: [mepd] logfile: is empty"),
        ("[mepd]\nlogfile=~nobody-of-that-name/x\n", "mepd.conf:2: [mepd] logfile: '~nobody"),
        ("[control]\nchmod=999\n", "mepd.conf:2: [control] chmod: '999' is no octal mode"),
        ("[control]\nchown=a:b:c\n", "mepd.conf:2: [control] chown: 'a:b:c' is not USER"),
        ("[service]\nurl=ftp://x\n", "mepd.conf:2: [service] url: is no http or https URL"),
        ("[service]\nurl=http://a:b@c\n", "mepd.conf:2: [service] url: is no http or https"),
        ("[service]\nurl=http://h:x\n", "mepd.conf:2: [service] url: names no host and port"),
        ("[service]\nurl=http://h:65536\n", "mepd.conf:2: [service] url: names no host and port"),
        ("[service]\nurl=http://h:0\n", "mepd.conf:2: [service] url: names no host and port"),
        ("[service]\nurl=http://:80/x\n", "mepd.conf:2: [service] url: names no host and port"),
        ("[service]\nurl=http://[::1\n", "mepd.conf:2: [service] url: names no host and port"),
        ("[service]\nurl=http://[::1]x:5\n", "mepd.conf:2: [service] url: names no host and"),
        ("[service]\nurl=http://h/?a=b\n", "mepd.conf:2: [service] url: is no http or https URL"),
        ("[service]\nurl=http://h#a\n", "mepd.conf:2: [service] url: is no http or https URL"),
        ("[service]\nurl=http://h/\u00e9\n", "mepd.conf:2: [service] url: is no http or https"),
        ("[program:a]\ncommand='x\n", "mepd.conf:2: [program:a] command: No closing quotation"),
        ("[program:a]\ncommand=x\nenvironment=A\n", "mepd.conf:3: [program:a] environment: 'A'"),
        ("[program:a]\ncommand=x\nstopsignal=NOPE\n", "mepd.conf:3: [program:a] stopsignal: "),
        ("[program:a]\ncommand=x\nautostart=perhaps\n", "mepd.conf:3: [program:a] autostart: "),
        ("[mepd]\nuser = a\x00b\n", "mepd.conf:2: a control character"),
        ("[include]\nfiles = none.conf\n", "mepd.conf:2: [include] files: none.conf does not"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    assert fault(tmp_path, text, HERE=tmp_path.name).startswith(message)


def test_line_numbers_survive_continuations_and_odd_separators(tmp_path: Path) -> None:
    text = "[program:a]\ncommand = x\n  --y\n\n# a\u2028b\nenvironment = A=1,\n  B=2\nuzer = z\n"
    assert fault(tmp_path, text).startswith("mepd.conf:8: unknown key 'uzer'")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ini.load(tmp_path / "none.conf")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "mepd.conf"
    path.write_bytes(b"[mepd]\nuser = \xff\n")
    with pytest.raises(ConfigError, match=":2: not UTF-8"):
        ini.load(path)


def test_a_relative_path_of_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.conf").write_text("[mepd]\nlogfile=%(here)s/x\npidfile=y\n")
    monkeypatch.chdir(tmp_path)
    settings = ini.load(Path("m.conf"))
    assert settings.path == tmp_path / "m.conf"
    assert (settings.mepd.logfile, settings.mepd.pidfile) == (tmp_path / "x", tmp_path / "y")


def test_mepctl_needs_the_environment_of_its_own_section_only(tmp_path: Path) -> None:
    path = tmp_path / "mepd.conf"
    path.write_text("[mepd]\nuser=%(ENV_U)s\n[control]\nfile=%(ENV_RUN)s/s\n")
    assert ini.load_control(path, {"RUN": "/run"}).file == Path("/run/s")
    with pytest.raises(ConfigError, match=r":2: \[mepd\] user: %\(ENV_U\)s is not known"):
        ini.load(path, {"RUN": "/run"})


# Pieces of INI files, so that many of the texts get past the first check.
_PIECES = st.sampled_from(
    ["[mepd]", "[control]", "[include]", "[endpoint:a]", "[program:b]", "\n", "\n ", " = ", ";",
     "user", "files", "command", "environment", "directory", "chmod", "%", "%(here)s", "%%",
     "%(ENV_A)s", '"', "'", "\\", ",", "A=1", "*", "**", "/", "..", "~x", "]", "[", "\r", "0660"]
) | st.text(max_size=8)  # fmt: skip


@given(st.lists(_PIECES, max_size=30).map("".join))
def test_whatever_is_in_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Settings or a ConfigError that names the file; nothing else."""
    path = tmp_path_factory.getbasetemp() / "fuzz/mepd.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    try:
        ini.load(path, {"A": "a"})
    except ConfigError as e:
        assert str(e).startswith(f"{path}: ") or str(e).startswith(f"{path}:{e.line}: ")


class TestInclude:
    def write(self, tmp_path: Path, **files: str) -> None:
        (tmp_path / "conf.d").mkdir()
        for name, text in files.items():
            (tmp_path / "conf.d" / f"{name}.conf").write_text(text)

    def test_globs_sorted_and_relative_to_the_included_file(self, tmp_path: Path) -> None:
        self.write(
            tmp_path,
            b="[endpoint:b]\ndirectory = b\n",
            a="[endpoint:a]\ndirectory = %(here)s/a\n",
        )
        settings = load(tmp_path, "[include]\nfiles = conf.d/*.conf none.d/*.conf\n")
        assert [e.name for e in settings.endpoints] == ["a", "b"]
        assert [e.directory for e in settings.endpoints] == [
            tmp_path / "conf.d/a", tmp_path / "conf.d/b"
        ]  # fmt: skip
        assert [f.name for f in settings.files] == ["mepd.conf", "a.conf", "b.conf"]

    def test_a_section_in_two_files(self, tmp_path: Path) -> None:
        self.write(tmp_path, a="\n[endpoint:x]\ndirectory = /a\n")
        text = "[endpoint:x]\ndirectory = /b\n[include]\nfiles = conf.d/*\n"
        expected = "conf.d/a.conf:2: [endpoint:x] stands in mepd.conf:1, too"
        assert fault(tmp_path, text) == expected

    def test_an_error_names_the_included_file(self, tmp_path: Path) -> None:
        self.write(tmp_path, a="[mepd]\n\nloglvl = info\n")
        assert fault(tmp_path, "[include]\nfiles = conf.d/a.conf\n").startswith(
            "conf.d/a.conf:3: unknown key 'loglvl'"
        )

    def test_no_nesting(self, tmp_path: Path) -> None:
        self.write(tmp_path, a="[include]\nfiles = *.conf\n")
        assert "conf.d/a.conf:2" in fault(tmp_path, "[include]\nfiles = conf.d/a.conf\n")

    def test_a_file_named_twice_is_read_once(self, tmp_path: Path) -> None:
        self.write(tmp_path, a="[endpoint:x]\ndirectory = /a\n")
        settings = load(tmp_path, "[include]\nfiles = conf.d/*.conf conf.d/a.conf\n")
        assert len(settings.endpoints) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://h", "http://h"),
        ("https://a.example.org:8443/base/", "https://a.example.org:8443/base"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
        ("http://[fe80::1%%25eth0]", "http://[fe80::1%25eth0]"),
        ("http://h:/x%%20y", "http://h:/x%20y"),
    ],
)
def test_urls_of_a_service(tmp_path: Path, text: str, expected: str) -> None:
    conf = tmp_path / "mepd.conf"
    conf.write_text(f"[service]\nurl = {text}\n")
    assert ini.load(conf).service.url == expected


def test_a_url_that_is_wrong_is_not_told(tmp_path: Path) -> None:
    """Somebody may have written a password into it."""
    for text in ("http://me:canary", "http://me:canary@h", "http://h/?token=canary"):
        assert "canary" not in fault(tmp_path, f"[service]\nurl = {text}\n")
