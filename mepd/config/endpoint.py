"""An endpoint's folder: read as texts by root, parsed into one frozen snapshot.

The five files and their keys are those of the administrator's manual; a folder made by
globus-compute-endpoint works as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mepd.config import (
    includes,
    mappingfile,
    mappinglint,
    registration,
    safeyaml,
    schemafile,
    templatelint,
)
from mepd.config.configyaml import PATH_KEYS, ConfigYaml, named_files
from mepd.config.names import UUID
from mepd.config.settings import EndpointSnapshot
from mepd.config.textfile import FILE_MAX, read_text, version_of
from mepd.errors import ConfigError

CONFIG = "config.yaml"
TEMPLATES = ("user_config_template.yaml.j2", "user_config_template.yaml")
SCHEMA = "user_config_schema.json"
ENVIRONMENT = "user_environment.yaml"
REGISTRATION = "endpoint.json"
KNOWN = (CONFIG, *TEMPLATES, SCHEMA, ENVIRONMENT)
"""What mepd looks for in a folder, whatever config.yaml names."""
TOTAL_MAX = 2 * FILE_MAX
"""All files of a folder: as escaped JSON they still fit a worker's frame."""


def read_files(directory: Path) -> dict[str, str]:
    """The texts of an endpoint's files by name.

    The names are relative to the folder; a file that config.yaml names elsewhere is under
    its absolute path. Missing optional files are left out. Raises ConfigError or OSError.
    """
    if not directory.is_dir():
        raise ConfigError("there is no such folder", str(directory))
    config = read_text(directory / CONFIG)
    if config is None:
        raise ConfigError("is missing", str(directory / CONFIG))
    files = {CONFIG: config}
    known = (*TEMPLATES, SCHEMA, ENVIRONMENT, REGISTRATION)
    _read_into(files, directory, (*known, *includes.candidates(directory)))
    for key, name in named_files(config, directory / CONFIG).items():
        _read_into(files, directory, [name])
        if name not in files:
            raise ConfigError(f"{key}: {name} does not exist", str(directory / CONFIG))
    _read_included(files, directory)
    if sum(len(text.encode()) for text in files.values()) > TOTAL_MAX:
        raise ConfigError(f"all files together are larger than {TOTAL_MAX} bytes", str(directory))
    return files


def _read_into(files: dict[str, str], directory: Path, names: Iterable[str]) -> None:
    """Add the texts of those files that there are and that have not been read yet."""
    for name in names:
        text = None if name in files else read_text(directory / name)
        if text is not None:
            files[name] = text


def _read_included(files: dict[str, str], directory: Path) -> None:
    """Add what templates name, until none names more."""
    seen: set[str] = set()
    while new := set(files) - seen:
        seen |= new
        named = [n for name in sorted(new) for n in includes.named(files[name])]
        there = (n for n in named[: includes.FILES_MAX] if (directory / n).is_file())
        _read_into(files, directory, there)


def _environment(text: str, path: str) -> dict[str, str]:
    """Flat names and values; everything becomes a string, as YAML's own scalars print."""
    out = {}
    values = safeyaml.load_unique(text, path)
    lines = safeyaml.lines(text)
    for name, value in values.items():
        line = lines.get(name, 0)
        if isinstance(value, (dict, list, set)):
            raise ConfigError(f"{name}: values must not be nested", path, line)
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"{name[:60]!r} is no name of a variable", path, line)
        if value is None:
            continue
        out[name] = str(value)
        if "\0" in out[name]:
            raise ConfigError(f"{name}: holds a NUL", path, line)
    return out


def _endpoint_id(files: Mapping[str, str], directory: Path) -> str | None:
    if REGISTRATION not in files:
        return None
    path = str(directory / REGISTRATION)
    value = mappingfile.load_json(files[REGISTRATION], path)
    found = value.get("endpoint_id") if isinstance(value, dict) else None
    if not isinstance(found, str) or UUID.fullmatch(found) is None:
        raise ConfigError("endpoint_id is missing or no UUID", path)
    return found.lower()


