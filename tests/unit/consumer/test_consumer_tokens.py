from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.consumer.tokens import Token, parse


@given(st.text(min_size=1), st.integers(1, 10**9), st.integers(1, 2**63 - 1))
def test_there_and_back(endpoint: str, channel: int, tag: int) -> None:
    token = Token(endpoint, f"0a1b2c3d-{channel}", tag)
    assert parse(str(token)) == token


@pytest.mark.parametrize("text", ["", ":", "x:1:debug", "ab-1:x:debug", "ab-1:1:", "ab-1:-1:debug"])
def test_what_is_no_token(text: str) -> None:
    assert parse(text) is None


@given(st.text())
def test_total(text: str) -> None:
    token = parse(text)
    assert token is None or isinstance(token, Token)
