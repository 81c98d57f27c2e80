"""Archived rows in temporary tables of the session that puts them back, each column in the type that it has now.

A stage's columns: c0, c1, ... as in Part.columns; o1, o2, ...: what lay beside them, as Piece.others; `n` counts from 1; `present`: its key was there
before; `bad`: the conflict.
"""

# ruff: noqa: S608  names are quoted here, or by the server; a type's name is one only when the server reads it as nothing else

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from bot.databases import hypertables, large_objects
from bot.databases.connecting import Connection, quoted, words
from bot.databases.pieces import LONG, Field, Key, fields_of, keys_of, text_of
from bot.errors import StepFailed
from bot.evidence import Conflict, Part
from bot.keeping import ArchiveSource

BATCH = 20_000  # rows that are tried together
_ONE_BY_ONE = 20_000  # attempts for one table; then a batch that is refused is left alone as a whole
SHOWN = 100  # conflicts that are listed; all are counted
_REFUSED = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, asyncpg.PLPGSQLError)
_DOES_NOT_FIT = "It does not fit the type that the column has now."

_TABLE = """
SELECT c.oid, c.relkind::text AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE format('%I.%I', n.nspname, c.relname) = $1 AND c.relkind IN ('r', 'p')"""


@dataclass
class Conflicts:
    """All counted, the first ones listed."""

    listed: list[Conflict] = field(default_factory=list)
    total: int = 0

    def add(self, conflict: Conflict, times: int = 1) -> None:
        self.total += times
        if len(self.listed) < SHOWN:
            self.listed.append(conflict)

    def add_all(self, part: Part, why: str) -> None:
        self.add(Conflict(table=part.table, key="all rows", why=f"{why} {part.rows} rows stay in the archive."), part.rows)

    async def gather(self, session: Connection, part: Part, stage: str) -> None:
        """What a stage has marked as bad."""
        count = int(await session.fetchval(f"SELECT count(*) FROM {stage} WHERE bad IS NOT NULL"))
        rows = await session.fetch(f"SELECT {_key_text(part)} AS key, bad FROM {stage} WHERE bad IS NOT NULL ORDER BY n LIMIT {SHOWN}")
        for row in rows:
            self.add(Conflict(table=part.table, key=row["key"], why=row["bad"]))
        self.total += count - len(rows)


@dataclass(frozen=True)
class Table:
    """A table as it is now. `name` is quoted; `source` is what its rows are read from. A hypertable's kind is 'p', as a partitioned table's."""

    oid: int
    name: str
    kind: str
    fields: dict[str, Field]

    @property
    def source(self) -> str:
        return self.name if self.kind == "p" else f"ONLY {self.name}"


@dataclass(frozen=True)
class Stage:
    """A part, loaded. `slots` are its columns that the table still has, by name; `key` has the operators of the index that the table has now."""

    part: Part
    table: Table
    name: str
    slots: dict[str, str]
    key: Key

    @property
    def values(self) -> tuple[str, ...]:
        """What is put, beside the key."""
        return tuple(name for name in self.slots if name not in self.part.key)

    @property
    def same_key(self) -> str:
        """Row l of the table is row s of the stage."""
        return " AND ".join(f"l.{quoted(name)} {equal} s.{self.slots[name]}" for name, equal in zip(self.key.columns, self.key.equal, strict=True))

    @property
    def same_values(self) -> str:
        """As text: types without equality, and floats to the last bit."""
        pairs = [(f"l.{quoted(name)}", f"s.{self.slots[name]}") for name in self.values]
        return " AND ".join(f"{text_of(live)} IS NOT DISTINCT FROM {text_of(kept)}" for live, kept in pairs) or "true"

    async def batches(self, session: Connection, run: Callable[[int, int], str]) -> None:
        """A statement for rows n from .. to, in savepoints; a refused batch is halved until the rows that are refused stand alone, and are bad."""
        await in_batches(session, self.name, self.part.rows, run)

    async def update(self, session: Connection, columns: Sequence[str], which: str) -> None:
        """Of rows of the table that have a row in the stage that is not bad; `which` narrows them."""
        if columns:
            given = ", ".join(f"{quoted(name)} = s.{self.slots[name]}" for name in columns)
            sql = f"UPDATE {self.table.source} l SET {given} FROM {self.name} s WHERE {which}s.bad IS NULL AND {self.same_key} AND s.n BETWEEN"
            await self.batches(session, lambda first, last: f"{sql} {first} AND {last}")

    async def insert(self, session: Connection) -> None:
        """The rows whose key was not there before."""
        columns = ", ".join(quoted(name) for name in self.slots)
        slots = ", ".join(f"s.{slot}" for slot in self.slots.values())
        sql = (
            f"INSERT INTO {self.table.name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {slots} FROM {self.name} s"
            " WHERE s.present IS NOT TRUE AND s.bad IS NULL AND s.n BETWEEN"
        )
        await self.batches(session, lambda first, last: f"{sql} {first} AND {last}")


