"""Rows of a CSV become rows of an empty table that is beside the live one: with a header that names all of its columns, in any order."""

from __future__ import annotations

import csv
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import asyncpg

from bot.databases.connecting import connected, words
from bot.databases.pieces import LONG, PINNED
from bot.errors import StepFailed
from bot.place import Connect

_HEADER = 1 << 20  # bytes that the first line may have
_BOM = b"\xef\xbb\xbf"
_COLUMNS = """
SELECT n.nspname::text AS schema, c.relname::text AS table,
  ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)"""


async def load(into: Connect, table: str, rows: AsyncIterator[bytes]) -> int:
    """How many. An empty field without quotes is null, as COPY has it. Raises StepFailed: other columns, or values that do not fit."""
    async with aclosing(_Read(rows)) as text, connected(into, {**PINNED, "default_transaction_read_only": "off"}) as session:
        header = await text.header()
        place = await session.fetchrow(_COLUMNS, table)
        if place is None:
            raise StepFailed(f"There is no table {table} to load it into.")
        _same(header, place["columns"], table)
        try:
            status = await session.copy_to_table(
                place["table"], schema_name=place["schema"], columns=header, source=text.blocks(), format="csv", timeout=LONG
            )
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise StepFailed(f"The CSV does not fit {table}: {words(error)}.") from error
        return int(status.split()[-1])


class _Read:
    """A stream, its first line by itself."""

    def __init__(self, rows: AsyncIterator[bytes]) -> None:
        self._rows, self._rest = rows, b""

    async def header(self) -> list[str]:
        while b"\n" not in self._rest and len(self._rest) < _HEADER:
            block = await anext(self._rows, b"")
            if not block:
                break
            self._rest += block
        line, _, self._rest = self._rest.removeprefix(_BOM).partition(b"\n")
        try:
            return next(csv.reader([line.decode().rstrip("\r")], strict=True), [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise StepFailed(f"Its first line is no header of a CSV in UTF-8: {error}.") from error

    async def blocks(self) -> AsyncIterator[bytes]:
        if self._rest:
            yield self._rest
        async for block in self._rows:
            yield block

    async def aclose(self) -> None:
        if isinstance(self._rows, AsyncGenerator):
            await self._rows.aclose()


def _same(header: Sequence[str], columns: Sequence[str], table: str) -> None:
    said = [f"{name} is there twice" for name in dict.fromkeys(header) if header.count(name) > 1]
    said += [f"{name!r} is no column of {table}" for name in header if name not in columns]
    said += [f"{name} is missing" for name in columns if name not in header]
    if said:
        raise StepFailed(f"The CSV has other columns than {table}: {', '.join(said[:10])}. Its first line must name all of them.")
