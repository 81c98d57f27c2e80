"""A server without room for two: the target's database is dropped, and a copy restored under another name gets its own (databases.md F9, F10).

Neither DROP nor CREATE is transactional, so each step leaves something that can be told apart afterwards. The old database is known by its OID. What
is being filled has a name and a comment of ours, and gets the place by one rename, in one transaction with everything that belonged to the old
database: until then nobody finds a database by the target's name, and one that has it meanwhile is somebody else's and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import asyncpg

from bot.databases import acl, beside, clone, dressing, likeness, may_close, may_swap, timescale, visitors
from bot.databases.beside import OURS, Like
from bot.databases.connecting import CATALOG, LONGEST, Connection, connected, quoted, words
from bot.databases.dressing import Outside
from bot.databases.likeness import literal
from bot.databases.may_close import Here
from bot.databases.swapping import rename
from bot.errors import BackoutError, Refusal, StepFailed
from bot.evidence import BackupFile, Noun
from bot.place import Connect

_WAIT = 5  # seconds for the server's lock on a database
_ENDING = "backout/replace/ending"

_PLACE = "SELECT oid::int8, datallowconn AS enters FROM pg_database WHERE datname = $1"
_NOTE = "SELECT datname::text AS name, shobj_description(oid, 'pg_database') AS note FROM pg_database WHERE oid = $1::int8::oid"
_MARKED = """
SELECT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
  AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) AND $1::text = ANY (s.setconfig))"""
_FAILURES = (BackoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class Belongings(Noun):
    """What belongs to a database and is in no dump of it, so that it is remembered before the database is dropped."""

    outside: Outside
    like: Like
    public: tuple[dict[str, Any], ...] = ()


class Replacing:
    """Implements keeping.Replacing. `maintenance` and `admin` are how Backout enters, `database` is the place."""

    def __init__(self, maintenance: Connect, admin: Connect, database: str) -> None:
        self._maintenance, self._admin, self._database = maintenance, admin, database

    # ------------------------------------------------------------------ may it be dropped?

    async def in_the_way(self) -> tuple[Refusal, ...]:
        async with clone.writing(self._maintenance, "backout/replace/may") as session:
            it = await may_close.here(session, self._database)
            if await session.fetchval("SELECT pg_is_in_recovery()"):
                return (Refusal("standby", "The server is a standby: nothing can be dropped there.", "Write the primary's address in the URL."),)
            found = [await may_swap.rights(session, it, [it.oid]), await self._may_make(), await may_swap.superusers(session, it, [it.oid])]
            found += [await may_swap.prepared(session, it, [it.oid]), await _hangs(session, it)]
            if not any(found):
                found += await _tried(session, it)
        return tuple(refusal for refusal in found if refusal is not None)

    async def _may_make(self) -> Refusal | None:
        why = await beside.may_make(self._maintenance, self._database)
        return (
            Refusal("swap_rights", f"{self._database} could be dropped, and not be made again: {why}", "Give Backout's role that right.")
            if why
            else None
        )

    # ------------------------------------------------------------------ what is there

    async def stands(self) -> int | None:
        async with connected(self._maintenance, CATALOG) as session:
            row = await session.fetchrow(_PLACE, self._database)
        return row["oid"] if row else None

    async def belongings(self) -> Mapping[str, Any]:
        async with connected(self._maintenance, CATALOG) as session:
            it = await may_close.here(session, self._database)
            outside, like = await dressing.read(session, it.oid), await beside.like(session, it.name)
        async with connected(self._admin.model_copy(update={"database": it.name}), CATALOG) as session:
            found = Belongings(outside=outside, like=like, public=await likeness.public(session))
        return found.model_dump(mode="json")

    async def made(self, file: BackupFile, note: str) -> bool:
        async with connected(self._maintenance, CATALOG) as session:
            row = await session.fetchrow(_NOTE, file.oid)
        return row is not None and (row["name"], row["note"]) == (file.name, note)

    # ------------------------------------------------------------------ drop, make, put

    async def drop(self, oid: int, application: str) -> None:
        async with clone.writing(self._maintenance, application[:LONGEST]) as session, clone.writing(self._maintenance, _ENDING) as ending:
            await visitors.end_former(session)
            await self._close(session, oid)
            try:
                await visitors.end(ending, oid, visitors.nobody)
                await self._dropped(session, oid)
            except _FAILURES:
                with suppress(*_FAILURES):
                    await self._let_in(ending, oid)
                raise

    async def _close(self, session: Connection, oid: int) -> None:
        """Nobody comes in from here on. In one transaction with the proof that the database is the one that is meant."""
        async with session.transaction():
            await session.execute(f"SET LOCAL lock_timeout = '{_WAIT}s'")
            await self._is(session, oid)
            await session.execute(f"ALTER DATABASE {quoted(self._database)} ALLOW_CONNECTIONS false")
            await self._is(session, oid)  # the row is ours until the commit: it can't be renamed any more

    async def _dropped(self, session: Connection, oid: int) -> None:
        it = await may_close.here(session, oid)
        if there := await visitors.inside(session, oid):
            raise StepFailed(f"Somebody in {it.name} could not be ended: {visitors.told(there)}. Nothing was dropped.")
        for refusal in (await may_swap.prepared(session, it, [oid]), await _hangs(session, it)):
            if refusal is not None:
                raise StepFailed(f"{refusal.message} {refusal.next} Nothing was dropped.", {"code": refusal.code})
        await self._is(session, oid)
        await session.execute(f"DROP DATABASE {quoted(self._database)}", timeout=clone.DAY)

    async def _is(self, session: Connection, oid: int) -> None:
        row = await session.fetchrow(_PLACE, self._database)
        if row is None or row["oid"] != oid:
            has = f"the database with OID {row['oid']}" if row else "no database"
            raise StepFailed(
                f"{has.capitalize()} is called {self._database} now, and not the one with OID {oid} that was meant. Nothing was dropped."
            )

    async def reopen(self, oid: int) -> None:
        async with clone.writing(self._maintenance, _ENDING) as session:
            await self._let_in(session, oid)

    async def _let_in(self, session: Connection, oid: int) -> None:
        async with session.transaction():
            row = await session.fetchrow(_PLACE, self._database)
            if row is None or row["oid"] != oid or row["enters"]:
                return
            await session.execute(f"ALTER DATABASE {quoted(self._database)} ALLOW_CONNECTIONS true")
            await self._is(session, oid)

    async def make(self, belongings: Mapping[str, Any], name: str, note: str, *, adopted: bool = False) -> BackupFile:
        was = Belongings(**belongings)
        made = await beside.make(self._maintenance, was.like, name, note)
        if adopted:
            async with clone.writing(self._maintenance.model_copy(update={"database": name}), "backout/replace/public") as session:
                if not await session.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
                    await session.execute(f"SET ROLE {quoted(was.like.owner)}")
                await likeness.make_public(session, was.public)
        return made

    async def put(self, incoming: BackupFile, belongings: Mapping[str, Any], application: str) -> tuple[str, ...]:
        was, oid = Belongings(**belongings).outside, incoming.oid or 0
        async with clone.writing(self._maintenance, application[:LONGEST]) as session, clone.writing(self._maintenance, _ENDING) as ending:
            await visitors.end_former(session)
            row = await session.fetchrow(_NOTE, oid)
            if row is None or row["name"] != incoming.name or not (row["note"] or "").startswith(OURS):
                raise StepFailed(f"The database {incoming.name} (OID {oid}) is gone, or does not say any more that Backout made it.")
            if await session.fetchrow(_PLACE, self._database) is not None:
                raise StepFailed(
                    f"Somebody made a database {self._database} meanwhile. It was left alone: find out whose it is, rename it, then retry."
                )
            async with session.transaction():
                await session.execute(f"SET LOCAL lock_timeout = '{_WAIT}s'")
                await rename(session, ending, oid, self._database)
                notes = await dressing.give(session, oid, self._database, was)
        await timescale.wake(self._admin)
        return notes

    # ------------------------------------------------------------------ the whole server, brought back to before

    async def mark(self, run: str) -> None:
        """A setting of Backout's own role that its sessions never use: any role may have one, and it is in the server's shared catalog."""
        await self._setting(f"SET application_name TO {literal(_mark(run))}")

    async def marked(self, run: str) -> bool:
        async with connected(self._maintenance, CATALOG) as session:
            return bool(await session.fetchval(_MARKED, f"application_name={_mark(run)}"))

    async def unmark(self, run: str) -> None:
        if await self.marked(run):
            await self._setting("RESET application_name")

    async def _setting(self, what: str) -> None:
        async with clone.writing(self._maintenance, "backout/mark") as session:
            await session.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {quoted(self._maintenance.database)} {what}")


def _mark(run: str) -> str:
    return f"backout/{run}/before"


async def _hangs(session: Connection, it: Here) -> Refusal | None:
    """What would be gone with the database, is in no dump, and can't be given back."""
    row = await session.fetchrow(may_swap.HANGING, it.oid)
    named = [f"{what} {name}" for what in ("slot", "subscription") for name in (row[f"{what}s"] if row else ())]
    named += [f"the security label of {label}" for label in (row["labels"] if row else ())]
    if not named:
        return None
    return Refusal(
        "in_place_consumers",
        f"What hangs on {it.name} would be gone with it, and no dump brings it back: {', '.join(named[: visitors.SHOWN])}.",
        "Drop it first (pg_drop_replication_slot, DROP SUBSCRIPTION, SECURITY LABEL ... IS NULL), and make it anew afterwards.",
    )


async def _tried(session: Connection, it: Here) -> list[Refusal]:
    """Everything is taken from the database and given back to it, and rolled back: better to hear now that a right is missing."""
    trying = session.transaction()
    await trying.start()
    try:
        was = await dressing.read(session, it.oid)
        await dressing.give_settings(session, it.name, was.settings)
        await dressing.shut(session, it.oid, it.name, it.my_name, "ALL")
        notes = await dressing.give(session, it.oid, it.name, was)
    except Refusal as refusal:
        return [refusal]
    except (StepFailed, asyncpg.PostgresError) as error:
        why = error.message if isinstance(error, StepFailed) else f"{words(error)}."
        said = f"Owner, rights and settings of {it.name} could not be given back by {it.my_name}: {why}"
        return [Refusal("swap_rights", said, "Give it the right that is missing, or make it a superuser.")]
    finally:
        await trying.rollback()
    return [may_swap.differs(note) for note in notes if not note.startswith(acl.SAME)]
