"""The rows of one table in two copies of a database: which are gone, which values differ. Memory is flat, whatever the size.

A row that was not written since the clone was made has the place (ctid) and the writer (xmin) that it has in the clone, as long as the table's file
is the same: an update makes a new version with a new xmin; a lock sets xmax alone; VACUUM moves nothing and, since 9.4, keeps xmin when it freezes.
Whoever writes after the clone is a transaction that no row of the clone knows. So where a file, or a stretch of it, has as many rows on both sides
and the same writers, nothing came, and therefore nothing went: it is passed over. Only the others are read, hashed by the server, and merged.
"""

# ruff: noqa: S608  what is put together here are constants of this file, and names that the server quoted

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from asyncpg import PostgresError, Record
from asyncpg.cursor import Cursor

from bot.databases.connecting import LOST, Connection
from bot.databases.tables import PATIENCE, ROW, Column, Table, Tally, comparable
from bot.evidence import Touched
from bot.finishing import both

_BLOCK = 5000  # rows that are compared at once
_KEYS = 50_000  # of rows that are gone or changed, kept one by one

#: The first three bytes of a place are a stretch of 256 pages.
_STRETCH = f"substr(tidsend({ROW}.ctid), 1, 3)"
#: A writer as its distance from the first of all transactions: xid has no cast to a number but by its text, which takes six times as long.
_WRITERS = f"sum(hashint8extended(age({ROW}.xmin)::bigint - age('3'::xid), 0))::text"
_STRETCHES = f"SELECT {_STRETCH}, count(*), {_WRITERS}"


@dataclass
class Part:
    """A table that rows lie in. `only`: the stretches that have to be read, None for all. `rows`: how many it has, where that was counted."""

    table: Table
    only: list[bytes] | None = None
    rows: int | None = None

    @property
    def where(self) -> str:
        if self.only is None:
            return ""
        stretches = ", ".join(f"'\\x{stretch.hex()}'" for stretch in self.only)
        return f" WHERE {_STRETCH} = ANY (ARRAY[{stretches}]::bytea[])"


@dataclass
class Question:
    """One table of `before` against what became of it. `columns` are pairs of what is compared; `key` are pairs too, empty when there is none.

    Answers: `gone` by OID of the part it lay in, `changed` by number of the column.
    """

    before: list[Part]
    after: list[Part]
    columns: list[tuple[Column, Column]]
    key: list[tuple[Column, Column]]
    newest: Column | None
    #: rows that were not written since say the same on both sides
    steady: bool
    rows: int = 0
    #: keys of rows that are gone, and of changed ones, as `keyed` writes them
    keys_gone: list[str] = field(default_factory=list)
    keys_changed: list[str] = field(default_factory=list)
    gone: dict[int, Tally] = field(default_factory=dict)
    changed: dict[int, Tally] = field(default_factory=dict)

    def still(self, unwritten: Container[int]) -> bool:
        """No row can be gone or changed: each part lies in its file as it did, and nobody wrote there. Then there is nothing to answer."""
        now = {part.table.oid: part.table for part in self.after}
        return self.steady and all(part.table.oid in now and still(part.table, now[part.table.oid], unwritten) for part in self.before)


async def answer(before: Connection, after: Connection, question: Question) -> None:
    """Fill in the answers. Raises what the driver raises."""
    async with before.transaction(isolation="repeatable_read", readonly=True), after.transaction(isolation="repeatable_read", readonly=True):
        await _pass_over(before, after, question)
        if not any(part.only is None or part.only for part in question.before):
            return
        if question.key:
            differing = await _differing(before, after, question)
            if differing is not None:
                await _merge(before, after, question, differing)
        else:
            await _count_equals(before, after, question)


# ------------------------------------------------------------------ what was not written since


async def untouched(before: Connection, after: Connection, tables: Sequence[tuple[Table, Table]]) -> set[int]:
    """OIDs of those in which no row was written since: many small tables in one query. Empty when one of them can't be read."""
    asked = [pair for pair in tables if _one_file(*pair)]
    if not asked:
        return set()

    async def seen(session: Connection, side: int) -> list[Record]:
        parts = (f"SELECT {pair[0].oid}::oid, count(*), {_WRITERS} {pair[side].from_}" for pair in asked)
        return await session.fetch(" UNION ALL ".join(parts), timeout=PATIENCE)

    try:
        mine, theirs = await both(seen(before, 0), seen(after, 1))
    except PostgresError as error:
        if isinstance(error, LOST):
            raise
        return set()
    return {row[0] for row in {*map(tuple, mine)} & {*map(tuple, theirs)}}


