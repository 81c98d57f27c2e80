"""TimescaleDB's hypertables: which tables are, what they consist of, how they stand, and how one is made again out of a plain table.

A hypertable's own heap is empty: its rows lie in chunks, which inherit from it. So whoever counts, copies or compares rows asks here first.
Only the extension's public views are read: its catalog is another one in almost every version.
"""

# ruff: noqa: S608  names are quoted here, or by the server

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from bot.databases import timescale
from bot.databases.connecting import CATALOG, LOST, Connection, connected, quoted, words
from bot.evidence import Hypertable
from bot.place import Connect
from bot.words import many

# Where the server does not load the library (one that was recovered beside), its functions fail, and so do the views.
_THERE = """
SELECT to_regclass('timescaledb_information.dimensions') IS NOT NULL AS there, current_setting('timescaledb.disable_load', true) = 'off' AS loaded"""
_UNLOADED = """
SELECT i.inhrelid AS chunk, i.inhparent AS root, false AS is_compressed FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '_timescaledb_internal'"""
_ROOT = "to_regclass(format('%I.%I', hypertable_schema, hypertable_name))::oid"
_ROOTS = f"SELECT DISTINCT {_ROOT} AS root FROM timescaledb_information.dimensions"
_CHUNKS = f"""
SELECT to_regclass(format('%I.%I', chunk_schema, chunk_name))::oid AS chunk, {_ROOT} AS root, is_compressed FROM timescaledb_information.chunks"""

_DIMENSIONS = """
SELECT format('%I.%I', hypertable_schema, hypertable_name) AS name, column_name::text, time_interval::text AS interval, integer_interval,
  num_partitions, integer_now_func::text
FROM timescaledb_information.dimensions ORDER BY 1, dimension_number"""
_COMPRESSION = """
SELECT format('%I.%I', hypertable_schema, hypertable_name) AS name, attname::text AS column, segmentby_column_index AS segment,
  orderby_column_index AS place, orderby_asc AS rising, orderby_nullsfirst AS nulls_first
FROM timescaledb_information.compression_settings ORDER BY 1, segmentby_column_index NULLS LAST, orderby_column_index NULLS LAST"""
_COMPRESSED = "SELECT format('%I.%I', hypertable_schema, hypertable_name) FROM timescaledb_information.hypertables WHERE compression_enabled"
_POLICIES = """
SELECT format('%I.%I', hypertable_schema, hypertable_name) AS name, proc_name::text AS kind, config ->> 'drop_after' AS drop_after,
  config ->> 'compress_after' AS compress_after, schedule_interval::text AS every, scheduled
FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL AND proc_name IN ('policy_retention', 'policy_compression') ORDER BY 1, 2"""

# What a chunk has to have of its hypertable's: each index, each constraint (a foreign key too), valid ones. NOT NULL and triggers are inherited.
_BROKEN = """
WITH pairs AS (SELECT * FROM unnest($1::oid[], $2::oid[]) AS p (chunk, root)),
 missing AS (
  SELECT p.chunk, format('the index %I is missing', x.relname) AS why
  FROM pairs p JOIN pg_index i ON i.indrelid = p.root JOIN pg_class x ON x.oid = i.indexrelid
  WHERE NOT EXISTS (SELECT FROM pg_index c WHERE c.indrelid = p.chunk AND c.indisunique = i.indisunique
    AND substring(pg_get_indexdef(c.indexrelid) FROM ' USING .*') = substring(pg_get_indexdef(i.indexrelid) FROM ' USING .*'))
  UNION ALL
  SELECT p.chunk, format('the constraint %I is missing', k.conname)
  FROM pairs p JOIN pg_constraint k ON k.conrelid = p.root AND k.contype IN ('c', 'f')
  WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = p.chunk AND c.contype = k.contype
    AND pg_get_constraintdef(c.oid) = pg_get_constraintdef(k.oid))
  UNION ALL
  SELECT p.chunk, 'no constraint says which rows belong to it' FROM pairs p
  WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = p.chunk AND c.contype = 'c')
  UNION ALL
  SELECT p.chunk, format('the index %I is not valid', x.relname)
  FROM pairs p JOIN pg_index i ON i.indrelid = p.chunk AND NOT i.indisvalid JOIN pg_class x ON x.oid = i.indexrelid
  UNION ALL
  SELECT p.chunk, format('the constraint %I is not valid', c.conname)
  FROM pairs p JOIN pg_constraint c ON c.conrelid = p.chunk AND NOT c.convalidated
  UNION ALL
  SELECT p.chunk, 'it does not inherit from the hypertable' FROM pairs p
  WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = p.chunk AND h.inhparent = p.root))
SELECT p.root, m.chunk::regclass::text AS chunk, min(m.why) AS why FROM missing m JOIN pairs p USING (chunk) GROUP BY 1, 2 ORDER BY 1, 2"""

