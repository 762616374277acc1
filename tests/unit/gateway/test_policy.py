"""Who meets a policy."""

from __future__ import annotations

import pytest

from mepd.gateway.login.sessions import Authentication
from mepd.gateway.policy.model import (
    LinkedIdentity,
    Policy,
    Standing,
    domain_of,
    explain,
    is_pattern,
    matches,
    satisfied,
)

NOW = 1_000_000.0
ANN, BOB = LinkedIdentity("a", "uni.edu"), LinkedIdentity("b", "globus.org")


def policy(
    include: tuple[str, ...] | None = None,
    exclude: tuple[str, ...] | None = None,
    timeout: int | None = None,
    high_assurance: bool = False,
    required_mfa: bool = False,
) -> Policy:
    return Policy("p", "P", include, exclude, timeout, high_assurance, required_mfa)


@pytest.mark.parametrize(
    ("domain", "pattern", "fits"),
    [
        ("uni.edu", "uni.edu", True),
        ("uni.edu", "UNI.edu", True),
        ("cs.uni.edu", "uni.edu", False),
        ("uni.edu", "*.edu", True),
        ("cs.uni.edu", "*.edu", True),
        ("edu", "*.edu", False),
        (".edu", "*.edu", False),
        ("uni.education", "*.edu", False),
        ("uni.edu.evil.net", "*.edu", False),
        ("evil.net", "*", True),
        ("", "*", False),
        ("cs.uni.edu", "cs.*.edu", True),
        ("uniXedu", "uni.edu", False),
    ],
)
def test_domains(domain: str, pattern: str, fits: bool) -> None:
    assert matches(domain, [pattern]) is fits


def test_patterns_and_domains_of_names() -> None:
    for good in ("*.edu", "globus.org", "*", "a-b.c", "A.edu"):
        assert is_pattern(good)
    for bad in ("", "a b", "me@a", "a/b", "[a]", "?.edu", "*" * 9, "-a", "a" * 300, "é.edu"):
        assert not is_pattern(bad)
    assert domain_of("Ann@Uni.EDU") == "uni.edu" and domain_of("a@b@c") == "c"
    assert domain_of("ann") == ""


def test_a_pattern_cannot_take_long() -> None:
    assert not matches("a" * 250 + "!", ["*".join("aaaaaaaa") + "b"])


def test_one_identity_must_meet_everything() -> None:
    both = Standing((ANN, BOB), (), ())
    assert satisfied(policy(), both, NOW)
    assert satisfied(policy(("*.edu",)), both, NOW)
    assert not satisfied(policy(("*.com",)), both, NOW)
    assert satisfied(policy(None, ("*.edu",)), both, NOW)
    assert not satisfied(policy(("*.edu",), ("uni.*",)), both, NOW)
    assert not satisfied(policy(), Standing((), (), ()), NOW)


def test_recency_is_of_an_identity_that_fits() -> None:
    recent, old = Authentication("b", NOW - 5), Authentication("a", NOW - 500)
    seen = Standing((ANN, BOB), (recent, old), (recent, old))
    assert satisfied(policy(None, None, 60), seen, NOW)
    assert not satisfied(policy(("*.edu",), None, 60), seen, NOW)
    assert satisfied(policy(("*.edu",), None, 500), seen, NOW)
    assert not satisfied(policy(None, None, 0), seen, NOW)


def test_high_assurance_is_of_this_session() -> None:
    here, elsewhere = Authentication("b", NOW - 500), Authentication("a", NOW)
    seen = Standing((ANN, BOB), (here,), (here, elsewhere))
    assert satisfied(policy(None, None, None, True), seen, NOW)
    assert not satisfied(policy(("*.edu",), None, None, True), seen, NOW)
    assert not satisfied(policy(None, None, 60, True), seen, NOW)
    assert satisfied(policy(None, None, 60), seen, NOW)
    assert not satisfied(policy(None, None, None, True), Standing((ANN,), (), (here,)), NOW)


def test_more_than_one_factor() -> None:
    one, two = Authentication("a", NOW), Authentication("a", NOW, True)
    demand = policy(None, None, None, True, True)
    assert not satisfied(demand, Standing((ANN,), (one,), (one,)), NOW)
    assert satisfied(demand, Standing((ANN,), (two,), (two,)), NOW)


def test_an_authentication_of_a_closed_identity_counts_for_nothing() -> None:
    gone = Authentication("gone", NOW)
    assert not satisfied(policy(None, None, 60), Standing((ANN,), (gone,), (gone,)), NOW)


def test_explanations_name_what_is_needed() -> None:
    text = explain(policy(("*.edu",), ("bad.edu",), 60, True, True))
    for word in ("*.edu", "bad.edu", "60 seconds", "this session", "factor"):
        assert word in text
