"""What guards a database's rows: policies, row security, unique and foreign keys, constraints; and its indexes. What of it is gone.

Told apart by OID, which a clone keeps: what was renamed is still there, and so is what was made again with the same words on the same table.
"""

# ruff: noqa: S608  what is put together here are constants of this file

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bot.databases.connecting import Connection
from bot.databases.tables import PATIENCE, Table
from bot.evidence import Loss, LossKind

_OF_TABLE = (
    "JOIN pg_class c ON c.oid = {} JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname !~ '^(pg|_timescaledb)_' AND n.nspname <> 'information_schema'"
)

_POLICIES = f"""
SELECT 'policy' AS kind, p.oid, p.polrelid AS table, format('%I.%I.%I', n.nspname, c.relname, p.polname) AS name, '' AS what,
  ARRAY[]::int[] AS numbers,
  concat_ws(' ', CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END, 'for ' || p.polcmd::text, 'to ' || p.polroles::text,
    'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid)) AS definition,
  md5(concat_ws(' ', p.polpermissive, p.polcmd, p.polroles::text, p.polqual::text, p.polwithcheck::text)) AS words
FROM pg_policy p {_OF_TABLE.format("p.polrelid")}"""

# Since 18 NOT NULL is a constraint too, and no row depends on it. What a partition has from its parent goes with the parent.
_CONSTRAINTS = f"""
SELECT CASE k.contype WHEN 'f' THEN 'foreign key' WHEN 'u' THEN 'unique' WHEN 'p' THEN 'unique' ELSE 'constraint' END, k.oid, k.conrelid,
  format('%I.%I.%I', n.nspname, c.relname, k.conname), CASE k.contype WHEN 'p' THEN 'the primary key' ELSE '' END, k.conkey::int[],
  pg_get_constraintdef(k.oid), ''
FROM pg_constraint k {_OF_TABLE.format("k.conrelid")} AND k.contype NOT IN ('n', 't') AND k.conparentid = 0
  AND (k.coninhcount = 0 OR k.conislocal)"""

_INDEXES = f"""
SELECT CASE WHEN i.indisunique THEN 'unique' ELSE 'index' END, i.indexrelid, i.indrelid, format('%I.%I', n.nspname, x.relname), '',
  i.indkey::int[], substring(pg_get_indexdef(i.indexrelid) FROM ' USING .*'), ''
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid AND NOT x.relispartition {_OF_TABLE.format("i.indrelid")}
  AND c.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))"""


@dataclass(frozen=True, slots=True)
class Guard:
    kind: LossKind
    table: int
    name: str
    what: str
    numbers: tuple[int, ...]
    definition: str
    #: as the catalog has them: renaming a column does not change these
    words: str


Guards: TypeAlias = "dict[tuple[int, int], Guard]"  # by catalog and OID


async def read_guards(session: Connection) -> Guards:
    found: Guards = {}
    for place, sql in enumerate((_POLICIES, _CONSTRAINTS, _INDEXES)):
        for kind, oid, table, name, what, numbers, definition, words in await session.fetch(sql, timeout=PATIENCE):
            found[place, oid] = Guard(kind, table, name, what, tuple(numbers or ()), definition or "", words)
    return found


def unguarded(
    before: Guards, after: Guards, tables: Mapping[int, Table], become: Mapping[int, Table], columns: Mapping[int, set[int]]
) -> Iterator[Loss]:
    """Of tables that are still there (`become`: before's OID -> the table now). What was on dropped `columns` alone is not named a second time."""
    again = {(guard.kind, guard.table, guard.definition) for guard in after.values()}
    for place, guard in before.items():
        now = become.get(guard.table)
        if guard.table in tables and now is None:
            continue
        still = after.get(place)
        if still is not None and still.words != guard.words:
            yield Loss(kind=guard.kind, name=guard.name, why="it is still there, and says something else")
        if still is not None or (guard.kind, now.oid if now else guard.table, guard.definition) in again:
            continue
        if guard.numbers and set(guard.numbers) <= columns.get(guard.table, set()):
            continue
        yield Loss(kind=guard.kind, name=guard.name, why=guard.what)
    for oid, now in become.items():
        was = tables[oid]
        if was.secured and not now.secured:
            yield Loss(kind="row security", name=was.name, why="every row is seen by everybody who may read the table")
        elif was.forced and not now.forced:
            yield Loss(kind="row security", name=was.name, why="it does not bind the table's owner any more")