_INDEXES = """
SELECT pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i
WHERE i.indrelid = to_regclass($1)::oid AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) ORDER BY i.indexrelid"""
_ABOUT = "SELECT coalesce(sum(greatest(reltuples, 0)), 0)::int8 FROM pg_class WHERE oid = ANY ($1::oid[])"
_NAMES = """
SELECT c.oid, format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[])"""
_SHOWN = 3


@dataclass(frozen=True)
class Known:
    """By OID: which tables are hypertables, and of each chunk the hypertable that it is a part of."""

    roots: frozenset[int] = frozenset()
    chunks: Mapping[int, int] = field(default_factory=dict)
    #: chunks whose rows lie in compressed batches elsewhere
    compressed: frozenset[int] = frozenset()


async def known(session: Connection) -> Known:
    """Nothing where the database hasn't got the extension."""
    there, loaded = await _there(session)
    if not there:
        return Known()
    rows = [row for row in await session.fetch(_CHUNKS if loaded else _UNLOADED) if row["chunk"] and row["root"]]
    roots = frozenset(row["root"] for row in (await session.fetch(_ROOTS) if loaded else rows) if row["root"])
    compressed = frozenset(row["chunk"] for row in rows if row["is_compressed"])
    return Known(roots, {row["chunk"]: row["root"] for row in rows}, compressed)


async def _there(session: Connection) -> tuple[bool, bool]:
    """Whether the database has the extension, and the server its library."""
    (row,) = await session.fetch(_THERE)
    return bool(row["there"]), bool(row["loaded"])


async def is_one(session: Connection, oid: int) -> bool:
    return oid in (await known(session)).roots


# ------------------------------------------------------------------ how they are made


async def made(session: Connection) -> dict[str, dict[str, Any]]:
    """By name, quoted as in SQL, what `make_again` needs. JSON: dimensions, compression (or None), retention and compress_after (or None)."""
    if not all(await _there(session)):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for row in await session.fetch(_DIMENSIONS):
        one = found.setdefault(row["name"], {"dimensions": [], "compression": None, "retention": None, "compress_after": None})
        one["dimensions"].append({
            "column": row["column_name"], "interval": row["interval"], "integer": row["integer_interval"], "parts": row["num_partitions"],
        })  # fmt: skip
    for (name,) in await session.fetch(_COMPRESSED):
        if name in found:
            found[name]["compression"] = {"segment": [], "order": []}
    for row in await session.fetch(_COMPRESSION):
        if (settings := found.get(row["name"], {}).get("compression")) is not None:
            if row["segment"] is not None:
                settings["segment"].append(row["column"])
            elif row["place"] is not None:
                settings["order"].append(_ordered(row))
    for row in await session.fetch(_POLICIES):
        if row["name"] in found:
            key, value = ("retention", row["drop_after"]) if row["kind"] == "policy_retention" else ("compress_after", row["compress_after"])
            found[row["name"]][key] = value
    return found


def _ordered(row: asyncpg.Record) -> str:
    direction = "ASC" if row["rising"] else "DESC"
    return f"{quoted(row['column'])} {direction} NULLS {'FIRST' if row['nulls_first'] else 'LAST'}"


