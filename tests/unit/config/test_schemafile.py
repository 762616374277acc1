"""E6: a schema that needs anything from outside is refused when it is read."""

from __future__ import annotations

import pytest

from mepd.config import schemafile
from mepd.errors import ConfigError


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:1/s.json", "https://x/", "file:///etc/shadow", "other.json", "//x", "urn:x"],
)
@pytest.mark.parametrize("key", ["$ref", "$dynamicRef"])
def test_E6_remote_references(target: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schemafile.check_references({"properties": {"a": [{"b": {key: target}}]}}, "file")
    assert str(caught.value).startswith(f"file: {key} to")
    assert "outside the file" in str(caught.value)


def test_references_within_the_file() -> None:
    schemafile.check_references({"properties": {"$ref": {"$ref": "#/$defs/a"}}}, "file")