def _template(config: ConfigYaml, directory: Path, files: Mapping[str, str]) -> tuple[str, str]:
    """(name, text): the one that config.yaml names, or .yaml.j2, or .yaml."""
    named = config.file("user_config_template_path")
    for name in (named,) if named else TEMPLATES:
        if name in files:
            return name, files[name]
    raise ConfigError("is missing", str(directory / (named or TEMPLATES[0])))


def _schema(
    config: ConfigYaml, directory: Path, files: Mapping[str, str]
) -> dict[str, Any] | None:
    name = config.file("user_config_schema_path") or SCHEMA
    if name not in files:
        return None
    value = mappingfile.load_json(files[name], str(directory / name))
    if not isinstance(value, dict):
        raise ConfigError("is no JSON schema object", str(directory / name))
    schemafile.check_references(value, str(directory / name))
    return value


def _mappings(
    config: ConfigYaml, directory: Path, files: Mapping[str, str]
) -> tuple[Path | None, tuple[dict[str, Any], ...] | None]:
    name = config.file("identity_mapping_config_path")
    if name is None:
        return None, None
    if name not in files:
        raise config.error("identity_mapping_config_path", f"{name} is missing")
    path = directory / name
    return path, mappingfile.parse(files[name], str(path))


def _audit_log(config: ConfigYaml, directory: Path) -> Path | None:
    name = config.file("audit_log_path")
    return None if name is None else directory / name


def _includes(
    files: Mapping[str, str], directory: Path, *others: str | None
) -> dict[str, str]:
    """What templates may include: nothing that is not for users, and no ``others``, however
    config.yaml and the template name them."""
    names = (CONFIG, ENVIRONMENT, REGISTRATION, SCHEMA, *others)
    private = {directory / name for name in names if name is not None}
    return {
        name: text
        for name, text in files.items()
        if directory / name not in private and not name.startswith("/")
    }


def versions(files: Mapping[str, str]) -> dict[str, str]:
    """The version of each file's text; endpoint.json, which is mepd's own, has none."""
    return {name: version_of(text) for name, text in files.items() if name != REGISTRATION}


def _warnings(snapshot: EndpointSnapshot) -> tuple[str, ...]:
    """What is valid and yet says more than it seems to."""
    templates = {snapshot.template_name: snapshot.template, **snapshot.includes}
    used = includes.reachable(snapshot.template_name, templates)
    shells = () if snapshot.allowed_functions is None else templatelint.lint(used)
    return (*mappinglint.lint(snapshot.mappings or ()), *shells)


def parse_files(name: str, directory: Path, files: Mapping[str, str]) -> EndpointSnapshot:
    """One snapshot of the texts that :func:`read_files` read. Raises ConfigError."""
    config_text = files.get(CONFIG, "")
    config = ConfigYaml(config_text, directory / CONFIG)
    template_name, template = _template(config, directory, files)
    schema = _schema(config, directory, files)
    mapping_path, mappings = _mappings(config, directory, files)
    pam_enable, pam_service = config.pam(EndpointSnapshot.pam_service)
    snapshot = EndpointSnapshot(
        name=name,
        directory=directory,
        endpoint_id=_endpoint_id(files, directory),
        config=config.values,
        template_name=template_name,
        template=template,
        schema=schema,
        mappings=mappings,
        mapping_path=mapping_path,
        environment=_environment(files.get(ENVIRONMENT, ""), str(directory / ENVIRONMENT)),
        includes=_includes(
            files, directory, template_name, *(config.file(key) for key in PATH_KEYS)
        ),
        display_name=config.text("display_name"),
        pam_enable=pam_enable,
        pam_service=pam_service,
        allowed_functions=config.uuids("allowed_functions"),
        amqp_port=config.whole("amqp_port", 65535) or None,
        heartbeat_period=config.number("heartbeat_period", 30.0, 0.1, 86400),
        grace_period=config.number("mu_child_ep_grace_period_s", 30.0),
        uep_command=config.command(EndpointSnapshot.uep_command),
        max_ueps_per_user=config.whole("max_ueps_per_user", 1_000_000) or 0,
        limits=config.limits(),
        audit_log_path=_audit_log(config, directory),
        registration=registration.body(name, config, config_text, template, schema),
        versions=versions(files),
    )
    return replace(snapshot, warnings=(*config.ignored(), *_warnings(snapshot)))
