"""What belongs to a database and lies outside of it: owner, rights, settings, limits, comment. Read of one, given to another (databases.md F9).

All of it works from another database of the server, inside the caller's transaction.
"""

from __future__ import annotations

from typing import cast

import asyncpg

from bot.databases import acl
from bot.databases.acl import Acl
from bot.databases.connecting import Connection, quoted, words
from bot.databases.likeness import literal
from bot.errors import Refusal, StepFailed
from bot.evidence import Noun

_OUTSIDE = """
SELECT d.oid::int8, d.datname AS name, pg_get_userbyid(d.datdba)::text AS owner, d.datconnlimit AS connection_limit,
  d.datallowconn AS allow_connections, d.datistemplate AS is_template, shobj_description(d.oid, 'pg_database') AS comment
FROM pg_database d WHERE d.oid = $1::int8::oid"""

_SETTINGS = """
SELECT r.rolname::text AS role, s.setconfig::text[] AS settings FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE s.setdatabase = $1::int8::oid ORDER BY r.rolname NULLS FIRST"""

#: In these a list of quoted names is kept as text; written as one literal it would be taken for one name.
_LISTS = frozenset({"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"})


class Settings(Noun):
    """`entries` as pg_db_role_setting keeps them: 'name=value'. `role` None: for everybody."""

    role: str | None
    entries: tuple[str, ...]


class Outside(Noun):
    oid: int
    name: str
    owner: str
    connection_limit: int
    allow_connections: bool
    is_template: bool
    comment: str | None
    acl: Acl
    settings: tuple[Settings, ...]


async def read(session: Connection, database: int) -> Outside:
    """Of the database with that OID. Raises StepFailed when it is gone."""
    row = await session.fetchrow(_OUTSIDE, database)
    if row is None:
        raise StepFailed(f"The database with OID {database} is gone.")
    return Outside(**row, acl=await acl.read(session, database), settings=await _settings(session, database))


async def give(session: Connection, database: int, name: str, what: Outside) -> tuple[str, ...]:
    """That database has `what` from now on, and nothing of what it had. What could not be as it was, in sentences.

    Raises Refusal (swap_rights) for what this role may not give, StepFailed.
    """
    on = f"DATABASE {quoted(name)}"
    now = await read(session, database)
    if now.owner != what.owner:
        await session.execute(f"ALTER {on} OWNER TO {quoted(what.owner)}")
    if (now.connection_limit, now.is_template) != (what.connection_limit, what.is_template):
        await session.execute(f"ALTER {on} CONNECTION LIMIT {what.connection_limit:d} IS_TEMPLATE {_bool(what.is_template)}")
    if now.allow_connections != what.allow_connections:
        await session.execute(f"ALTER {on} ALLOW_CONNECTIONS {_bool(what.allow_connections)}")
    await comment(session, name, what.comment)
    await _give_settings(session, database, name, now.settings, what.settings)
    return await acl.give_back(session, database, name, what.acl)


async def retire(session: Connection, database: int, name: str, note: str, me: str) -> None:
    """Nobody but Backout enters that database any more, and a session in it can't write unless it asks to; `note` is its comment.

    Raises StepFailed when somebody could still connect.
    """
    on = f"DATABASE {quoted(name)}"
    if (await read(session, database)).owner != me:
        await session.execute(f"ALTER {on} OWNER TO {quoted(me)}")
    await shut(session, database, name, me, "ALL")
    await comment(session, name, note)
    await session.execute(f"ALTER {on} SET default_transaction_read_only = on")


async def shut(session: Connection, database: int, name: str, me: str, privilege: str) -> None:
    """Take `privilege` (CONNECT, ALL) from everybody but Backout's role. Raises StepFailed when somebody could still connect."""
    roles = {row["oid"]: row["rolname"] for row in await session.fetch("SELECT oid::int8, rolname FROM pg_roles")}
    async with acl.as_owner(session, database):
        await session.execute(f"GRANT CONNECT ON DATABASE {quoted(name)} TO {quoted(me)}")
        for grantee in (await acl.read(session, database)).grantees():
            who = "PUBLIC" if grantee == acl.PUBLIC else quoted(roles.get(grantee, ""))
            if roles.get(grantee) != me and (grantee == acl.PUBLIC or grantee in roles):
                await session.execute(f"REVOKE {'ALL' if grantee == acl.PUBLIC else privilege} ON DATABASE {quoted(name)} FROM {who} CASCADE")
    left = [grantee for grantee in (await acl.read(session, database)).grantees("CONNECT") if roles.get(grantee) != me]
    if left:
        named = ", ".join(roles.get(grantee, "PUBLIC") for grantee in left)
        raise StepFailed(f"{named} could still connect to {name}, by a grant that Backout's role {me} may not revoke. Nothing was changed.")


async def comment(session: Connection, name: str, text: str | None) -> None:
    await session.execute(await session.fetchval("SELECT format('COMMENT ON DATABASE %I IS %L', $1::text, $2::text)", name, text))


def _bool(value: bool) -> str:
    return "true" if value else "false"


# ------------------------------------------------------------------ settings


async def _settings(session: Connection, database: int) -> tuple[Settings, ...]:
    return tuple(Settings(role=row["role"], entries=tuple(row["settings"])) for row in await session.fetch(_SETTINGS, database))


async def _give_settings(session: Connection, database: int, name: str, now: tuple[Settings, ...], then: tuple[Settings, ...]) -> None:
    if now == then:
        return
    for each in now:
        await session.execute(f"ALTER {_whose(each.role, name)} RESET ALL")
    await give_settings(session, name, then)
    if (got := await _settings(session, database)) != then:
        missing = [f"{each.role or 'everybody'}: {', '.join(each.entries)}" for each in then if each not in got]
        surplus = [f"{each.role or 'everybody'}: {', '.join(each.entries)}" for each in got if each not in then]
        raise StepFailed(f"The settings of {name} could not be given as they were ({'; '.join(missing + surplus)}). Nothing was changed.")


async def give_settings(session: Connection, name: str, settings: tuple[Settings, ...]) -> None:
    """Raises Refusal (swap_rights) for what this role may not set."""
    for each in settings:
        for entry in each.entries:
            await _set(session, _whose(each.role, name), entry)


async def _set(session: Connection, whose: str, entry: str) -> None:
    setting, _, value = entry.partition("=")
    named = quoted(*setting.split("."))
    try:
        async with session.transaction():
            if setting.lower() not in _LISTS:
                await session.execute(f"ALTER {whose} SET {named} TO {literal(value)}")
                return
            before = cast(str, await session.fetchval("SELECT current_setting($1)", setting))
            await session.fetchval("SELECT set_config($1, $2, true)", setting, value)
            await session.execute(f"ALTER {whose} SET {named} FROM CURRENT")
            await session.fetchval("SELECT pg_catalog.set_config($1, $2, true)", setting, before)
    except asyncpg.PostgresError as error:
        me = quoted(str(await session.fetchval("SELECT session_user")))
        raise Refusal(
            "swap_rights",
            f"The setting {setting} ({whose.removeprefix('ROLE ')}) can't be given to the new database: {words(error)}.",
            f"Somebody who may has to run: GRANT SET ON PARAMETER {named} TO {me}; (PostgreSQL 15 and newer), or make Backout's role a superuser.",
        ) from error


def _whose(role: str | None, name: str) -> str:
    return f"DATABASE {quoted(name)}" if role is None else f"ROLE {quoted(role)} IN DATABASE {quoted(name)}"
