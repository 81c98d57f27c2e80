"""Who is in a database, of any kind: clients, walsenders, workers, prepared transactions, and those who are just coming in.

Postgres lists a session only at the end of its start, after it looked whether it may connect. During its start it holds a lock on the
database: whoever holds it while the rights are taken may still get in unseen; whoever takes it later reads the new rights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeAlias

import asyncpg

from bot.databases.connecting import Connection
from bot.errors import OutcomeUnknown
from bot.place import Session

SHOWN = 10  # of those who are named
_SETTLE = 10  # seconds for a session to finish its start
_GONE = 30  # seconds for ended sessions to be gone
_PAUSE = 0.02  # seconds

# Of the server's own workers (autovacuum) no user is listed: they write nobody's rows, and give way.
_LISTED = """
SELECT pid, usesysid::int8 AS role, usename, coalesce(application_name, '') AS application_name, coalesce(state, backend_type) AS state,
  extract(epoch FROM clock_timestamp() - coalesce(xact_start, backend_start))::float8 AS age,
  CASE WHEN query IS NULL OR state IS NULL THEN '' ELSE left(query, 500) END AS query
FROM pg_stat_activity WHERE {column} = $1::int8::oid AND usesysid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY pid"""
_IN_DATABASE = _LISTED.format(column="datid")
_OF_ROLE = _LISTED.format(column="usesysid")

_ARRIVING = """
SELECT pid FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND objid = $1::int8::oid
  AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()"""

_PREPARED = """
SELECT x.gid FROM pg_prepared_xacts x JOIN pg_database d ON d.datname = x.database WHERE d.oid = $1::int8::oid ORDER BY x.gid"""

_LOCKING = """
SELECT string_agg(DISTINCT coalesce(a.usename || ' (session ' || l.pid || ', ' || a.application_name || ')', 'session ' || l.pid), ', ')
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objid = $1::int8::oid AND l.granted AND l.pid <> pg_backend_pid()"""

_FORMER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = current_setting('application_name') AND usename = session_user AND pid <> pg_backend_pid()"""

#: is this session, of the role with that OID, one of ours?
Ours: TypeAlias = Callable[[Session, int | None], bool]


def nobody(_session: Session, _role: int | None) -> bool:
    """Every session is a stranger's."""
    return False


async def inside(session: Connection, database: int, ours: Ours = nobody, *, end_arriving: bool = False) -> tuple[Session, ...]:
    """Everybody in the database with that OID but ours, seen from another database. Who would not finish coming in is among them."""
    late = await _settled(session, database, end=end_arriving)
    listed = await _look(session, _IN_DATABASE, database, ours)
    return *listed, *(Session(pid=pid, state="coming in") for pid in sorted(late - {one.pid for one in listed}))


async def _settled(session: Connection, database: int, *, end: bool) -> set[int]:
    """Those who are coming in now have come in, or are gone: else their pids."""
    first = coming = await _arriving(session, database)
    for _ in range(round(_SETTLE / _PAUSE)):
        if not coming:
            break
        if end:
            await _terminate(session, coming)
        await asyncio.sleep(_PAUSE)
        coming = first & await _arriving(session, database)
    return coming


async def _arriving(session: Connection, database: int) -> set[int]:
    return {row["pid"] for row in await session.fetch(_ARRIVING, database)}


async def end(session: Connection, database: int, ours: Ours) -> tuple[Session, ...]:
    """End everybody in the database but ours; who was ended. Who can't be ended, or would not go, is still `inside` afterwards."""
    return await _end(session, _IN_DATABASE, database, ours)


async def sweep(session: Connection, database: int) -> None:
    """One round: whoever is in, or holds the database's lock while coming in, is told to go. Who waits behind us for that lock is left alone."""
    await _terminate(session, [one.pid for one in await _look(session, _IN_DATABASE, database, nobody)])
    await _terminate(session, [row["pid"] for row in await session.fetch(f"{_ARRIVING} AND granted", database)])


async def locking(session: Connection, database: int) -> str:
    """Who has a lock on the database with that OID as a whole: who connects, alters, comments, copies it."""
    return str(await session.fetchval(_LOCKING, database) or "somebody who has left since")


async def end_former(session: Connection) -> None:
    """A process that was killed leaves a session that may still act: under the name and role of ours, which has taken over. Raises OutcomeUnknown."""
    for _ in range(round(_GONE / _PAUSE)):
        if not await session.fetch(_FORMER):
            return
        await asyncio.sleep(_PAUSE)
    raise OutcomeUnknown(f"A session of a former attempt was ended, but is still there after {_GONE} s, so nobody can say what it still does.")


async def end_role(session: Connection, role: int) -> tuple[Session, ...]:
    """End the sessions of the role with that OID, in whatever database."""
    return await _end(session, _OF_ROLE, role, nobody)


async def _end(session: Connection, which: str, oid: int, ours: Ours) -> tuple[Session, ...]:
    ended: dict[int, Session] = {}
    for _ in range(round(_GONE / _PAUSE)):
        there = {one.pid: one for one in await _look(session, which, oid, ours)}
        going = await _terminate(session, there)
        ended.update((pid, there[pid]) for pid in going)
        if not going:
            break
        await asyncio.sleep(_PAUSE)
    return tuple(ended.values())


async def _terminate(session: Connection, pids: Iterable[int]) -> list[int]:
    """Those whom this role may end: a superuser's session only a superuser may."""
    may = []
    for pid in pids:
        with suppress(asyncpg.InsufficientPrivilegeError):
            await session.fetchval("SELECT pg_terminate_backend($1)", pid)
            may.append(pid)
    return may


async def _look(session: Connection, which: str, oid: int, ours: Ours) -> tuple[Session, ...]:
    seen = []
    for row in await session.fetch(which, oid):
        one = Session(
            pid=row["pid"], user=row["usename"], application=row["application_name"], state=row["state"], age=row["age"], query=row["query"]
        )
        if not ours(one, row["role"]):
            seen.append(one)
    return tuple(seen)


async def prepared(session: Connection, database: int) -> tuple[str, ...]:
    """The gids of prepared transactions of the database with that OID: they hold their locks without a session."""
    return tuple(row["gid"] for row in await session.fetch(_PREPARED, database))


def told(sessions: tuple[Session, ...]) -> str:
    """Who they are, in one line; no more than ten of them."""
    named = [_told(one) for one in sessions[:SHOWN]]
    return "; ".join(named) + (f"; and {len(sessions) - SHOWN} more" if len(sessions) > SHOWN else "")


def _told(one: Session) -> str:
    age = "" if one.age is None else f" for {one.age:.0f} s"
    what = f"{one.state or 'state not visible'}{age}"
    doing = f": {' '.join(one.query.split())[:80]}" if one.query else ""
    return f"session {one.pid} ({one.user or 'no user yet'}, {one.application or 'no application name'}, {what}{doing})"
