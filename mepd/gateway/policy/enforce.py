"""Endpoints' policies, enforced: with look-ups that may be a minute old.

A yes may rest on what was so up to ``KEPT_S`` ago; a no never does, as somebody who has
just logged in again should not wait.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from sqlalchemy import Connection, Row

from mepd.gateway.accounts import Caller
from mepd.gateway.failures import ApiError
from mepd.gateway.policy import store
from mepd.gateway.policy.model import Policy, Standing, explain, satisfied

KEPT_S = 60.0
KEPT_MAX = 10_000

Facts = tuple[Policy | None, Standing]


class PolicyError(ApiError):
    """403 in the form that globus_sdk reads as a Globus Auth Requirements Error: the client
    can log the person in again as ``authorization_parameters`` say."""

    def __init__(self, reason: str, policy_id: str) -> None:
        super().__init__(403, "AUTHENTICATION_POLICY_NOT_SATISFIED", reason)
        self.policy_id = policy_id

    def body(self) -> dict[str, Any]:
        parameters = {
            "session_message": self.reason,
            "session_required_policies": [self.policy_id],
        }
        return {**super().body(), "authorization_parameters": parameters}


class PolicyCache:
    """What is known for (policy, person, session), for a minute."""

    def __init__(self) -> None:
        self._facts: OrderedDict[tuple[str, str, str | None], tuple[float, Facts]] = OrderedDict()

    def get(self, policy_id: str, caller: Caller) -> Facts | None:
        found = self._facts.get((policy_id, caller.person, caller.session_id))
        if found is None or found[0] <= time.monotonic():
            return None
        return found[1]

    def put(self, policy_id: str, caller: Caller, facts: Facts) -> None:
        key = (policy_id, caller.person, caller.session_id)
        self._facts[key] = (time.monotonic() + KEPT_S, facts)
        self._facts.move_to_end(key)
        while len(self._facts) > KEPT_MAX:
            self._facts.popitem(last=False)


def check(tx: Connection, cache: PolicyCache, endpoint: Row[Any], caller: Caller) -> None:
    """Raises PolicyError if the endpoint has a policy that the caller does not meet."""
    policy_id = endpoint.authentication_policy
    if policy_id is None:
        return
    known = cache.get(policy_id, caller)
    if known is not None and known[0] and satisfied(known[0], known[1], time.time()):
        return
    policy = store.load_policy(tx, policy_id)
    standing = store.standing(tx, caller)
    cache.put(policy_id, caller, (policy, standing))
    if policy is None:
        raise PolicyError("The endpoint's authentication policy is not known here", policy_id)
    if not satisfied(policy, standing, time.time()):
        raise PolicyError(explain(policy), policy_id)
