"""Whatever rows hold: archived, dropped, made again and put back, every value is what it was, to the byte."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.databases.pieces import PINNED, text_of
from bot.place import Connect
from tests.contract.archiving import Shelf, lost
from tests.contract.servers import execute, session

SCHEMA = '''"Sch""ema.x"'''
TABLE = f'''{SCHEMA}."weird"".table"'''
NAME = '''"Sch""ema.x"."weird"".table"'''
BEFORE = (
    "CREATE EXTENSION vector",
    f"CREATE SCHEMA {SCHEMA}",
    f"CREATE TYPE {SCHEMA}.mood AS ENUM ('sad', 'so; so', 'Glad')",
    f"CREATE DOMAIN {SCHEMA}.positive AS int CHECK (VALUE > 0)",
    f"CREATE TYPE {SCHEMA}.pair AS (a int, b text)",
)
#: column -> its type, and its values as text (None: null)
printable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
whole = st.integers(-(2**31), 2**31 - 1)
floats = st.one_of(st.sampled_from(["NaN", "Infinity", "-Infinity", "0.30000000000000004", "-0", "5e-324"]), st.floats(width=64).map(repr))
moments = st.datetimes().map(lambda moment: moment.isoformat(sep=" ") if moment.year > 999 else "infinity")
addresses = st.ip_addresses().map(str)
COLUMNS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "text": ("text", st.one_of(st.sampled_from(["", "\\N", "\t", "a\nb\r\nc", "\\", "\\.", "NULL"]), printable)),
    "Mixed": ("varchar(20)", printable),
    "select": ("char(5)", printable.map(lambda text: text[:5])),
    "numeric": ("numeric", st.one_of(st.just("NaN"), st.just("Infinity"), st.decimals(allow_nan=False, allow_infinity=False).map(str))),
    "exact": ("numeric(8,3)", st.decimals(-99999, 99999, places=3).map(str)),
    "float8": ("float8", floats),
    "float4": ("float4", st.one_of(st.sampled_from(["NaN", "-Infinity"]), st.floats(width=32).map(repr))),
    "bool": ("boolean", st.booleans().map(str)),
    "bytea": ("bytea", st.binary(max_size=30).map(lambda data: f"\\x{data.hex()}")),
    "stamp": ("timestamptz", moments),
    "day": ("date", st.dates().map(str)),
    "span": ("interval", st.timedeltas().map(lambda span: f"{span.days} days {span.seconds} seconds {span.microseconds} microseconds")),
    "inet": ("inet", addresses),
    "uuid": ("uuid", st.uuids().map(str)),
    "json": ("json", st.sampled_from(['{"a": 1,  "a": 2}', "[]", '"\\u00e9\\t"', "null"])),
    "jsonb": ("jsonb", st.sampled_from(['{"a": 1,  "a": 2}', "[]", '"\\u00e9\\t"', "null", '{"n": 1.500}'])),
    "point": ("point", st.tuples(whole, whole).map(lambda place: f"({place[0]},{place[1]})")),
    "ints": ("int[]", st.sampled_from(["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[5:6]={7,8}"])),
    "texts": ("text[]", st.sampled_from(["{}", '{"",NULL,"NULL","a,b","\\"","\\\\"}', '{"tab\t","line\n"}'])),
    "range": ("int4range", st.sampled_from(["empty", "[1,5)", "(,)", "[3,]"])),
    "ranges": ("tstzmultirange", st.sampled_from(["{}", '{["2026-01-01 00:00:00+00","2026-02-01 00:00:00+00"),["2026-03-01 00:00:00+00",)}'])),
    "mood": (f"{SCHEMA}.mood", st.sampled_from(["sad", "so; so", "Glad"])),
    "moods": (f"{SCHEMA}.mood[]", st.sampled_from(["{}", '{sad,"so; so",NULL}'])),
    "positive": (f"{SCHEMA}.positive", st.integers(1, 99).map(str)),
    "pair": (f"{SCHEMA}.pair", st.sampled_from(["(,)", '(1,"a ""b"" (c)")', "(,x)"])),
    "vector": ("public.vector(3)", st.sampled_from(["[1,2,3]", "[0.1,-0.2,1e-30]"])),
    "bits": ("bit varying", st.sampled_from(["", "101"])),
    "money": ("money", st.sampled_from(["$1.50", "-$12,345.67"])),
}
NEW = {name: "NULL" if name != "positive" else "1" for name in COLUMNS}


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def made(*columns: str, partitioned: bool) -> list[str]:
    listed = ", ".join(f"{quote(name)} {COLUMNS[name][0]}" for name in columns)
    twice = f", twice text GENERATED ALWAYS AS ({quote('text')} || '!') STORED" if "text" in columns else ""
    always = f"CREATE TABLE {TABLE} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {listed}{twice})"
    if not partitioned:
        return [always]
    return [
        f"{always} PARTITION BY RANGE (id)",
        f"CREATE TABLE {SCHEMA}.low PARTITION OF {TABLE} FOR VALUES FROM (MINVALUE) TO (3)",
        f"CREATE TABLE {SCHEMA}.rest PARTITION OF {TABLE} DEFAULT",
    ]


rows = st.lists(st.fixed_dictionaries({name: st.one_of(st.none(), values) for name, (_, values) in COLUMNS.items()}), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def place(server: Connect) -> Iterator[Connect]:
    """One database for all examples; a superuser's, since extensions are made in it."""
    name = "round_trip"
    asyncio.run(execute(server, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"))
    own = server.model_copy(update={"database": name})
    asyncio.run(execute(own, *BEFORE))
    yield own
    asyncio.run(execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def fill(place: Connect, values: list[dict[str, str | None]]) -> None:
    names = ", ".join(quote(name) for name in COLUMNS)
    casts = ", ".join(f"${number}::text::{kind}" for number, (kind, _) in enumerate(COLUMNS.values(), 1))
    async with session(place, **PINNED) as open_:
        for row in values:
            await open_.execute(f"INSERT INTO {TABLE} ({names}) SELECT {casts}", *(row[name] for name in COLUMNS))


async def read(place: Connect) -> list[tuple[Any, ...]]:
    columns = ", ".join(text_of(quote(name)) for name in ("id", *COLUMNS, "twice"))
    async with session(place, **PINNED) as open_:
        return [tuple(row) for row in await open_.fetch(f"SELECT {columns} FROM {TABLE} ORDER BY id")]


async def round_trip(place: Connect, values: list[dict[str, str | None]], *, partitioned: bool, whole_table: bool) -> None:
    await execute(place, f"DROP TABLE IF EXISTS {TABLE}", *made(*COLUMNS, partitioned=partitioned))
    await fill(place, values)
    before = await read(place)
    lost_columns = [name for name in COLUMNS if name != "text"]
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(place, Path(folder) / "store")
        if whole_table:
            kept = await shelf.keep(lost("table", NAME))
            await execute(place, f"DROP TABLE {TABLE}", *made(*reversed(COLUMNS), partitioned=partitioned))
        else:
            # As format('%I') writes them: only what needs quotes has them.
            async with session(place) as open_:
                names = [await open_.fetchval("SELECT $1 || '.' || quote_ident($2)", NAME, name) for name in lost_columns]
            kept = await shelf.keep(lost("column", *names))
            await execute(place, *(f"ALTER TABLE {TABLE} DROP {quote(name)}" for name in lost_columns))
            await execute(place, *(f"ALTER TABLE {TABLE} ADD {quote(name)} {COLUMNS[name][0]} DEFAULT {NEW[name]}" for name in lost_columns))

        done = await shelf.put(kept)
        again = await shelf.put(kept)

    assert kept.left_out == {}
    assert (done.conflicts, again.conflicts) == ((), ())
    assert await read(place) == before
    assert (again.rows, again.values) == (0, 0)


@pytest.mark.parametrize("partitioned", [False, True])
@pytest.mark.parametrize("whole_table", [False, True])
def test_every_value_of_every_type_comes_back_to_the_byte(place: Connect, partitioned: bool, whole_table: bool) -> None:
    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(rows)
    def example(values: list[dict[str, str | None]]) -> None:
        asyncio.run(round_trip(place, values, partitioned=partitioned, whole_table=whole_table))

    example()
