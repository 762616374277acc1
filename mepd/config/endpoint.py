"""An endpoint's folder: read as bytes by root, parsed into one frozen snapshot.

The five files and their keys are those of the administrator's manual; a folder made by
globus-compute-endpoint works as it is.
"""

from __future__ import annotations

import difflib
import json
import os
import platform
import pwd
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import mepd
from mepd.config.settings import EndpointSnapshot
from mepd.errors import ConfigError

CONFIG = "config.yaml"
TEMPLATES = ("user_config_template.yaml.j2", "user_config_template.yaml")
SCHEMA = "user_config_schema.json"
ENVIRONMENT = "user_environment.yaml"
REGISTRATION = "endpoint.json"
FILE_MAX = 1024 * 1024
_NODES_MAX = 20_000
_FILES_MAX = 64

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HONOURED = {
    "display_name", "identity_mapping_config_path", "multi_user", "amqp_port", "pam",
    "allowed_functions", "authentication_policy", "heartbeat_period", "public", "admins",
    "subscription_id", "high_assurance", "mu_child_ep_grace_period_s", "uep_command",
    "max_ueps_per_user", "user_config_template_path", "user_config_schema_path", "debug",
}  # fmt: skip
# Known to globus-compute-endpoint 4.19 and without meaning here.
_IGNORED = {
    "environment", "local_compute_services", "audit_log_path", "email", "detach_endpoint",
    "force_mu_allow_same_user", "paths", "funcx_service_address", "contact_email",
}  # fmt: skip
_COMMANDS = ("mepd-uep", "globus-compute-endpoint")


# --- reading -----------------------------------------------------------------------------
def _read(path: Path) -> str | None:
    """The text of a regular file; None if there is none. Raises ConfigError or OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as f:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError("is no regular file", str(path))
        data = f.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise ConfigError(f"larger than {FILE_MAX} bytes", str(path))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError("not UTF-8", str(path), data[: e.start].count(b"\n") + 1) from None


def read_files(directory: Path) -> dict[str, str]:
    """The texts of an endpoint's files by name.

    The names are those of the folder; a file that config.yaml names elsewhere is under
    its absolute path. Missing optional files are left out. Raises ConfigError or OSError.
    """
    if not directory.is_dir():
        raise ConfigError("there is no such folder", str(directory))
    files: dict[str, str] = {}
    names = {CONFIG, SCHEMA, ENVIRONMENT, REGISTRATION, *TEMPLATES}
    names.update(p.name for p in sorted(directory.glob("*.j2"))[:_FILES_MAX])
    for name in sorted(names):
        text = _read(directory / name)
        if text is not None:
            files[name] = text
    if CONFIG not in files:
        raise ConfigError("is missing", str(directory / CONFIG))
    config = _mapping(files[CONFIG], directory / CONFIG)
    for key in (
        "identity_mapping_config_path",
        "user_config_template_path",
        "user_config_schema_path",
    ):
        if config.get(key):
            path = _path_of(config, key, directory)
            text = _read(path)
            if text is None:
                raise ConfigError(f"{key}: {path} does not exist", str(directory / CONFIG))
            files[str(path)] = text
    return files


def _path_of(config: Mapping[str, Any], key: str, directory: Path) -> Path:
    value = config[key]
    if not isinstance(value, str):
        raise ConfigError(f"{key} must be a path", str(directory / CONFIG))
    return Path(os.path.normpath(directory / Path(value).expanduser()))


# --- YAML --------------------------------------------------------------------------------
def _mapping(text: str, path: Path) -> dict[str, Any]:
    """A YAML mapping with text keys; {} for an empty file. Raises ConfigError."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        aliases = sum(1 for t in yaml.scan(text, Loader=loader) if isinstance(t, yaml.AliasToken))
        if aliases > 100:
            raise ConfigError("more than 100 aliases", str(path))
        value = yaml.load(text, Loader=loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or "not YAML"
        raise ConfigError(str(problem), str(path), mark.line + 1 if mark else 0) from None
    except RecursionError:
        raise ConfigError("nested too deeply", str(path)) from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise ConfigError("is no mapping of names to values", str(path))
    _bound_nodes(value, path)
    return value


def _bound_nodes(value: Any, path: Path) -> None:
    """Refuse what aliases have blown up."""
    count, stack = 0, [value]
    while stack:
        node = stack.pop()
        count += 1
        if count > _NODES_MAX:
            raise ConfigError(f"more than {_NODES_MAX} values", str(path))
        if isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _line_of(text: str, key: str) -> int:
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"{re.escape(key)}\s*:", line):
            return number
    return 0


