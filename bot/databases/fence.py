"""The fence: a session advisory lock in the maintenance database, and the proof that it is still held on the same server (databases.md F5)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from bot.databases.connecting import LOST, Connection, words
from bot.errors import FenceLost, Refusal
from bot.place import Identity

_PROOF = 10  # seconds

HOLDER = """
SELECT l.pid, s.application_name FROM pg_locks l LEFT JOIN pg_stat_activity s ON s.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = $1::int8::oid AND l.objid = $2::int8::oid
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


class PostgresFence:
    """The lock, on the session that took it. Implements ports.Fence."""

    def __init__(
        self, session: Connection, first: int, second: int, taken_on: Identity, identify: Callable[[Connection, float], Awaitable[Identity]]
    ) -> None:
        self._session = session
        self._key = (first % 2**32, second % 2**32)
        self._taken_on = taken_on
        self._identify = identify
        self._one_at_a_time = asyncio.Lock()

    async def prove(self) -> Identity:
        async with self._one_at_a_time:
            try:
                identity = await self._identify(self._session, _PROOF)
                holder = await self._session.fetchrow(f"{HOLDER} AND l.pid = pg_backend_pid()", *self._key, timeout=_PROOF)
            except (asyncpg.PostgresError, *LOST) as error:
                raise FenceLost(
                    f"The session that holds the fence is lost: {words(error)}. The server, or who is in charge of it, may have changed."
                ) from error
            except Refusal as error:
                raise FenceLost(error.message) from error
        if holder is None:
            raise FenceLost("The fence's lock is gone, though its session lives: another Backout may act on this target.")
        if self._taken_on.oid and not identity.oid:
            raise FenceLost(f"There is no database {identity.database} any more.")
        if changed := _changes(self._taken_on, identity):
            raise FenceLost(f"The server is no longer the one that was fenced: {changed}.")
        return identity


def _changes(before: Identity, now: Identity) -> str:
    old, new = before.model_dump(), now.model_dump()
    return ", ".join(f"{name} was {old[name]} and is {new[name]}" for name in old if old[name] != new[name])
