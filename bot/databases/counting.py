"""Counting what is lost in one database: a table, a column, the uses of an enum's label. Partitioned tables are counted through their leaves."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from bot.databases.connecting import LOST, Connection, words
from bot.databases.tables import PATIENCE, SAMPLES, Column, Shape, Table, Tally, read_shapes, read_tables
from bot.evidence import Loss

_LABELS = """
SELECT t.oid AS type, format('%I.%I', n.nspname, t.typname) AS name, e.oid AS label, e.enumlabel AS word, quote_ident(e.enumlabel) AS ident
FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname !~ '^pg_' ORDER BY n.nspname, t.typname, e.enumsortorder"""

# Columns of the type itself, of arrays of it, and of domains over either.
_USERS = """
WITH RECURSIVE typed(oid, many) AS (
  SELECT $1::oid, false UNION SELECT typarray, true FROM pg_type WHERE oid = $1 AND typarray <> 0
  UNION SELECT d.oid, typed.many FROM pg_type d JOIN typed ON d.typbasetype = typed.oid WHERE d.typtype = 'd')
SELECT a.attrelid AS table, a.attnum AS number, typed.many FROM pg_attribute a JOIN typed ON typed.oid = a.atttypid
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r' WHERE NOT a.attisdropped AND a.attnum > 0 ORDER BY c.relname, a.attnum"""

# What a value of a composite type says depends on the type's attributes, and its row is not written when they change.
_COMPOSITES = """
SELECT md5(coalesce(string_agg(format('%s %s %s %s', a.attrelid, a.attnum, a.atttypid, a.attisdropped), ' ' ORDER BY a.attrelid, a.attnum), ''))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attnum > 0 AND c.relkind = 'c' AND c.relnamespace <> 'pg_catalog'::regnamespace"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A table, with the tables that its rows lie in: itself, or the leaves of a partitioned one that are no foreign tables."""

    table: Table
    parts: tuple[Table, ...]


def leaves(tables: Iterable[Table]) -> dict[int, list[Table]]:
    """By OID of the partitioned table at the top."""
    found: dict[int, list[Table]] = {}
    for table in tables:
        if table.partition and table.relkind == "r":
            found.setdefault(table.root, []).append(table)
    return found


def units(tables: Iterable[Table]) -> Iterable[Unit]:
    """Every table that is no part of another one."""
    everything = list(tables)
    below = leaves(everything)
    return (unit_of(table, below) for table in everything if not table.partition)


def unit_of(table: Table, below: Mapping[int, Sequence[Table]]) -> Unit:
    return Unit(table, (table,) if table.relkind == "r" else tuple(below.get(table.oid, ())))


async def composites(session: Connection) -> str:
    return str(await session.fetchval(_COMPOSITES, timeout=PATIENCE))


# ------------------------------------------------------------------ one thing


async def table(session: Connection, unit: Unit, shape: Shape) -> Loss:
    if packed := _packed(unit):
        count = await session.fetchval(f"SELECT count(*) FROM {unit.table.name}", timeout=PATIENCE)  # noqa: S608  quoted by the server
        return Loss(kind="table", name=unit.table.name, count=count, of=count, why=packed)
    try:
        tally, size = await _tally(session, unit.parts, shape, "true"), 0
        for part in unit.parts:
            size += await session.fetchval("SELECT coalesce(pg_total_relation_size($1::oid), 0)", part.oid, timeout=PATIENCE)
    except asyncpg.PostgresError as error:
        return Loss(kind="table", name=unit.table.name, why=_why_not(error))
    return Loss(kind="table", name=unit.table.name, count=tally.count, of=tally.count, bytes=size, newest=tally.newest, keys=tally.keys)