class _Config:
    """config.yaml with typed access; errors name the file, the line and the key."""

    def __init__(self, text: str, path: Path) -> None:
        self.values = _mapping(text, path)
        self._text = text
        self._path = path
        for key in self.values:
            self._check_key(key)

    def error(self, key: str, message: str) -> ConfigError:
        return ConfigError(f"{key}: {message}", str(self._path), _line_of(self._text, key))

    def _check_key(self, key: str) -> None:
        if key == "engine":
            raise self.error(
                key, "a multi-user endpoint runs no tasks itself; put the engine block into"
                " user_config_template.yaml.j2",
            )  # fmt: skip
        if key in _HONOURED or key in _IGNORED:
            return
        close = difflib.get_close_matches(key, _HONOURED, n=1, cutoff=0.0)
        raise self.error(key, f"unknown key; the nearest known is {close[0]!r}")

    def get(self, key: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.error(key, f"must be {what}")
        return value

    def text(self, key: str) -> str | None:
        value: str | None = self.get(key, (str,), "a text")
        return value

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.get(key, (bool,), "true or false")
        return default if value is None else bool(value)

    def number(self, key: str, default: float, minimum: float = 0.0) -> float:
        value = self.get(key, (int, float), "a number")
        if value is None:
            return default
        if not minimum <= value < 1e9:
            raise self.error(key, f"must be at least {minimum:g}")
        return float(value)

    def texts(self, key: str) -> tuple[str, ...] | None:
        value = self.get(key, (list,), "a list")
        if value is None:
            return None
        if not all(isinstance(v, str) for v in value):
            raise self.error(key, "must be a list of texts")
        return tuple(value)

    def uuids(self, key: str) -> tuple[str, ...] | None:
        values = self.texts(key)
        for value in values or ():
            if _UUID.fullmatch(value) is None:
                raise self.error(key, f"{value[:50]!r} is no UUID")
        return None if values is None else tuple(v.lower() for v in values)

    def pam(self) -> tuple[bool, str]:
        """(enable, service): no block is off; a block without ``enable`` is on."""
        service = "globus-compute-endpoint"
        block = self.get("pam", (dict,), "a mapping")
        if block is None:
            return False, service
        unknown = sorted(set(block) - {"enable", "service_name"}, key=str)
        if unknown:
            raise self.error("pam", f"unknown key {unknown[0]!r}; known are enable, service_name")
        enable = block.get("enable", True)
        name = block.get("service_name", service)
        if not isinstance(enable, bool):
            raise self.error("pam", "enable must be true or false")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise self.error("pam", "service_name must be the name of a file of /etc/pam.d")
        return enable, name

    def command(self) -> tuple[str, ...]:
        default = EndpointSnapshot.uep_command
        value = self.values.get("uep_command")
        words = (value,) if isinstance(value, str) else self.texts("uep_command")
        if value is None or words is None:
            return default
        if not words or not words[0]:
            raise self.error("uep_command", "is empty")
        program = words[0].rpartition("/")[2]
        if program == "globus-compute-endpoint" and len(words) == 1:
            return (words[0], "start", "{name}", "--die-with-parent")
        if program == "mepd-uep" and len(words) == 1:
            return (words[0], *default[1:])
        return tuple(words)


# --- the other files -----------------------------------------------------------------------
def _json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise ConfigError(f"not JSON: {e.msg}", path, e.lineno) from None
    except RecursionError:
        raise ConfigError("nested too deeply", path) from None


_DATA_TYPES = ("expression_identity_mapping#1.0.0", "external_identity_mapping#1.0.0")


def _mappings(text: str, path: str) -> tuple[dict[str, Any], ...]:
    value = _json(text, path)
    if not isinstance(value, list) or not all(isinstance(d, dict) for d in value):
        raise ConfigError("is no list of mapping documents", path)
    for number, document in enumerate(value, start=1):
        kind = document.get("DATA_TYPE")
        if kind not in _DATA_TYPES:
            raise ConfigError(
                f"document {number}: DATA_TYPE {kind!r} is unknown; known are"
                f" {', '.join(_DATA_TYPES)}", path,
            )  # fmt: skip
        if kind == _DATA_TYPES[0]:
            _check_rules(document, number, path)
        else:
            _check_command(document, number, path)
    return tuple(value)


def _check_rules(document: Mapping[str, Any], number: int, path: str) -> None:
    rules = document.get("mappings")
    if not isinstance(rules, list) or not rules:
        raise ConfigError(f"document {number}: mappings must be a list of rules", path)
    for position, rule in enumerate(rules, start=1):
        for key in ("source", "match", "output"):
            if not isinstance(rule, dict) or not isinstance(rule.get(key), str):
                raise ConfigError(
                    f"document {number}, rule {position}: {key} is missing or no text", path
                )


def _check_command(document: Mapping[str, Any], number: int, path: str) -> None:
    command = document.get("command")
    if (
        not isinstance(command, list)
        or not command
        or not all(isinstance(word, str) for word in command)
    ):
        raise ConfigError(f"document {number}: command must be a list of texts", path)
    if not command[0].startswith("/"):
        raise ConfigError(f"document {number}: command must be an absolute path", path)


def _environment(text: str, path: Path) -> dict[str, str]:
    """Flat names and values; everything becomes a string, as YAML's own scalars print."""
    out = {}
    for name, value in _mapping(text, path).items():
        line = _line_of(text, name)
        if isinstance(value, (dict, list)):
            raise ConfigError(f"{name}: values must not be nested", str(path), line)
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"{name!r} is no name of a variable", str(path), line)
        if value is not None:
            word = str(value)
            if "\0" in word:
                raise ConfigError(f"{name}: holds a NUL", str(path), line)
            out[name] = word
    return out


