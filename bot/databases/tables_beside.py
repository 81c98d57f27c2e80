"""Tables of a database beside, next to the live ones: loaded into temporary tables of a live session, and compared there (databases.md F16).

The rows go through Backout in blocks, from one COPY to the other; memory is flat. What is compared is text under pinned settings, by the live key.
"""

# ruff: noqa: S608  names are quoted here, or by the server

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import asyncpg

from bot.databases.archive import Copied
from bot.databases.beside import OURS
from bot.databases.connecting import Connection, connected, quoted, words
from bot.databases.pieces import LONG, NOT_THERE, PINNED, Piece, keys_of, pieces, unreadable
from bot.databases.staging import Stage, Table, bare, literal, make
from bot.errors import StepFailed
from bot.evidence import BackupFile, Loss, Part
from bot.merges import Compared
from bot.place import Connect
from bot.ports import Progress

_BLOCKS = 4  # of a megabyte, that wait to be loaded
_TIMES = (re.compile("updat|modif|chang"), re.compile("creat|insert|added"))
_WHOLE = frozenset({"smallint", "integer", "bigint"})
_SOURCE = """
SELECT datname::text AS name, shobj_description(oid, 'pg_database') AS note, oid::int8 FROM pg_database WHERE datname = current_database()"""


@dataclass(frozen=True)
class Laid:
    """A table whose rows in the backup lie in `stage`. `newer_...`: SQL that says of a live row l whether it is newer, empty when nothing does."""

    piece: Piece
    theirs: Piece
    stage: Stage
    newer_different: str
    newer_only_here: str
    by: tuple[str, ...]
    newest: str | None

    @property
    def only_here(self) -> str:
        """FROM ... WHERE ... of live rows l that the backup has not."""
        return f"FROM {self.stage.table.source} l WHERE NOT EXISTS (SELECT FROM {self.stage.name} s WHERE {self.stage.same_key})"

    @property
    def different(self) -> str:
        return f"FROM {self.stage.table.source} l JOIN {self.stage.name} s ON {self.stage.same_key} WHERE NOT ({self.stage.same_values})"


@asynccontextmanager
async def reading(source: Connect, file: BackupFile) -> AsyncIterator[Connection]:
    """All of one instant. Raises StepFailed when that database is not the one that is meant."""
    async with connected(source, PINNED) as session, session.transaction(isolation="repeatable_read", readonly=True):
        row = await session.fetchrow(_SOURCE)
        if row is None or row["oid"] != file.oid or not (row["note"] or "").startswith(OURS):
            raise StepFailed(f"The database {source.database} is not the one that Backout restored there (OID {file.oid}). Nothing was changed.")
        yield session


async def compare(live: Connect, source: Connect, file: BackupFile, tables: Sequence[str], progress: Progress) -> tuple[Compared, ...]:
    """Nothing is changed: what is loaded is gone at the end. Raises StepFailed, OutcomeUnknown, Refusal."""
    found = []
    async with reading(source, file) as there, connected(live, {**PINNED, "default_transaction_read_only": "off"}) as here:
        for number, table in enumerate(tables, 1):
            await progress(f"Comparing {table}, {number} of {len(tables)}.")
            trying = here.transaction()
            await trying.start()
            try:
                laid = await lay(there, here, table, number)
                found.append(laid if isinstance(laid, Compared) else await counted(here, laid))
            finally:
                await trying.rollback()
    return tuple(found)


async def lay(there: Connection, here: Connection, table: str, number: int) -> Laid | Compared:
    """Load the backup's rows. A Compared says why they can't be."""
    mine, why = await _piece(here, table, "in the live database")
    if mine is None:
        return Compared(table=table, why=why)
    theirs, why = await _piece(there, mine.table, "in the backup")
    if theirs is None:
        return Compared(table=mine.table, why=why)
    if why := _columns_differ(mine, theirs) or await unreadable(there, theirs):
        return Compared(table=mine.table, why=why)
    known = {frozenset(key.columns) for key in await keys_of(there, theirs.oid)}
    key = next((key for key in await keys_of(here, mine.oid) if frozenset(key.columns) in known), None)
    if key is None:
        why = "It has no primary key and no unique index without nulls that both have, so a row can't be found again."
        return Compared(table=mine.table, why=why)
    stage = await _load(there, here, replace(mine, key=key), theirs, number)
    return await _dated(here, mine, theirs, stage)


async def _piece(session: Connection, table: str, where: str) -> tuple[Piece | None, str]:
    found, left_out = await pieces(session, [Loss(kind="table", name=table)])
    if found:
        return found[0], ""
    reason = left_out.get(table, NOT_THERE)
    return None, f"It is not there {where}." if reason == NOT_THERE else f"{where[:1].upper()}{where[1:]}: {reason}"


