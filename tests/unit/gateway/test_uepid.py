"""Ids of user endpoints."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.gateway.uepid import canonical, uep_id

A, B = "a" * 36, "b" * 36
leaves = st.none() | st.booleans() | st.integers() | st.text()
leaves |= st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    """The same value with all keys in the opposite order."""
    if isinstance(value, dict):
        return {k: shuffled(v) for k, v in reversed(value.items())}
    return [shuffled(v) for v in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_G3_key_order_is_equal(config: dict[str, Any]) -> None:
    assert uep_id(A, B, config) == uep_id(A, B, shuffled(config))


@given(json_values, json_values)
def test_G3_distinct_values_have_distinct_texts(a: Any, b: Any) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (canonical(a) == canonical(b)) is same


def test_G3_kinds_are_distinct() -> None:
    values = [1, 1.0, True, "1", "1.0", "true", None, "null", [1], {"1": 1}, [], {}, "", 0, False]
    ids = {uep_id(A, B, {"x": v}) for v in values}
    assert len(ids) == len(values)


def test_G3_parts_do_not_run_together() -> None:
    triples = itertools.product(["a", "ab", ""], ["bc", "c", "abc"], [{}, {"a": "b"}])
    ids = [uep_id(e, u, c) for e, u, c in triples]
    assert len(ids) == len(set(ids))


def test_no_nan() -> None:
    with pytest.raises(ValueError):
        canonical({"x": float("nan")})


def test_the_id_is_for_ever() -> None:
    """A change of this value would give every user a second endpoint for each of his."""
    assert uep_id(A, B, {"k": [1, 1.5, "é"]}) == "0ca172f0-38e6-5c24-9a6f-c0696fa0def5"