def _endpoint_id(text: str, path: Path) -> str:
    value = _json(text, str(path))
    found = value.get("endpoint_id") if isinstance(value, dict) else None
    if not isinstance(found, str) or _UUID.fullmatch(found) is None:
        raise ConfigError("endpoint_id is missing or no UUID", str(path))
    return found.lower()


# --- the whole -----------------------------------------------------------------------------
def _template(config: _Config, directory: Path, files: Mapping[str, str]) -> tuple[str, str]:
    if config.text("user_config_template_path"):
        path = str(_path_of(config.values, "user_config_template_path", directory))
        if path not in files:
            raise config.error("user_config_template_path", f"{path} is missing")
        return path, files[path]
    for name in TEMPLATES:
        if name in files:
            return name, files[name]
    raise ConfigError("is missing", str(directory / TEMPLATES[0]))


def _schema(config: _Config, directory: Path, files: Mapping[str, str]) -> dict[str, Any] | None:
    name = SCHEMA
    if config.text("user_config_schema_path"):
        name = str(_path_of(config.values, "user_config_schema_path", directory))
    if name not in files:
        return None
    path = str(directory / name)
    value = _json(files[name], path)
    if not isinstance(value, dict):
        raise ConfigError("is no JSON schema object", path)
    return value


def _registration(
    name: str, config: _Config, config_text: str, template: str, schema: dict[str, Any] | None
) -> dict[str, Any]:
    """The body of POST /v3/endpoints (globus-compute-sdk 4.19, Client.register_endpoint)."""
    body: dict[str, Any] = {
        "endpoint_name": name,
        "multi_user": True,
        "display_name": config.text("display_name"),
        "allowed_functions": list(config.uuids("allowed_functions") or ()),
        "authentication_policy": config.text("authentication_policy"),
        "subscription_uuid": config.text("subscription_id"),
        "admins": list(config.uuids("admins") or ()),
        "public": config.get("public", (bool,), "true or false"),
        "high_assurance": config.get("high_assurance", (bool,), "true or false"),
        "metadata": {
            "endpoint_version": mepd.__version__,
            "python_version": platform.python_version(),
            "hostname": socket.gethostname(),
            "local_user": _own_name(),
            "endpoint_config": config_text,
            "user_config_template": template,
            "user_config_schema": schema,
        },
    }
    return {k: v for k, v in body.items() if v is not None and v != []}


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def parse_files(name: str, directory: Path, files: Mapping[str, str]) -> EndpointSnapshot:
    """One snapshot of the texts that :func:`read_files` read. Raises ConfigError."""
    config = _Config(files.get(CONFIG, ""), directory / CONFIG)
    template_name, template = _template(config, directory, files)
    schema = _schema(config, directory, files)
    mapping_path: Path | None = None
    mappings = None
    if config.text("identity_mapping_config_path"):
        mapping_path = _path_of(config.values, "identity_mapping_config_path", directory)
        if str(mapping_path) not in files:
            raise config.error("identity_mapping_config_path", f"{mapping_path} is missing")
        mappings = _mappings(files[str(mapping_path)], str(mapping_path))
    pam_enable, pam_service = config.pam()
    port = int(config.number("amqp_port", 0))
    if not 0 <= port <= 65535:
        raise config.error("amqp_port", "must be at most 65535")
    warnings = tuple(
        f"config.yaml: {key} has no meaning here and is ignored"
        for key in config.values
        if key in _IGNORED and config.values[key] is not None
    )
    return EndpointSnapshot(
        name=name,
        directory=directory,
        endpoint_id=(
            _endpoint_id(files[REGISTRATION], directory / REGISTRATION)
            if REGISTRATION in files
            else None
        ),
        config=config.values,
        template_name=template_name,
        template=template,
        schema=schema,
        mappings=mappings,
        mapping_path=mapping_path,
        environment=_environment(files.get(ENVIRONMENT, ""), directory / ENVIRONMENT),
        includes={n: t for n, t in files.items() if n.endswith(".j2") and n != template_name},
        display_name=config.text("display_name"),
        pam_enable=pam_enable,
        pam_service=pam_service,
        allowed_functions=config.uuids("allowed_functions"),
        amqp_port=port or None,
        heartbeat_period=config.number("heartbeat_period", 30.0, 0.1),
        grace_period=config.number("mu_child_ep_grace_period_s", 30.0),
        uep_command=config.command(),
        max_ueps_per_user=int(config.number("max_ueps_per_user", 0)),
        registration=_registration(name, config, files.get(CONFIG, ""), template, schema),
        warnings=warnings,
    )
