"""Who else is in a target's database: what is left when the services that are named have stopped."""

from __future__ import annotations

from bot.databases import visitors
from bot.databases.connecting import CATALOG, connected
from bot.errors import Refusal
from bot.place import Connect, Session

_OURS = "backout/"  # so the application_name of every session of ours begins


async def strangers(maintenance: Connect, database: str) -> tuple[Session, ...]:
    """Sessions that aren't ours, whoever is coming in, and prepared transactions (pid 0), seen from another database of the server.

    Raises Refusal, StepFailed, OutcomeUnknown.
    """
    async with connected(maintenance, CATALOG) as session:
        oid = await session.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", database)
        if oid is None:
            raise Refusal("database_missing", f"There is no database {database} any more.", "Find out who renamed or dropped it.")
        there = await visitors.inside(session, oid, lambda one, _role: one.application.startswith(_OURS))
        return *there, *(Session(pid=0, state=f"prepared transaction {gid}") for gid in await visitors.prepared(session, oid))
