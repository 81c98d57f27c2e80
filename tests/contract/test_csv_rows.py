"""A CSV that others made: recognised by its name, read once, and its rows loaded into an empty table, or refused with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bot.databases import csv_rows
from bot.errors import StepFailed
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract.servers import execute, session

TABLE = """CREATE TABLE "Odd name" (id int PRIMARY KEY, note text, at timestamptz, twice int GENERATED ALWAYS AS (id * 2) STORED,
 n int GENERATED ALWAYS AS IDENTITY)"""
NAME = 'public."Odd name"'


@pytest.fixture
async def empty(make_database: MakeDatabase) -> Connect:
    made = make_database("beside")
    await execute(made, TABLE)
    return made


async def blocks(text: str | bytes, size: int = 7) -> AsyncIterator[bytes]:
    data = text.encode() if isinstance(text, str) else text
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_columns_in_any_order_quotes_nulls_and_line_ends_are_read_as_copy_reads_them(empty: Connect) -> None:
    text = '\ufeffnote,n,id,at\r\n"a ""b"",\r\nc",7,1,2026-01-17 10:00:00+00\r\n,8,2,\r\n"",9,3,\r\n'
    assert await csv_rows.load(empty, NAME, blocks(text)) == 3
    async with session(empty) as there:
        rows = await there.fetch(f"SELECT id, note, n, twice FROM {NAME} ORDER BY id")
    assert [tuple(row) for row in rows] == [(1, 'a "b",\r\nc', 7, 2), (2, None, 8, 4), (3, "", 9, 6)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,note,at\n", "n is missing"),
        ("id,note,at,n,more\n", "'more' is no column"),
        ("id,note,at,n,n\n", "n is there twice"),
        ("", "id is missing"),
        ("\x00\xff,id\n".encode("latin-1"), "no header"),
        ("id,note,at,n\nx,a,,1\n", "does not fit.*integer"),
        ("id,note,at,n\n1,a,,1\n1,b,,2\n", "does not fit.*unique|does not fit.*duplicate"),
        ('id,note,at,n\n1,"a,,1\n', "does not fit.*unterminated"),
        ("id,note,at,n\n1,a\n", "does not fit.*missing data"),
    ],
)
async def test_what_is_no_table_of_these_columns_is_refused_and_nothing_is_loaded(empty: Connect, text: str | bytes, says: str) -> None:
    with pytest.raises(StepFailed, match=says):
        await csv_rows.load(empty, NAME, blocks(text))
    async with session(empty) as there:
        assert await there.fetchval(f"SELECT count(*) FROM {NAME}") == 0


async def test_a_table_that_is_not_there_is_said(empty: Connect) -> None:
    with pytest.raises(StepFailed, match=r"no table public\.gone"):
        await csv_rows.load(empty, "public.gone", blocks("id\n"))
