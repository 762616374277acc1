"""What a launch child is to do: everything it needs, fixed before the fork."""

from __future__ import annotations

from dataclasses import dataclass, field

from mepd.config.settings import EndpointSnapshot, MepdSection
from mepd.model import StartRequest


@dataclass(frozen=True)
class AccountPolicy:
    """Which accounts may run a UEP. ``forbidden_uids`` always holds mepd's own, and
    ``forbidden_gids`` their primary groups.

    With ``allow_gids`` only members of one of these groups may.
    """

    min_uid: int = 1000
    deny_users: tuple[str, ...] = ()
    allow_gids: tuple[int, ...] | None = None
    forbidden_uids: tuple[int, ...] = (0,)
    forbidden_gids: tuple[int, ...] = (0,)
    name_pattern: str = MepdSection.mapped_name_pattern


@dataclass(frozen=True)
class CredentialFile:
    """Where a UEP finds refreshed broker credentials, as globus-compute-endpoint 4.19 has it.

    A memory file; ``fd`` is mepd's own descriptor, to write it. What it holds is encrypted
    with ``key``, which is one of Fernet's.
    """

    fd: int
    key: str = field(repr=False)


@dataclass(frozen=True)
class LaunchPlan:
    """One start: the endpoint's snapshot, the request, and the rules in force.

    ``privileged`` says whether mepd can change users; without it the UEP runs as mepd's
    own user and only identities in ``own_identities`` are served. ``debug`` is mepd's.
    """

    snapshot: EndpointSnapshot
    request: StartRequest
    policy: AccountPolicy
    master_pid: int
    privileged: bool
    own_identities: tuple[str, ...] = ()
    mapper_timeout: float = MepdSection.mapper_timeout
    render_timeout: float = MepdSection.render_timeout
    debug: bool = False
