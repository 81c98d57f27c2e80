"""Copies on a server that was set up for them (`rehearsal.server: URL`): it holds nothing else, and after a rehearsal nothing at all."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bot.databases import likeness, lodging
from bot.databases.connecting import Connection, quoted
from bot.databases.likeness import Likeness
from bot.databases.lodging import impossible
from bot.databases.scratch import At, ServerScratch
from bot.errors import BackoutError
from bot.finishing import whatever_happens
from bot.keeping import Work
from bot.place import Connect

log = logging.getLogger(__name__)

_OTHERS = """
SELECT datname::text FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', current_database()) ORDER BY 1"""
_ROLES = "SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"
_STRANGERS = "SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' AND oid <> 10 AND rolname <> current_user ORDER BY 1"
_ALTERED = "SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf' ORDER BY sourceline"
_SLOTS = "SELECT slot_name::text FROM pg_replication_slots WHERE NOT active"
_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"


class OtherServerScratches:
    """Implements ports.Scratches. `server` is a superuser of that server; `source` and `tool` as in ThrowawayScratches."""

    early = False

    def __init__(self, source: Connect, tool: Connect, server: Connect, at: At) -> None:
        self._source = source.model_copy(update={"database": tool.database})
        self._tool = tool
        self._server = server
        self._at = at

    @asynccontextmanager
    async def open(self, work: Work, *, sampled: bool = False, early: bool = False) -> AsyncIterator[ServerScratch]:
        like = await likeness.read(self._source, self._tool.user)
        async with lodging.alone(self._server, work) as session:
            await self._examine(session, like)
            before = {str(row[0]) for row in await session.fetch(_ROLES)}
            slots = {str(row[0]) for row in await session.fetch(_SLOTS)}
            altered = {row[0]: row[1] for row in await session.fetch(_ALTERED)}
            missing = dataclasses.replace(like, roles=tuple(row for row in like.roles if row["name"] not in before))
            marker = await lodging.mark(session, "NOLOGIN", [row["name"] for row in missing.roles])
            scratch = ServerScratch(missing, self._server, self._tool, self._at, where="the server that rehearsal.server names", prefix=marker.prefix)
            await scratch.prepare()
            try:
                yield scratch
            finally:
                await whatever_happens(
                    self._forget(session, {*before, marker.name, *(row["name"] for row in missing.roles)}, slots, altered)
                )  # fmt: skip

    async def _examine(self, session: Connection, like: Likeness) -> None:
        """Raises Refusal(rehearsal_impossible): it is no server of its own."""
        if not await session.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            raise impossible(f"{self._server.user} is no superuser of the rehearsal's server.", "Write a superuser's URL as rehearsal.server.")
        if await session.fetchval(_SYSTEM) == like.facts["system"]:
            raise impossible("rehearsal.server is the target's own server.", "Give it another server, or write `server: same`.")
        others = [*(f"database {row[0]}" for row in await session.fetch(_OTHERS)), *(f"role {row[0]}" for row in await session.fetch(_STRANGERS))]
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            raise impossible(
                f"The rehearsal's server holds something else: {', '.join(others[:5])}{more}. What a downgrade does there could harm it.",
                "Give rehearsal.server a server that holds nothing else, or drop these.",
            )
        major = session.get_server_version().major
        if major < like.version // 10000:
            raise impossible(
                f"Production is PostgreSQL {like.version // 10000}, and the rehearsal's server {major}: an older one can't hold a copy.",
                "Upgrade it.",
            )
        if like.tool in (self._server.user, "postgres"):
            raise impossible(f"The tool's role {like.tool} is the superuser of the rehearsal's server too.", "Give that server another superuser.")

    async def _forget(self, session: Connection, roles: set[str], slots: set[str], altered: Mapping[str, str]) -> None:
        """What a downgrade made that is the server's: roles, slots, settings."""
        for (name,) in await session.fetch(_ROLES):
            if name not in roles:
                await lodging.drop_role(session, name)
        for (name,) in await session.fetch(_SLOTS):
            if name not in slots:
                await session.fetch("SELECT pg_drop_replication_slot($1)", name)
        now = {row[0]: row[1] for row in await session.fetch(_ALTERED)}
        changed = [name for name in {**altered, **now} if altered.get(name) != now.get(name)]
        for name in changed:
            setting = quoted(*name.split("."))
            await session.execute(
                f"ALTER SYSTEM SET {setting} TO {likeness.literal(altered[name])}" if name in altered else f"ALTER SYSTEM RESET {setting}"
            )
        if changed:
            await session.fetchval("SELECT pg_reload_conf()")

    async def clean(self) -> None:
        try:
            await lodging.clean(self._server)
        except BackoutError as error:  # a server that is away now is cleaned when it is used next
            log.warning("the rehearsal's server could not be cleaned: %s", error)
