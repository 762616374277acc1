"""How many connections the gateway has descriptors for."""

from __future__ import annotations

import pytest

from mepd.gateway.connections import FILES_MAX, room


@pytest.mark.parametrize("files", [64, 256, 400, 1024, 4096, FILES_MAX])
def test_those_that_come_while_others_give_way_have_descriptors(files: int) -> None:
    """asyncio has taken more in three further turns before the first to go is closed."""
    found = room(files)
    assert files - found.most - 4 * found.at_once >= min(256, files // 4)
    assert found.most >= files // 2


def test_a_process_with_few_descriptors_takes_a_connection_all_the_same() -> None:
    for files in range(1, 64):
        assert room(files).most >= 1 and room(files).at_once >= 1
