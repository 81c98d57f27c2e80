"""On a copy: which locks the session that does the work holds, read between its statements, on its own connection."""

from __future__ import annotations

import json
from typing import Any

from bot.tools.locks import MODES
from bot.tools.sql_session import Session

# Read once, before the first statement: a table that was dropped has no name any more, and of what the scripts make themselves (a table, an index)
# nobody else can hold a lock. An index is told as its table, a sequence as the table that owns it.
_NAMES = """
SELECT coalesce(pg_catalog.json_object_agg(c.oid::text, quote_ident(n.nspname) || '.' || quote_ident(t.relname)), '{}')::text
FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_catalog.pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
JOIN pg_catalog.pg_class t ON t.oid = coalesce(i.indrelid, d.refobjid, c.oid)
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'i', 'I') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 AND t.oid IS DISTINCT FROM $1::oid"""
_HELD = """
SELECT coalesce(pg_catalog.json_agg(DISTINCT l.relation::text || ' ' || l.mode), '[]')::text
FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted AND l.pid = pg_catalog.pg_backend_pid()"""


class HeldLocks:
    """What a `ran` frame tells of locks: see bot.tools.locks."""

    def __init__(self, session: Session, backend: int) -> None:
        self._session, self._backend = session, backend
        self._names: dict[str, str] = {}
        self._before: dict[str, str] = {}

    async def learn_names(self, version_table: int | None) -> None:
        """`version_table` is its OID: the tool's own table is nobody's loss."""
        self._names = json.loads(await self._session.fetchval(_NAMES, version_table))

    async def look(self) -> dict[str, Any]:
        """Those that are new or stronger, and the tables that have none any more."""
        held: dict[str, str] = {}
        for pair in json.loads(await self._session.fetchval(_HELD)):
            oid, mode = pair.split()
            table = self._names.get(oid)
            if table and mode in MODES:
                held[table] = max(held.get(table, mode), mode, key=MODES.index)
        before, self._before = self._before, held
        new = [[table, mode] for table, mode in held.items() if table not in before or MODES.index(mode) > MODES.index(before[table])]
        return {"backend": self._backend, "locks": new, "released": [table for table in before if table not in held], "late": False}

    def forget(self) -> None:
        """The transaction ended, and with it all of them."""
        self._before = {}
