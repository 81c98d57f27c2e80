"""The door of a database: nobody but Backout may connect, proven, and afterwards everything is as it was (databases.md F8).

All is done from the maintenance database, so that no session of ours is in the way of a clone. Closing is one transaction, opening is one; the
run's own role (key.py) holds the door exactly as long as it is closed, so the server itself says after any crash which of the two it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from bot.databases import acl, key, may_close, timescale, visitors
from bot.databases.acl import PUBLIC, Acl
from bot.databases.connecting import CATALOG, Connection, connected, quoted, words
from bot.databases.key import Key
from bot.databases.may_close import Here
from bot.errors import Refusal, StepFailed
from bot.evidence import Noun
from bot.place import Connect

_WRITING = {**CATALOG, "default_transaction_read_only": "off"}
_OURS = "backout/"  # so the application_name of every session of ours begins

_MAY_ENTER = """
SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND has_database_privilege(oid, $1::int8::oid, 'CONNECT')
  AND oid::int8 <> ALL ($2::int8[]) ORDER BY rolname"""


class Login(Noun):
    """A role that shall not log in meanwhile, and whether it could."""

    oid: int
    name: str
    login: bool


class Before(Noun):
    """How it was when the door was open: what is remembered, and given back. `database` is its OID."""

    run: str
    database: int
    acl: Acl
    logins: tuple[Login, ...]


class Door:
    """`tool` is how the application enters; `maintenance` how Backout does, in the database from which everything is done.

    Every method raises Refusal (on connecting), StepFailed and OutcomeUnknown.
    """

    def __init__(self, maintenance: Connect, tool: Connect) -> None:
        self._maintenance = maintenance
        self._tool = tool

    # ------------------------------------------------------------------ may it be closed?

    async def ready(self, roles: Sequence[str]) -> tuple[Refusal, ...]:
        """What stands in the way; a warning does not. The closing is tried, and rolled back: nothing changes and nobody notices."""
        async with self._session() as session:
            return await self._in_the_way(session, await may_close.here(session, self._tool.database), roles)

    async def _in_the_way(self, session: Connection, it: Here, roles: Sequence[str]) -> tuple[Refusal, ...]:
        if held := await key.held(session, it.oid):
            return (_still_closed(it, held[0]),)
        before = await self._before(session, it, "try", roles)
        found = await may_close.in_the_way(session, it, self._tool.user, before.acl, roles)
        if any(not refusal.warning for refusal in found):
            return found
        trying = session.transaction()
        await trying.start()
        try:
            await self._shut(session, it, before)
        except Refusal as refusal:
            return *found, refusal
        finally:
            await trying.rollback()
        return found

    # ------------------------------------------------------------------ close

    async def close(self, run: str, stopped: Mapping[str, Any], remember: Callable[..., Awaitable[None]], roles: Sequence[str]) -> Mapping[str, Any]:
        """Rights first, then sessions, then proof. `stopped` is what an earlier attempt of this run remembered; what is remembered is JSON.

        It is remembered before anything changes, and never while the door is closed. Returns facts, `says` among them.
        """
        async with self._session(run) as session:
            await visitors.end_former(session)
            if stopped and not await _there(session, self._tool.database):  # this run dropped it
                await remember(**stopped)
                return {"says": f"there is no database {self._tool.database} now, so nobody can enter it"}
            it = await may_close.here(session, self._tool.database)
            taken: tuple[str, ...] = ()
            notes: tuple[str, ...] = ()
            if held := await key.held(session, it.oid):
                if held[0].run != run or not stopped:
                    raise _failed(_still_closed(it, held[0]))
                await remember(**stopped)  # so that the newest attempt knows it too
            else:
                taken, notes = await self._take(session, it, run, stopped, remember, roles)
            mine = (await key.held(session, it.oid))[0]
            await visitors.inside(session, it.oid, _ours(it, mine), end_arriving=True)
            await self._quiet()
            ended = await visitors.end(session, it.oid, _ours(it, mine))
            await self._prove(session, it, mine)
        await self._try_key(mine)
        says = f"the door of {it.name} is closed: {_how_many(len(taken), 'grantee')} lost CONNECT, {_how_many(len(ended), 'session')} ended"
        facts = {"role": mine.name, "taken": list(taken), "ended": [one.model_dump(mode="json") for one in ended[: visitors.SHOWN]]}
        return {"says": "; ".join((says, *notes)), "ended_total": len(ended), "notes": list(notes), **facts}

    async def _take(
        self, session: Connection, it: Here, run: str, stopped: Mapping[str, Any], remember: Callable[..., Awaitable[None]], roles: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        for refusal in await self._in_the_way(session, it, roles):
            if not refusal.warning:
                raise _failed(refusal)
        before = await self._before(session, it, run, roles)
        facts = before.model_dump(mode="json")
        if dict(stopped) != facts:
            await remember(**facts)
        async with session.transaction():
            return await self._shut(session, it, before)

    async def _before(self, session: Connection, it: Here, run: str, roles: Sequence[str]) -> Before:
        logins = tuple(Login(oid=one.oid, name=one.name, login=one.login) for one in await may_close.named(session, roles, it.oid))
        return Before(run=run, database=it.oid, acl=await acl.read(session, it.oid), logins=logins)

    async def _shut(self, session: Connection, it: Here, before: Before) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Inside the caller's transaction. Who lost CONNECT, and what else is to be said. Raises Refusal when the door would not be closed by it."""
        try:
            role = await may_close.becomes(session, self._tool.user, it.oid)
            mine, left_out = await key.make(session, before.run, role, await key.settings_of(session, self._tool.user, it.oid))
            on = f"ON DATABASE {quoted(it.name)}"
            taken = await _named(session, [one for one in before.acl.grantees("CONNECT") if one != it.me])
            async with acl.as_owner(session, it.oid):
                await session.execute(f"GRANT CONNECT {on} TO {quoted(mine.name)}, {quoted(it.my_name)}")
                for who in taken:
                    await session.execute(f"REVOKE CONNECT {on} FROM {who} CASCADE")
            notes = [f"the run's role was not given {setting}" for setting in left_out]
            notes += [note for login in before.logins if (note := await _no_login(session, it, login))]
        except asyncpg.PostgresError as error:
            raise Refusal(
                "door_not_ours",
                f"Backout's role {it.my_name} can't close the door of {it.name}: {words(error)}.",
                "Give it the right that is missing, or make it a superuser.",
            ) from error
        if leaks := await _others(session, it, mine):
            raise _leaking(it, leaks)
        return tuple(taken), tuple(notes)

    async def _try_key(self, mine: Key) -> None:
        """Better to hear now than before the downgrade that the server would not let us in (its pg_hba.conf may name users)."""
        async with self._session() as session:
            connect = await self._with(session, mine)
        try:
            async with connected(connect) as session:
                await session.fetchval("SELECT 1")
        except Refusal as refusal:
            raise _failed(refusal) from refusal

    # ------------------------------------------------------------------ while it is closed

    async def prove(self, run: str) -> None:
        """The rights are taken, nobody but us is in, nothing is prepared. Raises StepFailed, which names who is there."""
        async with self._session() as session:
            it = await may_close.here(session, self._tool.database)
            held = await key.held(session, it.oid)
            if not held or held[0].run != run:
                raise StepFailed(f"The door of {it.name} is not closed by this run: anybody may be writing.")
            await self._prove(session, it, held[0])

    async def _prove(self, session: Connection, it: Here, mine: Key) -> None:
        if leaks := await _others(session, it, mine):
            raise _failed(_leaking(it, leaks))
        there = await visitors.inside(session, it.oid, _ours(it, mine))
        if there and await self._quiet():  # a clone brings them back
            there = await visitors.inside(session, it.oid, _ours(it, mine))
        if there:
            facts = {"inside": [one.model_dump(mode="json") for one in there[: visitors.SHOWN]], "inside_total": len(there)}
            raise StepFailed(f"The door of {it.name} is closed, but somebody is still in: {visitors.told(there)}. End them, then retry.", facts)
        if gids := await visitors.prepared(session, it.oid):
            named = ", ".join(gids[: visitors.SHOWN])
            raise StepFailed(
                f"{it.name} has prepared transactions, which hold their locks without a session: {named}. Commit or roll back each, then retry.",
                {"prepared": list(gids[: visitors.SHOWN])},
            )

    async def _quiet(self) -> bool:
        """Workers of an extension come in by no door."""
        return await timescale.quiet(self._inside)

    @property
    def _inside(self) -> Connect:
        return self._maintenance.model_copy(update={"database": self._tool.database})

    async def entrance(self, run: str) -> Connect | None:
        """How the tool enters while this run holds the door closed, by a password that is new each time; None: as always."""
        async with self._session() as session:
            if not await _there(session, self._tool.database):  # this run dropped it: what takes its place is entered by the same key
                left = await key.left(session, run)
                return await self._with(session, left[0]) if left else None
            it = await may_close.here(session, self._tool.database)
            held = await key.held(session, it.oid)
            return await self._with(session, held[0]) if held and held[0].run == run else None

    async def _with(self, session: Connection, mine: Key) -> Connect:
        return self._tool.model_copy(update={"user": mine.name, "password": await key.cut(session, mine)})

    # ------------------------------------------------------------------ open

    async def open(self, run: str, stopped: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give back what was remembered, to the letter; twice is harmless. Returns facts, `says` among them.

        Raises StepFailed when this run holds the door closed and nothing is remembered: silence would leave everybody out.
        """
        if not stopped:
            return await self._never_closed(run)
        before = Before(**stopped)
        async with self._session(before.run) as session:
            await visitors.end_former(session)
            held = await key.of_run(session, before.run)
            if not held and not await _there(session, before.database) and not await _there(session, self._tool.database):
                return await self._gone(session, before)
            if not held:
                await timescale.wake(self._inside)
                name = await _name(session, before, self._tool.database)
                return {"says": f"the door of {name} is open", "opened": False, "notes": await _without_login(session, before)}
            # A swap took the door along to the database that was put in the place.
            database = before.database if before.database in held else min(held)
            it, mine = await may_close.here(session, database), held[database]
            await session.execute(f"ALTER ROLE {quoted(mine.name)} NOLOGIN")
            await visitors.end_role(session, mine.oid)
            async with session.transaction():
                notes = await _unshut(session, it, before, mine)
        await timescale.wake(self._inside)
        says = f"the door of {it.name} is open again, its rights are as they were"
        return {"says": "; ".join((says, *notes)), "opened": True, "notes": list(notes)}

    async def _gone(self, session: Connection, before: Before) -> Mapping[str, Any]:
        """The database was dropped, and nothing is in its place: what is left of the door are logins, and the run's own role."""
        notes: list[str] = []
        await _log_in(session, before, before.database)
        for mine in await key.left(session, before.run):
            await session.execute(f"ALTER ROLE {quoted(mine.name)} NOLOGIN")
            await visitors.end_role(session, mine.oid)
            async with session.transaction():
                notes += filter(None, [await key.give_up(session, mine)])
        says = f"there is no database {self._tool.database}, so it has no door that could be opened"
        return {"says": "; ".join((says, *notes)), "opened": False, "notes": notes}

    async def _never_closed(self, run: str) -> Mapping[str, Any]:
        async with self._session() as session:
            it = await may_close.here(session, self._tool.database)
            if mine := [one for one in await key.held(session, it.oid) if one.run == run]:
                raise _failed(_still_closed(it, mine[0]))
        return {"says": f"the door of {it.name} had not been closed", "opened": False}

    @asynccontextmanager
    async def _session(self, run: str | None = None) -> AsyncIterator[Connection]:
        """With a run it is the one that changes something: whoever takes over ends it first."""
        name = {"application_name": f"{_OURS}door/{run}"[:63]} if run else {}
        async with connected(self._maintenance, {**_WRITING, **name}) as session:
            yield session


async def _there(session: Connection, database: str | int) -> bool:
    which = "datname = $1" if isinstance(database, str) else "oid = $1::int8::oid"
    return bool(await session.fetchval(f"SELECT true FROM pg_database WHERE {which}", database))  # noqa: S608  constants


async def _name(session: Connection, before: Before, name: str) -> str:
    """Of the database in the place now; of the one that was closed, should there be none in the place."""
    return name if await _there(session, name) else (await may_close.here(session, before.database)).name


async def _unshut(session: Connection, it: Here, before: Before, mine: Key) -> tuple[str, ...]:
    notes = list(await acl.give_back(session, it.oid, it.name, before.acl))
    await _log_in(session, before, it.oid)
    if left := await key.give_up(session, mine):
        notes.append(left)
    return tuple(notes)


async def _log_in(session: Connection, before: Before, database: int) -> None:
    could = [login.oid for login in before.logins if login.login]
    for role in await may_close.with_oids(session, could, database):
        if not role.login:
            await session.execute(f"ALTER ROLE {quoted(role.name)} LOGIN")


async def _no_login(session: Connection, it: Here, login: Login) -> str | None:
    """Take the login, unless the role works in another database too."""
    role = (await may_close.with_oids(session, [login.oid], it.oid))[0]
    if role.elsewhere:
        return f"{role.name} keeps its login, since it works in another database too"
    if role.login:
        await session.execute(f"ALTER ROLE {quoted(role.name)} NOLOGIN")
    return None


async def _without_login(session: Connection, before: Before) -> list[str]:
    """Not closed by us any more: then a missing login is somebody's decision, which is only told."""
    could = [login.oid for login in before.logins if login.login]
    return [f"{role.name} has no login now, though it had" for role in await may_close.with_oids(session, could, before.database) if not role.login]


async def _named(session: Connection, grantees: Sequence[int]) -> list[str]:
    """As SQL has them; a role that is gone meanwhile has nothing to lose."""
    rows = await session.fetch("SELECT oid::int8, rolname FROM pg_roles WHERE oid::int8 = ANY ($1::int8[])", list(grantees))
    names = {PUBLIC: "PUBLIC", **{row["oid"]: quoted(row["rolname"]) for row in rows}}
    return [names[one] for one in grantees if one in names]


async def _others(session: Connection, it: Here, mine: Key) -> list[str]:
    """Who could connect besides Backout; superusers always could, so it is only seen whether one is in."""
    return [row[0] for row in await session.fetch(_MAY_ENTER, it.oid, [it.me, mine.oid])]


def _ours(it: Here, mine: Key) -> visitors.Ours:
    """By role and by name: anybody can call a session as we do, and a person may enter by Backout's role."""
    return lambda session, role: role in {it.me, mine.oid} and session.application.startswith(_OURS)


def _leaking(it: Here, leaks: Sequence[str]) -> Refusal:
    named = ", ".join(leaks[: visitors.SHOWN])
    return Refusal(
        "door_leaks",
        f"With the door of {it.name} closed, these roles could still connect: {named}.",
        f"Take from them what lets them in: a membership in {it.my_name}, or a grant that {it.my_name} may not revoke.",
    )


def _still_closed(it: Here, held: Key) -> Refusal:
    return Refusal(
        "door_closed",
        f"The door of {it.name} is closed already, by run {held.run}: how it was before is written in that run's journal.",
        f"End that run, which opens the door. If it is lost: give CONNECT back by hand, then DROP ROLE {quoted(held.name)}.",
    )


def _failed(refusal: Refusal) -> StepFailed:
    return StepFailed(f"{refusal.message} {refusal.next}")


def _how_many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
