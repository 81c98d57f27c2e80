"""What a downgrade destroyed, exactly: a clone of the database as it was against the database as it is, every relation of it (databases.md F19).

Identity of a table is its OID, of a column its number in it; only what was made anew is looked for by its name.
What can't be read has no count, never 0.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import asyncpg

from bot.databases import counters, counting, guards, merging
from bot.databases.connecting import LOST, Connection, connected, words
from bot.databases.counting import Unit, leaves
from bot.databases.merging import Part, Question
from bot.databases.tables import READING, Column, Shape, Table, Tally, read_shapes, read_tables, same_bytes
from bot.evidence import Loss, LossKind, Touched
from bot.finishing import both
from bot.place import Connect

Progress = Callable[[str], Awaitable[None]]

_AT_ONCE = 200  # tables whose columns are in memory
_SMALL = 2**21  # bytes: several of them are looked at together
_SAYS_EVERY = 1.0  # seconds


async def lost_since(before: Connect, after: Connect, progress: Progress, *, sampled: bool = False, counted: bool = False) -> tuple[Loss, ...]:
    """What is in `before` and not, or otherwise, in `after`; both on one server, `before` a clone of what `after` was.

    `sampled`: not all rows are there, so enum labels count though none uses them. `counted`: the counters of `after` were set to zero when
    `before` was made (counters.py), so tables that nobody wrote since need not be read.
    What this role can't read is 'unreadable', or has no count. Raises Refusal (unreachable, ...), OutcomeUnknown (the connection was lost).
    """
    losses, _ = await touched_since(before, after, progress, sampled=sampled, counted=counted)
    return losses


async def touched_since(
    before: Connect, after: Connect, progress: Progress, *, sampled: bool = False, counted: bool = False
) -> tuple[tuple[Loss, ...], dict[str, Touched]]:
    """The same, and by table the keys of rows that are gone or changed."""
    async with connected(before, READING) as mine, connected(after, READING) as theirs:
        comparison = _Comparison(mine, theirs, progress, sampled=sampled, unwritten=await counters.unwritten(theirs) if counted else frozenset())
        return await comparison.losses(), comparison.touched


async def recount(connect: Connect, losses: Sequence[Loss], within: dt.timedelta) -> tuple[Loss, ...]:
    """The same things, counted on `connect` within that time in all; without a count is what was not counted, or can't be known in advance."""
    async with connected(connect, READING) as session:
        return await counting.recount(session, losses, within)


@dataclass(frozen=True)
class _Pair:
    """A table of before, what became of it, and where its rows could be now."""

    before: Unit
    after: Table | None
    parts: tuple[Table, ...]