async def stage_part(session: Connection, part: Part, number: int, source: ArchiveSource, conflicts: Conflicts) -> Stage | None:
    """None when nothing of it can be put here; why is among the conflicts. Raises StepFailed when the member isn't what was archived."""
    row = await session.fetchrow(_TABLE, part.table)
    if row is None:
        conflicts.add_all(part, "The table isn't there.")
        return None
    if part.table_facts.get("others") and "others_types" not in part.table_facts:
        conflicts.add_all(part, "It was archived by an earlier Backout, which can put it back.")
        return None
    fields = await fields_of(session, row["oid"])
    kind = "p" if await hypertables.is_one(session, row["oid"]) else row["kind"]
    table = Table(row["oid"], part.table, kind, fields)
    if missing := [name for name in part.key if name not in fields]:
        conflicts.add_all(part, f"Its key {', '.join(missing)} isn't there.")
        return None
    key = next((key for key in await keys_of(session, row["oid"]) if set(key.columns) == set(part.key)), None)
    if part.key and key is None:
        conflicts.add_all(part, f"Its key {', '.join(part.key)} isn't unique any more.")
        return None
    slots = {name: f"c{place}" for place, name in enumerate(part.columns) if name in fields and not fields[name].computed}
    for name in part.columns:
        if name not in slots:
            why = "The database computes this column now." if name in fields else "The column isn't there."
            conflicts.add(Conflict(table=part.table, key=f"column {name}", why=f"{why} {part.rows} values stay in the archive."), part.rows)
    if not set(slots) - set(part.key) and part.what != "table":
        return None
    stage = Stage(part, table, f"pg_temp.backout_{number}", slots, key or Key())
    await make(session, stage)
    await _fill(session, stage, source, conflicts)
    await session.execute(f"ANALYZE {stage.name}")
    return stage


async def make(session: Connection, stage: Stage) -> None:
    """Made from the table, so that types, lengths and collations are its own."""
    columns = ", ".join(f"{quoted(name) if name in stage.slots else 'NULL::text'} AS c{place}" for place, name in enumerate(stage.part.columns))
    await session.execute(f"CREATE TEMP TABLE {bare(stage.name)} ON COMMIT DROP AS SELECT {columns} FROM {stage.table.source} WITH NO DATA")
    await session.execute(f"ALTER TABLE {stage.name} ADD n bigint GENERATED ALWAYS AS IDENTITY, ADD present boolean, ADD bad text")
    for name in _beside(stage.part):
        await session.execute(f"ALTER TABLE {stage.name} ADD {name} text")
    await session.execute(f"CREATE INDEX ON {stage.name} (n)")


def _beside(part: Part) -> list[str]:
    return [f"o{place}" for place, _ in enumerate(part.table_facts.get("others", ()), 1)]


async def _fill(session: Connection, stage: Stage, source: ArchiveSource, conflicts: Conflicts) -> None:
    part = stage.part
    columns = [f"c{place}" for place in range(len(part.columns))] + _beside(part)
    expected = (part.rows, part.bytes, part.sha256)
    then = dict(zip(part.columns, part.types, strict=True))
    if all(then[name] == stage.table.fields[name].type for name in stage.slots):
        try:
            async with session.transaction():
                await load(session, stage.name, columns, source, part.member, expected)
        except _REFUSED:
            pass  # a label or a domain's rule that is another one now: told row by row
        else:
            return
    await _fill_as_text(session, stage, columns, source, expected)
    await conflicts.gather(session, part, f"{stage.name}_text")


