"""An empty database beside the target's, for a restore: set up alike, closed to everybody but Backout until it takes its place (databases.md F10)."""

from __future__ import annotations

import json
from typing import Any

from bot.databases import clone, dressing, visitors
from bot.databases.connecting import CATALOG, LONGEST, Connection, connected, quoted
from bot.databases.likeness import literal, locale
from bot.errors import StepFailed
from bot.evidence import BackupFile, Noun
from bot.place import Connect

#: so the comment of everything begins that Backout made beside a database, or keeps there
OURS = "Backout: "

_MAY = """
SELECT m.rolname::text AS me, m.rolsuper OR m.rolcreatedb AS creates, pg_has_role(m.oid, d.datdba, 'USAGE') AS owns,
  pg_get_userbyid(d.datdba)::text AS owner,
  CASE WHEN d.dattablespace <> e.dattablespace THEN t.spcname::text END AS tablespace, has_tablespace_privilege(t.oid, 'CREATE') AS places,
  pg_is_in_recovery() AS standby, pg_encoding_to_char(d.encoding)::text AS encoding, to_jsonb(d)::text AS database
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace, pg_database e, pg_roles m
WHERE m.rolname = current_user AND d.datname = $1 AND e.datname = 'template0'"""


class Like(Noun):
    """What CREATE DATABASE is told so that another database is alike. `locale` is its row of pg_database."""

    owner: str
    encoding: str
    tablespace: str | None
    locale: dict[str, Any]


async def like(session: Connection, database: str) -> Like:
    """Raises StepFailed when there is no such database."""
    row = await session.fetchrow(_MAY, database)
    if row is None:
        raise StepFailed(f"There is no database {database} any more.")
    return Like(owner=row["owner"], encoding=row["encoding"], tablespace=row["tablespace"], locale=json.loads(row["database"]))


async def may_make(maintenance: Connect, database: str) -> str | None:
    """Why this role can't make one, in a sentence; None when it can. Room on the disk can't be asked for in SQL, so it is not looked at."""
    async with connected(maintenance, CATALOG) as session:
        row = await session.fetchrow(_MAY, database)
    if row is None:
        return f"There is no database {database} any more."
    me, owner = quoted(row["me"]), quoted(row["owner"])
    if row["standby"]:
        return "The server is a standby: no database can be made there."
    if not row["creates"]:
        return f"{row['me']} may not make databases (ALTER ROLE {me} CREATEDB would allow it)."
    if not row["owns"]:
        return f"{row['me']} may not make a database that belongs to {row['owner']}, as {database} does (GRANT {owner} TO {me} would allow it)."
    if row["tablespace"] and not row["places"]:
        space = quoted(row["tablespace"])
        return f"{row['me']} may not make databases in the tablespace of {database} (GRANT CREATE ON TABLESPACE {space} TO {me} would allow it)."
    return None


async def make(maintenance: Connect, database: str | Like, name: str, note: str) -> BackupFile:
    """Encoding, locale, tablespace and owner are that database's. What a dead attempt left by that name is replaced; what isn't ours is left alone.

    Raises StepFailed (a right is missing, the name is taken), OutcomeUnknown.
    """
    clone.refuse_name(name)
    if not note.startswith(OURS):
        raise StepFailed(f"The comment of a database that Backout makes begins with '{OURS}', by which a swap knows it: '{note[:60]}' does not.")
    async with clone.writing(maintenance, f"backout/beside/{name}"[:LONGEST]) as session:
        await visitors.end_former(session)
        await clone.drop_left(session, name, note)
        it = await like(session, database) if isinstance(database, str) else database
        me = await session.fetchval("SELECT current_user::text")
        alike = f"ENCODING {literal(it.encoding)} {locale(it.locale)}"
        alike += f" TABLESPACE {quoted(it.tablespace)}" if it.tablespace else ""
        await session.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0 {alike} ALLOW_CONNECTIONS false", timeout=clone.DAY)
        oid = await session.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", name)
        async with session.transaction():
            await _hand_over(session, oid, name, note, it.owner, me)
        size = await session.fetchval("SELECT pg_database_size($1::int8::oid)", oid)
    return BackupFile(name=name, path=f"database {name}", sha256="", size=size, format="clone", oid=oid)


async def _hand_over(session: Connection, oid: int, name: str, note: str, owner: str, me: str) -> None:
    """Known as ours, the owner's, closed to everybody else, and only then let in. The owner keeps CREATE, which restoring a schema needs."""
    await dressing.comment(session, name, note)
    if owner != me:
        await session.execute(f"ALTER DATABASE {quoted(name)} OWNER TO {quoted(owner)}")
    await dressing.shut(session, oid, name, me, "CONNECT")
    await session.execute(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true")
