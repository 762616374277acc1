"""The JSON schema of an endpoint: what must hold of it before jsonschema is asked."""

from __future__ import annotations

from typing import Any

from mepd.errors import ConfigError

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


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
