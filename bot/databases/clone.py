"""A copy of a database beside it on the same server, as a restore point: going back to it is a rename (databases.md F9).

Nobody may be in the database meanwhile, and who wants to enter waits until it is made. A clone is known by its OID and comment, not by its name.
It belongs to Backout's own role as long as it is a restore point, nobody else enters it, and a session in it can't write unless it asks to.
What a clone lacks (owner, rights, settings, limit, comment) is told by `outside`, to be given to it when it takes the database's place.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from bot.databases import acl, timescale, visitors
from bot.databases.connecting import CATALOG, LONGEST, Connection, connected, quoted, words
from bot.errors import StepFailed
from bot.evidence import BackupFile
from bot.place import Connect

_NAMES = re.compile(r"backout_[0-9a-f]{8}_[a-z_]+")
_BIG = 1024**3  # from here on files are copied instead of logged
_REFLINKS_SINCE = 180000  # on a file system that shares blocks (XFS, btrfs, ZFS) a copy then takes no time; on others it is as fast as before
_STRATEGIES_SINCE = 150000  # server_version_num
_COLLATIONS_SINCE = 150000
_FORCE_SINCE = 130000
_TRIES = 2  # more, where nobody but workers of an extension's was in, or who was in has left
DAY = 86400  # seconds, for what takes as long as it takes; the step has the deadline

# A collation that changed under the database makes it useless as a template, since 15.
_MAY = """
SELECT m.rolsuper OR m.rolcreatedb AS creates, pg_has_role(m.oid, d.datdba, 'USAGE') AS owns, m.rolname AS me, pg_get_userbyid(d.datdba) AS owner,
  (SELECT string_agg(s.subname, ', ') FROM pg_subscription s WHERE s.subdbid = d.oid AND s.subenabled) AS subscriptions,
  current_setting('server_version_num')::int AS version
FROM pg_database d, pg_roles m WHERE m.rolname = current_user AND d.datname = $1"""
_COLLATION = """
SELECT datcollversion AS had, pg_database_collation_actual_version(oid) AS has FROM pg_database
WHERE datname = $1 AND datcollversion IS NOT NULL AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)"""

# It is read again for the archive, so it has to be readable.
_UNREADABLE = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) ORDER BY 1 LIMIT 1"""
RELATIONS = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"""

_FOUND = """
SELECT oid::int8, datname AS name, shobj_description(oid, 'pg_database') AS note, pg_get_userbyid(datdba) = current_user AS mine
FROM pg_database WHERE {which}"""
# They would be dropped in silence (databases.md F10): a database that was swapped out keeps the slots that it had.
_SLOTS = "SELECT string_agg(slot_name::text, ', ' ORDER BY slot_name) FROM pg_replication_slots WHERE database = $1"
_SOURCE = """
SELECT oid::int8, pg_database_size(oid) AS size, current_setting('server_version_num')::int AS version FROM pg_database WHERE datname = $1"""
_BY_NAME = _FOUND.format(which="datname = $1")
_BY_OID = _FOUND.format(which="oid = $1::int8::oid")

_OUTSIDE = """
SELECT d.oid::int8, d.datname AS name, pg_get_userbyid(d.datdba) AS owner, d.datconnlimit AS connection_limit, d.datallowconn AS allow_connections,
  d.datistemplate AS is_template, shobj_description(d.oid, 'pg_database') AS comment, t.spcname AS tablespace,
  ARRAY(SELECT l.provider || ': ' || l.label FROM pg_shseclabel l WHERE l.classoid = 'pg_database'::regclass AND l.objoid = d.oid) AS labels,
  ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE database = d.datname ORDER BY 1) AS slots,
  ARRAY(SELECT subname::text FROM pg_subscription WHERE subdbid = d.oid ORDER BY 1) AS subscriptions
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1"""
_SETTINGS = """
SELECT r.rolname AS role, s.setconfig AS settings FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE s.setdatabase = $1::int8::oid ORDER BY r.rolname NULLS FIRST"""


async def may_clone(admin: Connect, maintenance: Connect, database: str) -> str | None:
    """Why this role can't clone that database on this server, or not read the clone, in a sentence; None when it can."""
    async with connected(maintenance, CATALOG) as session:
        if why := await _may_not(session, database):
            return why
    async with connected(admin.model_copy(update={"database": database}), CATALOG) as session:
        unreadable = await session.fetchval(_UNREADABLE)
    if unreadable is None:
        return None
    return f"{admin.user} may not read {unreadable}, so nothing could be compared with a clone (GRANT SELECT on it, or pg_read_all_data)."