def _columns_differ(mine: Piece, theirs: Piece) -> str:
    here = {name: mine.fields[name].type for name in mine.columns}
    there = {name: theirs.fields[name].type for name in theirs.columns}
    said = [f"{name} is only in the backup" for name in there if name not in here]
    said += [f"{name} is only in the live table" for name in here if name not in there]
    said += [f"{name} is {there[name]} in the backup and {here[name]} here" for name in here if name in there and here[name] != there[name]]
    return f"Its columns differ: {', '.join(said)}." if said else ""


async def _load(there: Connection, here: Connection, mine: Piece, theirs: Piece, number: int) -> Stage:
    types = tuple(mine.fields[name].type for name in mine.columns)
    part = Part(table=mine.table, what="table", key=mine.key.columns, columns=mine.columns, types=types, rows=0, bytes=0, sha256="", member="")
    kind = "p" if mine.cut else await here.fetchval("SELECT relkind::text FROM pg_class WHERE oid = $1::oid", mine.oid)
    slots = {name: f"c{place}" for place, name in enumerate(mine.columns)}
    stage = Stage(part, Table(mine.oid, mine.table, kind, mine.fields), f"pg_temp.backout_{number}", slots, mine.key)
    await make(here, stage)
    # In the order of the live table's columns: the backup's may be another one.
    queries = [replace(theirs, columns=mine.columns).query(leaf) for leaf in theirs.leaves]
    try:
        rows = await pour(there, queries, here, stage.name, list(slots.values()))
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        raise StepFailed(f"Rows of {mine.table} in the backup do not fit the live table's types: {words(error)}. Nothing was changed.") from error
    await here.execute(f"CREATE INDEX ON {stage.name} ({', '.join(slots[name] for name in mine.key.columns)})", timeout=LONG)
    await here.execute(f"ANALYZE {stage.name}", timeout=LONG)
    return replace(stage, part=part.model_copy(update={"rows": rows}))


async def pour(there: Connection, queries: Sequence[str], here: Connection, stage: str, columns: Sequence[str]) -> int:
    """From one COPY to the other; how many rows."""
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_BLOCKS)
    copied = Copied(waiting.put)

    async def read() -> None:
        try:
            await copied.copy(there, queries)
            await waiting.put(None)
        except BaseException:
            while not waiting.empty():
                waiting.get_nowait()
            waiting.put_nowait(None)
            raise

    async def blocks() -> AsyncIterator[bytes]:
        while (block := await waiting.get()) is not None:
            yield block

    going = asyncio.create_task(read())
    try:
        await here.copy_to_table(bare(stage), schema_name="pg_temp", columns=list(columns), source=blocks(), timeout=LONG)
        await going
    finally:
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
    return copied.rows


async def _dated(here: Connection, mine: Piece, theirs: Piece, stage: Stage) -> Laid:
    """What tells that a live row is newer than all of the backup: a time of its own; where the backup has no such row, its key's sequence too."""
    moment = next((name for looks in _TIMES for name in mine.columns if mine.fields[name].time and looks.search(name.lower())), None)
    number = next((name for name in stage.key.columns if len(stage.key.columns) == 1 and mine.fields[name].type in _WHOLE), None)
    if number is not None and not mine.fields[number].generated:
        number = None
    tests, newest = {}, None
    for name in filter(None, (moment, number)):
        most = await here.fetchval(f"SELECT max({stage.slots[name]})::text FROM {stage.name}")
        if most is not None:
            tests[name] = f"coalesce(l.{quoted(name)} > CAST({literal(most)} AS {mine.fields[name].type}), false)"
            newest = most if name == moment else newest
    by_time = tests.get(moment or "", "")
    return Laid(mine, theirs, stage, by_time, " OR ".join(tests.values()), tuple(tests), newest)


async def counted(here: Connection, laid: Laid) -> Compared:
    stage = laid.stage

    async def count(what: str) -> int:
        return int(await here.fetchval(f"SELECT count(*) {what}", timeout=LONG))

    present = await count(f"FROM {stage.table.source} l JOIN {stage.name} s ON {stage.same_key}")
    live = await count(f"FROM {stage.table.source} l")
    different = await count(laid.different)
    return Compared(
        table=stage.part.table,
        key=stage.key.columns,
        there=stage.part.rows,
        here=live,
        only_there=stage.part.rows - present,
        only_here=live - present,
        different=different,
        equal=present - different,
        newer_by=laid.by,
        newest=laid.newest,
        newer_only_here=await count(f"{laid.only_here} AND ({laid.newer_only_here})") if laid.newer_only_here else None,
        newer_different=await count(f"{laid.different} AND ({laid.newer_different})") if laid.newer_different else None,
    )
