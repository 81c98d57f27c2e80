"""when a backup was last restored whole

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-30 12:00:00
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table backout.backups add proven timestamptz")


def downgrade() -> None:
    op.execute("alter table backout.backups drop proven")
