"""What a copy would cost a server, who is in its way there, and what was written since a migration. Reading only, but for `end`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg

from bot.databases.connecting import CATALOG, Connection, connected, quoted, words
from bot.errors import OutcomeUnknown, StepFailed
from bot.evidence import Bounds
from bot.place import Connect, Session

_GONE = 30  # seconds for ended sessions to be gone
_BUDGET = 5  # seconds to count a table's new rows
_FEWEST_CONNECTIONS = 5
_FARTHEST_LAG = 256 * 1024**2  # bytes that a standby may be behind before a dump adds to it
_LONG = 3600  # seconds

# pg_dump locks plain and partitioned tables by LOCK TABLE, and before 17 reads each sequence in the same transaction (both seen in pg_locks);
# what it locks of the system catalogs and of indexes is about 200 more.
_RELATIONS = """
SELECT count(*) FROM pg_class WHERE relpersistence <> 't' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  AND (relkind IN ('r', 'p') OR relkind = 'S' AND current_setting('server_version_num')::int < 170000)"""
_CATALOGS = 200

# A role without pg_read_all_stats sees neither the kind nor the beginning of other roles' sessions.
_SERVER = """
SELECT pg_database_size(current_database()) AS size,
  current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)
    AS lock_slots,
  current_setting('max_connections')::int
    - (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend')
    - CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN 0 ELSE current_setting('superuser_reserved_connections')::int
        + CASE WHEN current_setting('server_version_num')::int < 160000 OR pg_has_role(current_user, 'pg_use_reserved_connections', 'MEMBER') THEN 0
            ELSE current_setting('reserved_connections')::int END END AS free_connections,
  greatest(0, (SELECT extract(epoch FROM clock_timestamp() - min(xact_start)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
      AND coalesce(backend_type, 'client backend') = 'client backend'),
    (SELECT extract(epoch FROM clock_timestamp() - min(prepared)) FROM pg_prepared_xacts))::float8 AS oldest_transaction,
  (SELECT count(*) FROM pg_stat_replication r WHERE NOT EXISTS (
      SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')) AS standbys,
  CASE WHEN NOT pg_is_in_recovery() THEN (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) FROM pg_stat_replication) END::int8 AS lag"""

_SLOTS = """
SELECT array_agg(slot_name::text ORDER BY slot_name) FILTER (WHERE NOT active) AS idle,
  min((to_jsonb(s) ->> 'safe_wal_size')::int8) AS safe_wal FROM pg_replication_slots s"""

_EXTENSIONS = "SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"

# With a table its parts and chunks: what is done to it is done to them.
_SIZES = """
WITH RECURSIVE tree (name, oid) AS (SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS name
  UNION SELECT t.name, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT t.name, sum(pg_total_relation_size(c.oid))::int8 AS bytes,
  coalesce(sum(greatest(c.reltuples, 0)) FILTER (WHERE c.relkind <> 'p'), 0)::int8 AS rows
FROM tree t JOIN pg_class c USING (oid) GROUP BY t.name"""

_SESSION = """s.usename, coalesce(s.application_name, '') AS application_name, s.state,
  extract(epoch FROM clock_timestamp() - s.xact_start)::float8 AS age, coalesce(left(s.query, 500), '') AS query"""

# With a table its parts: what is done to it is done to them. A prepared transaction holds its locks as pid 0; autovacuum gives way by itself.
_PREPARED = "CASE WHEN l.pid IS NULL THEN 'prepared transaction' ELSE s.state END AS state"
_HOLDERS = f"""
WITH RECURSIVE concerned (oid) AS (
  SELECT c.oid FROM unnest($1::text[]) AS name (text) JOIN pg_class c ON c.oid = to_regclass(name.text)
  UNION SELECT i.inhrelid FROM pg_inherits i JOIN concerned ON concerned.oid = i.inhparent)
SELECT DISTINCT coalesce(l.pid, 0) AS pid, {_SESSION.replace("s.state", _PREPARED)}
FROM pg_locks l LEFT JOIN pg_stat_activity s ON s.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation IN (SELECT oid FROM concerned)
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid() AND coalesce(s.application_name, '') NOT LIKE 'backout/%'
  AND coalesce(s.backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
ORDER BY 1"""  # noqa: S608  a constant of this file

_WAITERS = f"""
SELECT s.pid, {_SESSION} FROM pg_stat_activity s
WHERE s.pid IN (SELECT pid FROM pg_locks WHERE NOT granted) AND EXISTS (
  SELECT FROM unnest(pg_blocking_pids(s.pid)) AS b (pid) JOIN pg_stat_activity h ON h.pid = b.pid WHERE h.application_name = $1)
ORDER BY s.pid"""  # noqa: S608  a constant of this file

_NAMED = f"""
SELECT s.pid, s.backend_start, {_SESSION} FROM pg_stat_activity s
WHERE s.pid = ANY ($1::int[]) AND s.pid <> pg_backend_pid() AND coalesce(s.application_name, '') NOT LIKE 'backout/%' ORDER BY s.pid"""  # noqa: S608

# What a migration changes, it changes together with the version row: then a row of the catalog has the same xmin (databases.md F20).
# A restored or stamped version row has no such company. The version table itself is left out: a restore truncates it as it fills it.
_MARKER = """
SELECT age(v.xmin) AS age, (
    EXISTS (SELECT FROM pg_class c WHERE c.xmin = v.xmin AND c.oid <> v.tableoid AND c.oid <> ALL (own.parts))
    OR EXISTS (SELECT FROM pg_attribute a WHERE a.xmin = v.xmin AND a.attrelid <> v.tableoid AND a.attrelid <> ALL (own.parts))
    OR EXISTS (SELECT FROM pg_constraint k WHERE k.xmin = v.xmin AND k.conrelid <> v.tableoid)
    OR EXISTS (SELECT FROM pg_type t WHERE t.xmin = v.xmin AND t.typrelid <> v.tableoid)
    OR EXISTS (SELECT FROM pg_attrdef d WHERE d.xmin = v.xmin AND d.adrelid <> v.tableoid)
    OR EXISTS (SELECT FROM pg_enum e WHERE e.xmin = v.xmin)) AS accompanied
FROM {version} v CROSS JOIN LATERAL (
  SELECT coalesce(array_agg(i.indexrelid), '{{}}') || coalesce(min(c.reltoastrelid), 0) AS parts
  FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid WHERE c.oid = v.tableoid) own LIMIT 2"""

# Of a table and its parts. One that was rewritten (its file is another than at first) shows when by its row in pg_class.
_TABLE = """
WITH RECURSIVE tree (oid) AS (SELECT to_regclass($1)::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON tree.oid = i.inhparent)
SELECT max(format('%I.%I', n.nspname, c.relname)) FILTER (WHERE c.oid = to_regclass($1)) AS name,
  bool_and(c.relkind IN ('r', 'p', 'm')) AS ours,
  min(age(c.xmin)) FILTER (WHERE pg_relation_filenode(c.oid) <> c.oid AND age(c.xmin) >= 0) AS rewritten
FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace"""


async def bounds(connect: Connect) -> Bounds:
    """`connect` leads to the database itself. Raises Refusal, StepFailed, OutcomeUnknown."""
    async with connected(connect, CATALOG) as session:
        server, slots = await session.fetchrow(_SERVER), await session.fetchrow(_SLOTS)
        assert server is not None  # noqa: S101  a SELECT without FROM has one row
        assert slots is not None  # noqa: S101  an aggregate has one row
        return Bounds(
            **dict(server),
            relations=await session.fetchval(_RELATIONS),
            idle_slots=tuple(slots["idle"] or ()),
            safe_wal=slots["safe_wal"],
            extensions=tuple(row[0] for row in await session.fetch(_EXTENSIONS)),
        )


def objections(found: Bounds, *, max_size: int | None) -> tuple[str, ...]:
    """A sentence for each bound that a dump of that database would break; empty: it may begin."""
    said = []
    if max_size is not None and found.size > max_size:
        said.append(f"The database has {_megabytes(found.size)}; the limit for a rehearsal is {_megabytes(max_size)}.")
    if too_many := too_many_locks(found):
        said.append(too_many)
    if found.free_connections < _FEWEST_CONNECTIONS:
        said.append(f"The server has {max(0, found.free_connections)} free connections left; a copy wants {_FEWEST_CONNECTIONS}.")
    if found.safe_wal is not None and found.safe_wal < found.size:
        idle = f" ({', '.join(found.idle_slots)} without a consumer)" if found.idle_slots else ""
        said.append(f"A replication slot{idle} is lost after another {_megabytes(found.safe_wal)} of WAL, less than the database's size.")
    if found.lag is not None and found.lag > _FARTHEST_LAG:
        said.append(f"A standby is {_megabytes(found.lag)} behind.")
    return tuple(said)


def too_many_locks(found: Bounds) -> str | None:
    """Why a dump can't succeed on this server, whatever its size (databases.md F22); None when it can."""
    if found.relations + _CATALOGS <= found.lock_slots:
        return None
    return (
        f"A dump locks {found.relations} tables at once, and the server has room for {found.lock_slots} locks: "
        "it would fail, and others' locks with it. Raise max_locks_per_transaction."
    )


def remarks(found: Bounds) -> tuple[str, ...]:
    """What is to be said, and stops nothing."""
    said = []
    if found.oldest_transaction > _LONG:
        said.append(f"The oldest transaction has been open for {found.oldest_transaction / 3600:.0f} h.")
    if found.standbys:  # the primary does not see who reads there (databases.md F18)
        them = "1 standby replays" if found.standbys == 1 else f"{found.standbys} standbys replay"
        said.append(f"{them} what is done here: readers there of what is changed are cancelled, or delay the replay.")
    return tuple(said)


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:,.0f} MB"


# ------------------------------------------------------------------ who is in the way


async def holders(connect: Connect, tables: Sequence[str]) -> tuple[Session, ...]:
    """Who has, or waits for, a lock on one of these tables (quoted as in SQL) or their parts; a prepared transaction is pid 0.

    Backout's own sessions are left out. Raises Refusal, StepFailed, OutcomeUnknown.
    """
    async with connected(connect, CATALOG) as session:
        return tuple(_session(row) for row in await session.fetch(_HOLDERS, list(tables)))


async def sizes(connect: Connect, tables: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """Bytes with indexes, and rows as the statistics have them, of the tables (quoted as in SQL) that are there."""
    async with connected(connect, CATALOG) as session:
        found = await session.fetch(_SIZES, list(tables))
    return {row["name"]: (row["bytes"], row["rows"]) for row in found}


async def waiters(connect: Connect, application: str) -> tuple[Session, ...]:
    """Who waits for a lock that a session of that application holds, now. Any database of the server may be asked."""
    async with connected(connect, CATALOG) as session:
        return tuple(_session(row) for row in await session.fetch(_WAITERS, application.encode()[:63].decode("utf-8", "ignore")))


async def end(maintenance: Connect, pids: Sequence[int]) -> tuple[Session, ...]:
    """Terminate these sessions and see them gone; who was ended. A pid that is gone, or Backout's own, is passed over.

    Take the pids from `holders` at once before: a pid is given out again. Raises StepFailed (not allowed), OutcomeUnknown (still there).
    """
    async with connected(maintenance, CATALOG) as session:
        first = {(row["pid"], row["backend_start"]): _session(row) for row in await session.fetch(_NAMED, list(pids))}
        for pid, started in first:
            await _terminate(session, pid, started)
        for _ in range(_GONE * 10):
            living = {(row["pid"], row["backend_start"]) for row in await session.fetch(_NAMED, list(pids))} & first.keys()
            if not living:
                return tuple(first.values())
            await asyncio.sleep(0.1)
    raise OutcomeUnknown(
        f"{len(living)} sessions were ended but are still there after {_GONE} s, so nobody can say what they still do.",
        {"pids": sorted(pid for pid, _ in living)},
    )


async def _terminate(session: Connection, pid: int, started: object) -> None:
    try:
        await session.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start IS NOT DISTINCT FROM $2", pid, started
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise StepFailed(f"Backout's role may not end session {pid}: {words(error)}.", {"pid": pid}) from error


def _session(row: asyncpg.Record) -> Session:
    return Session(pid=row["pid"], user=row["usename"], application=row["application_name"], state=row["state"], age=row["age"], query=row["query"])


# ------------------------------------------------------------------ what was written since


async def written_since(connect: Connect, table: str, schema: str | None, tables: Sequence[str]) -> Mapping[str, str]:
    """Writes since the migration that wrote the row of the version table, by table (quoted as in SQL), in words (databases.md F20).

    By xmin, so deletes are not seen, nor writes of transactions that began before. A sequential scan of 5 s at most for each table.
    """
    async with connected(connect, {**CATALOG, "statement_timeout": f"{_BUDGET}s"}) as session:
        version = quoted(schema, table) if schema else await _found(session, table)
        why = await _unmarked(session, version)
        return {name: why or await _written(session, version, name) for name in tables}


async def _found(session: Connection, table: str) -> str:
    """A table that is named without a schema: in public, else the first there is."""
    name = await session.fetchval(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname = $1 AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' ORDER BY n.nspname <> 'public', n.nspname LIMIT 1",
        table,
    )
    return name if isinstance(name, str) else quoted("public", table)


async def _unmarked(session: Connection, version: str) -> str | None:
    """Why the version row says nothing about when the migration ran; None when it does."""
    try:
        rows = await session.fetch(_MARKER.format(version=version))
    except asyncpg.PostgresError as error:
        return _unknown(words(error))
    if len(rows) != 1:
        return _unknown(f"the version table has {'no row' if not rows else 'several rows'}")
    if not 0 <= rows[0]["age"] < 2**30:
        return _unknown("the migration is too many transactions ago")
    if not rows[0]["accompanied"]:
        return _unknown("the version row was not written together with a change of the schema, so perhaps by a restore or a stamp")
    return None


async def _written(session: Connection, version: str, name: str) -> str:
    try:
        found = await session.fetchrow(_TABLE, name)
        if found is None or found["name"] is None:
            return _unknown("there is no such table")
        if not found["ours"]:
            return _unknown("it is no table, or a part of it is foreign")
        age = await session.fetchval(f"SELECT age(xmin) FROM {version}")  # noqa: S608  quoted
        if found["rewritten"] is not None and found["rewritten"] < age:
            return _unknown("the table was changed since, and perhaps rewritten")
        rows = await session.fetchval(
            f"SELECT count(*) FROM {found['name']} AS t, (SELECT age(xmin) AS age FROM {version}) AS v "  # noqa: S608  quoted by the server
            "WHERE age(t.xmin) >= 0 AND age(t.xmin) < v.age"
        )
    except asyncpg.QueryCanceledError:
        return _unknown(f"counting took longer than {_BUDGET} s")
    except (asyncpg.LockNotAvailableError, asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError) as error:
        return _unknown(words(error))
    return f"at least {rows:,} inserted or updated row{'' if rows == 1 else 's'} (deletes not visible)"


def _unknown(why: str) -> str:
    return f"not knowable here: {why}"
