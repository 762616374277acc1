"""Resource specifications beside what Parsl's own check says of them."""

from __future__ import annotations

from typing import Any

import pytest
from parsl.executors.errors import InvalidResourceSpecification
from parsl.executors.high_throughput.mpi_prefix_composer import validate_resource_spec

from mepd.uep.engines.resources import complete_mpi, refuse_mpi, refuse_plain


@pytest.mark.parametrize("good", [{}, {"priority": 3}, {"priority": -1.5}])
def test_plain_takes_a_priority_at_most(good: dict[str, Any]) -> None:
    assert refuse_plain(good) is None


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"num_nodes": 2}, "num_nodes"),
        ({"priority": 1, "cores": 2}, "cores"),
        ({"priority": "high"}, "'high'"),
        ({"priority": None}, "None"),
        ({"priority": float("nan")}, "nan"),
        ({"priority": True}, "True"),
    ],
)
def test_plain_refuses_by_name(bad: dict[str, Any], word: str) -> None:
    assert word in (refuse_plain(bad) or "")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"num_nodes": 2}, (2, 2, 1)),
        ({"num_nodes": 2, "num_ranks": 8}, (2, 8, 4)),
        ({"num_nodes": "2", "ranks_per_node": "3"}, (2, 6, 3)),
        ({"num_nodes": 2, "num_ranks": 3}, (2, 3, 2)),
        ({"num_nodes": 1, "num_ranks": None, "launcher_options": "--x"}, (1, 1, 1)),
    ],
)
def test_mpi_is_completed(given: dict[str, Any], wanted: tuple[int, int, int]) -> None:
    assert refuse_mpi(given, 4) is None
    validate_resource_spec(dict(given))
    done = complete_mpi(given)
    assert (done["num_nodes"], done["num_ranks"], done["ranks_per_node"]) == wanted
    assert done["launcher_options"] == given.get("launcher_options", "")


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({}, "requires"),
        ({"nodes": 1}, "nodes"),
        ({"num_nodes": 1, "priority": 1}, "priority"),
    ],
)
def test_mpi_refuses_what_parsl_refuses(bad: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidResourceSpecification):
        validate_resource_spec(dict(bad))
    assert word in (refuse_mpi(bad, 4) or "")


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"num_ranks": 2}, "num_nodes is missing"),
        ({"num_nodes": 5}, "a block has 4"),
        ({"num_nodes": 0}, "num_nodes"),
        ({"num_nodes": 1.5}, "1.5"),
        ({"num_nodes": 1, "num_ranks": "many"}, "'many'"),
        ({"num_nodes": 1, "launcher_options": ["-x"]}, "launcher_options"),
    ],
)
def test_mpi_refuses_what_parsl_would_wait_for(bad: dict[str, Any], word: str) -> None:
    assert word in (refuse_mpi(bad, 4) or "")
