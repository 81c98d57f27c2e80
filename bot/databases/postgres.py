"""A target's server: which one it is, whether it can be rolled back, the fence, its sessions, its catalogs, its copies."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import hashlib
import math
import secrets
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg

from bot.databases import (
    adopted,
    archive,
    beside,
    bounds,
    catalog,
    clone,
    csv_rows,
    difference,
    elsewhere,
    hypertables,
    merge_tables,
    put_back,
    sampling,
    tables_beside,
    timescale,
)
from bot.databases.connecting import CATALOG, Connection, connected, quoted, words
from bot.databases.fence import HOLDER, PostgresFence
from bot.databases.poolers import refuse_pooler
from bot.databases.publications import Publications
from bot.databases.replacing import Replacing
from bot.databases.rights import rights
from bot.databases.strangers import strangers
from bot.databases.swapping import Swap, kept_name
from bot.errors import ConfigError, OutcomeUnknown, Refusal, StepFailed
from bot.evidence import Archive, BackupFile, Loss, Part, PutBack, Snapshot, Touched
from bot.keeping import ArchiveSink, ArchiveSource, Work
from bot.merges import Compared, Merged, MergeRule
from bot.place import Answer, Connect, Elsewhere, Identity, Right, Session
from bot.ports import Progress

ROWS = 100  # shown of a verification query's answer
_OLDEST = 120000  # server_version_num
_ASK = 30  # seconds
_GONE = 30  # seconds for ended sessions to be gone

# The timeline of pg_control_checkpoint() is still the old one right after a promotion (databases.md F23).
_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system())::text AS system, $1::text AS database, pg_is_in_recovery() AS in_recovery,
  CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
  (SELECT oid FROM pg_database WHERE datname = $1) AS oid,
  current_setting('server_version_num')::int AS version, pg_postmaster_start_time() AS started"""

_SESSIONS = """
SELECT pid, usename AS "user", application_name AS application, state, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age,
  coalesce(left(query, 500), '') AS query
FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid() ORDER BY pid"""

# A prepared transaction blocks as pid 0.
_BLOCKERS = """
SELECT DISTINCT b.pid, s.usename AS "user", coalesce(s.application_name, '') AS application,
  CASE b.pid WHEN 0 THEN 'prepared transaction' ELSE s.state END AS state,
  extract(epoch FROM clock_timestamp() - s.xact_start)::float8 AS age, coalesce(left(s.query, 500), '') AS query
FROM pg_stat_activity w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid) LEFT JOIN pg_stat_activity s ON s.pid = b.pid
WHERE w.application_name = $1 ORDER BY b.pid"""

JournalSystem = Callable[[], Awaitable[str | None]] | str | None