async def _fill_as_text(session: Connection, stage: Stage, columns: Sequence[str], source: ArchiveSource, expected: tuple[int, int, str]) -> None:
    """Each value is cast, and cast back: what doesn't come back as it was, doesn't fit."""
    plain, part = f"{stage.name}_text", stage.part
    listed = ", ".join(f"{name} text" for name in columns)
    await session.execute(f"CREATE TEMP TABLE {bare(plain)} ({listed}, n bigint GENERATED ALWAYS AS IDENTITY, bad text) ON COMMIT DROP")
    await session.execute(f"CREATE INDEX ON {plain} (n)")
    await load(session, plain, columns, source, part.member, expected)
    casts, fits = {name: name for name in columns}, ["true"]
    for (column, slot), then in zip(((name, f"c{place}") for place, name in enumerate(part.columns)), part.types, strict=True):
        if column in stage.slots:
            now = stage.table.fields[column].type
            casts[slot] = f"CAST({slot} AS {now})"
            if now != then:
                fits.append(await _comes_back(session, slot, now, then))
    taken = f"INSERT INTO {stage.name} ({', '.join(columns)}, n) OVERRIDING SYSTEM VALUE SELECT {', '.join(casts.values())}, n FROM {plain}"
    await in_batches(session, plain, part.rows, lambda first, last: f"{taken} WHERE n BETWEEN {first} AND {last} AND {' AND '.join(fits)}")
    await session.execute(
        f"UPDATE {plain} t SET bad = $1 WHERE bad IS NULL AND NOT EXISTS (SELECT FROM {stage.name} s WHERE s.n = t.n)", _DOES_NOT_FIT
    )


async def _comes_back(session: Connection, slot: str, now: str, then: str) -> str:
    there = f"concat(CAST({slot} AS {now}))"
    known = await session.fetchval("SELECT to_regtype($1) IS NOT NULL", then)
    back = f" OR concat(CAST({there} AS {then})) = {slot}" if known else ""
    return f"({slot} IS NULL OR {there} = {slot}{back})"


async def load(session: Connection, table: str, columns: Sequence[str], source: ArchiveSource, member: str, expected: tuple[int, int, str]) -> None:
    """COPY a member into a temporary table; `expected` are rows, bytes and checksum."""
    seen, size = hashlib.sha256(), 0

    async def blocks() -> AsyncIterator[bytes]:
        nonlocal size
        async for block in source.member(member):
            await asyncio.to_thread(seen.update, block)
            size += len(block)
            yield block

    status = await session.copy_to_table(bare(table), schema_name="pg_temp", columns=list(columns), source=blocks(), timeout=LONG)
    if (int(status.split()[-1]), size, seen.hexdigest()) != expected:
        raise StepFailed(f"{member} of the archive is not what was archived. Nothing was put back.")


async def stage_objects(session: Connection, part: Part, number: int, source: ArchiveSource) -> str | None:
    """The part's large objects, loaded; None when it has none."""
    objects = part.table_facts.get("objects")
    if not objects:
        return None
    stage = f"pg_temp.backout_{number}_objects"
    await session.execute(large_objects.staging(bare(stage)))
    expected = (objects["rows"], objects["bytes"], objects["sha256"])
    await load(session, stage, ["oid", "page", "data", "owner"], source, objects["member"], expected)
    return stage


async def in_batches(session: Connection, stage: str, rows: int, run: Callable[[int, int], str]) -> None:
    attempts = 0

    async def refuse(first: int, last: int, why: str) -> None:
        await session.execute(f"UPDATE {stage} SET bad = $1 WHERE n BETWEEN {first} AND {last} AND bad IS NULL", why)

    async def attempt(first: int, last: int) -> None:
        nonlocal attempts
        attempts += 1
        try:
            async with session.transaction():
                await _execute(session, run(first, last))
        except _REFUSED as error:
            middle = (first + last) // 2
            if first == last or attempts > _ONE_BY_ONE:
                what = "it" if first == last else "it or a row that was tried with it"
                await refuse(first, last, f"The database refuses {what}: {words(error)}.")
            else:
                await attempt(first, middle)
                await attempt(middle + 1, last)

    for first in range(1, rows + 1, BATCH):
        await attempt(first, min(first + BATCH - 1, rows))


def _execute(session: Connection, sql: str) -> Awaitable[str]:
    return session.execute(sql, timeout=LONG)


def literal(text: str) -> str:
    """A constant, under standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"


def _key_text(part: Part) -> str:
    """'id=17', in SQL."""
    if not part.key:
        return "'row ' || n"
    named = [f"concat({literal(name)}, '=', c{part.columns.index(name)})" for name in part.key]
    return f"concat_ws(', ', {', '.join(named)})"


def bare(name: str) -> str:
    return name.removeprefix("pg_temp.")
