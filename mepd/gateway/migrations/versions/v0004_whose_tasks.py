"""Indexes for an endpoint's number of tasks, and for a person's newest.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("tasks_endpoint", "tasks", ["endpoint_id", "state"])
    op.create_index("tasks_owner", "tasks", ["owner", "created"])