class PostgresDatabase:
    """Implements ports.Database. `tool` is how the tool enters, `admin` is Backout's own role; both must lead to the same database.

    `journal_system` is the system identifier of the journal's server, or asks for it.
    """

    def __init__(
        self, *, target: str, tool: Connect, admin: Connect, maintenance_database: str = "postgres", journal_system: JournalSystem = None
    ) -> None:
        if maintenance_database == tool.database:
            raise ConfigError(f"targets.{target}.maintenance_database must not be the target's own database. Write postgres, or make an empty one.")
        self.target = target
        self.tool = tool
        self.admin = admin.model_copy(update={"database": tool.database})
        self._maintenance = admin.model_copy(update={"database": maintenance_database})
        self._journal_system = journal_system

    # ------------------------------------------------------------------ which one it is

    async def identity(self) -> Identity:
        async with connected(self.admin, CATALOG) as session:
            return await self._identity(session)

    async def _identity(self, session: Connection) -> Identity:
        found = await self._identity_now(session)
        if not found.oid:
            raise Refusal("database_missing", f"There is no database {self.tool.database} any more.", "Find out who renamed or dropped it.")
        return found

    async def _identity_now(self, session: Connection, limit: float | None = None) -> Identity:
        """With OID 0 where there is no such database: a run that dropped it still has its fence."""
        row = await session.fetchrow(_IDENTITY, self.tool.database, timeout=limit)
        assert row is not None  # noqa: S101  a SELECT without FROM has one row
        return Identity(**{**row, "oid": row["oid"] or 0, "started": row["started"].isoformat()})

    async def examine(self) -> None:
        """Raises Refusal: transaction_pooler, server_too_old, standby, journal_server, wrong_database, or why it can't be reached."""
        for connect in (self.tool, self._maintenance):
            await refuse_pooler(connect)
        identity = await self.identity()
        if identity.version < _OLDEST:
            raise Refusal(
                "server_too_old", f"The server is PostgreSQL {identity.version // 10000}; 12 is the oldest that works.", "Upgrade the server."
            )
        if identity.in_recovery:
            raise Refusal("standby", "The server is a standby: nothing can be changed there.", "Write the primary's address in the URL.")
        if identity.system == await self._journals():
            raise Refusal(
                "journal_server",
                "Backout's own journal lies on this very server, and would be rolled back or stopped together with it.",
                "Give BACKOUT_DATABASE_URL another server, or leave it out.",
            )
        await self._refuse_two_databases()

    async def _journals(self) -> str | None:
        return await self._journal_system() if callable(self._journal_system) else self._journal_system

    async def _refuse_two_databases(self) -> None:
        async with self.challenge() as (first, second), connected(self.tool, CATALOG) as session:
            if await session.fetchrow(HOLDER, first, second) is None:
                raise Refusal(
                    "wrong_database",
                    f"`database` and `admin` lead to two different databases, both called {self.tool.database}.",
                    "Give both URLs the same server's address.",
                )

    async def rights(self) -> tuple[Right, ...]:
        return await rights(self.admin, self._maintenance, self.tool)

    # ------------------------------------------------------------------ locks

    @asynccontextmanager
    async def fence(self, key: str) -> AsyncIterator[PostgresFence]:
        first, second = struct.unpack(">ii", hashlib.sha256(f"backout fence {key}".encode()).digest()[:8])
        async with connected(self._maintenance, CATALOG) as session:
            if not await session.fetchval("SELECT pg_try_advisory_lock($1::int4, $2::int4)", first, second):
                holder = await session.fetchrow(HOLDER, first % 2**32, second % 2**32)
                who = f"session {holder['pid']} ({holder['application_name']})" if holder else "a session that just left"
                raise Refusal(
                    "fence_taken",
                    f"Another Backout works on this target: {who} holds its fence.",
                    "Wait for it, or end that session if its Backout is dead.",
                )
            yield PostgresFence(session, first, second, await self._identity_now(session), self._identity_now)

    @asynccontextmanager
    async def challenge(self) -> AsyncIterator[tuple[int, int]]:
        """The two numbers are what pg_locks shows as classid and objid (objsubid 2)."""
        first, second = secrets.randbelow(2**31), secrets.randbelow(2**31)
        async with connected(self.admin, CATALOG) as session:
            await session.fetchval("SELECT pg_advisory_lock($1::int4, $2::int4)", first, second)
            yield first, second

    async def looked_at(self, lock: tuple[int, int]) -> Elsewhere:
        return await elsewhere.looked_at(self.admin, lock)

    # ------------------------------------------------------------------ what is in it

    async def heads(self, table: str, schema: str | None, query: str | None = None) -> tuple[str, ...]:
        name = quoted(*filter(None, (schema, table)))
        try:
            async with connected(self.tool, {"row_security": "off"}) as session:
                rows = await session.fetch(query or f"SELECT version_num::text FROM {name} ORDER BY 1")  # noqa: S608  quoted
        except StepFailed as error:
            if isinstance(error.__cause__, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError | asyncpg.InvalidSchemaNameError):
                raise Refusal(
                    "version_table_missing",
                    f"There is no version table {name} in {self.tool.database}: {words(error.__cause__)}.",
                    "Check that the URL names the right database, and the tool's settings for its version table.",
                ) from error
            raise
        return tuple(row[0] for row in rows)

    async def snapshot(self, *, count: bool) -> Snapshot:
        async with connected(self.admin, CATALOG) as session:
            return await catalog.snapshot(session, count=count)

    async def names(self) -> frozenset[str]:
        async with connected(self.admin, CATALOG) as session:
            return await catalog.names(session)

    async def ask(self, sql: str) -> Answer:
        try:
            async with connected(self.tool, {"statement_timeout": f"{_ASK}s"}) as session, session.transaction(readonly=True):
                statement = await session.prepare(sql)
                columns = tuple(attribute.name for attribute in statement.get_attributes())
                # COMMIT, COPY, DO and the like are refused before they are executed: they have no columns.
                if not columns:
                    raise StepFailed("The query returns no rows. A verification is one SELECT.")
                cursor = await statement.cursor()
                rows = await cursor.fetch(ROWS + 1)
        except OutcomeUnknown as error:
            if isinstance(error.__cause__, asyncpg.QueryCanceledError):
                raise StepFailed(f"The query did not end within {_ASK} s.") from error
            raise
        return Answer(columns=columns, rows=tuple(tuple(map(plain, row)) for row in rows[:ROWS]), truncated=len(rows) > ROWS)

    # ------------------------------------------------------------------ who is in it

    async def strangers(self) -> tuple[Session, ...]:
        there = await strangers(self._maintenance, self.tool.database)
        if there and await timescale.quiet(self.admin):  # workers of an extension's are nobody's services
            return await strangers(self._maintenance, self.tool.database)
        return there

    async def wake_workers(self) -> None:
        """The extension's workers that were kept out while services were stopped."""
        await timescale.wake(self.admin)

    async def sessions(self, application: str) -> tuple[Session, ...]:
        return await self._look(_SESSIONS, application)

    async def blockers(self, application: str) -> tuple[Session, ...]:
        return await self._look(_BLOCKERS, application)

    async def _look(self, sql: str, application: str) -> tuple[Session, ...]:
        async with connected(self._maintenance, CATALOG) as session:
            return tuple(Session(**row) for row in await session.fetch(sql, _cut(application)))

    async def end_sessions(self, application: str) -> tuple[Session, ...]:
        ended: dict[int, Session] = {}
        async with connected(self._maintenance, CATALOG) as session:
            for _ in range(_GONE * 10):
                living = [Session(**row) for row in await session.fetch(_SESSIONS, _cut(application))]
                if not living:
                    return tuple(ended.values())
                for one in living:
                    ended[one.pid] = one
                await session.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()",
                    _cut(application),
                )
                await asyncio.sleep(0.1)
        raise OutcomeUnknown(
            f"{len(living)} sessions of {application} were ended but are still there after {_GONE} s, so nobody can say what they still do.",
            {"pids": [one.pid for one in living]},
        )

    async def objections(self, max_size: int | None) -> tuple[str, ...]:
        return bounds.objections(await bounds.bounds(self.admin), max_size=max_size)

    async def remarks(self) -> tuple[str, ...]:
        return (*bounds.remarks(await bounds.bounds(self.admin)), *await hypertables.remarks(self.admin))

    def sampling(self, work: Work) -> AbstractAsyncContextManager[sampling.Sampling]:
        return sampling.sampling(self.admin, work.application, lambda: self.waiters(work.application))

    async def fill_views(self) -> tuple[str, ...]:
        return await sampling.fill_views(self.admin)

    async def holders(self, tables: Sequence[str]) -> tuple[Session, ...]:
        return await bounds.holders(self.admin, tables)

    async def waiters(self, application: str) -> tuple[Session, ...]:
        """Who waits for a lock that a session of that application holds."""
        return await bounds.waiters(self._maintenance, application)

    async def end(self, sessions: Sequence[Session]) -> tuple[Session, ...]:
        return await bounds.end(self._maintenance, [each.pid for each in sessions if each.pid])

    async def sizes(self, tables: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        return await bounds.sizes(self.admin, tables)

    async def written_since(self, table: str, schema: str | None, tables: Sequence[str]) -> Mapping[str, str]:
        return await bounds.written_since(self.admin, table, schema, tables)

    # ------------------------------------------------------------------ what a rollback destroys, and its copies

    async def lost_since(self, before: Connect, progress: Progress, *, sampled: bool = False, counted: bool = False) -> tuple[Loss, ...]:
        return await difference.lost_since(before, self.admin, progress, sampled=sampled, counted=counted)

    async def touched_since(self, before: Connect, progress: Progress) -> tuple[tuple[Loss, ...], Mapping[str, Touched]]:
        return await difference.touched_since(before, self.admin, progress)

    async def recount(self, losses: Sequence[Loss], within: dt.timedelta) -> tuple[Loss, ...]:
        return await difference.recount(self.admin, losses, within)

    async def may_dump(self) -> str | None:
        return bounds.too_many_locks(await bounds.bounds(self.admin))

    async def may_clone(self) -> str | None:
        return await clone.may_clone(self.admin, self._maintenance, self.tool.database)

    async def clone(self, name: str, note: str) -> BackupFile:
        return await clone.clone(self.admin, self._maintenance, self.tool.database, name, note)

    async def drop_clone(self, file: BackupFile, note: str) -> None:
        await clone.drop_clone(self._maintenance, file, note)

    def how_to_go_back(self, file: BackupFile) -> tuple[str, ...]:
        return clone.how_to_go_back(self._maintenance, self.tool.database, file)

    def beside(self, name: str) -> PostgresDatabase:
        admin = self.admin.model_copy(update={"database": name})  # nobody else enters it, the tool neither
        return PostgresDatabase(target=self.target, tool=admin, admin=admin, maintenance_database=self._maintenance.database)

    @asynccontextmanager
    async def inside(self, file: BackupFile) -> AsyncIterator[PostgresDatabase]:
        async with adopted.entered(self._maintenance, self.admin, self.tool, file) as enters:
            yield PostgresDatabase(target=self.target, tool=enters, admin=enters, maintenance_database=self._maintenance.database)

    async def reach(self) -> str:
        return await adopted.reach(self.tool)

    async def may_make_beside(self) -> str | None:
        return await beside.may_make(self._maintenance, self.tool.database)

    async def beside_for_restore(self, name: str, note: str) -> BackupFile:
        return await beside.make(self._maintenance, self.tool.database, name, note)

    @property
    def _swap(self) -> Swap:
        return Swap(self._maintenance, self.admin, self.tool.database)

    @property
    def replacing(self) -> Replacing:
        return Replacing(self._maintenance, self.admin, self.tool.database)

    @property
    def publications(self) -> Publications:
        return Publications(self.admin)

    def kept_name(self, at: dt.datetime) -> str:
        return kept_name(self.tool.database, at)

    async def may_swap(self, incoming: BackupFile, kept: str | None = None) -> tuple[Refusal, ...]:
        return await self._swap.in_the_way(incoming, kept)

    async def swap(self, incoming: BackupFile, kept: str, note: str, run: str, name: str) -> BackupFile:
        old = await self._swap.swap(incoming, kept, note, run, name)
        await timescale.wake(self.admin)  # until now they were kept out of it
        return old

    async def swapped(self, incoming: BackupFile, kept: str) -> bool | None:
        return await self._swap.happened(incoming, kept)

    async def compare_tables(self, tables: Sequence[str], source: BackupFile, progress: Progress) -> tuple[Compared, ...]:
        async with adopted.entered(self._maintenance, self.admin, self.tool, source) as there:
            return await tables_beside.compare(self.admin, there, source, tables, progress)

    async def load_csv(self, table: str, rows: AsyncIterator[bytes]) -> int:
        return await csv_rows.load(self.admin, table, rows)

    async def merge_tables(self, tables: Sequence[str], source: BackupFile, rule: MergeRule, progress: Progress) -> Merged:
        async with adopted.entered(self._maintenance, self.admin, self.tool, source) as there:
            return await merge_tables.merge(self.admin, there, source, tables, rule, progress)

    async def archive(
        self, losses: Sequence[Loss], sink: ArchiveSink, progress: Progress, touched: Mapping[str, Touched]
    ) -> tuple[tuple[Part, ...], Mapping[str, str]]:
        return await archive.archive(self.admin, losses, sink, progress, touched)

    async def prove_archive(self, parts: Sequence[Part], source: ArchiveSource, progress: Progress, touched: Mapping[str, Touched]) -> None:
        await archive.prove_archive(self.admin, parts, source, progress, touched)

    async def put_back(self, kept: Archive, source: ArchiveSource, progress: Progress, *, triggers: bool) -> PutBack:
        return await put_back.put_back(self.admin, kept, source, progress, triggers=triggers)


def _cut(application: str) -> str:
    """As Postgres cuts it: 63 bytes."""
    return application.encode()[:63].decode("utf-8", "ignore")


def plain(value: Any) -> Any:
    """A value as JSON can have it: numerics and dates as text, bytes as hex, what else there is as its text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case decimal.Decimal():
            return format(value, "f") if value.is_finite() else str(value)
        case bytes():
            return value.hex()
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case asyncpg.Record() | dict():
            return {key: plain(member) for key, member in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(member) for member in value]
    return str(value)
