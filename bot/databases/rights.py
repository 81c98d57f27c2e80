"""What Backout's role may do on this server, found by doing it harmlessly: made and dropped, or begun and rolled back (databases.md F24)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from bot.databases import clone, timescale
from bot.databases.connecting import CATALOG, Connection, connected, quoted
from bot.errors import BackoutError, StepFailed
from bot.place import Connect, Right

_WRITING = {**CATALOG, "default_transaction_read_only": "off"}
_TRIED = "backout_check_"  #: so a database begins that is made to see whether one can be made
_FORCE_SINCE = 130000

_LEFT = "SELECT datname FROM pg_database WHERE datname ~ '^backout_check_[0-9a-f]{8}$' AND pg_get_userbyid(datdba) = current_user"
_OWNER = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1"
_SIGNALS = """
SELECT rolsuper OR pg_has_role(oid, 'pg_signal_backend', 'USAGE') OR pg_has_role(oid, $1::name, 'USAGE') FROM pg_roles
WHERE rolname = current_user"""
_SUPER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
_UNREADABLE = """
SELECT count(*)::int, min(format('%I.%I', n.nspname, c.relname)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))"""
_FILTERED = """
SELECT count(*)::int, min(format('%I.%I', n.nspname, c.relname)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND row_security_active(c.oid)"""


async def rights(admin: Connect, maintenance: Connect, tool: Connect) -> tuple[Right, ...]:
    """One by one, in the order of a run. `missing` is SQL for somebody who may, where there is such; else a sentence."""
    found = [await one(admin, maintenance, tool) for one in _PROBES]
    return tuple([each for each in found if each is not None])


async def _fence(admin: Connect, maintenance: Connect, tool: Connect) -> Right:
    async with _asked("take the target's lock", maintenance) as (session, right):
        await session.fetchval("SELECT pg_advisory_lock_shared(0, 0)")
        await session.fetchval("SELECT pg_advisory_unlock_shared(0, 0)")
    return right()


async def _read(admin: Connect, maintenance: Connect, tool: Connect) -> Right:
    name = "read every table"
    async with _asked(name, admin) as (session, right):
        ((count, first),) = await session.fetch(_UNREADABLE)
        ((filtered, hidden),) = await session.fetch(_FILTERED)
        if count:
            return Right(name=name, works=False, missing=f"GRANT pg_read_all_data TO {quoted(admin.user)};  -- {count} can't be read, e.g. {first}")
        if filtered:
            return Right(name=name, works=False, missing=f"ALTER ROLE {quoted(admin.user)} BYPASSRLS;  -- row security hides rows of {hidden}")
    return right()


async def _make_database(admin: Connect, maintenance: Connect, tool: Connect) -> Right:
    name = "make a database"
    async with _asked(name, maintenance, f"ALTER ROLE {quoted(admin.user)} CREATEDB;") as (session, right):
        for row in await session.fetch(_LEFT):
            await _drop(session, row[0])
        tried = f"{_TRIED}{secrets.token_hex(4)}"
        await session.execute(f"CREATE DATABASE {quoted(tried)} TEMPLATE template0 ALLOW_CONNECTIONS false")
        await _drop(session, tried)
    return right()


async def _drop(session: Connection, name: str) -> None:
    await session.execute(f"DROP DATABASE IF EXISTS {quoted(name)}")


async def _clone(admin: Connect, maintenance: Connect, tool: Connect) -> Right:
    name = "copy this database on its server"
    try:
        why = await clone.may_clone(admin, maintenance, tool.database)
    except BackoutError as error:
        why = str(error)
    return Right(name=name, works=why is None, missing=why or "")


async def _make_role(admin: Connect, maintenance: Connect, tool: Connect) -> Right:
    async with _asked("make a role", maintenance, f"ALTER ROLE {quoted(admin.user)} CREATEROLE;") as (session, right):
        trying = session.transaction()
        await trying.start()
        try:
            await session.execute(f"CREATE ROLE {quoted(f'{_TRIED}{secrets.token_hex(4)}')}")
        finally:
            await trying.rollback()
    return right()


async def _end_sessions(admin: Connect, maintenance: Connect, tool: Connect) -> Right:
    name = "end the application's sessions"
    async with _asked(name, maintenance) as (session, right):
        if not await session.fetchval(_SIGNALS, tool.user):
            return Right(name=name, works=False, missing=f"GRANT pg_signal_backend TO {quoted(admin.user)};")
    return right()


async def _rename(admin: Connect, maintenance: Connect, tool: Connect) -> Right:
    """Whoever renames must own it and may make databases; nobody has to leave it for the try, since it renames nothing."""
    name = "put another database in this one's place"
    async with _asked(name, maintenance) as (session, right):
        owner = await session.fetchval(_OWNER, tool.database)
        if not await session.fetchval(_SUPER) and not await session.fetchval("SELECT pg_has_role(current_user, $1::name, 'USAGE')", owner):
            return Right(name=name, works=False, missing=f"GRANT {quoted(owner)} TO {quoted(admin.user)};")
        trying = session.transaction()
        await trying.start()
        try:
            await session.execute(f"ALTER DATABASE {quoted(tool.database)} CONNECTION LIMIT -1")
        finally:
            await trying.rollback()
    return right()


async def _hypertables(admin: Connect, maintenance: Connect, tool: Connect) -> Right | None:
    """Both are a superuser's, as the setting that is tried is. None: the database has no TimescaleDB."""
    async with _asked("restore hypertables and stop TimescaleDB's workers", admin, f"ALTER ROLE {quoted(admin.user)} SUPERUSER;") as (session, right):
        if await timescale.schema(session) is None:
            return None
        async with session.transaction():
            await session.execute("SET LOCAL timescaledb.restoring = off")
    return right()


_PROBES: tuple[Callable[[Connect, Connect, Connect], Awaitable[Right | None]], ...] = (
    _fence, _read, _end_sessions, _make_role, _make_database, _clone, _rename, _hypertables,
)  # fmt: skip


@asynccontextmanager
async def _asked(name: str, connect: Connect, missing: str = "") -> AsyncIterator[tuple[Connection, Callable[[], Right]]]:
    """A session to try something in. What the server refuses is the answer, not an error."""
    said: list[str] = []
    try:
        async with connected(connect, _WRITING) as session:
            try:
                yield session, lambda: Right(name=name, works=not said, missing=said[0] if said else "")
            except asyncpg.InsufficientPrivilegeError as error:
                said.append(missing or str(error))
    except StepFailed as error:
        said.append(missing or error.message)
