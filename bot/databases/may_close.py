"""What stands in the way of closing a database's door, found in the catalogs: who we are there, what we may, who would get in all the same."""

from __future__ import annotations

from collections.abc import Sequence

from bot.databases import visitors
from bot.databases.acl import Acl
from bot.databases.connecting import Connection, quoted
from bot.errors import Refusal, StepFailed
from bot.evidence import Noun

_OPTIONS_SINCE = 160000  # server_version_num: from here on, CREATEROLE alone may not hand out or alter a role

#: may it SET ROLE? Since 16 a membership says so by itself.
_BECOME = f"CASE WHEN current_setting('server_version_num')::int >= {_OPTIONS_SINCE} THEN 'SET' ELSE 'MEMBER' END"

_HERE = """
SELECT d.oid::int8, d.datname AS name, pg_get_userbyid(d.datdba) AS owner, m.oid::int8 AS me, m.rolname AS my_name, m.rolsuper AS superuser,
  m.rolcreaterole AS creates, pg_has_role(m.oid, d.datdba, {become}) AS owns, current_setting('server_version_num')::int AS version,
  pg_has_role(m.oid, 'pg_signal_backend', 'USAGE') OR NOT EXISTS (
    SELECT FROM pg_roles r WHERE r.rolcanlogin AND NOT r.rolsuper AND has_database_privilege(r.oid, d.oid, 'CONNECT')
      AND NOT pg_has_role(m.oid, r.oid, 'USAGE')) AS ends
FROM pg_database d, pg_roles m WHERE m.rolname = session_user AND d.{which}"""
_BY_NAME = _HERE.format(become=_BECOME, which="datname = $1")
_BY_OID = _HERE.format(become=_BECOME, which="oid = $1::int8::oid")

# The role that the application becomes when it logs in: itself, unless it is set to become another one.
_BECOMES = """
SELECT coalesce((SELECT substr(c, 6) FROM pg_db_role_setting s, unnest(s.setconfig) AS c
  WHERE s.setrole = r.oid AND s.setdatabase::int8 IN (0, $2::int8) AND c LIKE 'role=%' ORDER BY s.setdatabase DESC LIMIT 1), r.rolname)
FROM pg_roles r WHERE r.rolname = $1"""

_ROLES = """
SELECT r.oid::int8, r.rolname AS name, r.rolcanlogin AS login, r.rolsuper AS superuser,
  pg_has_role(session_user, r.oid, 'MEMBER WITH ADMIN OPTION') AS managed, pg_has_role(session_user, r.oid, {become}) AS mine,
  EXISTS (SELECT FROM pg_stat_activity a WHERE a.usesysid = r.oid AND a.datid <> $2::int8::oid) AS elsewhere
FROM pg_roles r WHERE {which} ORDER BY r.rolname"""
_ROLES_BY_NAME = _ROLES.format(become=_BECOME, which="r.rolname = ANY ($1::text[])")
_ROLES_BY_OID = _ROLES.format(become=_BECOME, which="r.oid::int8 = ANY ($1::int8[])")

_SUPERUSERS = """
SELECT DISTINCT a.usename FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
WHERE a.datid = $1::int8::oid AND r.rolsuper AND a.usesysid::int8 <> $2::int8
  AND coalesce(a.backend_type, '') NOT ILIKE 'timescaledb%' ORDER BY 1"""


class Here(Noun):
    """A database, and what Backout's own role is and may there."""

    oid: int
    name: str
    owner: str
    me: int
    my_name: str
    superuser: bool
    creates: bool
    owns: bool
    ends: bool
    version: int


class Role(Noun):
    """`managed`: Backout's role has ADMIN OPTION on it; `mine`: it may become it; `elsewhere`: it has a session in another database."""

    oid: int
    name: str
    login: bool
    superuser: bool
    managed: bool
    mine: bool
    elsewhere: bool


async def here(session: Connection, database: str | int) -> Here:
    """By name, or by OID. Raises StepFailed when there is none."""
    row = await session.fetchrow(_BY_NAME if isinstance(database, str) else _BY_OID, database)
    if row is None:
        raise StepFailed(f"There is no database {database} any more.")
    return Here(**row)


async def becomes(session: Connection, role: str, database: int) -> str:
    """Raises StepFailed when there is no such role."""
    found = await session.fetchval(_BECOMES, role, database)
    if found is None:
        raise StepFailed(f"There is no role {role} any more.")
    return str(found)


async def named(session: Connection, roles: Sequence[str], database: int) -> tuple[Role, ...]:
    return tuple(Role(**row) for row in await session.fetch(_ROLES_BY_NAME, list(roles), database))


async def with_oids(session: Connection, oids: Sequence[int], database: int) -> tuple[Role, ...]:
    return tuple(Role(**row) for row in await session.fetch(_ROLES_BY_OID, list(oids), database))


async def in_the_way(session: Connection, it: Here, tool: str, before: Acl, roles: Sequence[str]) -> tuple[Refusal, ...]:
    """All that can be seen without trying. `tool` is the role by which the application enters, `roles` those that shall not log in."""
    application = await becomes(session, tool, it.oid)
    concerned = await named(session, (tool, application), it.oid)
    stopped = await named(session, roles, it.oid)
    grantors = await with_oids(session, [right.grantor for right in before.rights if right.grantor != before.owner], it.oid)
    found = (
        _locked_out(it, tool, roles),
        _leaks(it, concerned),
        _not_ours(it, [one for one in concerned if one.name == application], stopped, grantors),
        _unknown(roles, stopped),
        _beyond_us(it, stopped),
        _elsewhere(stopped),
        await _superusers(session, it),
        await _prepared(session, it),
    )
    return tuple(refusal for refusal in found if refusal)


