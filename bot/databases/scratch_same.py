"""Copies on the target's own server (`rehearsal.server: same`), by a role that may do nothing there but in these copies (databases.md F1).

A server's roles, settings, slots and other databases are shared. So the role that runs the rehearsal is a new one, without any attribute or
membership, and may connect to the copies alone; whatever asks for more is refused by the server itself, and is not rehearsed.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from bot.databases import bounds, likeness, lodging
from bot.databases.connecting import CATALOG, Connection, connected, quoted, words
from bot.databases.key import verifier
from bot.databases.likeness import Likeness, Row
from bot.databases.lodging import WRITING, Marker, impossible
from bot.databases.scratch import PRELOADED, At, ServerScratch
from bot.errors import BackoutError
from bot.keeping import Work
from bot.place import Connect

log = logging.getLogger(__name__)

_COPIES = 3  # of the database, as WAL: restored, cloned, and some for what the downgrade writes
_OPTIONS = "LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS"  # INHERIT: a database's owner has the schema public so, since 15
_RIGHTS = "SELECT rolsuper, rolsuper OR rolcreaterole AND rolcreatedb AS enough FROM pg_roles WHERE rolname = current_user"
_PUBLIC = "SELECT datname::text FROM pg_database WHERE datallowconn AND has_database_privilege('public', oid, 'CONNECT') ORDER BY 1"
#: what it has beyond its own databases
_BEYOND = """
SELECT r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
  OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
  OR EXISTS (SELECT FROM pg_database d WHERE d.datallowconn AND has_database_privilege(r.oid, d.oid, 'CONNECT') AND NOT starts_with(d.datname, $2))
FROM pg_roles r WHERE r.rolname = $1"""
_SCHEMAS = "SELECT e.extname::text, n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql'"


class SameServerScratches:
    """Implements ports.Scratches. `source` is Backout's own role, `maintenance` the database where it works; `tool` as the target's."""

    early = False

    def __init__(self, source: Connect, maintenance: str, tool: Connect, at: At) -> None:
        self._source = source.model_copy(update={"database": tool.database})
        self._admin = source.model_copy(update={"database": maintenance})
        self._tool = tool
        self._at = at

    @asynccontextmanager
    async def open(self, work: Work, *, sampled: bool = False, early: bool = False) -> AsyncIterator[SameServerScratch]:
        like = await likeness.read(self._source, self._tool.user)
        schemas = await self._examine(like, sampled=sampled)
        async with lodging.alone(self._admin, work) as session:
            superuser = await _may(session)
            password = secrets.token_urlsafe(24)
            marker = await lodging.mark(session, f"{_OPTIONS} PASSWORD {likeness.literal(verifier(password))}")
            if not superuser:  # whoever makes a database for another role, or drops it, is a member of that role
                options = " WITH INHERIT TRUE, SET TRUE" if session.get_server_version().major >= 16 else ""
                await session.execute(f"GRANT {quoted(marker.name)} TO CURRENT_USER{options}")
            login = self._tool.model_copy(update={"user": marker.name, "password": password})
            scratch = SameServerScratch(_as_marker(like, marker), self._admin, login, self._at, marker, schemas)
            await scratch.prepare()
            if await session.fetchval(_BEYOND, marker.name, marker.prefix):
                raise impossible(f"The role {marker.name} may do more than it should.", "Look at what PUBLIC may do on this server.")
            yield scratch

    async def _examine(self, like: Likeness, *, sampled: bool) -> dict[str, str]:
        """Where extensions lie, by name. Raises Refusal(rehearsal_impossible)."""
        async with connected(self._source, CATALOG) as session:
            schemas = {row[0]: row[1] for row in await session.fetch(_SCHEMAS)}
        for name, schema in schemas.items():
            if name in PRELOADED:
                raise impossible(f"extension {name} would begin work of its own in a copy on this server", "set rehearsal.server to another server")
            if schema not in ("public", "pg_catalog"):
                raise impossible(f"extension {name} lies in the schema {schema}", "set rehearsal.server to another server")
        found = await bounds.bounds(self._source)
        if not sampled and found.safe_wal is not None and found.safe_wal < _COPIES * found.size:
            raise impossible(
                f"A replication slot is lost after another {found.safe_wal / 1024**2:,.0f} MB of WAL, "
                f"and {_COPIES} copies of the database on its own server may write {_COPIES * found.size / 1024**2:,.0f} MB.",
                "Set rehearsal.server to another server, or to throwaway.",
            )
        return schemas

    async def clean(self) -> None:
        try:
            await lodging.clean(self._admin)
        except BackoutError as error:  # a server that is away now is cleaned when it is used next
            log.warning("the target's server could not be cleaned of copies: %s", error)


class SameServerScratch(ServerScratch):
    """Everything in it belongs to the role that runs the rehearsal, and so does who restores and who compares."""

    owners = False

    def __init__(self, like: Likeness, admin: Connect, login: Connect, at: At, marker: Marker, schemas: dict[str, str]) -> None:
        super().__init__(like, admin, login, at, where="the target's own server", prefix=marker.prefix)
        self._tool = login
        self._schemas = schemas

    async def prepare(self) -> None:
        """Raises Refusal(rehearsal_impossible) when an extension can't be made."""
        async with connected(self._admin, WRITING) as session:
            await self._know(session)
            former = self._like.facts["former_tool"]
            self._note([f"on the target's own server, as a role that may do nothing else: it owns everything there, {former} does not"])
            self._note(await likeness.set_up_settings(session, self._like, None))
            self._note(await likeness.make_empty(session, self._like, self._real(self._empty)))
            self._note(await likeness.set_up(session, self._like, self._real(self._empty)))
        async with connected(self._admin.model_copy(update={"database": self._real(self._empty)}), WRITING) as session:
            for name, schema in self._schemas.items():
                try:
                    await session.execute(f"CREATE EXTENSION IF NOT EXISTS {quoted(name)} SCHEMA {quoted(schema)}")
                except asyncpg.PostgresError as error:
                    raise impossible(f"extension {name} can't be made in a copy: {words(error)}", "set rehearsal.server to another server") from error

    async def clone(self, source: str, name: str) -> None:
        """Closed until nobody but its owner may enter: a clone has no grants, so everybody could. Raises StepFailed."""
        database = quoted(self._real(name))
        async with connected(self._admin, WRITING) as session:
            await session.execute(
                f"CREATE DATABASE {database} TEMPLATE {quoted(self._real(source))}{self._strategy()} ALLOW_CONNECTIONS false", timeout=lodging.AT_MOST
            )
            self._note(await likeness.set_up(session, self._like, self._real(name)))
            await session.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")

    async def incoming(self, name: str) -> Connect:
        """What its role could do in production is not to be seen here: it is the marker that restores."""
        await self.create(name)
        return self.superuser(name)

    def superuser(self, name: str) -> Connect:
        return self._tool.model_copy(update={"database": self._real(name)})


