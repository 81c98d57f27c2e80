"""Rows for a schema that nobody here wrote: every table gets some, in the order of its foreign keys, the same ones each time."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Json

from bot.place import Connect

_COLUMNS = """
SELECT c.oid AS table, c.relname, n.nspname, a.attname AS name, a.attnotnull AS required, t.typname AS type, a.attidentity <> '' OR
  coalesce(pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%', false) AS counted, a.attgenerated <> '' AS computed,
  CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 4 THEN a.atttypmod - 4 END AS length,
  ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels,
  (SELECT string_agg(pg_get_constraintdef(k.oid), ' ') FROM pg_constraint k
    WHERE k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY (k.conkey)) AS checks
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND n.nspname = 'public' AND a.attnum > 0 AND NOT a.attisdropped AND c.relname <> 'alembic_version'
ORDER BY c.relname, a.attnum"""

_KEYS = """
SELECT k.conrelid AS table, k.confrelid AS target, array_agg(mine.attname::text ORDER BY u.place) AS mine,
  array_agg(theirs.attname::text ORDER BY u.place) AS theirs
FROM pg_constraint k CROSS JOIN unnest(k.conkey, k.confkey) WITH ORDINALITY u(one, other, place)
JOIN pg_attribute mine ON mine.attrelid = k.conrelid AND mine.attnum = u.one
JOIN pg_attribute theirs ON theirs.attrelid = k.confrelid AND theirs.attnum = u.other
WHERE k.contype = 'f' GROUP BY k.oid, k.conrelid, k.confrelid, k.conname ORDER BY k.conrelid, k.conname"""

_WORDS = ("plain", "", 'it\'s "quoted"', "Zażółć gęślą jaźń", "tab\there", "back\\slash", "%s {url}", "null", "NULL", "a;b--c", "日本語")
_START = datetime(2026, 1, 1, 9, 30, 15, 123456, tzinfo=UTC)
Row = dict[str, Any]


def _moment(chance: random.Random, number: int) -> datetime:
    return _START + timedelta(hours=7 * number, microseconds=chance.randrange(10**6))


#: type -> a value of it for the n-th row
_MADE: Mapping[str, Callable[[random.Random, int], Any]] = {
    "bool": lambda chance, _: chance.random() < 0.5,
    "int2": lambda chance, _: chance.randrange(100),
    "int4": lambda chance, _: chance.randrange(1, 10**6),
    "int8": lambda chance, _: chance.randrange(1, 10**6),
    "float8": lambda chance, number: chance.choice((0.1, -2.5, 1e-7, 123456.789, 1.0)) * (number + 1),
    "numeric": lambda chance, number: Decimal(chance.randrange(10**5)) / 8 + number,
    "uuid": lambda chance, _: uuid.UUID(int=chance.getrandbits(128), version=4),
    "json": lambda chance, number: Json(chance.choice(({"n": number}, [1, "two", None], {}, {"deep": {"ü": [number, 0.1]}}))),
    "jsonb": lambda chance, number: Json(chance.choice(({"n": number}, [1, "two", None], {}, {"deep": {"ü": [number, 0.1]}}))),
    "timestamptz": _moment,
    "timestamp": lambda chance, number: _moment(chance, number).replace(tzinfo=None),
    "date": lambda chance, number: _moment(chance, number).date(),
    "interval": lambda _, number: timedelta(days=number, seconds=1.5),
    "bytea": lambda chance, _: bytes(chance.randrange(256) for _ in range(12)),
}


@dataclass(frozen=True)
class _Table:
    name: str
    schema: str
    columns: Sequence[Row]


def fill(connect: Connect, rows: int) -> dict[str, int]:
    """Insert about that many rows into every table: how many there are then. What a constraint refuses is left out."""
    chance = random.Random(4)
    with psycopg.connect(connect.url(), row_factory=dict_row) as session:
        tables: dict[int, _Table] = {}
        for column in session.execute(_COLUMNS).fetchall():
            tables.setdefault(column["table"], _Table(column["relname"], column["nspname"], []))
            tables[column["table"]].columns.append(column)  # type: ignore[attr-defined]
        keys = [key for key in session.execute(_KEYS).fetchall() if key["table"] in tables]
        there: dict[int, list[Row]] = {}
        for oid in _in_order(tables, keys):
            there[oid] = _some(session, tables[oid], [key for key in keys if key["table"] == oid], there, rows, chance)
        session.commit()
        return {tables[oid].name: len(found) for oid, found in there.items()}


def _in_order(tables: Mapping[int, _Table], keys: Sequence[Row]) -> list[int]:
    """What is referred to comes first, where that is possible."""
    order: list[int] = []
    waiting = list(tables)
    while waiting:
        needs = {one: [k for k in keys if k["table"] == one and k["target"] in waiting and k["target"] != one] for one in waiting}
        free = [one for one in waiting if not needs[one]] or [one for one in waiting if all(_may_be_null(k, tables[one]) for k in needs[one])]
        order += free[:1] or waiting[:1]
        waiting = [one for one in waiting if one not in order]
    return order


def _may_be_null(key: Row, table: _Table) -> bool:
    return not any(column["required"] for column in table.columns if column["name"] in key["mine"])


def _some(
    session: Any, table: _Table, keys: Sequence[Row], there: Mapping[int, list[Row]], rows: int, chance: random.Random
) -> list[Row]:  # fmt: skip
    found: list[Row] = session.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table.schema, table.name))).fetchall()
    for number in range(rows):
        values = {one["name"]: _value(one, chance, number) for one in table.columns if not one["counted"] and not one["computed"]}
        for key in keys:
            values |= _reference(key, table, there.get(key["target"], []), chance)
        names = list(values)
        insert = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING RETURNING *").format(
            sql.Identifier(table.schema, table.name),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.Placeholder() for _ in names),
        )
        try:
            with session.transaction():
                found += session.execute(insert, [values[name] for name in names]).fetchall()
        except (psycopg.errors.IntegrityError, psycopg.errors.RaiseException):
            continue
    return found


def _reference(key: Row, table: _Table, parents: Sequence[Row], chance: random.Random) -> Row:
    if _may_be_null(key, table) and (not parents or chance.random() < 0.3):
        return dict.fromkeys(key["mine"])
    if not parents:
        return {}
    parent = chance.choice(parents)
    return dict(zip(key["mine"], (parent[name] for name in key["theirs"]), strict=True))


def _value(column: Row, chance: random.Random, number: int) -> Any:
    if not column["required"] and chance.random() < 0.25:
        return None
    if allowed := re.findall(r"'((?:[^']|'')*)'::", column["checks"] or ""):
        return chance.choice(allowed)
    if column["labels"]:
        return chance.choice(column["labels"])
    if column["type"] in {"text", "varchar", "bpchar"}:
        return f"{chance.choice(_WORDS)}{number}"[-(column["length"] or 10**6) :]
    if column["type"].startswith("_"):
        return []
    return _MADE[column["type"]](chance, number)
