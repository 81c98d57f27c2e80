"""how the last scheduled backup and the last drill went

Revision ID: 0004
Revises: 0003
Create Date: 2026-12-01 01:00:00
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
create table backout.duties (
    target text not null,
    kind text not null check (kind in ('backup', 'drill')),
    at timestamptz not null,
    ok boolean not null,
    says text not null,
    told boolean not null,
    primary key (target, kind)
)""")


def downgrade() -> None:
    op.execute("drop table backout.duties")
