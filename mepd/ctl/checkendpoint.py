"""The checks of one endpoint: its five files, PAM, and the program for its users."""

from __future__ import annotations

import json
import os
import pwd
import shutil
from pathlib import Path

from mepd.config import endpoint as endpoint_config
from mepd.config import folder
from mepd.config.settings import EndpointSnapshot
from mepd.ctl import isolated, reach
from mepd.ctl.findings import OK, WARNING, Findings
from mepd.errors import ConfigError
from mepd.posix import programs

_CHECKER = "mepd.watcher.standalone"


class EndpointCheck:
    """``mapped`` stands for the people whom the endpoint will serve."""

    def __init__(
        self, found: Findings, name: str, directory: Path, mapped: pwd.struct_passwd
    ) -> None:
        self._found = found
        self._name = name
        self._directory = directory
        self._mapped = mapped
        self._privileged = os.geteuid() == 0
        self._files: dict[str, str] = {}
        self._snapshot: EndpointSnapshot | None = None

    def run(self) -> None:
        if not self._attempt("folder", self._read):
            return
        parsed = self._attempt("files", self._parse)
        self._five_files()
        self._attempt("contents", self._compiled)
        if not parsed or self._snapshot is None:
            return
        for warning in folder.warnings(self._snapshot, self._privileged):
            self._found.note(
                self._name, "advice", WARNING, warning.removeprefix(f"endpoint {self._name}: ")
            )
        self._attempt("PAM", self._pam)
        self._attempt("uep_command", self._command)

    def _attempt(self, what: str, check: object) -> bool:
        assert callable(check)
        return self._found.attempt(self._name, what, check)

    def _read(self) -> str:
        """Reading checks also, as root, that nobody else can write."""
        self._files = folder.read(self._directory, self._privileged)
        return str(self._directory)

    def _parse(self) -> str:
        self._snapshot = folder.parse(
            self._name, self._directory, self._files, self._privileged
        )
        return f"{len(self._snapshot.versions)} files are read"

    def _five_files(self) -> None:
        """Which file stands for which of the five; mapping and the two optional ones."""
        s = self._snapshot
        mapping = str(s.mapping_path) if s and s.mapping_path else None
        config = s.config if s else {}
        named = str(config.get("user_config_schema_path") or endpoint_config.SCHEMA)
        schema = named if s is None or s.schema is not None else None
        template = s.template_name if s else None
        environment = endpoint_config.ENVIRONMENT
        has_environment = environment in self._files
        self._file("config.yaml", endpoint_config.CONFIG, "")
        if s is None:
            return
        self._file("identity mapping", mapping, "only needed as root: not used")
        self._file("template", template, "")
        self._file("schema", schema, "there is none: users may pass any option")
        self._file("environment", environment if has_environment else None, "there is none")

    def _file(self, what: str, name: str | None, without: str) -> None:
        if name is None:
            self._found.note(self._name, what, WARNING, without)
            return
        self._found.note(self._name, what, OK, str(self._directory / name))

    def _compiled(self) -> str:
        """Template, schema and rules, by the libraries that will use them, without rights."""
        done = isolated.ask(_CHECKER, {"endpoint": self._name, "files": self._files})
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ConfigError(f"cannot be checked: {last or f'exit code {done.returncode}'}")
        error = str(json.loads(done.stdout)["error"])
        if error:
            raise ConfigError(error, str(self._directory))
        return "template, schema and mapping are understood"

    def _pam(self) -> str:
        s = self._snapshot
        assert s is not None
        if not s.pam_enable:
            return "off"
        found = folder.pam_file(s.pam_service)
        if found is None:
            raise ConfigError(
                f"service {s.pam_service} has no file in {folder.PAM[0]}: the rules of the"
                " service other apply"
            )
        return str(found)

    def _command(self) -> str:
        """As the mapped user: the program and, of a script, what runs it."""
        s = self._snapshot
        assert s is not None
        word = s.uep_command[0]
        path = s.environment.get("PATH") or programs.default_path()
        if not self._privileged:
            place = word if "/" in word else shutil.which(word, path=path)
            if place is None or not os.access(place, os.X_OK):
                raise ConfigError(f"{word} is not on PATH {path!r}")
            return f"{place} (not checked for other users: be root)"
        try:
            return f"{reach.as_user(self._mapped, word, path)} by {self._mapped.pw_name}"
        except PermissionError as e:
            raise ConfigError(str(e)) from None
