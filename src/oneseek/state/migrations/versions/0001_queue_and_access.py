"""The queue, the administrator, sessions and tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "queue",
        sa.Column("run_id", sa.String(), primary_key=True),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("pid", sa.Integer()),
        sa.Column("started", sa.Double()),
        sa.Column("added_at", sa.Double(), nullable=False),
    )
    administrator = op.create_table(
        "administrator",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("passphrase", sa.String()),
        sa.Column("link", sa.LargeBinary()),
        sa.Column("link_made_at", sa.Double()),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("closed_until", sa.Double()),
    )
    op.bulk_insert(administrator, [{"id": 1, "tries": 0}])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_used_at", sa.Double(), nullable=False),
        sa.UniqueConstraint("digest", name="uq_sessions_digest"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("last_used_at", sa.Double()),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
