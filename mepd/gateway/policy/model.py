"""What a policy asks for, and whether a person meets it: pure decisions."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mepd.gateway.login.sessions import Authentication

_PATTERN = re.compile(r"[a-z0-9*]([a-z0-9.*-]{0,251}[a-z0-9*])?")
STARS_MAX = 8


@dataclass(frozen=True)
class Policy:
    """``include`` and ``exclude`` are patterns of domains; None: no constraint.

    ``timeout``: seconds since the authentication. ``high_assurance``: the identity must
    have logged in in the very session that is used.
    """

    id: str
    display_name: str
    include: tuple[str, ...] | None
    exclude: tuple[str, ...] | None
    timeout: int | None
    high_assurance: bool
    required_mfa: bool


@dataclass(frozen=True)
class LinkedIdentity:
    """One of a person's identities, with the domain of its user name."""

    id: str
    domain: str


@dataclass(frozen=True)
class Standing:
    """What is known of who makes a request.

    ``session``: authentications of the login that the token comes from; ``ever``: the
    latest of each identity in any session.
    """

    identities: tuple[LinkedIdentity, ...]
    session: tuple[Authentication, ...]
    ever: tuple[Authentication, ...]


def domain_of(username: str) -> str:
    """The part behind the last @, in lower case; "" without one."""
    return username.rpartition("@")[2].lower() if "@" in username else ""


def is_pattern(text: str) -> bool:
    """Whether it is a domain, perhaps with wildcards."""
    lower = text.lower()
    return _PATTERN.fullmatch(lower) is not None and lower.count("*") <= STARS_MAX


def matches(domain: str, patterns: Sequence[str]) -> bool:
    """Whether a domain fits one of the patterns; ``*`` stands for one or more characters,
    dots among them."""
    if not domain:
        return False
    return any(fnmatch.fnmatchcase(domain, p.lower().replace("*", "?*")) for p in patterns)


def _domain_fits(policy: Policy, domain: str) -> bool:
    if policy.exclude and matches(domain, policy.exclude):
        return False
    return not policy.include or matches(domain, policy.include)


def _is_recent(policy: Policy, when: float, now: float) -> bool:
    return policy.timeout is None or now - when <= policy.timeout


def satisfied(policy: Policy, standing: Standing, now: float) -> bool:
    """Whether one of the person's identities meets all that the policy asks for."""
    fitting = {i.id for i in standing.identities if _domain_fits(policy, i.domain)}
    if not policy.high_assurance and policy.timeout is None and not policy.required_mfa:
        return bool(fitting)
    proofs = standing.session if policy.high_assurance else standing.ever
    return any(
        proof.identity_id in fitting
        and _is_recent(policy, proof.time, now)
        and (proof.mfa or not policy.required_mfa)
        for proof in proofs
    )


def explain(policy: Policy) -> str:
    """What must be done, for the person."""
    wanted = "an identity"
    if policy.include:
        wanted += f" of {', '.join(policy.include)}"
    if policy.exclude:
        wanted += f" (not of {', '.join(policy.exclude)})"
    text = f"The policy {policy.display_name!r} requires {wanted}"
    if policy.high_assurance:
        text += " that has logged in in this session"
    elif policy.timeout is not None:
        text += " that has logged in"
    if policy.timeout is not None:
        text += f" within the last {policy.timeout} seconds"
    return text + (" with more than one factor" if policy.required_mfa else "")
