"""The identity mapping file: a list of documents, tried in order. What a rule means is the
mapping library's business; here is only what must hold before it is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from mepd.config import textfile
from mepd.errors import ConfigError

EXPRESSION = "expression_identity_mapping#1.0.0"
EXTERNAL = "external_identity_mapping#1.0.0"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def load_json(text: str, path: str) -> Any:
    """Strict JSON, which can be sent on. Raises ConfigError with the line at fault."""
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as e:
        raise ConfigError(f"not JSON: {e.msg}", path, e.lineno) from None
    except ValueError as e:
        raise ConfigError(f"not JSON: {e}"[:200], path) from None
    except RecursionError:
        raise ConfigError("not JSON: nested too deeply", path) from None


def parse(text: str, path: str) -> tuple[dict[str, Any], ...]:
    """The documents. Raises ConfigError naming document, rule and key."""
    value = load_json(text, path)
    if not isinstance(value, list):
        raise ConfigError("is no list of mapping documents", path)
    for number, document in enumerate(value, start=1):
        kind = document.get("DATA_TYPE") if isinstance(document, dict) else None
        if kind == EXPRESSION:
            _check_rules(document, number, path)
        elif kind == EXTERNAL:
            _check_command(document, number, path)
        else:
            known = f"{EXPRESSION}, {EXTERNAL}"
            raise ConfigError(
                f"document {number}: DATA_TYPE {str(kind)[:60]!r} is unknown; known are {known}",
                path,
            )
    return tuple(value)


def _check_rules(document: Mapping[str, Any], number: int, path: str) -> None:
    rules = document.get("mappings")
    if not isinstance(rules, list) or not rules:
        raise ConfigError(f"document {number}: mappings must be a list of rules", path)
    for position, rule in enumerate(rules, start=1):
        where = f"document {number}, rule {position}"
        for key in ("source", "match", "output"):
            if not isinstance(rule, dict) or not isinstance(rule.get(key), str):
                raise ConfigError(f"{where}: {key} is missing or no text", path)
        for key in ("ignore_case", "literal"):
            if not isinstance(rule.get(key), (bool, type(None))):  # "false" would count as true
                raise ConfigError(f"{where}: {key} must be true or false", path)


def _check_command(document: Mapping[str, Any], number: int, path: str) -> None:
    command = document.get("command")
    if not isinstance(command, list) or not command:
        raise ConfigError(f"document {number}: command must be a list of texts", path)
    if not all(isinstance(word, str) and textfile.is_path(word) for word in command):
        raise ConfigError(f"document {number}: command must be a list of texts", path)
    if not command[0].startswith("/"):
        raise ConfigError(f"document {number}: command must be an absolute path", path)
