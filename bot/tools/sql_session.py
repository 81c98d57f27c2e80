"""The connection on which Backout runs SQL itself: the application's role, in the database meant, proven, bounded, fenced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from bot.place import Connect

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # the class itself can not be subscripted at run time

ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
#: the connection, not the statement: nobody can say whether what was sent was done
LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_PATIENCE = 10  # seconds to connect, and for a session to close
_LINGERS = 2.0  # seconds for which the session of an attempt that has ended may still hold what it held
_SINCE_14 = "client_connection_check_interval"

_PROOF = """SELECT pg_backend_pid(), current_database() AS database, pg_is_in_recovery() AS standby, EXISTS (SELECT FROM pg_locks
 WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
 AND classid::bigint = $1 AND objid::bigint = $2) AS seen"""
_HOLDER = """SELECT l.pid, a.application_name AS application FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.objsubid = $3"""


class NotThatSession(Exception):
    """This connection may not do the work: what was found, and what to do next. Nothing was executed on it."""

    def __init__(self, told: str, following: str) -> None:
        super().__init__(told)
        self.told, self.following = told, following


@asynccontextmanager
async def entered(connect: Connect, bounds: Mapping[str, str], notice: Callable[[str], None]) -> AsyncIterator[Session]:
    """A session of the application's role. `notice` hears what the server says beside its answers. Raises what the driver raises."""
    try:
        session = await _open(connect, dict(bounds))
    except asyncpg.UndefinedObjectError:  # before 14
        session = await _open(connect, {name: value for name, value in bounds.items() if name != _SINCE_14})
    session.add_log_listener(lambda _, said: notice(f"{getattr(said, 'severity', 'NOTICE')}: {getattr(said, 'message', said)}\n"))
    try:
        yield session
    finally:
        try:
            await session.close(timeout=_PATIENCE)
        except (*ERRORS, TimeoutError):
            session.terminate()


async def _open(connect: Connect, bounds: dict[str, str]) -> Session:
    """The bounds are the session's defaults, so that RESET ALL gives them back."""
    mode: Any = connect.sslmode or "prefer"
    return await asyncpg.connect(
        host=connect.host, port=connect.port, user=connect.user, password=connect.password or None, database=connect.database, ssl=mode,
        timeout=_PATIENCE, target_session_attrs=SessionAttribute.any, server_settings=bounds, statement_cache_size=0,
    )  # fmt: skip


async def prove(session: Session, challenge: tuple[int, int], bounds: Mapping[str, str], fence: tuple[int, int]) -> None:
    """The right database (databases.md F14), bounds that hold (F13), and this attempt's fence. Raises NotThatSession."""
    found = await session.fetchrow(_PROOF, *(key % 2**32 for key in challenge))
    if found is None or not found["seen"]:
        where = f"{found['database']}{' (a standby)' if found['standby'] else ''}" if found else "nothing"
        raise NotThatSession(
            f"The connection leads to another database than the one meant: it found {where}.",
            "Look at the address in `database`, and who answers it.",
        )
    for name, value in bounds.items():
        stands = await session.fetchval("SELECT setting FROM pg_settings WHERE name = $1", name)
        if stands != value and not (name == _SINCE_14 and stands is None):
            raise NotThatSession(
                f"{name} of the session is {stands}, where {value} is needed.", "Give the tool a direct connection to Postgres, not a pooler's."
            )
    await _take_fence(session, fence)


async def _take_fence(session: Session, fence: tuple[int, int]) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + _LINGERS
    while not await session.fetchval("SELECT pg_try_advisory_lock($1::int4, $2::int4)", *fence):
        if loop.time() > until:
            holder = await session.fetchrow(_HOLDER, *(key % 2**32 for key in fence), 2)
            raise NotThatSession(
                f"Another process ({holder['pid'] if holder else 'gone by now'}) does this very attempt already.",
                "Wait until it has ended, then look at the database's revision.",
            )
        await asyncio.sleep(0.02)


async def take_tools_lock(session: Session, key: int, whose: str) -> None:
    """The lock that the tool's own programs hold while they work. Raises NotThatSession, which names the session that has it."""
    if await session.fetchval("SELECT pg_try_advisory_lock($1::int8)", key):
        return
    holder = await session.fetchrow(_HOLDER, key >> 32, key % 2**32, 1)
    who = f"session {holder['pid']} ({holder['application'] or 'no name'})" if holder else "a session that just left"
    raise NotThatSession(f"{whose} is running: {who} holds its lock ({key}).", "Wait until it has ended, or end that session if it hangs.")
