"""What a downgrade destroyed, found the slow and simple way: every row of every table is fetched before and after, and compared in Python.

It shares no line with the product, so that the two can disagree.
"""

from __future__ import annotations

import re
import subprocess  # noqa: TID251  pg_dump is the judge of what a schema is
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

import psycopg
from psycopg import sql

from bot.place import Connect

Name = tuple[str, str]  # kind and quoted name, as the card says them
Losses = dict[Name, int]

_TABLES = """
SELECT c.oid, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"""
_COLUMNS = """
SELECT attnum, attname, quote_ident(attname), format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
_UNIQUE = """
SELECT indkey::int[] FROM pg_index WHERE indrelid = %s AND indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL
ORDER BY indisprimary DESC, indnatts, indexrelid"""
_LABELS = """
SELECT t.oid, format('%I.%I', n.nspname, t.typname), e.enumlabel, quote_ident(e.enumlabel), format_type(t.oid, NULL)
FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname !~ '^pg_'"""
_GUARDS = """
SELECT CASE contype WHEN 'f' THEN 'foreign key' WHEN 'c' THEN 'constraint' ELSE 'unique' END, conrelid,
  format('%I.%I.%I', n.nspname, c.relname, conname), pg_get_constraintdef(k.oid), conkey::int[]
FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE contype IN ('f', 'u', 'p', 'c') AND n.nspname = 'public'
UNION ALL
SELECT CASE WHEN indisunique THEN 'unique' ELSE 'index' END, indrelid, format('%I.%I', n.nspname, x.relname),
  regexp_replace(pg_get_indexdef(i.indexrelid), '^.* USING', ''), indkey::int[]
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x'))"""
_PINNED = """
SET extra_float_digits = 3; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex';
SET search_path = pg_catalog"""


@dataclass(frozen=True)
class Column:
    name: str
    quoted: str
    type: str
    required: bool


@dataclass(frozen=True)
class Table:
    name: str
    columns: dict[int, Column]
    keys: list[tuple[int, ...]]
    #: one dict a row, by number of the column; values as text
    rows: list[dict[int, str | None]] = field(repr=False)


@dataclass(frozen=True)
class Photo:
    """Every row of a database, and its schema as pg_dump writes it."""

    tables: dict[int, Table]
    labels: list[tuple[int, str, str, str, str]]
    guards: list[tuple[str, int, str, str, tuple[int, ...]]]
    schema: str = field(repr=False)

    def lines(self) -> list[str]:
        """The schema, where the order of columns does not count: a column that was dropped and added again comes last."""
        return sorted(line.strip().rstrip(",") for line in self.schema.splitlines())

    def rows(self) -> dict[str, Counter[tuple[tuple[str, str | None], ...]]]:
        """By names, for comparing two databases that came about in different ways."""
        return {
            table.name: Counter(tuple(sorted((table.columns[number].name, value) for number, value in row.items())) for row in table.rows)
            for table in self.tables.values()
        }


def photo(connect: Connect, programs: Path) -> Photo:
    """`programs` is a folder with a pg_dump of the server's version."""
    with psycopg.connect(connect.url()) as session:
        session.execute(_PINNED)
        found = {oid: _table(session, oid, schema, name, quoted) for oid, schema, name, quoted in session.execute(_TABLES).fetchall()}
        guards = [(kind, table, name, words, tuple(keys or ())) for kind, table, name, words, keys in session.execute(_GUARDS).fetchall()]
        return Photo(found, session.execute(_LABELS).fetchall(), guards, _schema(connect, programs))


def _table(session: psycopg.Connection, oid: int, schema: str, name: str, quoted: str) -> Table:
    columns = {number: Column(*rest) for number, *rest in session.execute(_COLUMNS, (oid,)).fetchall()}
    keys = [tuple(row[0]) for row in session.execute(_UNIQUE, (oid,)).fetchall()]
    keys = [key for key in keys if all(number in columns and columns[number].required for number in key)]
    values = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column.name)) for column in columns.values())
    rows = session.execute(sql.SQL("SELECT {} FROM ONLY {}").format(values, sql.Identifier(schema, name))).fetchall()
    return Table(quoted, columns, keys, [dict(zip(columns, row, strict=True)) for row in rows])