async def facts(session: Connection, table: str) -> dict[str, Any] | None:
    """What of that table is to be remembered; None: it is no hypertable."""
    one = (await made(session)).get(table)
    if one is None:
        return None
    return {**one, "indexes": [row["definition"] for row in await session.fetch(_INDEXES, table)]}


async def definitions(session: Connection) -> dict[str, str]:
    """For the catalog: 'hypertable public.metrics' -> how it is cut, compressed, kept. No numbers: chunks come by themselves."""
    return {f"hypertable {name}": "; ".join(described(one)) for name, one in (await made(session)).items()}


def described(one: Mapping[str, Any]) -> tuple[str, str, str]:
    """How it is cut, whether it is compressed, how long rows are kept. Pure."""
    cut = ", ".join(_dimension(each) for each in one["dimensions"])
    compression = "not compressed"
    if (settings := one["compression"]) is not None:
        by = f" by {', '.join(settings['segment'])}" if settings["segment"] else ""
        after = f" after {one['compress_after']}" if one["compress_after"] else ""
        compression = f"compressed{by}{after}"
    return f"cut by {cut}", compression, f"kept for {one['retention']}" if one["retention"] else "kept for ever"


def _dimension(one: Mapping[str, Any]) -> str:
    if one["parts"]:
        return f"{one['column']} into {one['parts']}"
    return f"{one['column']} every {one['interval'] or one['integer']}"


# ------------------------------------------------------------------ how they stand


async def standing(session: Connection, *, count: bool) -> dict[str, Hypertable]:
    """By name. Rows are exact with `count`, else as the statistics have them."""
    every = await made(session)
    if not every:
        return {}
    parts = await known(session)
    roots: dict[int, str] = {row[0]: row[1] for row in await session.fetch(_NAMES, list(parts.roots))}
    broken: dict[str, list[str]] = {}
    for row in await session.fetch(_BROKEN, list(parts.chunks), list(parts.chunks.values())):
        broken.setdefault(roots.get(row["root"], ""), []).append(f"{row['chunk']}: {row['why']}")
    found = {}
    for oid, name in sorted(roots.items(), key=lambda item: item[1]):
        chunks = [chunk for chunk, root in parts.chunks.items() if root == oid]
        cut, compression, kept = described(every[name])
        if packed := len(parts.compressed & set(chunks)):
            compression += f" ({packed} are)"
        rows = await _rows(session, name, chunks, count=count)
        found[name] = Hypertable(said=(cut, compression, kept), chunks=len(chunks), rows=rows, broken=tuple(broken.get(name, ())))
    return found


async def _rows(session: Connection, name: str, chunks: Sequence[int], *, count: bool) -> str:
    try:
        if count:
            return f"{await session.fetchval(f'SELECT count(*) FROM {name}'):,} rows"
        return f"about {await session.fetchval(_ABOUT, chunks):,} rows"
    except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, asyncpg.InsufficientPrivilegeError):
        return "rows not counted"


async def remarks(connect: Connect) -> tuple[str, ...]:
    """A sentence for each, for the card."""
    async with connected(connect, CATALOG) as session:
        return tuple(f"{told(name, one)}." for name, one in (await standing(session, count=False)).items())


def told(name: str, one: Hypertable) -> str:
    """One line for people. Pure."""
    cut, *others = one.said
    health = f"NOT WHOLE: {'; '.join(one.broken[:_SHOWN])}" if one.broken else "all whole"
    more = f" and {len(one.broken) - _SHOWN} more" if len(one.broken) > _SHOWN else ""
    return f"{name} is a hypertable, {cut}: {many(one.chunks, 'chunk')}, {health}{more}; {one.rows}; {'; '.join(others)}"


# ------------------------------------------------------------------ made again