def _locked_out(it: Here, tool: str, roles: Sequence[str]) -> Refusal | None:
    if it.my_name == tool:
        return Refusal(
            "door_locks_out",
            f"Backout enters {it.name} as {tool}, and so does the application: who shuts the application out would be shut out too.",
            f"Write as `admin` the URL of a role of Backout's own: CREATE ROLE backout LOGIN CREATEROLE CREATEDB; {_grants(it, tool)}",
        )
    if it.my_name in roles:
        return Refusal(
            "door_locks_out",
            f"platform.roles names {it.my_name}, which is Backout's own role: nobody would be left to give its login back.",
            f"Take {it.my_name} out of platform.roles.",
        )
    return None


def _grants(it: Here, tool: str) -> str:
    options = " WITH ADMIN OPTION" if it.version >= _OPTIONS_SINCE else ""
    owner = "" if it.owner == tool else f" GRANT {quoted(it.owner)} TO backout;"
    return f"GRANT {quoted(tool)} TO backout{options};{owner} GRANT pg_signal_backend TO backout;"


def _leaks(it: Here, concerned: Sequence[Role]) -> Refusal | None:
    leaking = next((one.name for one in concerned if one.superuser), None)
    if not leaking:
        return None
    return Refusal(
        "door_leaks",
        f"The application enters {it.name} as {leaking}, a superuser: superusers pass every door.",
        f"Give the application a role without SUPERUSER, or: ALTER ROLE {quoted(leaking)} NOSUPERUSER;",
    )


def _not_ours(it: Here, application: Sequence[Role], stopped: Sequence[Role], grantors: Sequence[Role]) -> Refusal | None:
    """Everything that is missing at once, as SQL."""
    if it.superuser:
        return None
    me = quoted(it.my_name)
    managed = {one.name for one in (*application, *stopped) if it.version >= _OPTIONS_SINCE and not one.managed and not one.superuser}
    member = {it.owner} - managed if not it.owns else set()
    member |= {one.name for one in grantors if not one.mine} - managed
    lines = [f"GRANT {quoted(name)} TO {me} WITH ADMIN OPTION;" for name in sorted(managed)]
    lines += [f"GRANT {quoted(name)} TO {me};" for name in sorted(member)]
    lines += [] if it.creates else [f"ALTER ROLE {me} CREATEROLE;"]
    lines += [] if it.ends else [f"GRANT pg_signal_backend TO {me};"]
    if not lines:
        return None
    return Refusal(
        "door_not_ours",
        f"Backout's role {it.my_name} may not close the door of {it.name}: it lacks {len(lines)} right{'s' if len(lines) > 1 else ''}.",
        f"Somebody who may has to run: {' '.join(lines)}",
    )


def _unknown(roles: Sequence[str], stopped: Sequence[Role]) -> Refusal | None:
    unknown = sorted(set(roles) - {one.name for one in stopped})
    if not unknown:
        return None
    return Refusal(
        "door_roles", f"platform.roles names {', '.join(unknown)}: there is no such role on the server.", "Correct the names in platform.roles."
    )


def _beyond_us(it: Here, stopped: Sequence[Role]) -> Refusal | None:
    beyond = [one.name for one in stopped if one.superuser and not it.superuser]
    if not beyond:
        return None
    return Refusal(
        "door_roles",
        f"platform.roles names {', '.join(beyond)}: only a superuser may take a superuser's login, and {it.my_name} is none.",
        "Take it out of platform.roles, and end its sessions by hand before the rollback.",
    )


def _elsewhere(stopped: Sequence[Role]) -> Refusal | None:
    busy = [one.name for one in stopped if one.elsewhere]
    if not busy:
        return None
    return Refusal(
        "door_roles",
        f"{', '.join(busy)} works in another database of this server too, so its login is left alone; the door keeps it out of this one.",
        "Nothing, or take it out of platform.roles.",
        warning=True,
    )


async def _superusers(session: Connection, it: Here) -> Refusal | None:
    inside = [row[0] for row in await session.fetch(_SUPERUSERS, it.oid, it.me)]
    if not inside:
        return None
    return Refusal(
        "door_leaks",
        f"{', '.join(inside)} is in {it.name} now, as a superuser: superusers pass every door"
        + (", and only a superuser can end their sessions." if not it.superuser else "."),
        "See to it that they leave and stay out during the rollback: it stops as long as one is in.",
        warning=True,
    )


async def _prepared(session: Connection, it: Here) -> Refusal | None:
    gids = await visitors.prepared(session, it.oid)
    named = ", ".join(gids[: visitors.SHOWN])
    if not gids:
        return None
    return Refusal(
        "prepared_transactions",
        f"{it.name} has {len(gids)} prepared transaction{'s' if len(gids) > 1 else ''}: {named}. The rollback stops as long as one is open.",
        f"Decide each one in {it.name}: COMMIT PREPARED or ROLLBACK PREPARED.",
        warning=True,
    )
