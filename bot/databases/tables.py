"""What a database's tables are, as two copies of one database are compared: by OID and attribute number, which a clone keeps (databases.md F19).

Everything that holds rows of its own is here, also what extensions brought (but TimescaleDB's bookkeeping); foreign tables and views are not.
A hypertable is as a partitioned table, whose parts are its chunks.
Values are turned into text by the output functions of their types, never by casts that somebody made: we may be a superuser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from bot.databases import hypertables
from bot.databases.connecting import CATALOG, Connection

#: A value's text depends on these six and the role (databases.md F19). Reading takes as long as it takes: one side waits for the other.
READING = {
    **CATALOG,
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "work_mem": "64MB",
}
PATIENCE = 6 * 3600.0  # seconds for one query: the driver's own limit is for catalogs
SAMPLES = 3
ROW = "_backout_"  #: what a table is called in our queries, so that no column of it can be mistaken for the row

_TABLES = """
SELECT c.oid, c.relkind::text, c.relname, format('%I.%I', n.nspname, c.relname) AS name, c.relfilenode, coalesce(am.amname = 'heap', false) AS heap,
  c.relispartition AS partition, CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid ELSE c.oid END AS root,
  CASE WHEN $1 AND c.relkind = 'r' THEN coalesce(pg_relation_size(c.oid), 0) ELSE -1 END AS size,
  c.relrowsecurity AS secured, c.relforcerowsecurity AS forced,
  ARRAY(SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1)::int[] AS numbers,
  (SELECT md5(string_agg(format('%s %s %s', a.attnum, a.atttypid, a.atttypmod), ' ' ORDER BY a.attnum)) FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS types
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am am ON am.oid = c.relam
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT (n.nspname ~ '^_timescaledb_' AND EXISTS (
    SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'))
ORDER BY n.nspname, c.relname"""

# A default is evaluated only when it is made of constants and immutable functions of the server's own.
_COLUMNS = """
SELECT a.attrelid AS table, a.attnum AS number, a.attname AS name, quote_ident(a.attname) AS ident,
  format_type(a.atttypid, a.atttypmod) AS type, a.atttypid AS type_oid,
  a.atttypmod AS modifier, CASE WHEN tn.nspname = 'pg_catalog' AND t.typtype = 'b' THEN t.typname ELSE '' END AS base,
  t.typtype = 'e' AS enum, a.attgenerated <> '' AS generated,
  CASE WHEN a.attgenerated = '' AND d.adbin::text !~ 'COERCETODOMAIN|SQLVALUEFUNCTION|NEXTVALUEEXPR|SUBLINK' AND NOT EXISTS (
      SELECT FROM regexp_matches(d.adbin::text, ':(?:func|opfunc|elemfunc)id (\\d+)', 'g') m LEFT JOIN pg_proc p ON p.oid = m[1]::oid
      WHERE m[1] <> '0' AND (p.provolatile IS DISTINCT FROM 'i' OR p.pronamespace <> 'pg_catalog'::regnamespace))
    THEN pg_get_expr(d.adbin, d.adrelid) END AS fallback
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum"""

_KEYS = """
SELECT i.indrelid AS table, i.indkey::int[] AS numbers FROM pg_index i
WHERE i.indrelid = ANY($1::oid[]) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND i.indnkeyatts = i.indnatts AND NOT EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) AND NOT a.attnotnull)
ORDER BY i.indrelid, i.indisprimary DESC, i.indnatts, i.indexrelid"""

_WHOLE = frozenset({"int2", "int4", "int8"})
_EXACT = _WHOLE | {"numeric"}
_FLOATING = frozenset({"float4", "float8"})
_MOMENTS = frozenset({"timestamp", "timestamptz"})
_STRINGS = frozenset({"text", "varchar"})
_WHEN = (re.compile("updat|modif|chang"), re.compile("creat|insert|added"), re.compile(""))


@dataclass(frozen=True, slots=True)
class Column:
    """`base` is the name of a type that the server brings, else empty. `fallback` is its default where that is a constant."""

    number: int
    name: str
    ident: str
    type: str
    type_oid: int
    modifier: int
    base: str
    enum: bool
    generated: bool
    fallback: str | None

    @property
    def value(self) -> str:
        return f"{ROW}.{self.ident}"

    @property
    def text(self) -> str:
        """Its value as text, in an order that no collation changes; null stays null."""
        if self.base:
            return f'{self.value}::text COLLATE "C"'
        return f"""CASE WHEN {self.value} IS DISTINCT FROM NULL THEN format('%s', {self.value}) END COLLATE "C\""""


@dataclass(frozen=True, slots=True)
class Table:
    """`root` is the top of its partition tree, or itself; `size` its bytes, or -1. `types` changes when the type of any column does.

    `chunk`: a part whose name says nothing to anybody; `packed`: a chunk whose rows lie in compressed batches elsewhere.
    """

    oid: int
    relkind: str
    relname: str
    name: str
    relfilenode: int
    heap: bool
    partition: bool
    root: int
    size: int
    secured: bool
    forced: bool
    numbers: tuple[int, ...]
    types: str | None
    chunk: bool = False
    packed: bool = False

    @property
    def empty(self) -> bool:
        return self.heap and self.size == 0

    @property
    def from_(self) -> str:
        """ONLY: what inherits from it is read by itself, or is foreign."""
        return f"FROM ONLY {self.name} {ROW}"


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's columns by number, and its keys: the primary key first, then unique indexes of columns that can't be null."""

    columns: Mapping[int, Column] = field(default_factory=dict)
    keys: Sequence[tuple[int, ...]] = ()

    def named(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns.values()}

    def key(self) -> tuple[Column, ...]:
        return tuple(self.columns[number] for number in self.keys[0]) if self.keys else ()

    def newest(self) -> Column | None:
        """The timestamp that says best when a row was written."""
        moments = [column for column in self.columns.values() if column.base in _MOMENTS]
        return next((column for looks in _WHEN for column in moments if looks.search(column.name)), None)


async def read_tables(session: Connection, *, sizes: bool) -> dict[int, Table]:
    """By OID, in the order of their names. Asking for a size waits for whoever holds the table: only where nobody does."""
    rows = await session.fetch(_TABLES, sizes, timeout=PATIENCE)
    parts = await hypertables.known(session)
    return {row["oid"]: _table(row, parts) for row in rows}


def _table(row: asyncpg.Record, parts: hypertables.Known) -> Table:
    found: dict[str, Any] = {**row, "numbers": tuple(row["numbers"])}
    if row["oid"] in parts.roots:
        found["relkind"] = "p"
    elif (root := parts.chunks.get(row["oid"])) is not None:
        found |= {"partition": True, "root": root, "chunk": True, "packed": row["oid"] in parts.compressed}
    return Table(**found)


async def read_shapes(session: Connection, oids: Iterable[int]) -> dict[int, Shape]:
    wanted = list(oids)
    columns: dict[int, dict[int, Column]] = {oid: {} for oid in wanted}
    keys: dict[int, list[tuple[int, ...]]] = {oid: [] for oid in wanted}
    for row in await session.fetch(_COLUMNS, wanted, timeout=PATIENCE):
        columns[row["table"]][row["number"]] = _column(row)
    for row in await session.fetch(_KEYS, wanted, timeout=PATIENCE):
        keys[row["table"]].append(tuple(row["numbers"]))
    return {oid: Shape(columns[oid], keys[oid]) for oid in wanted}


def _column(row: asyncpg.Record) -> Column:
    return Column(**{key: value for key, value in row.items() if key != "table"})


def same_bytes(before: Column, after: Column) -> bool:
    """A row that was not written since says the same in both types."""
    if before.type_oid == after.type_oid:
        return True
    return {before.base, after.base} <= _STRINGS or {before.base, after.base} <= _MOMENTS


def comparable(before: Column, after: Column) -> tuple[str, str]:
    """Text of both sides that is equal when nothing was lost: the value of after, taken back to the type of before. Never an error of a cast."""
    bases = {before.base, after.base}
    if before.type_oid == after.type_oid and before.modifier == after.modifier:
        return before.text, after.text
    if bases <= _WHOLE:
        return before.text, after.text
    if bases <= _EXACT or (before.base in _EXACT and after.base in _FLOATING):
        return _number(before), _number(after)
    if bases == {"_numeric"}:
        return _unpadded(before.text), _unpadded(after.text)
    if before.base in _FLOATING and after.base in _FLOATING | _EXACT:
        return f'{before.value}::float8::text COLLATE "C"', f'{after.value}::float8::text COLLATE "C"'
    if bases <= _MOMENTS | {"date"} or bases in ({"json", "jsonb"}, {"bool", "int4"}):
        return before.text, f'{after.value}::{before.base}::text COLLATE "C"'
    return before.text, after.text


def _number(column: Column) -> str:
    """1.20 and 1.2 are one number. With 0.0 there is always a point, so that a hundred keeps its zeros."""
    return f"rtrim(rtrim(({column.value}::numeric + 0.0)::text, '0'), '.') COLLATE \"C\""


def _unpadded(text: str) -> str:
    """The same inside an array; slower."""
    whole = rf"regexp_replace({text}, '\.0+(?=[,}}]|$)', '', 'g')"
    return rf"regexp_replace({whole}, '(\.[0-9]*[1-9])0+(?=[,}}]|$)', '\1', 'g')"


@dataclass
class Tally:
    """Rows or values that were lost: how many, the newest moment among them, the first three keys."""

    count: int = 0
    newest: str | None = None
    samples: list[tuple[Any, str]] = field(default_factory=list)

    def add(self, newest: str | None, key: Sequence[str] = (), names: Sequence[str] = (), *, times: int = 1) -> None:
        self.count += times
        if newest is not None and (self.newest is None or newest > self.newest):
            self.newest = newest
        if key and (len(self.samples) < SAMPLES or _place(key) < self.samples[-1][0]):
            self.samples = sorted([*self.samples, (_place(key), _said(key, names))])[:SAMPLES]

    def merge(self, other: Tally) -> None:
        self.count += other.count
        if other.newest is not None and (self.newest is None or other.newest > self.newest):
            self.newest = other.newest
        self.samples = sorted(self.samples + other.samples)[:SAMPLES]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for _, key in self.samples)


def _place(key: Sequence[str]) -> tuple[tuple[int, int, str], ...]:
    """In the order of keys: numbers as numbers."""
    return tuple((0, int(value), "") if value.lstrip("-").isdecimal() else (1, 0, value) for value in key)


def _said(key: Sequence[str], names: Sequence[str]) -> str:
    """'id=17' or 'a=1, b=x'."""
    return ", ".join(f"{name}={value if len(value) <= 60 else value[:57] + '...'}" for name, value in zip(names, key, strict=True))
