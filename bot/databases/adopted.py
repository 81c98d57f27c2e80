"""A database beside that is filled from what others made: its code runs by the application's role, so Backout enters it as that (databases.md F15).

Even planning a query runs code of a table: its index's predicate may call a function of constants. Backout's own role reads only catalogs there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bot.databases import acl, clone
from bot.databases.beside import OURS
from bot.databases.connecting import CATALOG, Connection, connected, quoted
from bot.errors import StepFailed
from bot.evidence import BackupFile
from bot.finishing import whatever_happens
from bot.place import REACH, Connect

_MINE = "SELECT shobj_description(oid, 'pg_database') AS note, datname::text AS name FROM pg_database WHERE oid = $1::int8::oid"


async def reach(tool: Connect) -> str:
    """By which rights code that this role runs could do harm outside of its database: 'SUPERUSER, CREATEROLE'; empty when by none."""
    async with connected(tool, CATALOG) as session:
        return str(await session.fetchval(REACH))


@asynccontextmanager
async def entered(maintenance: Connect, admin: Connect, tool: Connect, file: BackupFile) -> AsyncIterator[Connect]:
    """As `admin`; where it is adopted as `tool`, who may connect and make things there meanwhile, and not connect afterwards. Raises StepFailed."""
    if not file.adopted:
        yield admin.model_copy(update={"database": file.name})
        return
    inside, who = tool.model_copy(update={"database": file.name}), quoted(tool.user)
    await _say(maintenance, file, f"GRANT CONNECT ON DATABASE {quoted(file.name)} TO {who}")
    try:
        async with connected(inside, CATALOG) as session:  # a door's key becomes the application as it comes in
            becomes = quoted(str(await session.fetchval("SELECT current_user")))
        await _say(maintenance, file, f"GRANT CREATE, TEMPORARY ON DATABASE {quoted(file.name)} TO {becomes}")
        if rights := await reach(inside):
            raise StepFailed(
                f"What others made comes back only by a role that can do no harm elsewhere, and {tool.user} has {rights}. Nothing was executed."
            )
        yield inside
    finally:
        if tool.user != maintenance.user:  # who is Backout too stays in
            await whatever_happens(_say(maintenance, file, f"REVOKE CONNECT ON DATABASE {quoted(file.name)} FROM {who}"))


async def _say(maintenance: Connect, file: BackupFile, statement: str) -> None:
    """As its owner, about the database that is meant and no other."""
    async with clone.writing(maintenance, "backout/adopted") as session, session.transaction():
        await _is_ours(session, file)
        async with acl.as_owner(session, file.oid or 0):
            await session.execute(statement)


async def _is_ours(session: Connection, file: BackupFile) -> None:
    row = await session.fetchrow(_MINE, file.oid)
    if row is None or row["name"] != file.name or not (row["note"] or "").startswith(OURS):
        raise StepFailed(f"The database {file.name} (OID {file.oid}) is gone, or does not say any more that Backout made it.")
