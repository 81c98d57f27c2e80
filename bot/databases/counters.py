"""Which tables nobody wrote, by the server's own counters: for a copy that nobody but us and the migration tool can enter.

The counters of rows that were inserted, updated and deleted count also what was rolled back. A session adds its own when it ends, before it leaves
pg_stat_activity; since 15 they lie in shared memory and none is lost on the way. TRUNCATE and rewrites are not among them, but they make a new file.
"""

from __future__ import annotations

import asyncio

from bot.databases.connecting import Connection

SINCE = 150000
_PATIENCE = 5.0  # seconds for sessions to leave
_LOOK = 0.05

_RESET = "SELECT pg_stat_reset()"
_ALONE = """
SELECT NOT EXISTS (
  SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker')"""
#: only a superuser turns them off, for a session, or for a role or a database
_ON = """
SELECT current_setting('track_counts')::bool AND NOT EXISTS (
  SELECT FROM pg_db_role_setting CROSS JOIN LATERAL unnest(setconfig) AS one WHERE starts_with(one, 'track_counts='))"""
_UNWRITTEN = "SELECT relid::int8 FROM pg_stat_all_tables WHERE n_tup_ins + n_tup_upd + n_tup_del = 0"


async def set_to_zero(session: Connection) -> None:
    """Of this database; the superuser's."""
    await session.fetchval(_RESET)


async def unwritten(session: Connection) -> frozenset[int]:
    """OIDs of the tables that nobody wrote since. Empty where that can't be known: others are in the database, or the counters are off."""
    for _ in range(round(_PATIENCE / _LOOK)):
        if await session.fetchval(_ALONE):
            break
        await asyncio.sleep(_LOOK)
    else:
        return frozenset()
    if not await session.fetchval(_ON):
        return frozenset()
    return frozenset(row[0] for row in await session.fetch(_UNWRITTEN))
