"""What was written since an instant, by the columns into which a row's own time goes by default: changed and deleted rows are not seen."""

from __future__ import annotations

import asyncio
import datetime as dt

from bot.errors import Refusal, StepFailed
from bot.moment import told
from bot.ports import Database
from bot.words import many

_WITHIN = 15.0  # seconds for all of them: somebody waits for the card
_TABLES = 20
_NAMED = 3

#: of each table the first column whose default is the time; names come quoted
_TIMES = """
SELECT DISTINCT ON (c.oid) pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format('%I', a.attname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
AND a.atttypid IN ('timestamptz'::pg_catalog.regtype, 'timestamp'::pg_catalog.regtype)
AND pg_catalog.pg_get_expr(d.adbin, d.adrelid) ~* '(now|_timestamp)\\(\\)|CURRENT_TIMESTAMP' AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
ORDER BY c.oid, a.attnum"""


async def since(database: Database, instant: dt.datetime) -> str:
    """A sentence for the card."""
    found: list[tuple[int, str, str]] = []
    looked = 0
    try:
        async with asyncio.timeout(_WITHIN):
            for table, column in (await database.ask(_TIMES)).rows[:_TABLES]:
                count, newest = await _counted(database, str(table), str(column), instant)
                looked += 1
                if count:
                    found.append((count, str(table), newest))
    except (TimeoutError, StepFailed, Refusal):
        return f"It could not all be counted in {_WITHIN:.0f} s.{_listed(found)}"
    if not looked:
        return "How much that is can't be told: no table has a column for a row's own time."
    if not found:
        return f"By their own times {many(looked, 'table')} had no new row; changed and deleted ones can't be seen."
    return f"By the rows' own times, changed and deleted ones not seen:{_listed(found)}"


async def _counted(database: Database, table: str, column: str, instant: dt.datetime) -> tuple[int, str]:
    sql = f"SELECT count(*), max({column}::timestamptz) FROM {table} WHERE {column} > timestamptz '{instant.isoformat()}'"  # noqa: S608  quoted by Postgres
    ((count, newest),) = (await database.ask(sql)).rows
    return int(count), told(dt.datetime.fromisoformat(str(newest)).replace(microsecond=0)) if newest else ""


def _listed(found: list[tuple[int, str, str]]) -> str:
    most = sorted(found, reverse=True)
    more = f"; and {many(len(most) - _NAMED, 'other table')}" if len(most) > _NAMED else ""
    named = "; ".join(f"{many(count, 'row')} in {table}, the newest of {newest}" for count, table, newest in most[:_NAMED])
    return f" {named}{more}." if named else ""
