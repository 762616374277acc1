"""From a start request to the account that is to run the UEP."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from mepd.config.launchplan import AccountPolicy, LaunchPlan
from mepd.launch import mapping, policy
from mepd.launch.bounds import bounded
from mepd.launch.failure import StageError
from mepd.model import Stage, StartRequest
from mepd.posix import accounts
from mepd.posix.accounts import Account


@dataclass(frozen=True)
class Resolved:
    """The account, and how it was found. ``matched`` is '' where nothing was mapped."""

    account: Account
    matched: str
    candidates: mapping.Candidates


def _identity_text(request: StartRequest) -> str:
    return (
        f"\n  Globus effective identity: {request.effective_identity}"
        f"\n  Globus username: {request.username}"
    )


def _refuse(reason: str, request: StartRequest, public: str | None = None) -> StageError:
    return StageError(
        Stage.PREPARE,
        reason + _identity_text(request),
        public=None if public is None else public + _identity_text(request),
    )


def _own_account(plan: LaunchPlan) -> Resolved:
    """Without privileges only the identity that registered the endpoint is served."""
    own = set(plan.own_identities)
    asked = {str(i.get("sub", i.get("id"))) for i in plan.request.identity_set}
    if not own & asked:
        text = "Ignoring start request for untrusted identity."
        raise _refuse(text, plan.request, text)
    return Resolved(accounts.lookup_uid(os.getuid()), "", [])


def resolve(plan: LaunchPlan) -> Resolved:
    """Map the identity set and look the account up. Raises StageError (PREPARE)."""
    if not plan.privileged:
        return _own_account(plan)
    found = find_name(plan)
    return Resolved(find_account(found.name, plan), found.identity_id, found.candidates)


def find_name(plan: LaunchPlan) -> mapping.MappedIdentity:
    """Map the identity set. Raises StageError (PREPARE)."""
    request = plan.request
    try:
        return mapping.map_identities(
            plan.snapshot.mappings or (),
            request.identity_set,
            request.mep_id,
            plan.mapper_timeout,
        )
    except mapping.MappingError as e:
        text = f"Identity failed to map to a local user name.  {e}"
        raise _refuse(text, request, "Identity failed to map to a local user name.") from None


def find_account(name: str, plan: LaunchPlan) -> Account:
    """The account of a mapped name, if it may run a UEP. Raises StageError (PREPARE)."""
    request = plan.request
    try:
        with bounded(mapping.EXPRESSION_TIMEOUT, "mapped_name_pattern"):
            refusal = policy.name_refusal(name, plan.policy)
    except TimeoutError as e:
        refusal = str(e)
    if refusal:
        raise _refuse(refusal, request)
    try:
        account = accounts.lookup(name)
    except KeyError:
        text = "Identity mapped to a local user name, but local user does not exist."
        raise _refuse(f"{text}\n  Local user name: {name}", request, text) from None
    refusal = (
        policy.account_refusal(name, account, plan.policy)
        or policy.denied_refusal(name, account.uid, _denied(plan.policy))
        or policy.group_refusal(name, accounts.groups_of(account), plan.policy)
    )
    if refusal:
        raise _refuse(refusal, request)
    return account


def _denied(rules: AccountPolicy) -> dict[int, str]:
    """The accounts of ``deny_users`` by uid. Looked up at each start: the master waits for no
    directory service, and an account may be made later than the list."""
    found = {}
    for name in rules.deny_users:
        with contextlib.suppress(KeyError):  # a list may name what this machine has not
            found[accounts.lookup(name).uid] = name
    return found


def template_identity(resolved: Resolved) -> dict[str, object]:
    """``mapped_identity`` as templates know it (globus-compute-endpoint 4.19)."""
    account = resolved.account
    return {
        "local": {
            "uname": account.name,
            "uid": account.uid,
            "gid": account.gid,
            "gecos": account.gecos,
            "shell": account.shell,
            "dir": account.home,
            "groups": accounts.groups_of(account),
        },
        "globus": {"id": resolved.matched or None, "candidates": resolved.candidates},
    }
