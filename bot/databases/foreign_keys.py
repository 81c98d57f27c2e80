"""Foreign keys of tables that get rows back: what would be an orphan is a conflict, and cycles are put in one piece (databases.md F12 c, d)."""

# ruff: noqa: S608  names are quoted here, or by the server

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.databases import hypertables
from bot.databases.connecting import Connection, quoted
from bot.databases.staging import Stage, literal

# A constraint on a partitioned parent has rows for each of its partitions too; the topmost says it all.
_FOREIGN_KEYS = """
SELECT k.conrelid AS child, k.confrelid AS parent, format('%I', k.conname) AS name, n.nspname AS schema, k.conparentid = 0 AS own,
  k.condeferrable AS deferrable, k.condeferred AS deferred,
  format('%I.%I', n.nspname, c.relname) AS child_name,
  CASE WHEN p.relkind = 'p' THEN '' ELSE 'ONLY ' END || format('%I.%I', pn.nspname, p.relname) AS parent_name,
  ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY x (attnum, place) JOIN pg_attribute a
    ON a.attrelid = k.conrelid AND a.attnum = x.attnum ORDER BY x.place) AS columns,
  ARRAY(SELECT a.attname FROM unnest(k.confkey) WITH ORDINALITY x (attnum, place) JOIN pg_attribute a
    ON a.attrelid = k.confrelid AND a.attnum = x.attnum ORDER BY x.place) AS refers,
  ARRAY(SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname) FROM unnest(k.conpfeqop) WITH ORDINALITY x (op, place)
    JOIN pg_operator o ON o.oid = x.op JOIN pg_namespace s ON s.oid = o.oprnamespace ORDER BY x.place) AS equal
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND k.conrelid = ANY ($1::oid[]) AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true'
  AND coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'false'
  AND NOT EXISTS (SELECT FROM pg_constraint u WHERE u.oid = k.conparentid AND u.conrelid = k.conrelid)
ORDER BY k.conrelid, k.conname"""

_UNIQUE = """
SELECT format('%I.%I', n.nspname, k.conname) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
WHERE k.contype IN ('p', 'u', 'x') AND k.condeferrable AND k.conrelid = ANY ($1::oid[]) ORDER BY 1"""


@dataclass(frozen=True)
class ForeignKey:
    """`child_name` and `parent_name` are quoted, `parent_name` with its ONLY; columns are plain; `own`: not inherited from a partitioned table's."""

    child: int
    parent: int
    name: str
    schema: str
    own: bool
    deferrable: bool
    deferred: bool
    child_name: str
    parent_name: str
    columns: tuple[str, ...]
    refers: tuple[str, ...]
    equal: tuple[str, ...]

    @property
    def full(self) -> str:
        return f"{quoted(self.schema)}.{self.name}"


async def foreign_keys(session: Connection, tables: Sequence[int]) -> list[ForeignKey]:
    return await _read(session, _FOREIGN_KEYS, tables)


async def referring(session: Connection, tables: Sequence[int]) -> list[ForeignKey]:
    """Keys of whatever tables that refer to these."""
    keys = await _read(session, _FOREIGN_KEYS.replace("k.conrelid = ANY", "k.confrelid = ANY"), tables)
    return [key for key in keys if key.own]


async def _read(session: Connection, sql: str, tables: Sequence[int]) -> list[ForeignKey]:
    """What a hypertable's chunks have of its keys goes with it; its rows are theirs."""
    parts = await hypertables.known(session)
    rows = [row for row in await session.fetch(sql, list(tables)) if row["child"] not in parts.chunks and row["parent"] not in parts.chunks]
    keys = [ForeignKey(**{**dict(row), **{name: tuple(row[name]) for name in ("columns", "refers", "equal")}}) for row in rows]
    return [replace(key, parent_name=key.parent_name.removeprefix("ONLY ")) if key.parent in parts.roots else key for key in keys]


def parents_first(stages: Sequence[Stage], keys: Sequence[ForeignKey]) -> list[Stage]:
    """As far as there are no cycles."""
    left, ordered = list(stages), []
    while left:
        waiting = {stage.table.oid for stage in left}
        free = [s for s in left if not {k.parent for k in keys if k.child == s.table.oid and k.parent != s.table.oid} & waiting]
        ordered.append(free[0] if free else left[0])
        left.remove(ordered[-1])
    return ordered


