"""On a copy: which locks the migration's own backend holds, read between its statements, on its own connection.

Read after DDL, after anything that is not plain reading or writing of rows, and after each new text in a transaction; the rest is read at the
commit. What reading costs is kept off the statements' clock, and when it costs too much, it waits for the commit as well.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from .connections import literal, raw
from .frames import NOW, REQUEST, Sql, refuse
from .history import said

MODES = (
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock",
    "AccessExclusiveLock",
)  # fmt: skip
_ROWS_ONLY = re.compile(r"\s*(?:select|insert|update|delete|merge|with|values|table|set|show)\b", re.IGNORECASE)
_IN_TRANSACTION = 2  # libpq's PQTRANS_INTRANS: open, and not aborted
_GRACE, _SHARE = 0.5, 0.1  # seconds, and the part of the migration's own time, that reading locks may cost

# Read once, before the first statement: a table that was dropped has no name any more, and of what the migration makes itself (a table, an index)
# nobody else can hold a lock. An index is told as its table, a sequence as the table that owns it.
_NAMES = """
select coalesce(pg_catalog.json_object_agg(c.oid::text, quote_ident(n.nspname) || '.' || quote_ident(t.relname)), '{{}}')::text
from pg_catalog.pg_class c
left join pg_catalog.pg_index i on i.indexrelid = c.oid
left join pg_catalog.pg_depend d on c.relkind = 'S' and d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
 and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
join pg_catalog.pg_class t on t.oid = coalesce(i.indrelid, d.refobjid, c.oid)
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'i', 'I') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
 and (n.nspname, t.relname) is distinct from ({}, {})"""

_HELD = """
select coalesce(pg_catalog.json_agg(distinct l.relation::text || ' ' || l.mode), '[]')::text
from pg_catalog.pg_locks l where l.locktype = 'relation' and l.granted and l.pid = pg_catalog.pg_backend_pid()"""


def clock() -> float:
    """Seconds, on a clock that stands still while locks are read."""
    return round(time.perf_counter() - float(NOW.measured), 6)


def remember_names(dbapi: Sql, version_schema: str | None, version_table: str) -> None:
    began = time.perf_counter()
    NOW.names = json.loads(raw(dbapi, _NAMES.format(literal(version_schema or ""), literal(version_table)))[0])
    NOW.looking_since = time.perf_counter()
    NOW.naming = NOW.looking_since - began


def after_statement(dbapi: Sql, statement: str, text: str) -> dict[str, Any]:
    """What a `ran` frame tells of locks: those that are new or stronger, and the tables that have none any more; nothing when it was not read."""
    if not in_transaction(dbapi):
        told = _told(dbapi, {}, late=False)
        forget(dbapi)
        return told
    backend = _backend(dbapi)
    seen = NOW.seen.setdefault(backend, set())
    if text in seen and _ROWS_ONLY.match(statement):
        return {}
    seen.add(text)
    if NOW.measured > _GRACE + _SHARE * (time.perf_counter() - NOW.looking_since):
        NOW.unread.add(backend)
        return {}
    return _told(dbapi, _held(dbapi), late=backend in NOW.unread)


def before_commit(dbapi: Sql) -> dict[str, Any]:
    """The last look: whatever was taken since the last one."""
    return _told(dbapi, _held(dbapi), late=True) if in_transaction(dbapi) else {"backend": _backend(dbapi)}


def forget(dbapi: Sql) -> None:
    """Its transaction ends: no lock is held, and every text is new again."""
    for known in (NOW.held, NOW.seen):
        known.pop(_backend(dbapi), None)
    NOW.unread.discard(_backend(dbapi))


def in_transaction(dbapi: Sql) -> bool:
    """Known to the driver, without asking the server. Outside of a transaction a question of ours would open one, and nothing is held anyway."""
    if hasattr(dbapi, "info"):  # psycopg2 and psycopg
        return bool(dbapi.info.transaction_status == _IN_TRANSACTION)
    below = getattr(dbapi, "driver_connection", None) or getattr(dbapi, "_connection", None)
    asks = getattr(below, "is_in_transaction", None)  # asyncpg
    return bool(asks()) if asks else False


def _backend(dbapi: Sql) -> int:
    return int(NOW.proven[id(dbapi)][1])


def _held(dbapi: Sql) -> dict[str, str]:
    """By table, the strongest mode."""
    began = time.perf_counter()
    try:
        pairs = [pair.split() for pair in json.loads(raw(dbapi, _HELD)[0])]
    except BaseException as error:  # noqa: BLE001  its transaction is aborted now: the migration must not go on and be blamed
        refuse("unmeasured", message=said(error))
    held: dict[str, str] = {}
    for oid, mode in pairs:
        table = NOW.names.get(oid)
        if table and mode in MODES:
            held[table] = max(held.get(table, mode), mode, key=MODES.index)
    NOW.measured += time.perf_counter() - began
    return held


def _told(dbapi: Sql, held: dict[str, str], *, late: bool) -> dict[str, Any]:
    backend = _backend(dbapi)
    before = NOW.held.get(backend, {})
    new = [[table, mode] for table, mode in held.items() if table not in before or MODES.index(mode) > MODES.index(before[table])]
    NOW.held[backend] = held
    NOW.unread.discard(backend)
    return {"backend": backend, "locks": new, "released": [table for table in before if table not in held], "late": late}


def cost() -> float:
    """Seconds that all of it took."""
    return round(float(NOW.naming + NOW.measured), 3)


def measures() -> bool:
    return bool(NOW.working and REQUEST.get("measure"))
