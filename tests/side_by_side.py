"""Which tests may run beside which, for pytest-xdist: most of them wait for servers.

All of one group are run by one process, in their order: they share a port (the stock
client's 5000), accounts, or a server that takes long to start.
"""

from __future__ import annotations

from typing import Any

import pytest

SITES = "sites"
GROUPS = (
    ("tests/e2e/test_systemd.py", "machine"),  # with ports of its own
    ("tests/e2e/test_slurm.py", "cluster"),
    ("tests/e2e/", SITES),
    ("tests/broker/test_gateway_sdk.py", SITES),
    ("tests/broker/test_gateway_policies.py", SITES),
    ("tests/broker/test_gateway_", "gateway"),
    ("tests/broker/", "broker"),
)


def group_of(nodeid: str) -> str:
    """The group of a test; what needs no server is one of its own."""
    return next((group for path, group in GROUPS if nodeid.startswith(path)), "local")


def scheduler(config: pytest.Config, log: Any) -> Any:
    """pytest-xdist's scheduler by scope, with groups for scopes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