class _Comparison:
    def __init__(self, before: Connection, after: Connection, progress: Progress, *, sampled: bool, unwritten: Container[int]) -> None:
        self._before = before
        self._after = after
        self._progress = progress
        self._sampled = sampled
        self._unwritten = unwritten
        self._was: dict[int, Table] = {}
        self._is: dict[int, Table] = {}
        self._composites_changed = False
        self.touched: dict[str, Touched] = {}
        #: dropped columns, by table
        self._dropped: dict[int, set[int]] = {}

    async def losses(self) -> tuple[Loss, ...]:
        self._was, self._is = await both(read_tables(self._before, sizes=True), read_tables(self._after, sizes=False))
        mine, theirs = await both(counting.composites(self._before), counting.composites(self._after))
        self._composites_changed = mine != theirs
        found: list[Loss] = []
        pairs = list(self._pairs())
        looked = [pair for pair in pairs if self._may_differ(pair)]
        said = asyncio.get_running_loop().time()
        for start in range(0, len(looked), _AT_ONCE):
            async for done, losses in self._some(looked[start : start + _AT_ONCE]):
                found += losses
                if (now := asyncio.get_running_loop().time()) - said > _SAYS_EVERY:
                    said = now
                    await self._progress(f"compared {start + done} of {len(looked)} tables")
        found += await counting.labels(self._before, self._after, unused=self._sampled)
        found += await self._guards(pairs)
        return tuple(sorted(found, key=_order))

    # ------------------------------------------------------------------ what became of what

    def _pairs(self) -> Iterable[_Pair]:
        again = {table.name: table for table in self._is.values() if table.oid not in self._was}
        leaves_now = leaves(self._is.values())
        for unit in counting.units(self._was.values()):
            table = unit.table
            now = self._is.get(table.oid) or again.get(table.name)
            there = {part.oid: part for part in (leaves_now.get(now.oid, [now] if now.relkind == "r" else []) if now else [])}
            there |= {part.oid: self._is[part.oid] for part in unit.parts if part.oid in self._is}  # detached
            yield _Pair(unit, now, tuple(there.values()))

    async def _some(self, pairs: Sequence[_Pair]) -> AsyncIterator[tuple[int, list[Loss]]]:
        plain = [(pair.before.table, pair.after) for pair in pairs if pair.after and self._is_plain(pair)]
        same = {was.oid for was, now in plain if merging.still(was, now, self._unwritten)}
        same |= await merging.untouched(self._before, self._after, [pair for pair in plain if pair[0].oid not in same])
        pairs = [pair for pair in pairs if pair.before.table.oid not in same]
        shapes = await read_shapes(self._before, [pair.before.table.oid for pair in pairs])
        shapes_now = await read_shapes(self._after, [one.oid for pair in pairs if (one := _stands_for(pair))])
        for done, pair in enumerate(pairs, 1):
            one = _stands_for(pair)
            mine = shapes[pair.before.table.oid]
            if one is None:
                yield done, [await counting.table(self._before, pair.before, mine)]
                continue
            try:
                yield done, await self._compare(pair, mine, shapes_now[one.oid], same=one.oid == pair.before.table.oid)
            except asyncpg.PostgresError as error:
                if isinstance(error, LOST):
                    raise
                why = f"it can't be compared as this role: {words(error)}"
                yield done, [Loss(kind="unreadable", name=pair.before.table.name, certain=False, why=why)]

    def _may_differ(self, pair: _Pair) -> bool:
        """An empty table has nothing to lose but itself and its columns."""
        was, now = pair.before.table, pair.after
        return (
            now is None
            or was.oid != now.oid
            or was.numbers != now.numbers
            or not all(part.empty for part in pair.before.parts)
            or self._leaf_gone(pair)
        )

    def _is_plain(self, pair: _Pair) -> bool:
        """Small, and with the columns that it had."""
        was, now = pair.before.table, pair.after
        plain = was.relkind == "r" and was.size <= _SMALL and not self._composites_changed
        return plain and now is not None and (was.oid, was.types) == (now.oid, now.types)

    def _leaf_gone(self, pair: _Pair) -> bool:
        return any(part.oid not in self._is for part in pair.before.parts)

    async def _compare(self, pair: _Pair, mine: Shape, theirs: Shape, *, same: bool) -> list[Loss]:
        matched, dropped, rebuilt = _match(mine, theirs, same=same)
        self._dropped[pair.before.table.oid] = {column.number for column in dropped}
        found = [await counting.column(self._before, pair.before, mine, column) for column in dropped]
        question = Question(
            before=[Part(part) for part in pair.before.parts],
            after=[Part(part) for part in pair.parts],
            columns=[(one, other) for one, other in matched if not one.generated],
            key=_key(mine, matched),
            newest=mine.newest(),
            steady=not rebuilt and all(same_bytes(*pair) for pair in matched) and not (self._composites_changed and _has_own_types(mine)),
        )
        if not question.still(self._unwritten):
            await merging.answer(self._before, self._after, question)
        if (keys := merging.touched(question)) is not None:
            self.touched[pair.before.table.name] = keys
        return found + self._rows(pair, question) + self._values(pair, question)

    # ------------------------------------------------------------------ in words

    def _rows(self, pair: _Pair, question: Question) -> list[Loss]:
        root = pair.before.table
        found: list[Loss] = []
        rest = Tally()
        for part in question.before:
            tally = question.gone.get(part.table.oid, Tally())
            if part.table.oid == root.oid or part.table.oid in self._is or part.table.chunk:
                rest.merge(tally)
            elif tally.count or not part.rows:
                why = "" if tally.count == part.rows else "its other rows are in other partitions now"
                found.append(Loss(kind="table", name=part.table.name, count=tally.count, of=part.rows, newest=tally.newest, keys=tally.keys, why=why))
        if rest.count:
            why = "" if question.key else "the table has no key, so a row that was changed counts as gone"
            found.append(Loss(kind="rows", name=root.name, count=rest.count, of=question.rows, newest=rest.newest, keys=rest.keys, why=why))
        return found

    def _values(self, pair: _Pair, question: Question) -> list[Loss]:
        found: list[Loss] = []
        for before, after in question.columns:
            if tally := question.changed.get(before.number):
                why = f"no longer fit {after.type}" if before.type != after.type else ""
                why = why or ("" if before.number == after.number else "the column was made anew")
                name = f"{pair.before.table.name}.{before.ident}"
                found.append(Loss(kind="values", name=name, count=tally.count, of=question.rows, newest=tally.newest, keys=tally.keys, why=why))
        return found

    async def _guards(self, pairs: Sequence[_Pair]) -> list[Loss]:
        mine, theirs = await both(guards.read_guards(self._before), guards.read_guards(self._after))
        become = {pair.before.table.oid: pair.after for pair in pairs if pair.after}
        become |= {oid: self._is[oid] for oid in self._was if oid in self._is}
        return list(guards.unguarded(mine, theirs, self._was, become, self._dropped))


def _stands_for(pair: _Pair) -> Table | None:
    """What tells the columns of after: the table, or the first of its detached parts."""
    return pair.after or next(iter(pair.parts), None)


def _match(before: Shape, after: Shape, *, same: bool) -> tuple[list[tuple[Column, Column]], list[Column], bool]:
    """Columns that are on both sides, those that were dropped, and whether one of them was made anew under its name."""
    named = {name: column for name, column in after.named().items() if not same or column.number not in before.columns}
    matched: list[tuple[Column, Column]] = []
    dropped: list[Column] = []
    rebuilt = False
    for number, column in before.columns.items():
        if same and number in after.columns:
            matched.append((column, after.columns[number]))
        elif column.name in named:
            matched.append((column, named[column.name]))
            rebuilt = True
        else:
            dropped.append(column)
    return matched, dropped, rebuilt


def _key(before: Shape, matched: Iterable[tuple[Column, Column]]) -> list[tuple[Column, Column]]:
    """The first key of before whose columns are all there."""
    there = {column.number: (column, other) for column, other in matched}
    return next(([there[number] for number in key] for key in before.keys if all(number in there for number in key)), [])


def _has_own_types(shape: Shape) -> bool:
    return any(not column.base and not column.enum for column in shape.columns.values())


def _order(loss: Loss) -> tuple[int, str]:
    return get_args(LossKind).index(loss.kind), loss.name