async def _may_not(session: Connection, database: str) -> str | None:
    row = await session.fetchrow(_MAY, database)
    if row is None:
        return f"There is no database {database} any more."
    me = quoted(row["me"])
    if not row["creates"]:
        return f"{row['me']} may not make databases (ALTER ROLE {me} CREATEDB would allow it)."
    if not row["owns"]:
        return f"{row['me']} may not copy {database}: it belongs to {row['owner']} (GRANT {quoted(row['owner'])} TO {me} would allow it)."
    if row["subscriptions"]:
        return f"The subscription {row['subscriptions']} writes into {database}, and nobody may be in it meanwhile (ALTER SUBSCRIPTION ... DISABLE)."
    changed = await session.fetchrow(_COLLATION, database) if row["version"] >= _COLLATIONS_SINCE else None
    if changed is None:
        return None
    return (
        f"The server refuses to copy {database}: its collation is of version {changed['had']}, the library's is {changed['has'] or 'unknown'} "
        f"(REINDEX what depends on it, then ALTER DATABASE {quoted(database)} REFRESH COLLATION VERSION)."
    )


async def clone(admin: Connect, maintenance: Connect, database: str, name: str, note: str) -> BackupFile:
    """A copy that nobody else enters. What a dead attempt left by that name is replaced; what isn't ours is left alone.

    Raises StepFailed (somebody is in the database, named; a right is missing; the name is taken) and OutcomeUnknown.
    """
    refuse_name(name)
    async with writing(maintenance, f"backout/clone/{name}"[:LONGEST]) as session:
        await visitors.end_former(session)
        await drop_left(session, name, note)
        for last in (*[False] * _TRIES, True):
            try:
                await _copy(session, database, name)
                break
            except StepFailed as error:  # TimescaleDB's loader sends a worker into the template, which may be faster than the copy
                if last or not error.facts.get("nobody"):
                    raise
                await timescale.quiet(admin.model_copy(update={"database": database}))
        oid = await session.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", name)
        async with session.transaction():
            await _shut(session, name, note)
        size = await session.fetchval("SELECT pg_database_size($1::int8::oid)", oid)
    async with connected(admin.model_copy(update={"database": name}), CATALOG) as session:
        relations = await session.fetchval(RELATIONS)
    return BackupFile(name=name, path=f"database {name}", sha256="", size=size, format="clone", objects=relations, oid=oid)


def refuse_name(name: str) -> None:
    """Raises StepFailed for what is no name of ours."""
    if not _NAMES.fullmatch(name) or len(name.encode()) > LONGEST:
        raise StepFailed(f"{name} is no name for a clone: it has to be backout_<8 hex digits>_<kind>, at most {LONGEST} bytes.")


async def drop_left(session: Connection, name: str, note: str) -> None:
    """What a dead attempt made, to the end or not: before it has its comment, nobody but us can have given it such a name."""
    left = await session.fetchrow(_BY_NAME, name)
    if left is None:
        return
    if left["note"] != note and not (left["note"] is None and left["mine"] and _NAMES.fullmatch(name)):
        raise StepFailed(f"There is a database {name}, and it is not this restore point. Nothing was done to it.")
    await _drop(session, left["oid"], name)


async def share_blocks(session: Connection, version: int) -> None:
    """A database that is copied file by file takes no time on XFS, btrfs and ZFS, since PostgreSQL 18. `version` is server_version_num."""
    if version >= _REFLINKS_SINCE:
        with suppress(asyncpg.InvalidParameterValueError):  # where the operating system has no such copy
            await session.execute("SET file_copy_method = 'clone'")


async def _copy(session: Connection, database: str, name: str) -> None:
    """Until it is shut, nobody can connect to it at all."""
    source = await session.fetchrow(_SOURCE, database)
    if source is None:
        raise StepFailed(f"There is no database {database} any more.")
    strategy = "STRATEGY file_copy" if source["size"] >= _BIG and source["version"] >= _STRATEGIES_SINCE else ""
    if strategy:
        await share_blocks(session, source["version"])
    statement = f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(database)} ALLOW_CONNECTIONS false {strategy}"
    try:
        await session.execute(statement, timeout=DAY)
    except asyncpg.ObjectInUseError as error:
        there = await visitors.inside(session, source["oid"])
        gids = ", ".join((await visitors.prepared(session, source["oid"]))[: visitors.SHOWN])
        who = "; ".join(filter(None, (visitors.told(there), gids and f"prepared transactions {gids}"))) or "they have left since"
        nobody = not gids and all(timescale.is_worker(one) for one in there)
        facts = {"inside": [one.model_dump(mode="json") for one in there[: visitors.SHOWN]], "nobody": nobody}
        raise StepFailed(f"{database} can't be copied while somebody is in it ({words(error)}): {who}.", facts) from error