def _schema(connect: Connect, programs: Path) -> str:
    done = subprocess.run(
        [str(programs / "pg_dump"), "--schema-only", "--dbname", connect.model_copy(update={"password": ""}).url()],
        check=True, capture_output=True, text=True, env={"PGPASSWORD": connect.password},
    )  # fmt: skip
    return re.sub(r"^\\(un)?restrict .*$|^--.*$", "", done.stdout, flags=re.MULTILINE)


# ------------------------------------------------------------------ compared


def lost(before: Photo, after: Photo) -> Losses:
    """`after` is the same database later, or a clone of it later: tables keep their OIDs, columns their numbers."""
    found: Losses = {}
    names = {table.name: oid for oid, table in after.tables.items()}
    for oid, was in before.tables.items():
        now = after.tables.get(oid) or after.tables.get(next((o for name, o in names.items() if name == was.name and o not in before.tables), -1))
        found |= {("table", was.name): len(was.rows)} if now is None else _of_table(was, now)
    return found | _of_labels(before, after)


def _of_table(was: Table, now: Table) -> Losses:
    found: Losses = {}
    again = {column.name: number for number, column in now.columns.items() if number not in was.columns}
    same = {number: again.get(column.name, number) if number not in now.columns else number for number, column in was.columns.items()}
    same = {number: other for number, other in same.items() if other in now.columns}
    for number, column in was.columns.items():
        if number not in same:
            found["column", f"{was.name}.{column.quoted}"] = sum(row[number] is not None for row in was.rows)
    key = next((key for key in was.keys if all(number in same for number in key)), None)
    if key is None:
        gone = Counter(tuple(row[n] for n in same) for row in was.rows) - Counter(tuple(row[same[n]] for n in same) for row in now.rows)
        return found | ({("rows", was.name): gone.total()} if gone else {})
    rows = {tuple(_plain(row[same[n]]) for n in key): row for row in now.rows}
    missing = [row for row in was.rows if tuple(_plain(row[n]) for n in key) not in rows]
    if missing:
        found["rows", was.name] = len(missing)
    for number, other in same.items():
        pairs = ((row[number], rows[mine][other]) for row in was.rows if (mine := tuple(_plain(row[n]) for n in key)) in rows)
        converted = was.columns[number].type != now.columns[other].type
        if changed := sum(one != two if not converted else _plain(one) != _plain(two) for one, two in pairs):
            found["values", f"{was.name}.{was.columns[number].quoted}"] = changed
    return found


def _plain(value: str | None) -> str | Decimal | None:
    """1.20 and 1.2 are one number."""
    try:
        return None if value is None else Decimal(value).normalize()
    except InvalidOperation:
        return value


def _of_labels(before: Photo, after: Photo) -> Losses:
    """Labels that an enum does not have any more, and how many values had them."""
    found: Losses = {}
    left = {(name, label) for _, name, label, _, _ in after.labels}
    for _, name, label, quoted, kind in before.labels:
        if (name, label) in left or name not in {one for one, _ in left}:
            continue
        places = [(table, number) for table in before.tables.values() for number, column in table.columns.items() if column.type == kind]
        if used := sum(row[number] == label for table, number in places for row in table.rows):
            found["enum", f"{name}.{quoted}"] = used
    return found


def unguarded(before: Photo, after: Photo) -> set[Name]:
    """Constraints and indexes that are gone from tables and columns that are still there."""
    left = {(kind, table, words) for kind, table, _, words, _ in after.guards}
    return {
        (kind, name)
        for kind, table, name, words, numbers in before.guards
        if table in after.tables and (kind, table, words) not in left and any(number in after.tables[table].columns for number in numbers if number)
    }