def backward(ordered: Sequence[Stage], keys: Sequence[ForeignKey]) -> list[ForeignKey]:
    """Keys of a table to itself, or to one that gets its rows later: they are checked at the end."""
    place = {stage.table.oid: number for number, stage in enumerate(ordered)}
    return [key for key in keys if key.own and place.get(key.parent, -1) >= place.get(key.child, len(place))]


async def defer(session: Connection, keys: Sequence[ForeignKey]) -> None:
    """Until the end of the transaction. One that can't be deferred is altered so that it can, which its owner may; `undefer` alters it back."""
    for key in keys:
        if not key.deferrable:
            await session.execute(f"ALTER TABLE {key.child_name} ALTER CONSTRAINT {key.name} DEFERRABLE")
        await session.execute(f"SET CONSTRAINTS {key.full} DEFERRED")


async def undefer(session: Connection, keys: Sequence[ForeignKey]) -> None:
    """After the checks."""
    for key in keys:
        if not key.deferrable:
            await session.execute(f"ALTER TABLE {key.child_name} ALTER CONSTRAINT {key.name} NOT DEFERRABLE")


async def refuse_at_once(session: Connection, tables: Sequence[int]) -> None:
    """Deferred unique constraints say no at the row, not at the end."""
    for row in await session.fetch(_UNIQUE, list(tables)):
        await session.execute(f"SET CONSTRAINTS {row[0]} IMMEDIATE")


async def mark_orphans(session: Connection, stages: Sequence[Stage], keys: Sequence[ForeignKey]) -> None:
    """Rows whose parent is neither there nor about to be. Repeated, since a row that stays out makes orphans of its own."""
    coming = {stage.table.oid: stage for stage in stages if stage.part.what in {"table", "rows"}}
    changed = True
    while changed:
        changed = False
        for stage in stages:
            for key in keys:
                if key.child == stage.table.oid and set(key.columns) <= set(stage.slots):
                    tag = await session.execute(f"UPDATE {stage.name} s SET bad = {_why(key)} WHERE bad IS NULL AND {_orphan(stage, key, coming)}")
                    changed = changed or tag != "UPDATE 0"


async def remove_orphans(session: Connection, stages: Sequence[Stage], keys: Sequence[ForeignKey]) -> None:
    """Of rows that were put before their parents: those whose parent was refused after all."""
    changed = True
    while changed:
        changed = False
        for stage in stages:
            for key in keys:
                if key.child == stage.table.oid and stage.part.key:
                    orphan = f"bad IS NULL AND present IS NOT TRUE AND {_orphan(stage, key, {})}"
                    marked = f"UPDATE {stage.name} s SET bad = {_why(key)} WHERE {orphan} RETURNING s.*"
                    tag = await session.execute(f"WITH s AS ({marked}) DELETE FROM {stage.table.source} l USING s WHERE {stage.same_key}")
                    changed = changed or tag != "DELETE 0"


def _why(key: ForeignKey) -> str:
    return literal(f"The row of {key.parent_name.removeprefix('ONLY ')} that it refers to is gone.")


def _orphan(stage: Stage, key: ForeignKey, coming: dict[int, Stage]) -> str:
    mine = [f"s.{stage.slots[name]}" for name in key.columns]
    parts = [f"{name} IS NOT NULL" for name in mine]
    there = " AND ".join(f"p.{quoted(name)} {equal} {own}" for name, equal, own in zip(key.refers, key.equal, mine, strict=True))
    parts.append(f"NOT EXISTS (SELECT FROM {key.parent_name} p WHERE {there})")
    parent = coming.get(key.parent)
    if parent is not None and set(key.refers) <= set(parent.slots):
        soon = " AND ".join(f"p.{parent.slots[name]} {equal} {own}" for name, equal, own in zip(key.refers, key.equal, mine, strict=True))
        parts.append(f"NOT EXISTS (SELECT FROM {parent.name} p WHERE p.bad IS NULL AND {soon})")
    return " AND ".join(parts)
