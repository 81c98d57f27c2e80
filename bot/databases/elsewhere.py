"""A server that is not the target's, and whose word is all that there is: a copy that somebody else recovered."""

from __future__ import annotations

from bot.databases.connecting import CATALOG, connected
from bot.databases.fence import HOLDER
from bot.place import Connect, Elsewhere

# pg_last_committed_xact() raises where no times of commits are kept.
_LOOK = """
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS in_recovery,
  coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
  CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
    THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE '' END AS system,
  CASE WHEN current_setting('track_commit_timestamp')::bool AND NOT pg_is_in_recovery()
    THEN (SELECT timestamp FROM pg_last_committed_xact()) END AS last"""


async def looked_at(connect: Connect, lock: tuple[int, int]) -> Elsewhere:
    """Raises Refusal when it can't be entered, StepFailed, OutcomeUnknown."""
    async with connected(connect, CATALOG) as session:
        row = await session.fetchrow(_LOOK)
        assert row is not None  # noqa: S101  a SELECT without FROM has one row
        same = await session.fetchrow(HOLDER, *lock) is not None
    return Elsewhere(**{**row, "last": row["last"].isoformat() if row["last"] else None}, same=same)
