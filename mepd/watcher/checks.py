"""Checks of an endpoint's files, text by text. Pure; each raises ConfigError."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from mepd.config.endpoint import parse_files
from mepd.errors import ConfigError, WireError
from mepd.watcher import safeyaml
from mepd.wire.framing import parse_json

CONFIG = "config.yaml"
ENVIRONMENT = "user_environment.yaml"
SCHEMA = "user_config_schema.json"
MAPPING = "example_identity_mapping_config.json"
_TEXT_MAX = 1024 * 1024
_DATA_TYPES = ("expression_identity_mapping", "external_identity_mapping")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def check_endpoint(endpoint: str, files: Mapping[str, str]) -> None:
    """All files of one endpoint's folder, by name."""
    config = {}
    for name, text in files.items():
        check_text(text, name)
    if CONFIG in files:
        config = check_mapping(files[CONFIG], CONFIG)
    if ENVIRONMENT in files:
        check_environment(files[ENVIRONMENT], ENVIRONMENT)
    schema = _named(config, "user_config_schema_path", SCHEMA)
    mapping = _named(config, "identity_mapping_config_path", MAPPING)
    for name, text in files.items():
        if PurePath(name).name == schema:
            check_schema(text, name)
        elif PurePath(name).name == mapping:
            check_identity_mapping(text, name)
    # Its errors begin with the endpoint's name in the place of the folder, which only
    # the master knows
    parse_files(endpoint, Path(endpoint), files)


def check_ini(files: Mapping[str, str]) -> None:
    """The syntax of the INI file and of what it includes."""
    for name, text in files.items():
        check_text(text, name)
        parser = configparser.RawConfigParser(strict=True)
        try:
            parser.read_string(text, name)
        except configparser.MissingSectionHeaderError as e:
            raise ConfigError("a key before the first section", name, e.lineno) from None
        except configparser.ParsingError as e:
            raise ConfigError("neither a section nor a key", name, e.errors[0][0]) from None
        except configparser.Error as e:
            reason = e.message.splitlines()[0][:200]
            raise ConfigError(reason, name, getattr(e, "lineno", 0) or 0) from None


def _named(config: Mapping[str, Any], key: str, default: str) -> str:
    value = config.get(key)
    return PurePath(value).name if isinstance(value, str) else default


def check_text(text: str, name: str) -> None:
    """Any file: of sensible size, and text."""
    if len(text) > _TEXT_MAX:
        raise ConfigError(f"larger than {_TEXT_MAX} characters", name)
    position = text.find("\0")
    if position >= 0:
        raise ConfigError("a NUL character", name, text.count("\n", 0, position) + 1)


def check_mapping(text: str, name: str) -> dict[str, Any]:
    """YAML with one mapping of texts to values; an empty file is an empty one."""
    value = safeyaml.load(text, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError("no mapping of keys to values", name)
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"the key {str(key)[:60]!r} is no text", name)
    return value


def check_environment(text: str, name: str) -> None:
    """Environment variables: names to plain values."""
    for key, value in check_mapping(text, name).items():
        if not key or "=" in key or "\0" in key:
            raise ConfigError(f"{key[:60]!r} is no name of a variable", name)
        if not isinstance(value, (str, int, float, type(None))) or "\0" in str(value):
            raise ConfigError(f"the value of {key[:60]!r} is no plain text", name)


def _json(text: str, name: str) -> Any:
    try:
        return parse_json(text)
    except WireError as e:
        raise ConfigError(str(e), name) from None


def check_identity_mapping(text: str, name: str) -> None:
    """A list of documents, each of a kind that the mapping library knows."""
    documents = _json(text, name)
    if not isinstance(documents, list):
        raise ConfigError("no list of mapping documents", name)
    for number, document in enumerate(documents, 1):
        kind = document.get("DATA_TYPE") if isinstance(document, dict) else None
        if not isinstance(kind, str):
            raise ConfigError(f"document {number}: no DATA_TYPE", name)
        if kind.partition("#")[0] not in _DATA_TYPES:
            raise ConfigError(f"document {number}: unknown DATA_TYPE {kind[:60]!r}", name)


def check_schema(text: str, name: str) -> None:
    """A JSON schema of draft 2020-12, which is how a start reads it, that needs no network."""
    from jsonschema import Draft202012Validator, SchemaError

    schema = _json(text, name)
    if not isinstance(schema, dict):
        raise ConfigError("no JSON schema: not an object", name)
    check_references(schema, name)
    validator: Any = Draft202012Validator
    try:
        # The format checker compiles the regular expressions
        validator.check_schema(schema, format_checker=validator.FORMAT_CHECKER)
    except SchemaError as e:
        raise ConfigError(f"no JSON schema: {e.json_path}: {e.message[:200]}", name) from None


def check_references(schema: dict[str, Any], name: str) -> None:
    """No reference to anything outside the document."""
    stack: list[Any] = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            stack.extend(node.values())
            for key in _REFERENCES:
                target = node.get(key)
                if isinstance(target, str) and not target.startswith("#"):
                    raise ConfigError(f"{key} to {target[:100]!r}: outside the file", name)
