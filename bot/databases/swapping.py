"""A database beside the target's takes its place, in one transaction of the maintenance database; the old one is kept, closed (databases.md F10).

Nothing is closed beforehand and nothing is undone by code. A rename takes the server's own lock on the database and then waits until nobody is in
it: whoever wants to enter meanwhile waits for that lock, and we end who is in. If we die, or anything is refused, the server rolls back: the old
database is in the place as before. Owner, rights, settings, limits and comment go along in the same transaction, and so does a door that is closed:
the run's key opens the new database only, and Door.open gives that one the rights that were remembered.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from bot.databases import clone, dressing, key, may_close, may_swap, visitors
from bot.databases.beside import OURS
from bot.databases.connecting import CATALOG, LONGEST, Connection, connected, quoted, words
from bot.databases.may_close import Here
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile
from bot.place import Connect

_PAUSE = 0.02  # seconds between two rounds of ending who is in
_WAIT = 5  # seconds for the server's lock on a database; meanwhile nobody can enter it

# A lock is gone only after its transaction is to be seen: so it is looked for first.
_RENAMING = """
SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.objid
WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid()
  AND (d.oid = $1::int8::oid OR d.datname = ANY ($2::text[]))"""
_NAMES = """
SELECT (SELECT datname::text FROM pg_database WHERE oid = $1::int8::oid) AS incoming, (SELECT oid::int8 FROM pg_database WHERE datname = $2) AS place,
  (SELECT oid::int8 FROM pg_database WHERE datname = $3) AS kept"""


def kept_name(database: str, at: dt.datetime) -> str:
    """Under which the old database is kept: its own, cut to fit, until when it was in the place. At most 63 bytes."""
    mark = f"_until_{at:%Y%m%d_%H%M%S}"
    room = LONGEST - len(mark)
    if len(database.encode()) > room:
        mark = f"_{hashlib.sha256(database.encode()).hexdigest()[:4]}{mark}"
        room = LONGEST - len(mark)
    return database.encode()[:room].decode("utf-8", "ignore") + mark


class Swap:
    """`maintenance` and `admin` are how Backout enters, `database` is the place. Raises Refusal (on connecting), StepFailed, OutcomeUnknown."""

    def __init__(self, maintenance: Connect, admin: Connect, database: str) -> None:
        self._maintenance, self._admin, self._database = maintenance, admin, database

    async def in_the_way(self, incoming: BackupFile, kept: str | None) -> tuple[Refusal, ...]:
        async with connected(self._maintenance, {**CATALOG, "default_transaction_read_only": "off"}) as session:
            return await may_swap.in_the_way(session, self._admin, await may_close.here(session, self._database), incoming, kept)

    async def happened(self, incoming: BackupFile, kept: str) -> bool | None:
        """From the names alone, which change together. None: a swap is just being committed, or somebody else renamed or dropped what we look for."""
        async with connected(self._maintenance, CATALOG) as session:
            if await session.fetch(_RENAMING, incoming.oid, [self._database, kept]):
                return None
            row = await session.fetchrow(_NAMES, incoming.oid, self._database, kept)
        assert row is not None  # noqa: S101  a SELECT without FROM has one row
        if row["incoming"] == self._database and row["kept"] is not None:
            return True
        untouched = row["incoming"] not in {None, self._database, kept} and row["place"] is not None and row["kept"] is None
        return False if untouched else None

    async def swap(self, incoming: BackupFile, kept: str, note: str, run: str, application: str) -> BackupFile:
        if not note.startswith(OURS):
            raise StepFailed(f"The comment of a database that Backout keeps begins with '{OURS}': '{note[:60]}' does not. Nothing was changed.")
        async with self._session(application) as session, self._session("backout/swap/ending") as ending:
            await visitors.end_former(session)
            it = await may_close.here(session, self._database)
            await self._refuse(session, it, incoming, kept, run)
            old = await self._file(session, it, kept)
            async with session.transaction():
                await session.execute(f"SET LOCAL lock_timeout = '{_WAIT}s'")
                await rename(session, ending, it.oid, kept)
                await rename(session, ending, incoming.oid or 0, it.name)
                await dressing.give(session, incoming.oid or 0, it.name, await dressing.read(session, it.oid))
                await dressing.retire(session, it.oid, kept, note, it.my_name)
        return old

    async def _refuse(self, session: Connection, it: Here, incoming: BackupFile, kept: str, run: str) -> None:
        for held in await key.held(session, it.oid):
            if held.run != run:
                raise StepFailed(f"The door of {it.name} is closed by run {held.run}: end that run first. Nothing was changed.")
        for refusal in await may_swap.in_the_way(session, self._admin, it, incoming, kept):
            if not refusal.warning:
                raise StepFailed(f"{refusal.message} {refusal.next}", {"code": refusal.code})

    async def _file(self, session: Connection, it: Here, kept: str) -> BackupFile:
        """Asked for before: when it is done nothing more can go wrong."""
        size = await session.fetchval("SELECT pg_database_size($1::int8::oid)", it.oid)
        async with connected(self._admin.model_copy(update={"database": it.name}), CATALOG) as inside:
            relations = await inside.fetchval(clone.RELATIONS)
        return BackupFile(name=kept, path=f"database {kept}", sha256="", size=size, format="clone", objects=relations, oid=it.oid)

    @asynccontextmanager
    async def _session(self, application: str) -> AsyncIterator[Connection]:
        settings = {**CATALOG, "application_name": application.encode()[:LONGEST].decode("utf-8", "ignore"), "default_transaction_read_only": "off"}
        async with connected(self._maintenance, settings) as session:
            yield session


async def rename(session: Connection, ending: Connection, oid: int, to: str) -> None:
    """Inside the transaction. From its lock on nobody comes in; `ending` ends who is in, which the server waits for, five seconds at most."""
    name = await session.fetchval("SELECT datname FROM pg_database WHERE oid = $1::int8::oid", oid)
    if name is None:
        raise StepFailed(f"The database with OID {oid} is gone. Nothing was changed.")
    renaming = asyncio.ensure_future(session.execute(f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(to)}"))
    try:
        while not (await asyncio.wait({renaming}, timeout=_PAUSE))[0]:
            await visitors.sweep(ending, oid)
        await renaming
    except asyncpg.ObjectInUseError as error:
        there = await visitors.inside(ending, oid)
        who = visitors.told(there) if there else "they have left since"
        facts = {"inside": [one.model_dump(mode="json") for one in there[: visitors.SHOWN]]}
        raise StepFailed(f"Somebody in {name} could not be ended ({words(error)}): {who}. Nothing was changed.", facts) from error
    except asyncpg.LockNotAvailableError as error:
        who = await visitors.locking(ending, oid)
        raise StepFailed(f"{who} had a lock on the database {name} for {_WAIT} s, so it could not be renamed. Nothing was changed.") from error
    finally:
        renaming.cancel()
        await asyncio.gather(renaming, return_exceptions=True)
