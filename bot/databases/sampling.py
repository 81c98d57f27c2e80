"""Some rows of every table, and the rows that they refer to, as of one snapshot: for a database that is too large to be copied whole.

Parents come along with their children, through all foreign keys, so that the constraints hold on the copy. What could not be read is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from bot.databases.connecting import LOST, Connection, connected, quoted, words
from bot.databases.tables import READING
from bot.errors import StepFailed
from bot.evidence import Sampled
from bot.place import Connect, Session

Progress = Callable[[str], Awaitable[None]]
Waiting = Callable[[], Awaitable[Sequence[Session]]]

_ROWS = 200_000  # of all tables, before parents come along
_MOST = 5_000  # of one table
_BYTES = 16 * 1024**2  # of one table, as its average row has it
_FARTHEST = 10  # times as many rows as were chosen, then no more parents are looked for
_BATCH = 1_000  # rows in one statement
_LOCK_WAIT = 5.0  # seconds that somebody may wait for a lock of ours (databases.md F3)
#: One query may take so long. Parents are looked up one by one through their key, never by reading all of them.
_READING = {**READING, "statement_timeout": "20s", "enable_hashjoin": "off", "enable_mergejoin": "off"}
_WRITING = {**READING, "default_transaction_read_only": "off", "lock_timeout": "30s"}

# What extensions brought, they bring to the copy too.
_TABLES = """
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS relname, format('%I.%I', n.nspname, c.relname) AS name,
  greatest(c.reltuples, 0)::float8 AS rows, CASE WHEN c.reltuples > 0 THEN pg_table_size(c.oid) / c.reltuples ELSE 0 END::float8 AS width,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attnum) AS columns,
  (SELECT string_agg(format('%I DESC', a.attname), ', ' ORDER BY k.place) FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE i.indrelid = c.oid AND i.indisprimary) AS newest
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 4"""

_FOREIGN_KEYS = """
SELECT k.conrelid AS child, CASE p.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || format('%I.%I', n.nspname, p.relname) AS parent,
  (SELECT string_agg(format('p.%I OPERATOR(%I.%s) c.%I', pa.attname, s.nspname, o.oprname, ca.attname), ' AND ' ORDER BY u.place)
    FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS u (child, parent, operator, place)
    JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = u.child
    JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = u.parent
    JOIN pg_operator o ON o.oid = u.operator JOIN pg_namespace s ON s.oid = o.oprnamespace) AS joined
FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
WHERE k.contype = 'f' AND p.relkind IN ('r', 'p') ORDER BY k.oid"""

_SEQUENCES = """
SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_sequence_last_value(c.oid) AS last
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'"""
# All of it is of one transaction, and whoever reads a table locks its indexes too.
_LOCKS = """
SELECT (SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p', 'i', 'I') AND oid >= 16384) + 200,
  current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)"""
_VIEWS = "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'm' AND NOT c.relispopulated ORDER BY c.oid"


@dataclass(frozen=True)
class _Table:
    oid: int
    schema: str
    relname: str
    name: str
    rows: float
    width: float
    columns: list[str]
    newest: str | None


@asynccontextmanager
async def sampling(source: Connect, application: str, waiting: Waiting) -> AsyncIterator[Sampling]:
    """`source` leads to the database itself; `waiting` tells who waits for a lock of that application. Raises Refusal, StepFailed, OutcomeUnknown."""
    settings = {**_READING, "application_name": application.encode()[:63].decode("utf-8", "ignore")}
    async with connected(source, settings) as session, session.transaction(isolation="repeatable_read", readonly=True):
        yield Sampling(session, str(await session.fetchval("SELECT pg_export_snapshot()")), waiting)


