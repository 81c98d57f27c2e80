"""A copy's ways out, taken away before anybody works on it (databases.md F2); and its statistics, which no dump carries."""

from __future__ import annotations

import asyncio
import os

from bot.databases.connecting import Connection, connected, quoted
from bot.place import Connect

_WRITING = {"default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "30s", "search_path": "pg_catalog"}
AT_MOST = 86_400.0  # seconds: the step's own deadline is shorter
_SESSIONS = 4
_BATCH = 50  # tables in one ANALYZE

_SUBSCRIPTIONS = """
SELECT subname::text FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"""
_MAPPINGS = "SELECT CASE umuser WHEN 0 THEN NULL ELSE usename::text END AS role, srvname::text AS server FROM pg_user_mappings ORDER BY 2, 1"
_SERVERS = "SELECT srvname::text FROM pg_foreign_server ORDER BY 1"
#: schedulers that keep their jobs in tables of the database itself
_SCHEDULERS = {
    "cron.job": "DELETE FROM cron.job",
    "pgagent.pga_job": "UPDATE pgagent.pga_job SET jobenabled = false",
    "_timescaledb_config.bgw_job": "UPDATE _timescaledb_config.bgw_job SET scheduled = false",
    "_timescaledb_catalog.bgw_job": "UPDATE _timescaledb_catalog.bgw_job SET scheduled = false",
}
_TABLES = f"""
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_(toast|temp)' AND n.nspname <> 'information_schema'
  AND c.oid >= {2**14} ORDER BY pg_relation_size(c.oid) DESC"""  # noqa: S608  below are the system's own


async def cut_off(copy: Connect) -> tuple[str, ...]:
    """What was cut, in sentences. Raises StepFailed, OutcomeUnknown: then the copy must not be used."""
    async with connected(copy, _WRITING) as session, session.transaction():
        return (*await _subscriptions(session), *await _publications(session), *await _foreign(session), *await _schedulers(session))


async def _subscriptions(session: Connection) -> list[str]:
    names = [row[0] for row in await session.fetch(_SUBSCRIPTIONS)]
    for name in map(quoted, names):
        # Without its slot, so that dropping it asks nothing of the publisher.
        await session.execute(f"ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name}")
    return [f"subscription {name} was removed" for name in names]


async def _publications(session: Connection) -> list[str]:
    names = [row[0] for row in await session.fetch("SELECT pubname::text FROM pg_publication ORDER BY 1")]
    for name in names:
        await session.execute(f"DROP PUBLICATION {quoted(name)}")
    return [f"publication {name} was removed" for name in names]


async def _foreign(session: Connection) -> list[str]:
    mappings = await session.fetch(_MAPPINGS)
    for row in mappings:
        who = "PUBLIC" if row["role"] is None else quoted(row["role"])
        await session.execute(f"DROP USER MAPPING FOR {who} SERVER {quoted(row['server'])}")
    said = [f"the way of {row['role'] or 'everybody'} into foreign server {row['server']} was removed" for row in mappings]
    mapped = {row["server"] for row in mappings}
    return said + [
        f"foreign server {row[0]} has no user mappings: if it needs none, it still leads out"
        for row in await session.fetch(_SERVERS)
        if row[0] not in mapped
    ]


async def _schedulers(session: Connection) -> list[str]:
    said = []
    for table, statement in _SCHEDULERS.items():
        there = await session.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
        if there and not (await session.execute(statement)).endswith(" 0"):
            said.append(f"the jobs of {table} were removed")
    return said


async def analyze(copy: Connect) -> None:
    """Every table, the largest first, in a few sessions. Raises StepFailed, OutcomeUnknown."""
    async with connected(copy, _WRITING) as session:
        names = [row[0] for row in await session.fetch(_TABLES)]
    waiting = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)] if len(names) > 4 * _BATCH else [[name] for name in names]
    waiting.reverse()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_SESSIONS, os.cpu_count() or 1, len(waiting))):
                group.create_task(_analyze(copy, waiting))
    except ExceptionGroup as failed:  # the group's wrapping alone: the first error is what happened, the others follow from it
        raise failed.exceptions[0] from failed


async def _analyze(copy: Connect, waiting: list[list[str]]) -> None:
    async with connected(copy, {**_WRITING, "maintenance_work_mem": "64MB"}) as session:
        while waiting:
            await session.execute(f"ANALYZE {', '.join(waiting.pop())}", timeout=AT_MOST)
