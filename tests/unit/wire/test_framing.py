"""Frames: whole, bounded, and in any pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.errors import WireError
from mepd.wire import framing

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=5), st.integers(1, 50))
def test_frames_in_any_pieces(values: list[Any], step: int) -> None:
    stream = b"".join(framing.encode_frame(v) for v in values)
    reader = framing.FrameReader()
    found = []
    while stream:
        piece, stream = stream[:step], stream[step:]
        found += reader.feed(piece)
    assert found == values
    assert reader.pending == 0


def test_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    with pytest.raises(WireError, match="exceeds 100"):
        list(framing.FrameReader(100).feed(framing.HEADER.pack(101)))


def test_length_of_4_GB() -> None:
    with pytest.raises(WireError):
        list(framing.FrameReader().feed(b"\xff\xff\xff\xff"))


def test_too_large_a_value_is_not_encoded() -> None:
    framing.encode_frame("x" * 98, 100)
    with pytest.raises(WireError, match="exceeds 100"):
        framing.encode_frame("x" * 99, 100)


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b"[" * 100_000, b"1 2"])
def test_a_frame_that_is_no_json(body: bytes) -> None:
    with pytest.raises(WireError):
        list(framing.FrameReader().feed(framing.HEADER.pack(len(body)) + body))


@given(st.binary(max_size=300))
def test_reader_is_total(data: bytes) -> None:
    try:
        list(framing.FrameReader(1000).feed(data))
    except WireError as e:
        assert len(str(e)) < 300


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_parse_json_is_total(data: bytes | str) -> None:
    try:
        framing.parse_json(data)
    except WireError as e:
        assert len(str(e)) < 300
