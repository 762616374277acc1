"""Frozen dataclasses to and from JSON objects, strictly.

A message is ``{"kind": CLASS NAME, field: value, ...}``. Decoding accepts exactly the
declared fields with exactly the declared types; nothing is coerced.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from mepd.errors import WireError

M = TypeVar("M")
_INT_MAX = 2**63
_FLOAT_MAX = 1e18


def encode(message: Any) -> dict[str, Any]:
    """The JSON object of a message dataclass."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    return {"kind": type(message).__name__, **fields}


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(cls: Any) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls)
    return _HINTS[cls]


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        return any(_fits(value, arg) for arg in typing.get_args(hint))
    if hint is None or hint is type(None):
        return value is None
    if hint is float:  # and no number that ends an addition with an exception
        return type(value) in (int, float) and abs(value) <= _FLOAT_MAX
    if hint is int:
        return type(value) is int and abs(value) < _INT_MAX
    if origin is list:
        (item,) = typing.get_args(hint)
        return type(value) is list and all(_fits(v, item) for v in value)
    if origin is dict:
        _, item = typing.get_args(hint)
        return type(value) is dict and all(_fits(v, item) for v in value.values())
    return type(value) is hint


def decode(obj: Any, allowed: Iterable[type[M]]) -> M:
    """The message that ``obj`` spells, of one of the ``allowed`` classes.

    Raises WireError for anything else; the text names the kind and field at fault.
    """
    if type(obj) is not dict or type(obj.get("kind")) is not str:
        raise WireError("message is not an object with a kind")
    kind = obj["kind"]
    cls = next((c for c in allowed if c.__name__ == kind), None)
    if cls is None:
        raise WireError(f"unknown kind of message: {kind[:40]!r}")
    hints = _hints(cls)
    values = {k: v for k, v in obj.items() if k != "kind"}
    unknown = values.keys() - hints.keys()
    if unknown:
        raise WireError(f"{kind}: unknown field {sorted(unknown)[0][:40]!r}")
    for spec in dataclasses.fields(typing.cast(Any, cls)):
        if spec.name in values:
            if not _fits(values[spec.name], hints[spec.name]):
                raise WireError(f"{kind}: field {spec.name!r} has the wrong type")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise WireError(f"{kind}: field {spec.name!r} is missing")
    return cls(**values)