class Sampling:
    """Implements ports.Sampling on the session whose snapshot it is."""

    def __init__(self, session: Connection, snapshot: str, waiting: Waiting) -> None:
        self._session = session
        self._waiting = waiting
        self.snapshot = snapshot
        self._said: dict[str, None] = {}
        #: rows of each table, as their ctid has them in this snapshot
        self._rows: dict[int, dict[str, None]] = {}
        self._waiters: dict[int, float] = {}
        self._looked = 0.0

    async def copy_into(self, copy: Connect, progress: Progress) -> Sampled:
        """Into a database that has the tables, and no constraints between them yet. Raises StepFailed (others wait for us), OutcomeUnknown."""
        locks, room = await self._session.fetchrow(_LOCKS)  # type: ignore[misc]  # a SELECT without FROM has one row
        if locks > room:
            raise StepFailed(f"Sampling locks {locks} tables and indexes, and the server has room for {room} locks. Raise max_locks_per_transaction.")
        tables = {row["oid"]: _Table(**dict(row)) for row in await self._session.fetch(_TABLES)}
        share = max(10, min(_MOST, _ROWS // max(1, len(tables))))
        for number, table in enumerate(tables.values()):
            await self._still_welcome(progress, f"sampling: {number} of {len(tables)} tables")
            await self._try(table.name, self._choose(table, share))
        await self._parents(tables, progress)
        async with connected(copy, _WRITING) as target:
            copied = [await self._copy(target, tables[oid], list(rows), progress) for oid, rows in self._rows.items() if rows and oid in tables]
            await self._sequences(target)
        return Sampled(rows=sum(copied), tables=len(tables), said=tuple(self._said))

    # ------------------------------------------------------------------ which rows

    async def _choose(self, table: _Table, share: int) -> None:
        """All of a small table; else the newest by key, and some from all over it."""
        limit = max(1, min(share, int(_BYTES / table.width))) if table.width else share
        found = await self._ctids(table, f"LIMIT {limit + 1}")
        if len(found) > limit:
            half = limit // 2 + 1
            newest = await self._ctids(table, f"ORDER BY {table.newest} LIMIT {half}") if table.newest else []
            percent = min(100.0, 100.0 * half / max(table.rows, half))
            spread = await self._ctids(table, f"TABLESAMPLE SYSTEM ({percent:.9f}) LIMIT {half}")
            found = list(dict.fromkeys([*newest, *spread, *found]))[:limit]
        self._rows[table.oid] = dict.fromkeys(found)

    async def _ctids(self, table: _Table, which: str) -> list[str]:
        return [row[0] for row in await self._session.fetch(f"SELECT ctid::text FROM ONLY {table.name} {which}")]  # noqa: S608  quoted by the server

    async def _parents(self, tables: Mapping[int, _Table], progress: Progress) -> None:
        """Rows that chosen rows refer to, and those that these refer to, until there is none left."""
        by_child: dict[int, list[asyncpg.Record]] = {}
        for key in await self._session.fetch(_FOREIGN_KEYS):
            by_child.setdefault(key["child"], []).append(key)
        left = _FARTHEST * max(_MOST, sum(map(len, self._rows.values())))
        fresh = {oid: list(rows) for oid, rows in self._rows.items() if oid in by_child}
        while fresh:
            await self._still_welcome(progress, "sampling: what the rows refer to")
            oid, rows = fresh.popitem()
            for key in by_child.get(oid, ()) if oid in tables else ():
                added = await self._try(tables[oid].name, self._referred(tables[oid], key, rows)) or {}
                for parent, more in added.items():
                    left -= len(more)
                    fresh.setdefault(parent, []).extend(more)
            if left < 0:
                self._note("rows refer to so many others that not all of these were taken: some foreign keys may not hold on the copy")
                return

    async def _referred(self, table: _Table, key: asyncpg.Record, rows: Sequence[str]) -> dict[int, list[str]]:
        added: dict[int, list[str]] = {}
        for batch in _batches(rows):
            sql = f"SELECT DISTINCT p.tableoid AS table, p.ctid::text AS row FROM ONLY {table.name} c JOIN {key['parent']} p ON {key['joined']}"  # noqa: S608
            for found in await self._session.fetch(f"{sql} WHERE c.ctid = ANY ({batch})"):
                there = self._rows.setdefault(found["table"], {})
                if found["row"] not in there:
                    there[found["row"]] = None
                    added.setdefault(found["table"], []).append(found["row"])
        return added

    # ------------------------------------------------------------------ into the copy

    async def _copy(self, target: Connection, table: _Table, rows: Sequence[str], progress: Progress) -> int:
        """How many rows are there now."""
        if not table.columns:
            return 0
        await self._still_welcome(progress, f"sampling: {table.name}")
        names = ", ".join(map(quoted, table.columns))
        done = 0
        for batch in _batches(rows):
            data: list[bytes] = []

            async def keep(piece: bytes, data: list[bytes] = data) -> None:
                data.append(bytes(piece))

            query = f"SELECT {names} FROM ONLY {table.name} WHERE ctid = ANY ({batch})"  # noqa: S608  quoted, and ctids are the server's
            if await self._try(table.name, self._session.copy_from_query(query, output=keep)) is None:
                return done
            try:
                said = await target.copy_to_table(table.relname, schema_name=table.schema, columns=table.columns, source=_pieces(data))
            except asyncpg.PostgresError as error:
                if isinstance(error, LOST):
                    raise
                self._note(f"rows of {table.name} could not be written to the copy: {words(error)}")
                return done
            done += int(said.rpartition(" ")[2])
        return done

    async def _sequences(self, target: Connection) -> None:
        """Where they stand, so that a row that is inserted there meets no other."""
        found = await self._try("the sequences", self._session.fetch(_SEQUENCES)) or []
        values = [(row["name"], row["last"]) for row in found if row["last"] is not None]
        await target.executemany("SELECT setval($1::text::regclass, $2::int8)", values)

    # ------------------------------------------------------------------ whatever goes wrong

    async def _try(self, name: str, work: Awaitable[Any]) -> Any:
        """What a table's rows gave, or None and a sentence. The snapshot lives on."""
        try:
            async with self._session.transaction():
                return await work
        except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError) as error:
            self._note(f"not all rows of {name} that were wanted could be read: {words(error)}")
        except asyncpg.PostgresError as error:
            if isinstance(error, LOST):
                raise
            self._note(f"not all rows of {name} that were wanted could be read: {words(error)}")
        return None

    async def _still_welcome(self, progress: Progress, text: str) -> None:
        """Once a second: say how far it is, and end when somebody waits for a lock of ours (databases.md F3)."""
        now = asyncio.get_running_loop().time()
        if now - self._looked < 1:
            return
        self._looked = now
        await progress(text)
        self._waiters = {one.pid: self._waiters.get(one.pid, now) for one in await self._waiting()}
        if late := [pid for pid, since in self._waiters.items() if now - since > _LOCK_WAIT]:
            raise StepFailed(
                f"Sampling was ended, because it made session {late[0]} wait for a lock for more than {_LOCK_WAIT:g} s. Try again when it is through."
            )

    def _note(self, sentence: str) -> None:
        self._said[sentence[:300]] = None


async def fill_views(copy: Connect) -> tuple[str, ...]:
    """Materialized views of what rows there are: a dump without rows leaves them unfilled. What could not be filled, in sentences."""
    said = []
    async with connected(copy, {**_WRITING, "search_path": ""}) as session:
        for (name,) in await session.fetch(_VIEWS):
            try:
                await session.execute(f"REFRESH MATERIALIZED VIEW {name}", timeout=600)
            except asyncpg.PostgresError as error:
                if isinstance(error, LOST):
                    raise
                said.append(f"materialized view {name} is not filled on the copy: {words(error)}")
    return tuple(said)


def _batches(rows: Sequence[str]) -> Iterable[str]:
    """As arrays of ctids, written out: '(12,3)' is digits alone."""
    for start in range(0, len(rows), _BATCH):
        yield f"ARRAY[{', '.join(repr(row) for row in rows[start : start + _BATCH])}]::tid[]"


async def _pieces(data: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
