"""Checks of configuration files, text by text. Pure; each raises ConfigError.

The configuration's own parser does most; the libraries that will use the texts, which the
master must not load, do the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mepd.config import includes, mappingfile
from mepd.config.endpoint import SCHEMA, parse_files
from mepd.errors import ConfigError

FILTER = "shell_escape"
"""The one filter that templates have beside Jinja's own."""
_TEXT_MAX = 1024 * 1024


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
    templates = {**snapshot.includes, snapshot.template_name: snapshot.template}
    for name, text in includes.reachable(snapshot.template_name, templates).items():
        check_template(text, name)
    if snapshot.mappings is not None:
        check_mappings(snapshot.mappings, str(snapshot.mapping_path))


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

    validator: Any = Draft202012Validator
    try:
        # The format checker compiles the regular expressions
        validator.check_schema(schema, format_checker=validator.FORMAT_CHECKER)
    except SchemaError as e:
        raise ConfigError(f"no JSON schema: {e.json_path}: {e.message[:200]}", name) from None
    _check_references(schema, name)


def _check_references(schema: dict[str, Any], name: str) -> None:
    """Each leads to something, and not back to itself: else a start finds that out, once a
    user passes what it is about."""
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    root: Any = DRAFT202012.create_resource(schema)
    registry: Any = Registry().with_resource(root.id() or "", root).crawl()
    todo = [(root, registry.resolver(root.id() or ""))]
    while todo:
        resource, resolver = todo.pop()
        todo += [(sub, resolver.in_subresource(sub)) for sub in resource.subresources()]
        _follow(resource.contents, resolver, name)


def _follow(contents: Any, resolver: Any, name: str) -> None:
    """From a schema to what it refers to, and on to what that does."""
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    passed: set[int] = set()
    while isinstance(contents, dict) and isinstance(target := contents.get("$ref"), str):
        if id(contents) in passed:
            raise ConfigError(f"no JSON schema: $ref to {target[:100]!r} has no end", name)
        passed.add(id(contents))
        try:
            found = resolver.lookup(target)
        except (Unresolvable, ValueError, TypeError):  # of a list's or a number's items
            raise ConfigError(
                f"no JSON schema: $ref to {target[:100]!r} leads nowhere", name
            ) from None
        contents = found.contents
        resolver = found.resolver.in_subresource(DRAFT202012.create_resource(contents))


def check_template(text: str, name: str) -> None:
    """A Jinja template that compiles, as a start will compile it."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment()
    environment.filters[FILTER] = str
    try:
        environment.compile(text)
    except jinja2.TemplateSyntaxError as e:
        raise ConfigError(f"no Jinja template: {e.message}", name, e.lineno) from None


def check_mappings(documents: Sequence[Mapping[str, Any]], name: str) -> None:
    """Rules in the mapping library's own language of expressions."""
    from globus_identity_mapping.errors import InvalidMappingError
    from globus_identity_mapping.mappers.expression import ExpressionIdentityMapping

    for number, document in enumerate(documents, start=1):
        if document["DATA_TYPE"] != mappingfile.EXPRESSION:
            continue
        for position, rule in enumerate(document["mappings"], start=1):
            try:
                one = {**document, "mappings": [rule]}
                (known,) = ExpressionIdentityMapping.from_mapping_document(one).mappings
                # Without the library's anchors, as a start will match: a lone \\ at the end
                # would take the second one for a $ to match
                re.compile(f"(?:{known['compiled_match'].pattern[1:-1]})")
            except (InvalidMappingError, re.error) as e:
                where = f"document {number}, rule {position} ({rule['match'][:80]!r})"
                raise ConfigError(f"{where}: {str(e.args[-1])[:200]}", name) from None
