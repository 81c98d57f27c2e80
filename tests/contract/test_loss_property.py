"""Whatever the schema, the rows and the downgrade: the loss that is reported is the one found by comparing all rows of both sides here."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from bot.databases.difference import lost_since
from bot.evidence import Loss
from bot.place import Connect

#: type -> values of it, as SQL writes them
VALUES = {
    "int": ("0", "7", "-7", "2000000000"),
    "bigint": ("0", "9000000000"),
    "numeric(8,3)": ("0", "1.5", "1.234", "'NaN'"),
    "float8": ("0.1", "0.5", "1e100", "'-Infinity'"),
    "text": ("''", "'a'", "'a,b'", "'{\"x\"}'", "'null'", "'ü'"),
    "varchar(9)": ("'abc'", "'abcdef'"),
    "timestamp": ("'2026-01-01 00:00:00.25'", "'2026-11-20'", "'infinity'"),
    "timestamptz": ("'2026-01-01 00:00:00.25+02'", "'2026-11-20'"),
    "bool": ("true", "false"),
    "jsonb": ("'{\"a\": [1, null]}'", "'null'"),
    "json": ("'{\"a\" : 1}'", "'{\"a\":1}'"),
    "bytea": ("'\\x00ff'", "''"),
    "text[]": ("'{}'", "'{a,NULL,\"b,c\"}'"),
    "mood": ("'sad'", "'so so'"),
    "pair": ("(1, 'x')", "(1, NULL)", "(NULL, NULL)"),
    "int4range": ("'[1,5)'", "'empty'"),
    "uuid": ("'00000000-0000-0000-0000-000000000001'",),
}
#: what a type may become
NARROWER = {
    "numeric(8,3)": ("numeric(8,2)", "numeric(9,3)", "numeric(9,4)"),
    "varchar(9)": ("varchar(3) USING left({}, 3)", "text"),
    "timestamp": ("timestamp(0)",),
    "int": ("bigint", "int USING {} / 2", "numeric"),
    "text": ("text USING upper({})", "varchar"),
    "mood": ("text",),
    "jsonb": ("json",),
}
KEYS = ("none", "id int", "id bigint", "id text", "id uuid", "id int, other text")


@dataclass
class Table:
    name: str
    key: tuple[str, ...]
    columns: dict[str, str]

    @property
    def quoted(self) -> str:
        return '"' + self.name.replace('"', '""') + '"'


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, list[str]]:
    """A table and the SQL that makes it, with rows."""
    name = draw(st.sampled_from(["orders", "Users", 'weird"".t', "t", "select"]))
    key = draw(st.sampled_from(KEYS))
    made = {} if key == "none" else dict(part.split(" ") for part in key.split(", "))
    columns = {f"c{n}": draw(st.sampled_from(sorted(VALUES))) for n in range(draw(st.integers(0 if made else 1, 4)))}
    table = Table(name, tuple(made), columns)
    parts = [f"{column} {kind}" for column, kind in (made | columns).items()] + ([f"PRIMARY KEY ({', '.join(made)})"] if made else [])
    script = [f"CREATE TABLE {table.quoted} ({', '.join(parts)})"]
    for number in range(draw(st.integers(0, 12))):
        keyed = [f"md5('{number}')::uuid" if kind == "uuid" else f"'{number - 3}'" for kind in made.values()]
        values = [draw(st.sampled_from((*VALUES[kind], "NULL"))) for kind in columns.values()]
        script.append(f"INSERT INTO {table.quoted} VALUES ({', '.join(keyed + values)})")
    if draw(st.booleans()) and columns:  # attribute numbers with a hole
        script[1:1] = [f"ALTER TABLE {table.quoted} ADD gone int", f"ALTER TABLE {table.quoted} DROP gone"]
    return table, script


@st.composite
def downgrades(draw: st.DrawFn, table: Table) -> list[str]:
    column = draw(st.sampled_from(sorted(table.columns))) if table.columns else None
    where = draw(
        st.sampled_from(["true", "false", "ctid::text LIKE '%1)'", f"{table.key[0]}::text LIKE '%1%'" if table.key else "ctid::text LIKE '%2)'"])
    )
    choices = ["drop", "delete", "vacuum", "rename", "touch", "rewrite"]
    choices += ["drop column", "update", "alter type", "rename column"] if column else []
    choices += ["drop key"] if table.key else []
    match draw(st.sampled_from(choices)):
        case "drop":
            return [f"DROP TABLE {table.quoted}"]
        case "delete":
            return [f"DELETE FROM {table.quoted} WHERE {where}"]
        case "vacuum":
            return [f"DELETE FROM {table.quoted} WHERE {where}", f"VACUUM (FREEZE) {table.quoted}"]
        case "rename":
            return [f"ALTER TABLE {table.quoted} RENAME TO another_{secrets.token_hex(3)}"]
        case "touch" if column:
            return [f"UPDATE {table.quoted} SET {column} = {column} WHERE {where}"]
        case "rewrite":
            return [f"VACUUM (FULL) {table.quoted}"]
        case "drop column":
            return [f"ALTER TABLE {table.quoted} DROP COLUMN {column}"]
        case "update" if column:
            value = draw(st.sampled_from((*VALUES[table.columns[column]], "NULL")))
            return [f"UPDATE {table.quoted} SET {column} = {value} WHERE {where}"]
        case "alter type" if column and table.columns[column] in NARROWER:
            new = draw(st.sampled_from(NARROWER[table.columns[column]]))
            return [f"ALTER TABLE {table.quoted} ALTER {column} TYPE {new.format(column)}"]
        case "rename column":
            return [f"ALTER TABLE {table.quoted} RENAME {column} TO renamed"]
        case "drop key":
            return [f"ALTER TABLE {table.quoted} DROP CONSTRAINT {key_of(table)}"]
    return []


def key_of(table: Table) -> str:
    return '"' + f"{table.name}_pkey".replace('"', '""') + '"'


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Table], list[str], list[str]]:
    found = draw(st.lists(tables(), min_size=1, max_size=3, unique_by=lambda one: one[0].name))
    script = ["CREATE TYPE mood AS ENUM ('sad', 'so so')", "CREATE TYPE pair AS (a int, b text)", *(line for _, one in found for line in one)]
    undone = [line for table, _ in found if draw(st.booleans()) for line in draw(downgrades(table))]
    return [table for table, _ in found], script, undone


# ------------------------------------------------------------------ the same, by brute force

Rows = list[dict[int, Any]]


def everything(connect: Connect) -> dict[int, tuple[str, dict[int, tuple[str, str]], Rows]]:
    """By OID: name, columns by number with name and type, every row by number, as the text that a person would see."""
    found: dict[int, tuple[str, dict[int, tuple[str, str]], Rows]] = {}
    with psycopg.connect(connect.url(), options="-c timezone=UTC") as session:
        for oid, name in session.execute(
            "SELECT oid, relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall():
            columns = {
                number: (column, kind)
                for number, column, kind in session.execute(
                    "SELECT attnum, attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped",
                    (oid,),
                ).fetchall()
            }
            listed = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column, _ in columns.values())
            rows = session.execute(sql.SQL("SELECT {} FROM {}").format(listed, sql.Identifier(name))).fetchall()
            found[oid] = (name, columns, [dict(zip(columns, row, strict=True)) for row in rows])
    return found


def same(kind: str, value: str | None) -> str | None:
    """1.20 is 1.2."""
    return value.rstrip("0").rstrip(".") if kind == "numeric" and value and "." in value else value


def brute(table: Table, before: tuple[Any, ...], after: tuple[Any, ...] | None) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    name = f"public.{quote(table.name)}"
    _, columns, rows = before
    if after is None:
        return Counter({("table", name): len(rows)})
    there = [number for number in columns if number in after[1]]
    for number in columns:
        if number not in there:
            found["column", f"{name}.{columns[number][0]}"] = sum(row[number] is not None for row in rows)
    keys = [number for number in columns if columns[number][0] in table.key]

    def seen(row: dict[int, Any], numbers: list[int]) -> tuple[str | None, ...]:
        return tuple(same(columns[number][1], row[number]) for number in numbers)

    if not keys:
        found["rows", name] = (Counter(seen(row, there) for row in rows) - Counter(seen(row, there) for row in after[2])).total()
        return found
    now = {seen(row, keys): row for row in after[2]}
    for row in rows:
        other = now.get(seen(row, keys))
        if other is None:
            found["rows", name] += 1
            continue
        for number in there:
            if seen(row, [number]) != seen(other, [number]):
                found["values", f"{name}.{columns[number][0]}"] += 1
    return found


def quote(name: str) -> str:
    return name if name.islower() and name.isidentifier() and name != "select" else '"' + name.replace('"', '""') + '"'


async def _nothing(_: str) -> None: ...


class Clones:
    """A database, and the clone of it that is compared: made for one example, gone after it."""

    def __init__(self, server: Connect) -> None:
        self._server = server
        self.name = f"loss_{secrets.token_hex(4)}"
        self.before, self.after = (server.model_copy(update={"database": f"{self.name}_{side}"}) for side in ("before", "after"))

    def __enter__(self) -> Clones:
        self._admin = psycopg.connect(self._server.url(), autocommit=True)
        self._say(f"CREATE DATABASE {self.after.database}")
        return self

    def __exit__(self, *_: object) -> None:
        for side in (self.before, self.after):
            self._say(f"DROP DATABASE IF EXISTS {side.database} WITH (FORCE)")
        self._admin.close()

    def _say(self, statement: str) -> None:
        self._admin.execute(statement.encode())

    def clone(self) -> None:
        self._say(f"CREATE DATABASE {self.before.database} TEMPLATE {self.after.database}")
        with psycopg.connect(self.after.url(), autocommit=True) as session:
            session.execute("SELECT pg_stat_reset()")

    def run(self, script: list[str]) -> None:
        with psycopg.connect(self.after.url(), autocommit=True) as session:
            for statement in script:
                session.execute(statement.encode())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(case=cases())
def test_the_reported_loss_is_the_loss_found_by_comparing_all_rows(server: Connect, case: tuple[list[Table], list[str], list[str]]) -> None:
    made, script, undone = case
    with Clones(server) as pair:
        pair.run(script)
        pair.clone()
        pair.run(undone)
        losses = asyncio.run(lost_since(pair.before, pair.after, _nothing))
        assert asyncio.run(lost_since(pair.before, pair.after, _nothing, counted=True)) == losses, "where the server's counters say what to pass over"
        before, after = everything(pair.before), everything(pair.after)
    by_name = {table.name: table for table in made}
    expected: Counter[tuple[str, str]] = Counter()
    for oid, was in before.items():
        expected.update(brute(by_name[was[0]], was, after.get(oid)))
    reported = {loss.thing(): loss.count for loss in losses if loss.kind in ("table", "column", "rows", "values", "unreadable")}
    wanted = {thing: count for thing, count in expected.items() if count or thing[0] in ("table", "column")}
    assert reported == wanted
    assert all(sampled(loss) for loss in losses)


def sampled(loss: Loss) -> bool:
    return len(loss.keys) in (0, min(loss.count or 0, 3))
