"""The key to a closed door: a login role of the run's own that becomes the application's role as soon as it is in.

What it creates belongs to the application, as if the application had done it. Its comment says which run's it is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

import asyncpg

from bot.databases.connecting import Connection, quoted, words
from bot.evidence import Noun

_ROUNDS = 4096  # of SCRAM, as Postgres does it

# Whose CONNECT on the database is a key's.
_HELD = """
SELECT DISTINCT r.oid::int8, r.rolname AS name, split_part(shobj_description(r.oid, 'pg_authid'), ' ', 3) AS run
FROM pg_database d, aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE d.oid = $1::int8::oid AND a.privilege_type = 'CONNECT' AND shobj_description(r.oid, 'pg_authid') LIKE 'Backout run %'"""

# What lies beside is no database with a door: for as long as it is looked at, a key may lead into it too. Its comment alone does not tell: whoever
# owns a database can write any, and a door that is not found stays closed.
_OF_RUN = """
SELECT DISTINCT d.oid::int8 AS database, r.oid::int8, r.rolname AS name
FROM pg_database d, aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE a.privilege_type = 'CONNECT' AND shobj_description(r.oid, 'pg_authid') LIKE 'Backout run %'
  AND split_part(shobj_description(r.oid, 'pg_authid'), ' ', 3) = $1
  AND NOT (starts_with(d.datname, 'backout_') AND starts_with(coalesce(shobj_description(d.oid, 'pg_database'), ''), 'Backout: ')) ORDER BY 1"""

_LEFT = """
SELECT oid::int8, rolname AS name FROM pg_roles
WHERE shobj_description(oid, 'pg_authid') LIKE 'Backout run %' AND split_part(shobj_description(oid, 'pg_authid'), ' ', 3) = $1 ORDER BY 1"""

# What is set for the application when it logs in, everywhere first, then in this database.
_SETTINGS = """
SELECT split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value
FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN unnest(s.setconfig) AS c
WHERE r.rolname = $1 AND s.setdatabase::int8 IN (0, $2::int8) ORDER BY s.setdatabase"""

#: In these a list of quoted names is kept as text; written as one literal it would be taken for one name.
_LISTS = frozenset({"search_path", "temp_tablespaces"})


class Key(Noun):
    oid: int
    name: str
    run: str


async def held(session: Connection, database: int) -> tuple[Key, ...]:
    """The keys to the door of the database with that OID: one as long as it is closed, else none."""
    return tuple(Key(**row) for row in await session.fetch(_HELD, database))


async def of_run(session: Connection, run: str) -> Mapping[int, Key]:
    """The keys of that run, by the OID of the database whose door they hold: a swap takes the door along to the database that is put in the place."""
    return {row["database"]: Key(oid=row["oid"], name=row["name"], run=run) for row in await session.fetch(_OF_RUN, run)}


async def left(session: Connection, run: str) -> tuple[Key, ...]:
    """The keys of that run, also to the door of a database that is gone."""
    return tuple(Key(**row, run=run) for row in await session.fetch(_LEFT, run))


async def settings_of(session: Connection, role: str, database: int) -> dict[str, str]:
    """Of a role as it logs in to the database with that OID."""
    return {row["name"]: row["value"] for row in await session.fetch(_SETTINGS, role, database)}


async def make(session: Connection, run: str, role: str, settings: dict[str, str]) -> tuple[Key, tuple[str, ...]]:
    """Inside the caller's transaction: a key that becomes `role` and has its `settings`. Second: which settings it could not be given, and why."""
    name = f"backout_{re.sub(r'[^a-z0-9]', '', run.lower())[:40]}_{secrets.token_hex(4)}"
    await session.execute(f"CREATE ROLE {quoted(name)} LOGIN IN ROLE {quoted(role)}")
    await _says(
        session, "COMMENT ON ROLE %I IS %L", name, f"Backout run {run} holds a database's door closed with this role. Opening it drops the role."
    )
    left_out = []
    for setting, value in {**settings, "role": role}.items():
        try:
            async with session.transaction():
                await _set(session, name, setting, value)
        except asyncpg.PostgresError as error:
            if setting == "role":
                raise
            left_out.append(f"{setting} ({words(error)})")
    return Key(oid=await session.fetchval("SELECT oid::int8 FROM pg_roles WHERE rolname = $1", name), name=name, run=run), tuple(left_out)


async def _set(session: Connection, name: str, setting: str, value: str) -> None:
    where = f"ALTER ROLE {quoted(name)} SET {quoted(*setting.split('.'))}"
    if setting not in _LISTS:
        await _says(session, f"{where.replace('%', '%%')} = %L", value)
        return
    before = await session.fetchval("SELECT current_setting($1)", setting)
    await session.fetchval("SELECT set_config($1, $2, true)", setting, value)
    await session.execute(f"{where} FROM CURRENT")
    await session.fetchval("SELECT pg_catalog.set_config($1, $2, true)", setting, before)


async def _says(session: Connection, statement: str, *values: str) -> None:
    """A statement that takes no parameters; the server itself quotes the values."""
    await session.execute(await session.fetchval("SELECT format($1, VARIADIC $2::text[])", statement, list(values)))


async def cut(session: Connection, key: Key) -> str:
    """A new password for the key. Its text never reaches the server, whose log may keep statements: only what proves it."""
    password = secrets.token_urlsafe(24)
    await _says(session, "ALTER ROLE %I LOGIN PASSWORD %L", key.name, verifier(password))
    return password


def verifier(password: str) -> str:
    """SCRAM-SHA-256 as pg_authid keeps it (RFC 5803)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${_ROUNDS}:{salt64}${stored64}:{server64}"


async def give_up(session: Connection, key: Key) -> str | None:
    """Inside the caller's transaction: the role is dropped. It stays, without login, when something belongs to it; the sentence says what."""
    try:
        async with session.transaction():
            await session.execute(f"DROP ROLE {quoted(key.name)}")
    except asyncpg.DependentObjectsStillExistError as error:
        await _says(session, "COMMENT ON ROLE %I IS %L", key.name, f"Left behind by Backout run {key.run}: something belongs to this role.")
        return (
            f"the run's role {key.name} stays, without login, because something belongs to it ({' '.join((error.detail or words(error)).split())}); "
            f"hand that over with REASSIGN OWNED BY {quoted(key.name)}, then drop the role"
        )
    return None