async def _pass_over(before: Connection, after: Connection, question: Question) -> None:
    partners = {part.table.oid: part for part in question.after}
    for part in question.before:
        if part.table.empty:
            part.only, part.rows = [], 0
            continue
        partner = partners.get(part.table.oid)
        if partner is None or not question.steady or not _one_file(part.table, partner.table):
            continue
        one, other = await both(_whole(before, part.table), _whole(after, partner.table))
        if one == other:
            part.only, partner.only, part.rows = [], [], one[0]
            continue
        mine, theirs = await both(_stretches(before, part.table), _stretches(after, partner.table))
        part.rows = sum(count for count, _ in mine.values())
        part.only = [stretch for stretch, seen in mine.items() if theirs.get(stretch) != seen]
        partner.only = [stretch for stretch, seen in theirs.items() if mine.get(stretch) != seen]
    for part in question.before:
        if part.rows is None:
            part.rows = await before.fetchval(f"SELECT count(*) {part.table.from_}", timeout=PATIENCE)
    question.rows = sum(part.rows or 0 for part in question.before)


def still(before: Table, after: Table, unwritten: Container[int]) -> bool:
    return before.oid in unwritten and _one_file(before, after)


def _one_file(before: Table, after: Table) -> bool:
    return before.heap and after.heap and before.relfilenode == after.relfilenode != 0


async def _whole(session: Connection, table: Table) -> tuple[int, str | None]:
    row = await session.fetchrow(f"SELECT count(*), {_WRITERS} {table.from_}", timeout=PATIENCE)
    return tuple(row) if row else (0, None)


async def _stretches(session: Connection, table: Table) -> dict[bytes, tuple[int, str]]:
    rows = await session.fetch(f"{_STRETCHES} {table.from_} GROUP BY 1", timeout=PATIENCE)
    return {row[0]: (row[1], row[2]) for row in rows}


# ------------------------------------------------------------------ tables with a key


def _order(question: Question, side: int) -> str:
    """A bigint that both sides are sorted by: the key itself where it is a whole number, else a hash of it. A key can have become null since."""
    texts = [comparable(*pair)[side] for pair in question.key]
    if _is_whole(question):
        return f"coalesce({question.key[0][side].value}::bigint, 0)"
    return f'hashtextextended(ARRAY[{", ".join(texts)}]::text COLLATE "C", 0)'


def _is_whole(question: Question) -> bool:
    return len(question.key) == 1 and all(column.base in ("int2", "int4", "int8") for column in question.key[0])


def _union(parts: Sequence[Part], what: Callable[[int], str]) -> str:
    """Empty when there is nothing to read."""
    return " UNION ALL ".join(f"SELECT {what(place)} {part.table.from_}{part.where}" for place, part in enumerate(parts) if part.only != [])


async def _differing(before: Connection, after: Connection, question: Question) -> list[tuple[Column, Column]] | None:
    """The columns in which the sides differ as a whole; None when not even their keys do. Cheap: nothing is sorted, nothing is fetched."""

    async def sums(session: Connection, side: int) -> tuple[Any, ...]:
        hashes = "".join(
            f", hashtextextended({comparable(*pair)[side]}, {_order(question, side)}) AS h{n}" for n, pair in enumerate(question.columns)
        )
        inner = _union(question.after if side else question.before, lambda _: f"hashint8extended({_order(question, side)}, 0) AS k{hashes}")
        if not inner:
            return ()
        totals = "".join(f", sum(h{place})::text" for place in range(len(question.columns)))
        return tuple(await session.fetchrow(f"SELECT count(*)::text || ' ' || sum(k)::text{totals} FROM ({inner}) s", timeout=PATIENCE) or ())

    mine, theirs = await both(sums(before, 0), sums(after, 1))
    if mine == theirs:
        return None
    if not theirs:
        return question.columns
    return [pair for pair, one, other in zip(question.columns, mine[1:], theirs[1:], strict=True) if one != other]


async def _merge(before: Connection, after: Connection, question: Question, columns: list[tuple[Column, Column]]) -> None:
    async with _stream(before, _listing(question, columns, 0)) as mine, _stream(after, _listing(question, columns, 1)) as theirs:
        while block := await mine.block():
            wanted = {row[1] for row in block}
            found: dict[str, list[tuple[Any, ...]]] = {}
            async for row in theirs.upto(block[-1][0], wanted):
                found.setdefault(row[1], []).append(row[4:])
            for row in block:
                _judge(question, columns, row, found.get(row[1]))


def _listing(question: Question, columns: list[tuple[Column, Column]], side: int) -> str:
    """Order, key, part, newest, and a hash of each column."""
    key = _keyed(question, side)
    newest = f"{question.newest.value}::text" if question.newest and side == 0 else "NULL::text"
    hashes = "".join(f", hashtextextended({comparable(*pair)[side]}, 0)" for pair in columns)
    parts = question.after if side else question.before
    inner = _union(parts, lambda place: f"{_order(question, side)}, {key}, {place}, {newest}{hashes}")
    return f"{inner} ORDER BY 1" if inner else "SELECT 0::bigint WHERE false"