async def make_again(session: Connection, table: str, then: Mapping[str, Any]) -> list[str]:
    """The table, which is there, is a hypertable as it was, with the rows that it has. What was done, and what the server refused, in sentences.

    Each thing in a savepoint of its own: what is refused leaves the rest as it is.
    """
    if (place := await timescale.schema(session)) is None:
        return [f"{table} was a hypertable ({', '.join(described(then))}), and the database has no TimescaleDB now: it is a plain table."]
    if await session.fetchval("SELECT to_regclass($1) IS NULL", table):
        return []
    now = await facts(session, table)
    notes: list[str] = []
    if now is None:
        notes.append(await _try(session, f"{table} is a hypertable again, {described(then)[0]}", [_create(quoted(place), table, then)]))
        if (now := await facts(session, table)) is None:
            return notes
        notes += [await _try(session, f"the index {_index(sql)} is there again", [sql]) for sql in _absent(then["indexes"], now["indexes"])]
    return notes + [await _try(session, says, sql) for says, sql in _differences(quoted(place), table, then, now)]


def _create(place: str, table: str, then: Mapping[str, Any]) -> str:
    time, space = then["dimensions"][0], [one for one in then["dimensions"][1:] if one["parts"]]
    parted = f", partitioning_column => {_literal(space[0]['column'])}, number_partitions => {int(space[0]['parts'])}" if space else ""
    return (
        f"SELECT {place}.create_hypertable({_literal(table)}::regclass, {_literal(time['column'])}::name{parted}, "
        f"chunk_time_interval => {_interval(time)}, create_default_indexes => false, migrate_data => true)"
    )


def _interval(one: Mapping[str, Any]) -> str:
    return f"INTERVAL {_literal(one['interval'])}" if one["interval"] else f"{int(one['integer'])}::bigint"


def _differences(place: str, table: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    """What of an existing hypertable isn't as it was: sentences, and the statements that mend it. Pure."""
    regclass = f"{_literal(table)}::regclass"
    current = {one["column"]: one for one in now["dimensions"]}
    for one in then["dimensions"]:
        live = current.get(one["column"])
        if live is not None and not one["parts"] and (live["interval"], live["integer"]) != (one["interval"], one["integer"]):
            sql = f"SELECT {place}.set_chunk_time_interval({regclass}, {_interval(one)}, {_literal(one['column'])}::name)"
            yield f"new chunks of {table} are cut every {one['interval'] or one['integer']} again", [sql]
    if then["compression"] and not now["compression"]:
        yield f"{table} is {described(then)[1]} again", [_compress(table, then["compression"])]
    if then["compress_after"] and not now["compress_after"]:
        after = _age(then["compress_after"])
        yield (
            f"chunks of {table} are compressed after {then['compress_after']} again",
            [f"SELECT {place}.add_compression_policy({regclass}, {after})"],
        )
    if then["retention"] and not now["retention"]:
        yield f"{table} is kept for {then['retention']} again", [f"SELECT {place}.add_retention_policy({regclass}, {_age(then['retention'])})"]


def _compress(table: str, settings: Mapping[str, Sequence[str]]) -> str:
    said = ["timescaledb.compress"]
    if settings["segment"]:
        said.append(f"timescaledb.compress_segmentby = {_literal(', '.join(map(quoted, settings['segment'])))}")
    if settings["order"]:
        said.append(f"timescaledb.compress_orderby = {_literal(', '.join(settings['order']))}")
    return f"ALTER TABLE {table} SET ({', '.join(said)})"


def _age(text: str) -> str:
    return f"{int(text)}::bigint" if text.lstrip("-").isdecimal() else f"INTERVAL {_literal(text)}"


def _absent(then: Sequence[str], now: Sequence[str]) -> list[str]:
    """An index counts by what it does, not by its name."""
    there = {_does(one) for one in now}
    return [one for one in then if _does(one) not in there]


def _does(definition: str) -> tuple[bool, str]:
    return definition.startswith("CREATE UNIQUE"), definition.partition(" USING ")[2]


def _index(definition: str) -> str:
    return definition.partition(" ON ")[0].rpartition("INDEX ")[2]


async def _try(session: Connection, says: str, statements: Iterable[str]) -> str:
    try:
        async with session.transaction():
            for statement in statements:
                await session.execute(statement)
    except asyncpg.PostgresError as error:  # the extension has error codes of its own
        if isinstance(error, LOST):
            raise
        return f"Not given back: {says}. {words(error)}."
    return f"Given back: {says}."


def _literal(text: str) -> str:
    """A constant, under standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"
