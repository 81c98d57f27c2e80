"""What a database publishes is in no restore: read as statements before it is replaced, said again in the database that has its place.

Subscribers find it by its name. Their slots belong to the database that was there, so each begins anew by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import asyncpg

from bot.databases import clone
from bot.databases.connecting import CATALOG, LONGEST, Connection, connected, quoted, words
from bot.databases.likeness import literal
from bot.evidence import Publication
from bot.place import Connect

_FILTERS_SINCE = 15  # major version: row filters, columns, schemas

_PUBLICATIONS = """
SELECT p.oid::int8, p.pubname::text AS name, pg_get_userbyid(p.pubowner)::text AS owner, obj_description(p.oid, 'pg_publication') AS comment,
  to_jsonb(p)::text AS all
FROM pg_publication p ORDER BY 2"""
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) AS name, {columns} AS columns, {filter} AS filter
FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.prpubid = $1::int8::oid ORDER BY 1"""
_COLUMNS = """(SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
    WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[]))"""
_SCHEMAS = """
SELECT n.nspname::text FROM pg_publication_namespace r JOIN pg_namespace n ON n.oid = r.pnnspid WHERE r.pnpubid = $1::int8::oid ORDER BY 1"""

#: as pg_publication's columns say it
_OPERATIONS = {"pubinsert": "insert", "pubupdate": "update", "pubdelete": "delete", "pubtruncate": "truncate"}
_GENERATED = {"n": "none", "s": "stored"}


class Publications:
    """Implements keeping.Publications. `admin` is how Backout enters the database. Every method raises Refusal (on connecting), StepFailed."""

    def __init__(self, admin: Connect) -> None:
        self._admin = admin

    async def there(self) -> tuple[Publication, ...]:
        async with connected(self._admin, CATALOG) as session, session.transaction(isolation="repeatable_read", readonly=True):
            return tuple([await _read(session, row) for row in await session.fetch(_PUBLICATIONS)])

    async def make(self, wanted: Sequence[Publication], application: str) -> dict[str, str]:
        """Each in a transaction of its own."""
        refused: dict[str, str] = {}
        async with clone.writing(self._admin, application[:LONGEST]) as session:
            for each in wanted:
                if await session.fetchval("SELECT true FROM pg_publication WHERE pubname = $1", each.name):
                    continue
                try:
                    async with session.transaction():
                        for statement in each.statements:
                            await session.execute(statement)
                except asyncpg.PostgresError as error:
                    refused[each.name] = words(error)
        return refused


async def _read(session: Connection, row: asyncpg.Record) -> Publication:
    name, has = quoted(row["name"]), json.loads(row["all"])
    made = " ".join(filter(None, (f"CREATE PUBLICATION {name}", await _what(session, row["oid"], has), f"WITH ({', '.join(_options(has))})")))
    said = [f"COMMENT ON PUBLICATION {name} IS{literal(row['comment'])}"] if row["comment"] is not None else []
    return Publication(name=row["name"], statements=(made, *said, f"ALTER PUBLICATION {name} OWNER TO {quoted(row['owner'])}"))


async def _what(session: Connection, oid: int, has: dict[str, Any]) -> str:
    if has["puballtables"]:
        return "FOR ALL TABLES"
    filters = session.get_server_version().major >= _FILTERS_SINCE
    columns, where = (_COLUMNS, "pg_get_expr(r.prqual, r.prrelid)") if filters else ("NULL", "NULL")
    found = [_table(row) for row in await session.fetch(_TABLES.format(columns=columns, filter=where), oid)]
    found += [f"TABLES IN SCHEMA {quoted(each[0])}" for each in (await session.fetch(_SCHEMAS, oid) if filters else ())]
    return f"FOR {', '.join(found)}" if found else ""


def _table(row: asyncpg.Record) -> str:
    """ONLY: each table is written down by itself, those that inherit from it too."""
    columns = f" ({row['columns']})" if row["columns"] else ""
    return f"TABLE ONLY {row['name']}{columns}" + (f" WHERE ({row['filter']})" if row["filter"] else "")


def _options(has: dict[str, Any]) -> list[str]:
    said = [f"publish = '{', '.join(word for column, word in _OPERATIONS.items() if has[column])}'"]
    said += ["publish_via_partition_root = true"] if has.get("pubviaroot") else []
    generated = _GENERATED.get(has.get("pubgencols", "n"), "none")
    return said + ([f"publish_generated_columns = {generated}"] if generated != "none" else [])