def _as_marker(like: Likeness, marker: Marker) -> Likeness:
    """The source's likeness, where the marker stands for its owner and for the tool; nobody else has anything."""

    def mine(row: Row) -> Row:
        return {**row, "role": marker.name if row["role"] == like.tool else row["role"]}

    settings = [mine(row) for row in like.settings]
    kept = tuple(row for row in settings if row["role"] == marker.name or (row["role"] is None and row["here"]))
    grants = tuple({"grantee": marker.name, "privilege": right, "grantable": False} for right in ("CONNECT", "CREATE", "TEMPORARY"))
    facts = {**like.facts, "owner": marker.name, "former_tool": like.tool}
    return dataclasses.replace(like, tool=marker.name, facts=facts, roles=(), members=(), settings=kept, grants=grants, public=())


async def _may(session: Connection) -> bool:
    """Whether we are a superuser. Raises Refusal(rehearsal_impossible): rights are missing, or everybody may enter other databases."""
    rights = await session.fetchrow(_RIGHTS)
    if rights is None or not rights["enough"]:
        raise impossible(
            "To try it on the target's own server, `admin` makes a role and databases there, and may not.",
            "ALTER ROLE that admin CREATEROLE CREATEDB, or set rehearsal.server to throwaway.",
        )
    if open_ := [row[0] for row in await session.fetch(_PUBLIC)]:
        sql = "; ".join(f"REVOKE CONNECT ON DATABASE {quoted(name)} FROM PUBLIC" for name in open_)
        raise impossible(
            f"Everybody may connect to {', '.join(open_)}, so the role that runs the rehearsal could too.",
            f"{sql} (and GRANT CONNECT to the roles that need it), or set rehearsal.server to throwaway.",
        )
    return bool(rights["rolsuper"])
