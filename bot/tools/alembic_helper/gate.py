"""The gate before the migrations: scripts, revision, transaction and fence are as planned, and Backout said `go`."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator  # noqa: UP035  collections.abc can't be subscripted in 3.7

from .connections import check_settings, literal, proven, raw, take_fence
from .frames import NOW, OWNER, REQUEST, Sql, emit, refuse
from .history import path, sha256
from .locks import remember_names

# ------------------------------------------------------------------ the gate before the migrations


def gate(context: Any, run: Callable[[], None]) -> None:
    """Stands before MigrationContext.run_migrations, on the connection that alembic would use."""
    if os.getpid() != OWNER:
        refuse("forked")
    if context.as_sql:
        refuse("offline")
    dbapi = proven(context.connection)
    NOW.passed += 1
    if REQUEST["op"] == "read":
        emit("current", heads=sorted(context.get_current_heads()), **shape(context, dbapi))
        return
    if NOW.passed > 1:
        refuse("again")
    check_settings(dbapi)
    take_fence(dbapi, at_the_gate=True)
    heads = context.get_current_heads()
    if sorted(heads) != sorted(REQUEST["from"]):
        refuse("moved", found=sorted(heads))
    steps = marks(context, heads) if REQUEST["op"] == "stamp" else list(context._migrations_fn(heads, context))
    found = shape(context, dbapi, steps)
    if found["external"]:
        refuse("external_transaction")
    if REQUEST["op"] != "stamp":
        check_scripts(steps)
    if REQUEST["measure"]:
        remember_names(dbapi, found["found_schema"], context.version_table)
    emit("ready", backend=NOW.proven[id(dbapi)][1], **found)
    if NOW.confirm() != "go\n":
        refuse("not_confirmed")
    NOW.begun = True
    context._migrations_fn = lambda _heads, _context: told(steps)
    run()
    emit("migrated")


def told(steps: list[Any]) -> Iterator[Any]:
    NOW.working = True
    for step in steps:
        NOW.revision = step.revision.revision if REQUEST["op"] != "stamp" else None
        yield step
        emit("through", revision=NOW.revision or REQUEST["to"])
    NOW.revision = None


def marks(context: Any, heads: Any) -> list[Any]:
    """What a stamp writes. From a revision that no script has, alembic knows no way: then the table is emptied first."""
    script = context.opts["script"]
    known = {one.revision for one in script.walk_revisions()}
    context.purge = not known.issuperset(heads)
    return list(context._migrations_fn(() if context.purge else heads, context))


def check_scripts(steps: list[Any]) -> None:
    """What alembic would run, as it lies on the disk after it was loaded, is what was planned: the same direction, revisions and bytes."""
    forward = REQUEST["op"] == "upgrade"
    found = [step.revision.revision for step in steps]
    if any(bool(step.is_upgrade) is not forward for step in steps):
        refuse("other_plan", found=found)
    planned: dict[str, str] | None = REQUEST["scripts"]
    if planned is None:
        return
    if sorted(found) != sorted(planned):
        refuse("other_plan", found=found)
    changed = [path(step.revision) for step in steps if sha256(step.revision.path) != planned[step.revision.revision]]
    if changed:
        refuse("scripts_changed", files=changed)


def shape(context: Any, dbapi: Sql, steps: list[Any] | None = None) -> dict[str, Any]:
    """Which version table, if there is one yet, and what the transactions would be: of these steps, or of any number."""
    names = [name for name in (context.version_table_schema, context.version_table) if name]
    lookup = " || '.' || ".join(f"quote_ident({literal(name)})" for name in names)
    table = raw(dbapi, f"select nspname::text from pg_class c join pg_namespace n on n.oid = relnamespace where c.oid = to_regclass({lookup})")  # noqa: S608  quoted above
    # now() is the transaction's start: it moves between two statements that commit by themselves.
    stays = raw(dbapi, "select now()::text")[0] == raw(dbapi, "select now()::text")[0]
    external = bool(getattr(context, "_in_external_transaction", False))
    each = getattr(context, "_transaction_per_migration", False)
    whole = len(steps or ()) == 1 if each else getattr(context, "_transaction", None) is not None
    return {
        "table": context.version_table,
        "schema": context.version_table_schema,
        "found_schema": table[0] if table else None,
        "external": external,
        "one_transaction": bool(stays and whole and not external and context.impl.transactional_ddl),
        "driver": context.connection.dialect.driver,
    }
