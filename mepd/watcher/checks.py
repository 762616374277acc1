"""Checks of configuration files, text by text. Pure; each raises ConfigError.

The configuration's own parser does most; jsonschema, which the master must not load, the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mepd.config.endpoint import SCHEMA, parse_files
from mepd.errors import ConfigError

_TEXT_MAX = 1024 * 1024
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def check_endpoint(endpoint: str, files: Mapping[str, str]) -> None:
    """All files of one endpoint's folder, by the names that read_files() gives them.

    Which folder that is only the master knows; errors name the files as given.
    """
    for name, text in files.items():
        check_text(text, name)
    snapshot = parse_files(endpoint, Path(), files)
    if snapshot.schema is not None:
        named = snapshot.config.get("user_config_schema_path") or SCHEMA
        check_schema(snapshot.schema, str(named))


def check_text(text: str, name: str) -> None:
    """Any file: of sensible size, and text."""
    if len(text) > _TEXT_MAX:
        raise ConfigError(f"larger than {_TEXT_MAX} characters", name)
    position = text.find("\0")
    if position >= 0:
        raise ConfigError("a NUL character", name, text.count("\n", 0, position) + 1)


def check_schema(schema: dict[str, Any], name: str) -> None:
    """A JSON schema of draft 2020-12, which is how a start reads it, that needs no network."""
    from jsonschema import Draft202012Validator, SchemaError

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
