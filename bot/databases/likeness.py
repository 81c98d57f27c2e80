"""What a copy of a database must have around it to behave as in production: roles, locale, settings, grants. Read there, made again elsewhere.

Never passwords; never roles of the system's (pg_*). A statement that another server refuses becomes a sentence, not an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from bot.databases.connecting import CATALOG, Connection, connected, quoted, words
from bot.place import Connect

_FACTS = """
SELECT current_setting('server_version_num')::int AS version, (SELECT system_identifier::text FROM pg_control_system()) AS system,
  pg_database_size(d.oid) AS size, pg_get_userbyid(d.datdba) AS owner,
  pg_encoding_to_char(d.encoding) AS encoding, to_jsonb(d)::text AS database,
  (SELECT count(*) FROM pg_class) AS relations,
  (SELECT json_object_agg(extname, extversion)::text FROM pg_extension) AS extensions,
  ARRAY(SELECT extname::text FROM pg_extension WHERE extnamespace::regnamespace::text IN ('public', 'pg_catalog')) AS extensions_in_public,
  (SELECT array_agg(pubname::text ORDER BY pubname) FROM pg_publication) AS publications,
  current_user::text AS me, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS i_am_superuser,
  (SELECT rolsuper FROM pg_roles WHERE rolname = $1) AS tool_is_superuser,
  (SELECT bool_or(pg_has_role($1::name, r.oid, 'MEMBER')) FROM pg_roles r WHERE r.rolsuper) AS tool_may_become_superuser,
  (SELECT bool_or(pg_has_role($1::name, r.oid, 'MEMBER')) FROM pg_roles r
    WHERE r.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')) AS tool_reaches_files
FROM pg_database d WHERE d.datname = current_database()"""

_ROLES = """
SELECT rolname::text AS name, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit
FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"""

# inherit_option and set_option are there since 16.
_MEMBERS = """
SELECT r.rolname::text AS role, u.rolname::text AS member, g.rolname::text AS grantor, coalesce(g.rolsuper, true) AS by_superuser,
  m.admin_option AS admin, (to_jsonb(m) ->> 'inherit_option')::bool AS inherit, (to_jsonb(m) ->> 'set_option')::bool AS set
FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member LEFT JOIN pg_roles g ON g.oid = m.grantor
WHERE u.rolname !~ '^pg_' ORDER BY 1, 2, 3"""

_SETTINGS = """
SELECT s.setdatabase <> 0 AS here, r.rolname::text AS role, split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value
FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND (s.setrole = 0 OR r.rolname !~ '^pg_')
ORDER BY 1, 2, 3"""

_GRANTS = """
SELECT CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END AS grantee, a.privilege_type AS privilege,
  a.is_grantable AS grantable
FROM pg_database d CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = current_database()"""

_PUBLIC = """
SELECT pg_get_userbyid(n.nspowner)::text AS owner,
  CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END AS grantee, a.privilege_type AS privilege, a.is_grantable AS grantable
FROM pg_namespace n LEFT JOIN LATERAL aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a ON true WHERE n.nspname = 'public'"""

#: settings whose value is a list of names, already quoted: they can't be written as one text (as pg_dump knows, too)
_LISTS = {"search_path", "temp_tablespaces"}
_LIBRARIES = {"local_preload_libraries", "session_preload_libraries", "shared_preload_libraries"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Likeness:
    """What was read. `tool` is the role's name; rows are as the queries above name their columns."""

    tool: str
    facts: Row
    database: Row
    extensions: Mapping[str, str]
    roles: tuple[Row, ...]
    members: tuple[Row, ...]
    settings: tuple[Row, ...]
    grants: tuple[Row, ...]
    public: tuple[Row, ...]

    @property
    def version(self) -> int:
        return int(self.facts["version"])

    @property
    def owner(self) -> str:
        return str(self.facts["owner"])


async def read(source: Connect, tool: str) -> Likeness:
    """`source` leads to the database itself. Raises Refusal, StepFailed, OutcomeUnknown."""
    async with connected(source, CATALOG) as session, session.transaction(isolation="repeatable_read", readonly=True):
        facts = await session.fetchrow(_FACTS, tool)
        assert facts is not None  # noqa: S101  we are in that database

        async def rows(sql: str) -> tuple[Row, ...]:
            return tuple(dict(row) for row in await session.fetch(sql))

        return Likeness(
            tool=tool,
            facts=dict(facts),
            database=json.loads(facts["database"]),
            extensions=json.loads(facts["extensions"] or "{}"),
            roles=await rows(_ROLES),
            members=await rows(_MEMBERS),
            settings=await rows(_SETTINGS),
            grants=await rows(_GRANTS),
            public=await rows(_PUBLIC),
        )


# ------------------------------------------------------------------ made again


async def make_roles(session: Connection, like: Likeness, password: str) -> list[str]:
    """On a server that has none of them. The tool's role gets that password, nobody else one. What was refused, in sentences."""
    said = await _each(session, (_role(row, password if row["name"] == like.tool else None) for row in like.roles))
    version = await session.fetchval("SELECT current_setting('server_version_num')::int")
    said += await _each(session, _memberships(like.members, since_16=version >= 160000))
    said += await set_up_settings(session, like, None)
    return said


async def make_empty(session: Connection, like: Likeness, name: str) -> list[str]:
    """An empty database with the source's encoding and locale, as far as this server has it."""
    begin = f"CREATE DATABASE {quoted(name)} TEMPLATE template0 ENCODING {literal(like.facts['encoding'])}"
    try:
        await session.execute(f"{begin} {locale(like.database)}")
    except asyncpg.PostgresError as error:
        await session.execute(f"{begin} LC_COLLATE 'C' LC_CTYPE 'C'")
        return [f"The database is sorted as C, because the server lacks production's locale {_locale_name(like.database)} ({words(error)})."]
    return []


async def public(session: Connection) -> tuple[Row, ...]:
    """Who may do what in the schema public of the database that the session is in."""
    return tuple(dict(row) for row in await session.fetch(_PUBLIC))


async def make_public(session: Connection, rows: Sequence[Row]) -> list[str]:
    """The same in another database, in which the session is."""
    if not rows:
        return []
    owner = rows[0]["owner"]
    statements = [] if owner == "pg_database_owner" else [f"ALTER SCHEMA public OWNER TO {quoted(owner)}"]
    return await _each(session, [*statements, *_grants("SCHEMA public", owner, rows)])


async def set_up(session: Connection, like: Likeness, name: str) -> list[str]:
    """Owner, grants and settings of a database that was just made: no template carries them."""
    database = f"DATABASE {quoted(name)}"
    said = await _each(session, [f"ALTER {database} OWNER TO {quoted(like.owner)}", *_grants(database, like.owner, like.grants)])
    return said + await set_up_settings(session, like, name)


async def set_up_settings(session: Connection, like: Likeness, name: str | None) -> list[str]:
    """Those of the database `name`, or (None) those that roles have in every database."""
    said = []
    for row in like.settings:
        if row["here"] is not (name is not None):
            continue
        if row["name"] in _LIBRARIES:
            said.append(f"The setting {row['name']} was left out.")
        elif refused := await _set(session, row, _whose(row["role"], name)):
            said.append(f"The setting {row['name']} was left out: {refused}.")
    return said


def _whose(role: str | None, name: str | None) -> str:
    if role is None:
        return "ROLE ALL" if name is None else f"DATABASE {quoted(name)}"
    return f"ROLE {quoted(role)}" + ("" if name is None else f" IN DATABASE {quoted(name)}")


async def _set(session: Connection, row: Row, whose: str) -> str | None:
    setting = quoted(*row["name"].split("."))
    try:
        async with session.transaction():
            if row["name"] in _LISTS:
                await session.fetchval("SELECT set_config($1, $2, true)", row["name"], row["value"])
                await session.execute(f"ALTER {whose} SET {setting} FROM CURRENT")
            else:
                await session.execute(f"ALTER {whose} SET {setting} TO {literal(row['value'])}")
    except asyncpg.PostgresError as error:
        return words(error)
    return None


async def _each(session: Connection, statements: Iterable[str]) -> list[str]:
    said = []
    for statement in statements:
        try:
            await session.execute(statement)
        except asyncpg.PostgresError as error:
            said.append(f"{statement.split(' PASSWORD ', maxsplit=1)[0]} was refused: {words(error)}.")
    return said


def _role(row: Row, password: str | None) -> str:
    attributes = {"rolsuper": "SUPERUSER", "rolinherit": "INHERIT", "rolcreaterole": "CREATEROLE", "rolcreatedb": "CREATEDB",
                  "rolreplication": "REPLICATION", "rolbypassrls": "BYPASSRLS"}  # fmt: skip
    said = [word if row[column] else f"NO{word}" for column, word in attributes.items()]
    said += ["LOGIN" if row["rolcanlogin"] or password else "NOLOGIN", f"CONNECTION LIMIT {row['rolconnlimit']:d}"]
    return f"CREATE ROLE {quoted(row['name'])} {' '.join(said)}" + (f" PASSWORD {literal(password)}" if password else "")


def _memberships(rows: Iterable[Row], *, since_16: bool) -> list[str]:
    """In an order in which each grantor has its right by then: by the superuser first, then along the chain of admin options."""
    rows = list(rows)
    if not since_16:
        return [_member(row, None, since_16=False) for row in rows]
    first, waiting = _merged(row for row in rows if row["by_superuser"]), [row for row in rows if not row["by_superuser"]]
    ready = {(row["role"], row["member"]) for row in first if row["admin"]}
    ordered = [_member(row, None) for row in first]
    while waiting:
        now = [row for row in waiting if (row["role"], row["grantor"]) in ready]
        if not now:  # the grantor's right was itself inherited: whose grant it is can't be kept
            return ordered + [_member(row, None) for row in waiting]
        ordered += [_member(row, row["grantor"]) for row in now]
        ready |= {(row["role"], row["member"]) for row in now if row["admin"]}
        waiting = [row for row in waiting if row not in now]
    return ordered


def _merged(rows: Iterable[Row]) -> list[Row]:
    """What several superusers granted is granted by one here."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        one = found.setdefault((row["role"], row["member"]), dict(row))
        one.update({option: one[option] or row[option] for option in ("admin", "inherit", "set")})
    return list(found.values())


def _member(row: Row, grantor: str | None, *, since_16: bool = True) -> str:
    grant = f"GRANT {quoted(row['role'])} TO {quoted(row['member'])}"
    if not since_16:
        return grant + (" WITH ADMIN OPTION" if row["admin"] else "")
    known = {"ADMIN": row["admin"], "INHERIT": row["inherit"], "SET": row["set"]}
    options = ", ".join(f"{word} {'TRUE' if value else 'FALSE'}" for word, value in known.items() if value is not None)
    return f"{grant} WITH {options}" + (f" GRANTED BY {quoted(grantor)}" if grantor else "")


def _grants(what: str, owner: str, rows: Iterable[Row]) -> Iterator[str]:
    yield f"REVOKE ALL ON {what} FROM PUBLIC, {quoted(owner)}"
    for row in rows:
        if row["privilege"] is not None:
            grantee = "PUBLIC" if row["grantee"] is None else quoted(row["grantee"])
            yield f"GRANT {row['privilege']} ON {what} TO {grantee}" + (" WITH GRANT OPTION" if row["grantable"] and row["grantee"] else "")


def locale(database: Row) -> str:
    """For CREATE DATABASE, of a row of pg_database as to_jsonb has it."""
    said = f"LC_COLLATE {literal(database['datcollate'])} LC_CTYPE {literal(database['datctype'])}"
    locale = _locale_name(database)
    match database.get("datlocprovider"):
        case "i":
            said += f" LOCALE_PROVIDER icu ICU_LOCALE {literal(locale)}"
            said += f" ICU_RULES {literal(str(database['daticurules']))}" if database.get("daticurules") else ""
        case "b":
            said += f" LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(locale)}"
        case "c":
            said += " LOCALE_PROVIDER libc"
    return said


def _locale_name(database: Row) -> str:
    return str(database.get("datlocale") or database.get("daticulocale") or database["datcollate"])


def literal(text: str) -> str:
    """A text constant, whatever standard_conforming_strings says."""
    return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
