"""TimescaleDB's own programs: its workers, which live in a database like anybody else, and its restore mode, without which no dump of it comes back.

Measured with 2.19.3 on PostgreSQL 15 (docs/timescaledb.md): a scheduler that was stopped, or ended like any session, stays away until the server
restarts or `start_background_workers` is called: so whoever ends one starts it again. CREATE DATABASE ... TEMPLATE starts the template's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from bot.databases.connecting import CATALOG, Connection, connected, quoted, words
from bot.errors import BackoutError, StepFailed
from bot.finishing import whatever_happens
from bot.place import Connect, Session

log = logging.getLogger(__name__)

NAME = "timescaledb"
#: of a server that is thrown away: it loads the library, and nothing runs by itself
SETTINGS = {"shared_preload_libraries": NAME, "timescaledb.telemetry_level": "off", "timescaledb.max_background_workers": "0"}
_WRITING = {**CATALOG, "default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "30s"}
_SCHEMA = "SELECT n.nspname::text FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace WHERE x.extname = 'timescaledb'"
# Who may not see what a superuser's session is, has to ask for it to be stopped all the same, and hears what is missing.
_WORKERS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
  AND (backend_type ILIKE 'timescaledb%' OR backend_type IS NULL AND usesysid = 10)"""
_VERSIONS = """
SELECT x.extversion AS there, m.value AS data FROM pg_extension x
JOIN _timescaledb_catalog.metadata m ON m.key = 'timescaledb_version' WHERE x.extname = 'timescaledb' AND m.value <> x.extversion"""


async def schema(session: Connection) -> str | None:
    """Where its functions are; None: the database hasn't got it."""
    found = await session.fetchval(_SCHEMA)
    return None if found is None else str(found)


# ------------------------------------------------------------------ workers


async def quiet(connect: Connect) -> bool:
    """Its workers leave that database and stay out until `wake`; False when none was in. Raises StepFailed: a right is missing."""
    async with connected(connect, _WRITING) as session:
        if await schema(session) is None or not await session.fetchval(_WORKERS):
            return False
        await _stop(session)
    return True


def is_worker(one: Session) -> bool:
    return NAME in f"{one.application} {one.state}".lower()


async def wake(connect: Connect) -> bool:
    """They come back; where they had not left, nothing happens. It is no reason to keep anybody out: what is refused is logged.

    False: the database hasn't got the extension, or Backout's role may not.
    """
    try:
        async with connected(connect, _WRITING) as session:
            if await schema(session) is None:
                return False
            await session.fetchval("SELECT _timescaledb_functions.start_background_workers()")
    except BackoutError as error:
        log.warning("TimescaleDB's workers were not started in %s: %s", connect.database, error)
        return False
    return True


async def _stop(session: Connection) -> None:
    try:
        await session.fetchval("SELECT _timescaledb_functions.stop_background_workers()")
    except asyncpg.InsufficientPrivilegeError as error:
        raise StepFailed(
            f"TimescaleDB's workers are in {await session.fetchval('SELECT current_database()')}, and Backout's role may not stop them "
            f"({words(error)}). Make `admin` a superuser, or run there as one: SELECT _timescaledb_functions.stop_background_workers()."
        ) from error


# ------------------------------------------------------------------ a dump of it comes back


@asynccontextmanager
async def restoring(into: Connect) -> AsyncIterator[None]:
    """A dump of a database that has the extension is restored inside. Its restore mode is left whatever happens; workers stay out of the copy.

    Raises StepFailed: the server doesn't load it, a right is missing, the dump is of another version than the server's.
    """
    await _begin(into)
    try:
        yield
    except BaseException:
        await whatever_happens(_leave(into))
        raise
    await whatever_happens(_end(into))


async def _begin(into: Connect) -> None:
    async with connected(into, _WRITING) as session:
        try:
            if await schema(session) is None:
                await session.execute("CREATE EXTENSION timescaledb SCHEMA public")
        except asyncpg.PostgresError as error:
            raise StepFailed(f"The dump has hypertables, and TimescaleDB can't be made on that server: {words(error)}.") from error
    async with connected(into, _WRITING) as session:  # the session that made it does not know it yet
        try:
            await session.fetchval(f"SELECT {quoted(await schema(session) or 'public')}.timescaledb_pre_restore()")
        except asyncpg.InsufficientPrivilegeError as error:
            raise StepFailed(
                f"The dump has hypertables, and TimescaleDB lets only a superuser restore these: {words(error)}. Make `admin` one."
            ) from error


async def _end(into: Connect) -> None:
    async with connected(into, _WRITING) as session:
        if other := await session.fetchrow(_VERSIONS):
            await _reset(session)
            raise StepFailed(
                f"The dump is of TimescaleDB {other['data']}, and the server has {other['there']}: it comes back only where both are the same. "
                "Install that version there, or update the database that the dump is made of, then make another dump."
            )
        await session.fetchval(f"SELECT {quoted(await schema(session) or 'public')}.timescaledb_post_restore()")
        await _stop(session)  # no policy drops chunks of a copy that is only looked at


async def _leave(into: Connect) -> None:
    """The restore failed: why is said already, so what fails here is only logged."""
    try:
        async with connected(into, _WRITING) as session:
            await _reset(session)
    except BackoutError as error:
        log.warning("the restore mode of %s could not be left: %s", into.database, error)


async def _reset(session: Connection) -> None:
    database = await session.fetchval("SELECT quote_ident(current_database())")
    await session.execute(f"ALTER DATABASE {database} RESET timescaledb.restoring")
