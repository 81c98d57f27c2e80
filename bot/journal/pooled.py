"""The journal's connections: every use is one transaction, and what goes wrong is JournalDown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg

from bot.errors import BackoutError, JournalDown
from bot.ports import Clock

Connection = Any  # asyncpg.Connection or its pool proxy


async def _prepare(connection: Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=_dump, decoder=json.loads, schema="pg_catalog")


def _dump(value: Any) -> str:
    # Postgres has no place for U+0000 in jsonb: text from programs may hold one.
    return json.dumps(value, default=str).replace("\\u0000", "\\ufffd")


class Pooled:
    def __init__(self, pool: asyncpg.Pool, clock: Clock, executor: str) -> None:
        self._pool = pool
        self._clock = clock
        self._executor = executor

    @classmethod
    async def open(cls, url: str, clock: Clock, executor: str) -> Self:
        """Raises JournalDown."""
        try:
            pool = await asyncpg.create_pool(
                url, min_size=1, max_size=8, init=_prepare, command_timeout=20,
                server_settings={"application_name": "backout/journal", "search_path": "pg_catalog"},
            )  # fmt: skip
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise JournalDown("the journal's database can't be reached; check BACKOUT_DATABASE_URL") from error
        return cls(pool, clock, executor)

    async def close(self) -> None:
        try:
            await self._pool.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.acquire(timeout=10) as connection, connection.transaction():
                yield connection
        except BackoutError:
            raise
        except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError) as error:
            raise JournalDown("the journal's database can't be reached") from error
