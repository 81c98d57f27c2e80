"""What stands in the way of putting rows back, out of the way for one transaction: other writers, forced row security, user triggers."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from bot.databases import hypertables
from bot.databases.connecting import Connection, quoted

_TREE = """
WITH RECURSIVE tree AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE format('%I.%I', n.nspname, c.relname) = ANY ($1::text[]) AND c.relkind IN ('r', 'p')
  UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON t.oid = i.inhparent JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition)
SELECT oid FROM tree"""

_NAMES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE format('%I.%I', n.nspname, c.relname) = ANY ($1::text[]) AND c.relkind IN ('r', 'p') ORDER BY c.oid"""

# Its owner may lift it from himself; to a superuser it means nothing. Tables that are referred to are read too.
_FORCED = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relforcerowsecurity AND pg_has_role(c.relowner, 'USAGE') AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = current_user
  AND (r.rolsuper OR r.rolbypassrls))
  AND (c.oid = ANY ($1::oid[]) OR c.oid IN (SELECT k.confrelid FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = ANY ($1::oid[])))
ORDER BY c.oid"""

# Never constraint triggers: they are rules about the data. One of a hypertable's is TimescaleDB's own.
_TRIGGERS = """
SELECT format('%I.%I', n.nspname, c.relname) AS table, c.oid, t.tgname AS name, t.tgenabled::text AS enabled
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgrelid = ANY ($1::oid[]) AND NOT t.tgisinternal AND t.tgconstraint = 0 AND t.tgenabled IN ('O', 'A')
  AND t.tgname <> 'ts_insert_blocker' ORDER BY c.oid, t.tgname"""


class Unlocked:
    """`open` before the first row, `close` after the last check. A rollback undoes both."""

    def __init__(self, session: Connection, tables: Sequence[str]) -> None:
        self._session = session
        self._tables = sorted(set(tables))
        self._forced: list[str] = []
        self._silenced: list[asyncpg.Record] = []

    async def open(self, *, triggers: bool) -> list[str]:
        """Which triggers fire, or don't, in sentences. Raises as the server does when a lock isn't given in time."""
        for row in await self._session.fetch(_NAMES, self._tables):
            await self._session.execute(f"LOCK TABLE {row[0]} IN SHARE ROW EXCLUSIVE MODE")
        tree = [row[0] for row in await self._session.fetch(_TREE, self._tables)]
        self._forced = [row[0] for row in await self._session.fetch(_FORCED, tree)]
        for table in self._forced:
            await self._session.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        there = await self._session.fetch(_TRIGGERS, tree)
        if not triggers:  # TimescaleDB lets nobody disable a hypertable's
            loud = (await hypertables.known(self._session)).roots
            self._silenced = [row for row in there if row["oid"] not in loud]
            for row in self._silenced:
                await self._session.execute(f"ALTER TABLE ONLY {row['table']} DISABLE TRIGGER {quoted(row['name'])}")
        by_table: dict[tuple[str, str], list[str]] = {}
        for row in there:
            how = "did not fire" if row in self._silenced else "could fire"
            by_table.setdefault((row["table"], how), []).append(row["name"])
        return [f"Triggers of {table} {how}: {', '.join(names)}." for (table, how), names in by_table.items()]

    async def close(self) -> None:
        for row in self._silenced:
            always = "ALWAYS " if row["enabled"] == "A" else ""
            await self._session.execute(f"ALTER TABLE ONLY {row['table']} ENABLE {always}TRIGGER {quoted(row['name'])}")
        for table in self._forced:
            await self._session.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
