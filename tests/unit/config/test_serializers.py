"""Names of serialization strategies, beside those that the SDK itself takes."""

from __future__ import annotations

import itertools

import pytest
from globus_compute_sdk.errors import SerdeError
from globus_compute_sdk.serialize.concretes import SELECTABLE_STRATEGIES
from globus_compute_sdk.serialize.facade import parse_allowlist

from mepd.config import serializers, uepconfig
from mepd.errors import ConfigError

SDK = "globus_compute_sdk.serialize"
BESIDE = [
    f"{SDK}.JSONData",
    f"{SDK}.concretes.DillCode",
    f"{SDK}.DEFAULT_STRATEGY_CODE",
    f"{SDK}.DEFAULT_STRATEGY_DATA",
    "globus_compute_sdk.*Code",
    "globus_compute_sdk.*Data",
    f"{SDK}.SerializationStrategy",
    "json.JSONDecoder",
    "JSONData",
    "",
]


def test_all_strategies_of_the_sdk_are_known() -> None:
    for kind, for_code in (("code", True), ("data", False)):
        names = {c.__name__ for c in SELECTABLE_STRATEGIES if c.for_code == for_code}
        names.add(f"DEFAULT_STRATEGY_{kind.upper()}")
        assert serializers.STRATEGIES[kind] == {
            f"{module}.{name}" for module in (SDK, f"{SDK}.concretes") for name in names
        }


def test_a_list_is_taken_where_the_sdk_takes_it() -> None:
    taken = 0
    for count in range(4):
        for names in itertools.combinations(BESIDE, count):
            try:
                parse_allowlist(names)
                wanted = True
            except (SerdeError, AttributeError):  # the latter for the base of all
                wanted = False
            try:
                serializers.check("engine.allowed_serializers", names)
                found = True
            except ConfigError:
                found = False
            assert found == wanted, names
            taken += found
    assert taken > 10


@pytest.mark.parametrize("kind", ["ThreadPoolEngine", "ProcessPoolEngine", "GlobusComputeEngine"])
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            [f"{SDK}.JsonData", f"{SDK}.DillCode"],
            f"unknown strategy in engine.allowed_serializers: '{SDK}.JsonData'; did you mean"
            f" '{SDK}.JSONData'?",
        ),
        (
            [f"{SDK}.JSONData"],
            "engine.allowed_serializers: no strategy for code; such as 'globus_compute_sdk.*Code'",
        ),
        (
            [f"{SDK}.DillCode", "globus_compute_sdk.*Code", "globus_compute_sdk.*Data"],
            "engine.allowed_serializers: 'globus_compute_sdk.*Code' is all for code; it stands"
            " alone",
        ),
    ],
)
def test_a_strategy_that_the_sdk_does_not_know_is_told(
    kind: str, names: list[str], told: str
) -> None:
    """Else each worker would end while it starts."""
    with pytest.raises(ConfigError) as caught:
        uepconfig.check({"engine": {"type": kind, "allowed_serializers": names}})
    assert str(caught.value) == told