async def column(session: Connection, unit: Unit, shape: Shape, lost: Column) -> Loss:
    name = f"{unit.table.name}.{lost.ident}"
    if packed := _packed(unit):
        return Loss(kind="column", name=name, why=f"not counted: {packed}")
    there = f"{lost.value} IS DISTINCT FROM NULL"
    written = there if lost.fallback is None else f"{there} AND {lost.text} IS DISTINCT FROM {_default(lost)}"
    try:
        rows = size = 0
        values, others = Tally(), Tally()
        for part in unit.parts:
            sql = f"""SELECT count(*), coalesce(sum(pg_column_size({lost.value})), 0)::bigint, count({lost.value}), {_newest(shape, there)},
              count(*) FILTER (WHERE {written}), {_newest(shape, written)} {part.from_}"""
            found = await session.fetchrow(sql, timeout=PATIENCE) or (0, 0, 0, None, 0, None)
            rows, size = rows + found[0], size + found[1]
            values.merge(Tally(*found[2:4]))
            others.merge(Tally(*found[4:]))
        tally = others if others.count else values
        if tally.count:
            await _add_keys(session, tally, unit.parts, shape, written if others.count else there)
    except asyncpg.PostgresError as error:
        return Loss(kind="column", name=name, why=_why_not(error))
    why = "generated: an upgrade computes it again" if lost.generated else ""
    written_to = 0 if lost.generated else others.count
    return Loss(kind="column", name=name, count=values.count, written=written_to, of=rows, bytes=size, newest=tally.newest, keys=tally.keys, why=why)


def _packed(unit: Unit) -> str:
    """Their rows are not read one by one: the Community edition's, which was never tried."""
    count = sum(part.packed for part in unit.parts)
    return f"{count} of its chunks are compressed" if count else ""


def _default(lost: Column) -> str:
    """The default's value, as text of the column's type."""
    value = f"({lost.fallback})::{lost.type}"
    return f'{value}::text COLLATE "C"' if lost.base else f"format('%s', {value}) COLLATE \"C\""


async def _tally(session: Connection, parts: Iterable[Table], shape: Shape, where: str) -> Tally:
    """Rows, their newest timestamp, and the first three keys."""
    total = Tally()
    for part in parts:
        row = await session.fetchrow(f"SELECT count(*), {_newest(shape, 'true')} {part.from_} WHERE {where}", timeout=PATIENCE)
        total.merge(Tally(*(row or (0, None))))
    await _add_keys(session, total, parts, shape, where)
    return total


def _newest(shape: Shape, where: str) -> str:
    moment = shape.newest()
    return f"max({moment.value}) FILTER (WHERE isfinite({moment.value}) AND {where})::text" if moment else "NULL::text"


async def _add_keys(session: Connection, total: Tally, parts: Iterable[Table], shape: Shape, where: str) -> None:
    if not (key := shape.key()):
        return
    texts, order = (", ".join(one) for one in ([c.text for c in key], [c.value if c.base else c.text for c in key]))
    for part in parts:
        for values in await session.fetch(f"SELECT {texts} {part.from_} WHERE {where} ORDER BY {order} LIMIT {SAMPLES}", timeout=PATIENCE):
            total.add(None, tuple(values), [column.ident for column in key], times=0)


def _why_not(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.QueryCanceledError):
        raise error
    if isinstance(error, asyncpg.LockNotAvailableError):
        return "not counted: another session has it locked"
    if isinstance(error, LOST):
        raise error
    return f"it can't be counted as this role: {words(error)}"


# ------------------------------------------------------------------ labels of enums


async def labels(before: Connection, after: Connection, *, unused: bool = False) -> list[Loss]:
    """Labels that are gone and in use in before, or `unused` too.

    A label that was renamed is there; a type that is gone took its columns along, or became text."""
    mine, theirs = await before.fetch(_LABELS, timeout=PATIENCE), await after.fetch(_LABELS, timeout=PATIENCE)
    types, by_label, by_name = {row["type"] for row in theirs}, {row["label"] for row in theirs}, {row["name"] for row in theirs}
    by_word = {(row["name"], row["word"]) for row in theirs}
    found: list[Loss] = []
    for row in mine:
        made_anew = row["type"] not in types
        gone = row["label"] not in by_label
        if made_anew:
            gone = row["name"] in by_name and (row["name"], row["word"]) not in by_word
        if gone and ((loss := await _label(before, row)).count != 0 or unused):
            found.append(loss)
    return found


