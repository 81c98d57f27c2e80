"""the journal

Revision ID: 0001
Revises:
Create Date: 2026-11-20 09:00:00
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
create table backout.runs (
    id text primary key,
    target text not null,
    state text not null,
    request jsonb not null,
    plan jsonb,
    digest text,
    escalated text[] not null default '{}',
    ending text,
    decision text,
    refusal jsonb,
    seq integer not null default 0,
    created timestamptz not null,
    ended timestamptz
);
create unique index runs_one_open_per_target on backout.runs (target)
    where state in ('planning', 'rehearsing', 'awaiting_approval', 'running', 'needs_decision');
create index runs_newest on backout.runs (created desc);

create table backout.events (
    run text not null references backout.runs,
    seq integer not null,
    at timestamptz not null,
    kind text not null,
    data jsonb not null,
    primary key (run, seq)
);
create function backout.refuse() returns trigger language plpgsql as $$
begin
    raise exception 'the journal is append-only';
end $$;
create trigger events_are_append_only before update or delete or truncate on backout.events
    for each statement execute function backout.refuse();

create table backout.attempts (
    run text not null references backout.runs,
    step text not null,
    attempt integer not null,
    state text not null,
    executor text not null,
    began timestamptz not null,
    ended timestamptz,
    summary text not null default '',
    progress text not null default '',
    facts jsonb not null default '{}',
    place integer not null,
    primary key (run, step, attempt)
);
create unique index attempts_one_open_per_run on backout.attempts (run) where state = 'intended';

create table backout.seats (
    run text not null references backout.runs,
    place integer not null,
    role text not null,
    by text,
    at timestamptz,
    primary key (run, place)
);
create unique index seats_one_per_person on backout.seats (run, by) where by is not null;

create table backout.alarms (
    run text not null references backout.runs,
    kind text not null,
    due timestamptz not null,
    primary key (run, kind)
);

create table backout.deliveries (
    run text not null references backout.runs,
    key text not null,
    channel text not null,
    ts text not null,
    content text not null,
    primary key (run, key)
);
create index deliveries_by_message on backout.deliveries (channel, ts);

create table backout.backups (
    target text not null,
    name text not null,
    run text not null,
    revision text not null,
    file jsonb not null,
    made timestamptz not null,
    keep_until timestamptz not null,
    primary key (target, name)
);

create table backout.inbox (
    key text primary key,
    kind text not null,
    payload jsonb,
    came timestamptz not null,
    done timestamptz
);
create index inbox_pending on backout.inbox (came) where done is null;
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute(
        "drop table backout.inbox, backout.backups, backout.deliveries, backout.alarms, backout.seats, backout.attempts,"
        " backout.events, backout.runs; drop function backout.refuse()"
    )
