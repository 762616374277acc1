"""From the template and a user's options to the YAML of a UEP's configuration.

Runs as the user, after the drop. Options reach the template as JSON text, so that
nothing in them can end a string, add a key or be seen by Jinja; names that the template
engine or mepd give a meaning cannot be given by the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mepd.config import safeyaml, uepconfig
from mepd.config.settings import EndpointSnapshot
from mepd.errors import ConfigError
from mepd.launch import placing
from mepd.launch.bounds import bounded
from mepd.launch.failure import StageError
from mepd.launch.quoting import Span, sanitize, shown
from mepd.model import Stage

RESERVED = ("parent_config", "user_runtime", "mapped_identity", "_GC")
_JINJA_NAMES = (
    "range", "dict", "lipsum", "cycler", "joiner", "namespace", "self", "loop", "super",
    "caller", "varargs", "kwargs", "true", "false", "none", "True", "False", "None",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
RENDERED_MAX = 1024 * 1024


def check_names(options: Mapping[str, Any]) -> None:
    """Refuse option names that are reserved or no plain names. Raises ValueError."""
    for name in options:
        if name in RESERVED or name in _JINJA_NAMES:
            raise ValueError(f"'{name}' is a reserved word and cannot be passed in via user config")
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name[:64]!r} is not allowed as the name of an option")


def validate(options: Mapping[str, Any], schema: Mapping[str, Any] | None) -> None:
    """Check the options against the JSON schema (draft 2020-12); nothing is fetched.

    Raises ValueError naming the property and the reason.
    """
    if schema is None:
        return
    import jsonschema
    from referencing import Registry

    validator = jsonschema.Draft202012Validator(schema, registry=Registry())
    error = next(iter(sorted(validator.iter_errors(options), key=lambda e: str(e.path))), None)
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "user options"
        raise ValueError(f"{where}: {error.message[:300]}")


def render(
    snapshot: EndpointSnapshot,
    options: Mapping[str, Any],
    runtime: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> tuple[str, tuple[Span, ...]]:
    """The YAML text of the UEP's configuration, and where in it the user's values stand.

    Raises ValueError or a Jinja error.
    """
    from mepd.launch import templating  # Jinja is of no use before

    check_names(options)
    validate(options, snapshot.schema)
    reserved = {
        "parent_config": snapshot.config,
        "user_runtime": sanitize(dict(runtime), "user_runtime"),
        "mapped_identity": shown(identity),
    }
    variables = {k: sanitize(v, k) for k, v in options.items()}
    variables |= {**reserved, "_GC": {**reserved, "env": {}}}
    text = templating.render(snapshot.template, snapshot.includes, variables)
    if len(text) > RENDERED_MAX:
        raise ValueError(f"the rendered configuration exceeds {RENDERED_MAX} characters")
    return str.__str__(text), text.spans


def parse(text: str, own_uep: bool) -> dict[str, Any]:
    """The rendered configuration as a mapping with an engine. Raises ValueError.

    What mepd-uep would refuse is refused here; of another program's configuration only
    that it has an engine is known.
    """
    try:
        config = safeyaml.load_mapping(text, "rendered configuration")
        if own_uep:
            uepconfig.check(config)
    except ConfigError as e:
        raise ValueError(str(e)) from None
    if not isinstance(config.get("engine"), dict):
        raise ValueError("the rendered configuration has no `engine` block")
    return config


def configuration(
    snapshot: EndpointSnapshot,
    options: Mapping[str, Any],
    runtime: Mapping[str, Any],
    identity: Mapping[str, Any],
    timeout: float,
) -> tuple[str, dict[str, Any]]:
    """Text and parsed form of the UEP's configuration. Raises StageError (TEMPLATE)."""
    try:
        with bounded(timeout, "rendering"):
            text, spans = render(snapshot, options, runtime, identity)
            config = parse(text, snapshot.runs_own_uep)
            placing.check(text, spans)
            return text, config
    except (MemoryError, RecursionError) as e:
        detail = f"({type(e).__name__}) the template or its options are too large"
        raise StageError(Stage.TEMPLATE, detail, detail) from None
    except Exception as e:
        detail = f"({type(e).__name__}) {e}"
        raise StageError(Stage.TEMPLATE, f"template: {detail}", detail) from None