async def _label(session: Connection, label: asyncpg.Record) -> Loss:
    name = f"{label['name']}.{label['ident']}"
    tables = await read_tables(session, sizes=False)
    used: list[str] = []
    total = Tally()
    try:
        for user in await session.fetch(_USERS, label["type"], timeout=PATIENCE):
            if (there := tables.get(user["table"])) is None:
                continue
            shape = (await read_shapes(session, [there.oid]))[there.oid]
            one = shape.columns[user["number"]]
            word = await session.fetchval("SELECT quote_literal($1::text)", label["word"])
            where = f"{one.text} = {word}"
            if user["many"]:
                where = f"{word} = ANY (string_to_array(array_to_string({one.value}, E'\\x01'), E'\\x01'))"
            tally = await _tally(session, [there], shape, where)
            if tally.count:
                place = f"{tables[there.root].name if there.chunk else there.name}.{one.ident}"
                used += [place] if place not in used else []
                total.merge(tally if len(used) == 1 else Tally(tally.count, tally.newest))
    except asyncpg.PostgresError as error:
        return Loss(kind="enum", name=name, why=_why_not(error))
    return Loss(kind="enum", name=name, count=total.count, newest=total.newest, keys=total.keys, why=f"used in {', '.join(used)}" if used else "")


# ------------------------------------------------------------------ counted again


async def recount(session: Connection, losses: Sequence[Loss], within: dt.timedelta) -> tuple[Loss, ...]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within.total_seconds()
    tables = {table.name: table for table in (await read_tables(session, sizes=False)).values()}
    found: list[Loss] = []
    for loss in losses:
        try:
            async with asyncio.timeout_at(deadline):
                found.append(await _again(session, loss, tables))
        except (TimeoutError, asyncpg.QueryCanceledError):
            about = await _about(session, loss, tables)
            found.append(loss.model_copy(update=_UNCOUNTED | {"why": f"not counted within {within.total_seconds():g} s{about}"}))
    return tuple(found)


_UNCOUNTED: dict[str, Any] = {"count": None, "written": None, "of": None, "bytes": None, "newest": None, "keys": ()}


async def _again(session: Connection, loss: Loss, tables: Mapping[str, Table]) -> Loss:
    below = leaves(tables.values())
    missing = loss.model_copy(update=_UNCOUNTED | {"why": "it is not there now"})
    match loss.kind:
        case "rows" | "values":
            why = f"found on the copy: {loss.count}" if loss.count is not None else loss.why
            return loss.model_copy(update=_UNCOUNTED | {"why": why})
        case "table":
            if (one := tables.get(loss.name)) is None:
                return missing
            now = await table(session, unit_of(one, below), (await read_shapes(session, [one.oid]))[one.oid])
        case "column":
            place = _split(loss.name, tables)
            if place is None:
                return missing
            shape = (await read_shapes(session, [place[0].oid]))[place[0].oid]
            lost = next((one for one in shape.columns.values() if one.ident == place[1]), None)
            if lost is None:
                return missing
            now = await column(session, unit_of(place[0], below), shape, lost)
        case "enum":
            labels = await session.fetch(_LABELS, timeout=PATIENCE)
            label = next((row for row in labels if f"{row['name']}.{row['ident']}" == loss.name), None)
            if label is None:
                return missing
            now = await _label(session, label)
        case _:
            return loss
    return now.model_copy(update={"revision": loss.revision, "certain": loss.certain})


def _split(name: str, tables: Mapping[str, Table]) -> tuple[Table, str] | None:
    """A column's full name -> its table, and its own name as it is quoted."""
    dots = [place for place, letter in enumerate(name) if letter == "."]
    return next(((tables[name[:dot]], name[dot + 1 :]) for dot in dots if name[:dot] in tables), None)


async def _about(session: Connection, loss: Loss, tables: Mapping[str, Table]) -> str:
    one = tables.get(loss.name) or (_split(loss.name, tables) or (None,))[0]
    if one is None:
        return ""
    parts = [part.oid for part in unit_of(one, leaves(tables.values())).parts]
    rows = await session.fetchval("SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class WHERE oid = ANY($1::oid[])", parts, timeout=PATIENCE)
    return f"; about {rows} rows" if rows else ""