def _keyed(question: Question, side: int) -> str:
    if _is_whole(question):
        return f"{question.key[0][side].value}::text"
    return f"ARRAY[{', '.join(comparable(*pair)[side] for pair in question.key)}]::text"


def touched(question: Question) -> Touched | None:
    """None for a table without a key."""
    if not question.key:
        return None
    gone, changed = (tuple(keys) if len(keys) <= _KEYS else None for keys in (question.keys_gone, question.keys_changed))
    return Touched(expression=_keyed(question, 0), gone=gone, changed=changed)


def _note(keys: list[str], key: str) -> None:
    if len(keys) <= _KEYS:
        keys.append(key)


def _judge(question: Question, columns: list[tuple[Column, Column]], row: Record, found: list[tuple[Any, ...]] | None) -> None:
    mine = row[4:]
    if found is not None and mine in found:
        return
    names = [before.ident for before, _ in question.key]
    key = parsed(row[1]) if row[1][:1] == "{" else [row[1]]
    _note(question.keys_gone if found is None else question.keys_changed, row[1])
    if found is None:
        question.gone.setdefault(question.before[row[2]].table.oid, Tally()).add(row[3], key, names)
        return
    for (column, _), one, other in zip(columns, mine, found[0], strict=True):
        if one != other:
            question.changed.setdefault(column.number, Tally()).add(row[3], key, names)


def parsed(array: str) -> list[str]:
    """A one-dimensional text[] without nulls, as its output function writes it."""
    found: list[str] = []
    at = 1
    while at < len(array) - 1:
        value: list[str] = []
        inside = array[at] == '"'
        at += inside
        while (array[at] != '"') if inside else (array[at] not in ",}"):
            at += array[at] == "\\"
            value.append(array[at])
            at += 1
        at += 1 + inside
        found.append("".join(value))
    return found


# ------------------------------------------------------------------ tables without one


async def _count_equals(before: Connection, after: Connection, question: Question) -> None:
    """Equal rows are counted on both sides: a row that was changed is gone."""

    def listing(parts: Sequence[Part], side: int) -> str:
        texts = ", ".join(comparable(*pair)[side] for pair in question.columns)
        row = f'hashtextextended(ARRAY[{texts}]::text[]::text COLLATE "C", 0) AS h'
        newest = f"{question.newest.value}::text" if question.newest and side == 0 else "NULL::text"
        inner = _union(parts, lambda place: f"{row}, {place} AS part, {newest} AS newest")
        if not inner:
            return "SELECT 0::bigint WHERE false"
        return f'SELECT h, count(*), max(part), max(newest COLLATE "C") FROM ({inner}) s GROUP BY h ORDER BY h'

    async with _stream(before, listing(question.before, 0)) as mine, _stream(after, listing(question.after, 1)) as theirs:
        while block := await mine.block():
            there = {row[0]: row[1] async for row in theirs.upto(block[-1][0], {row[0] for row in block}, of=0)}
            for row in block:
                if (missing := row[1] - there.get(row[0], 0)) > 0:
                    question.gone.setdefault(question.before[row[2]].table.oid, Tally()).add(row[3], times=missing)


# ------------------------------------------------------------------ reading side by side


class _Stream:
    """Rows in the order of their first value."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._buffer: list[Record] = []
        self._ended = False

    async def _fill(self) -> None:
        more = await self._cursor.fetch(_BLOCK, timeout=PATIENCE)
        self._ended = len(more) < _BLOCK
        self._buffer.extend(more)

    async def block(self) -> list[Record]:
        """The next rows, with all that share the last one's place in the order."""
        if not self._buffer and not self._ended:
            await self._fill()
        while not self._ended and self._buffer[0][0] == self._buffer[-1][0]:
            await self._fill()
        if self._ended:
            taken, self._buffer = self._buffer, []
            return taken
        last = self._buffer[-1][0]
        cut = next(place for place in range(len(self._buffer), 0, -1) if self._buffer[place - 1][0] != last)
        taken, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return taken

    async def upto(self, last: int, wanted: Container[Any], of: int = 1) -> AsyncIterator[Record]:
        """Those that are wanted, among all whose place is at most `last`; the others are let go."""
        while True:
            if not self._buffer:
                if self._ended:
                    return
                await self._fill()
            cut = bisect_right(self._buffer, last, key=lambda row: row[0])
            for row in self._buffer[:cut]:
                if row[of] in wanted:
                    yield row
            self._buffer = self._buffer[cut:]
            if self._buffer:
                return


@asynccontextmanager
async def _stream(session: Connection, sql: str) -> AsyncIterator[_Stream]:
    yield _Stream(await session.cursor(sql, timeout=PATIENCE))
