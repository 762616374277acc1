"""Endpoints that are locked; an index for what expires.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "endpoints", sa.Column("locked_until", sa.Float(), nullable=False, server_default="0")
    )
    op.create_index("tasks_expiry", "tasks", ["finished"])
