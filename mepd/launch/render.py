"""From the template and a user's options to the YAML of a UEP's configuration.

Runs as the user, after the drop. Options reach the template as JSON text, so that
nothing in them can end a string, add a key or be seen by Jinja; names that the template
engine or mepd give a meaning cannot be given by the user.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mepd.config import safeyaml, uepconfig
from mepd.config.settings import EndpointSnapshot
from mepd.errors import ConfigError
from mepd.launch.bounds import bounded
from mepd.launch.failure import StageError
from mepd.model import Stage

RESERVED = ("parent_config", "user_runtime", "mapped_identity", "_GC")
_JINJA_NAMES = (
    "range", "dict", "lipsum", "cycler", "joiner", "namespace", "self", "loop", "super",
    "caller", "varargs", "kwargs", "true", "false", "none", "True", "False", "None",
)  # fmt: skip
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
RENDERED_MAX = 1024 * 1024


class _Mapping(dict[str, Any]):
    """A dict that a template may print: as a YAML flow mapping with its values quoted."""

    def __str__(self) -> str:
        return "{" + ", ".join(f"{json.dumps(k)}: {_text(v)}" for k, v in self.items()) + "}"

    __repr__ = __str__


class _Sequence(list[Any]):
    def __str__(self) -> str:
        return "[" + ", ".join(_text(v) for v in self) + "]"

    __repr__ = __str__


class _Float(float):
    """A float whose text is a YAML 1.1 float, too (1e+16 is not, 1.0e+16 is)."""

    def __str__(self) -> str:
        text = float.__repr__(self)
        mantissa, e, exponent = text.partition("e")
        return text if "." in mantissa or not e else f"{mantissa}.0e{exponent}"

    __repr__ = __str__


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def quote(text: str) -> str:
    """``text`` as a JSON string that is the same string in YAML. Raises ValueError."""
    if _SURROGATE.search(text):
        raise ValueError("a string holds a lone surrogate")
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda m: f"\\u{ord(m[0]):04x}", quoted)


def sanitize(value: Any, path: str) -> Any:
    """A user's value as the template may see it. Raises ValueError naming the path."""
    if isinstance(value, dict):
        for key in value:
            if _KEY.fullmatch(key) is None:
                raise ValueError(f"{path}: {key[:64]!r} is not allowed as a key")
        return _Mapping({k: sanitize(v, f"{path}.{k}") for k, v in value.items()})
    if isinstance(value, list):
        return _Sequence(sanitize(v, f"{path}[{i}]") for i, v in enumerate(value))
    if isinstance(value, str):
        try:
            return quote(value)
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from None
    if value is None:
        return "null"
    if isinstance(value, float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{path}: not a finite number")
        return _Float(value)
    return value


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


def _shell_escape(value: Any) -> Any:
    """The shell_escape filter: quoted for a shell, then again for YAML."""
    if not isinstance(value, str):
        return value
    try:
        inner = json.loads(value)
    except ValueError:
        inner = value
    return quote(shlex.quote(inner)) if isinstance(inner, str) else value


def render(
    snapshot: EndpointSnapshot,
    options: Mapping[str, Any],
    runtime: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> str:
    """The YAML text of the UEP's configuration. Raises ValueError or a Jinja error."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    check_names(options)
    validate(options, snapshot.schema)
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader(snapshot.includes)
    )
    environment.filters["shell_escape"] = _shell_escape
    reserved = {
        "parent_config": snapshot.config,
        "user_runtime": sanitize(dict(runtime), "user_runtime"),
        "mapped_identity": identity,
    }
    variables = {k: sanitize(v, k) for k, v in options.items()}
    template = environment.from_string(snapshot.template)
    text = template.render({**variables, **reserved, "_GC": {**reserved, "env": {}}})
    if len(text) > RENDERED_MAX:
        raise ValueError(f"the rendered configuration exceeds {RENDERED_MAX} characters")
    return text


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
            text = render(snapshot, options, runtime, identity)
            return text, parse(text, snapshot.runs_own_uep)
    except (MemoryError, RecursionError) as e:
        detail = f"({type(e).__name__}) the template or its options are too large"
        raise StageError(Stage.TEMPLATE, detail, detail) from None
    except Exception as e:
        detail = f"({type(e).__name__}) {e}"
        raise StageError(Stage.TEMPLATE, f"template: {detail}", detail) from None