async def _shut(session: Connection, name: str, note: str) -> None:
    """Known as ours, closed to everybody else, and only then let it be read. A new database has no rights but PUBLIC's and the owner's."""
    for statement in (
        f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC",
        await session.fetchval("SELECT format('COMMENT ON DATABASE %I IS %L', $1::text, $2::text)", name, note),
        f"ALTER DATABASE {quoted(name)} SET default_transaction_read_only = on",
        f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true",
    ):
        await session.execute(statement)


async def drop_clone(maintenance: Connect, file: BackupFile, note: str) -> None:
    """Only when OID and comment agree; a clone that is gone is no error. Raises StepFailed, OutcomeUnknown.

    Without an OID: what an attempt left by that name that died before it could tell.
    """
    async with writing(maintenance) as session:
        if file.oid is None:
            return await drop_left(session, file.name, note)
        found = await session.fetchrow(_BY_OID, file.oid)
        if found is None:
            return None
        if found["note"] != note:
            raise StepFailed(
                f"The database {found['name']} (OID {file.oid}) does not say any more that it is this restore point, so it was not dropped. "
                f"If it is one, drop it by hand."
            )
        if slots := await session.fetchval(_SLOTS, found["name"]):
            raise StepFailed(f"{found['name']} has replication slots, which would go with it: {slots}. Drop them when nobody reads them any more.")
        return await _drop(session, found["oid"], found["name"])


async def _drop(session: Connection, oid: int, name: str) -> None:
    if await session.fetchval("SELECT current_setting('server_version_num')::int") >= _FORCE_SINCE:
        await session.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)", timeout=DAY)
        return
    await session.execute(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS false")
    await visitors.end(session, oid, visitors.nobody)
    await session.execute(f"DROP DATABASE IF EXISTS {quoted(name)}", timeout=DAY)


def how_to_go_back(maintenance: Connect, database: str, file: BackupFile) -> tuple[str, ...]:
    """For a person at a shell: both renames in one transaction. Owner, rights and settings are not in a clone, so they are shown to be given back."""
    where = ["psql", "--host", maintenance.host, "--port", str(maintenance.port), "--username", maintenance.user, "--dbname", maintenance.database]
    tls = f"PGSSLMODE={shlex.quote(maintenance.sslmode)} " if maintenance.sslmode else ""
    old = quoted(f"{database[:40]}_before_{file.name[-16:]}")
    renames = (
        f"ALTER DATABASE {quoted(database)} RENAME TO {old}",
        f"ALTER DATABASE {quoted(file.name)} RENAME TO {quoted(database)}",
        f"ALTER DATABASE {quoted(database)} RESET default_transaction_read_only",
    )
    return (
        tls + shlex.join([*where, "--command", rf"\l+ {quoted(database)}", "--command", r"\drds"]),
        tls + shlex.join([*where, "--single-transaction", *(word for each in renames for word in ("--command", each))]),
        "# then give the new one the owner, the rights and the settings that the first command showed",
    )


async def outside(maintenance: Connect, database: str) -> dict[str, Any]:
    """What belongs to the database but is not in a clone, as JSON: owner, acl (text and rights), settings, limit, comment, slots, subscriptions, ...

    `settings` are [role or None for everybody, {name: value}]; `labels` are security labels. Raises StepFailed.
    """
    async with connected(maintenance, CATALOG) as session:
        row = await session.fetchrow(_OUTSIDE, database)
        if row is None:
            raise StepFailed(f"There is no database {database} any more.")
        rights = await acl.read(session, row["oid"])
        settings = await session.fetch(_SETTINGS, row["oid"])
    return {
        **row,
        "acl": rights.model_dump(mode="json"),
        "settings": [[each["role"], dict(entry.split("=", 1) for entry in each["settings"])] for each in settings],
    }


@asynccontextmanager
async def writing(maintenance: Connect, application: str = "backout/clone") -> AsyncIterator[Connection]:
    settings = {**CATALOG, "application_name": application, "default_transaction_read_only": "off", "statement_timeout": "0"}
    async with connected(maintenance, settings) as session:
        yield session
