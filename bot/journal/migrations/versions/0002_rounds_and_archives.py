"""rounds of a run, and archives

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-20 12:00:00
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHANGES = """
alter table backout.runs add round integer not null default 1;
alter table backout.attempts add round integer not null default 1;
create table backout.archives (
    target text not null,
    name text not null,
    run text not null,
    archive jsonb not null,
    made timestamptz not null,
    keep_until timestamptz not null,
    primary key (target, name)
);
"""


def upgrade() -> None:
    op.execute(CHANGES)


def downgrade() -> None:
    op.execute("drop table backout.archives; alter table backout.attempts drop round; alter table backout.runs drop round")
