"""Copies on a server that is not ours alone: what is ours there is known by a marker, so that a dead process's goes too.

The marker is a role, made before anything else and dropped last; its comment names the roles that were made with it, its name begins the
names of its databases. Whoever holds the server's lock is the only one with copies there (databases.md F3), so what has another marker is dead.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from bot.databases.connecting import Connection, connected, quoted, words
from bot.databases.likeness import literal
from bot.errors import Refusal, StepFailed
from bot.finishing import whatever_happens
from bot.keeping import Work
from bot.place import Connect

AT_MOST = 86_400.0  # seconds: the step's own deadline is shorter
WRITING = {"default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "30s"}
_MARKER = "backout_scratch_"
_NOTE = "Backout rehearsal: "
_KEY = struct.unpack(">ii", hashlib.sha256(b"backout scratch").digest()[:8])
_MARKERS = r"""
SELECT rolname::text AS name, substr(shobj_description(oid, 'pg_authid'), length($1) + 1) AS roles FROM pg_roles
WHERE rolname ~ '^backout_scratch_[0-9a-f]{8}$' AND starts_with(shobj_description(oid, 'pg_authid'), $1)"""
_DATABASES = "SELECT datname::text FROM pg_database WHERE starts_with(datname, $1) ORDER BY 1"
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"


@dataclass(frozen=True)
class Marker:
    """`prefix` begins the names of its databases."""

    name: str

    @property
    def prefix(self) -> str:
        return f"{self.name}_"


@asynccontextmanager
async def alone(admin: Connect, work: Work) -> AsyncIterator[Connection]:
    """The server's lock, waited for; what dead processes left is gone when it is taken. `admin` leads to a database of no copy.

    Whatever has a marker afterwards is removed, on a session of its own. Raises Refusal, StepFailed, OutcomeUnknown.
    """
    async with connected(admin, WRITING) as session:
        while not await _locked(session):
            await work.progress("another rehearsal is on that server; waiting for it")
            await asyncio.sleep(1)
        await _clear(session)
        try:
            yield session
        finally:
            await whatever_happens(_cleared(admin))


async def clean(admin: Connect) -> None:
    """What dead processes left, unless somebody alive is there. Raises Refusal, StepFailed, OutcomeUnknown."""
    async with connected(admin, WRITING) as session:
        if await session.fetch(_MARKERS, _NOTE) and await _locked(session):
            await _clear(session)


async def _locked(session: Connection) -> bool:
    return bool(await session.fetchval("SELECT pg_try_advisory_lock($1::int4, $2::int4)", *_KEY))


async def mark(session: Connection, options: str, roles: Sequence[str] = ()) -> Marker:
    """A role with these options, in one transaction with its comment: `roles` are about to be made, and go with it."""
    marker = Marker(f"{_MARKER}{secrets.token_hex(4)}")
    async with session.transaction():
        await session.execute(f"CREATE ROLE {quoted(marker.name)} {options}")
        await session.execute(f"COMMENT ON ROLE {quoted(marker.name)} IS {literal(_NOTE + json.dumps(sorted(roles)))}")
    return marker


async def _cleared(admin: Connect) -> None:
    async with connected(admin, WRITING) as session:
        await _clear(session)


async def _clear(session: Connection) -> None:
    """Databases first, since their owners can't go before them; the marker last of all."""
    for row in await session.fetch(_MARKERS, _NOTE):
        marker = Marker(row["name"])
        for (name,) in await session.fetch(_DATABASES, marker.prefix):
            await drop_database(session, name)
        for role in [*json.loads(row["roles"]), marker.name]:
            await drop_role(session, role)


async def drop_database(session: Connection, name: str) -> None:
    """With whoever is in it; one that is gone is no error."""
    force = " WITH (FORCE)" if session.get_server_version().major >= 13 else ""
    if not force:
        await session.fetch(_END, name)
    await session.execute(f"DROP DATABASE IF EXISTS {quoted(name)}{force}", timeout=AT_MOST)


async def drop_role(session: Connection, name: str) -> None:
    """With the rights that it has on databases; one that is gone is no error."""
    if not await session.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
        return
    try:
        await session.execute(f"DROP OWNED BY {quoted(name)}; DROP ROLE {quoted(name)}")
    except asyncpg.PostgresError as error:
        raise StepFailed(f"The role {name} of a rehearsal can't be dropped: {words(error)}.") from error


def impossible(message: str, way_out: str) -> Refusal:
    return Refusal("rehearsal_impossible", message, way_out)
