"""Connections to a target's server, and what its driver says, translated once: nobody else sees an asyncpg error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.place import Connect

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # the class itself can not be subscripted at run time

CONTROL = "backout/control"  #: the application_name of Backout's own sessions
LONGEST = 63  # bytes of a name; Postgres cuts the rest off, and two names become one
LOCK_TIMEOUT = 3  # seconds: we never make a queue in front of a table
_PATIENCE = 10  # seconds to connect, and for a session to close
STATEMENT_TIMEOUT = 60  # seconds, kept by the server
_COMMAND = 2 * STATEMENT_TIMEOUT  # then we give up on the connection

#: Said by every session as it connects. Nothing that this class does writes, except for locks and for ending sessions.
_EVERY_SESSION = {
    "application_name": CONTROL,
    "lock_timeout": f"{LOCK_TIMEOUT}s",
    "statement_timeout": f"{STATEMENT_TIMEOUT}s",
    "idle_in_transaction_session_timeout": "60s",
    "default_transaction_read_only": "on",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_SINCE_14 = {"client_connection_check_interval": "1s", "idle_session_timeout": "0"}
#: For reading catalogs and counting: names in full, and no row silently filtered.
CATALOG = {"search_path": "pg_catalog", "row_security": "off"}

LOST = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_TIMED_OUT = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)


@asynccontextmanager
async def connected(connect: Connect, settings: Mapping[str, str] | None = None) -> AsyncIterator[Connection]:
    """A session with our settings and `settings`; what goes wrong inside is raised in our words.

    Raises Refusal (unreachable, wrong_credentials, database_missing, too_many_connections, transaction_pooler) on connecting;
    then OutcomeUnknown (the connection was lost, a timeout) and StepFailed (the server said no).
    """
    session = await _open(connect, {**_EVERY_SESSION, **(settings or {})})
    try:
        with translated():
            yield session
    finally:
        await _close(session)


async def _open(connect: Connect, settings: dict[str, str]) -> Connection:
    try:
        try:
            return await _connect(connect, {**settings, **_SINCE_14})
        except asyncpg.UndefinedObjectError:  # before 14 those two settings are unknown
            return await _connect(connect, settings)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, ValueError) as error:
        raise _refusal(connect, error) from error


async def _connect(connect: Connect, settings: dict[str, str]) -> Connection:
    mode: Any = connect.sslmode or "prefer"
    return await asyncpg.connect(
        host=connect.host,
        port=connect.port,
        user=connect.user,
        password=connect.password or None,
        database=connect.database,
        ssl=mode,
        timeout=_PATIENCE,
        command_timeout=_COMMAND,
        target_session_attrs=SessionAttribute.any,
        server_settings=settings,
    )


async def _close(session: Connection) -> None:
    try:
        await session.close(timeout=_PATIENCE)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        session.terminate()


def _refusal(connect: Connect, error: BaseException) -> Refusal:
    where = f"{connect.host}:{connect.port}"
    said = words(error)
    match error:
        case asyncpg.ProtocolViolationError() if "startup parameter" in said:
            return pooler(f"{where} refuses the settings of a session ({said})")
        case asyncpg.InvalidAuthorizationSpecificationError():
            return Refusal(
                "wrong_credentials",
                f"{where} does not let {connect.user} in: {said}.",
                "Check user, password and sslmode in its URL, and pg_hba.conf.",
            )
        case asyncpg.InsufficientPrivilegeError():
            return Refusal(
                "wrong_credentials", f"{connect.user} may not enter {connect.database}: {said}.", "Grant CONNECT on the database to that user."
            )
        case asyncpg.InvalidCatalogNameError():
            return Refusal("database_missing", f"There is no database {connect.database} on {where}.", "Check the database's name in its URL.")
        case asyncpg.TooManyConnectionsError():
            return Refusal(
                "too_many_connections",
                f"{where} has no connection left for {connect.user}: {said}.",
                "End sessions that are not needed, or give Backout's admin the right to reserved connections.",
            )
    return Refusal("unreachable", f"{where} can't be reached: {said}.", "Check that the server runs and that this machine may connect to it.")


def pooler(seen: str) -> Refusal:
    return Refusal(
        "transaction_pooler",
        f"The connection goes through a transaction pooler: {seen}. Locks and settings of a session mean nothing there.",
        "Write the server's own address and port in the URL, not the pooler's.",
    )


@contextmanager
def translated() -> Iterator[None]:
    """What the driver raises in the middle of the work, in our words."""
    try:
        yield
    except TimeoutError as error:
        raise OutcomeUnknown("The database did not answer in time, so nobody can say what it did.") from error
    except _TIMED_OUT as error:
        raise OutcomeUnknown(f"The database gave up waiting: {words(error)}.") from error
    except LOST as error:
        raise OutcomeUnknown(f"The connection to the database was lost: {words(error)}.") from error
    except asyncpg.PostgresError as error:
        raise StepFailed(f"The database refused: {words(error)}.") from error


def words(error: BaseException) -> str:
    """The server's sentence, in one line and without its full stop."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer"
    first = str(error).strip().splitlines()
    return (first[0] if first else type(error).__name__)[:500].rstrip(".")


def quoted(*names: str) -> str:
    """Identifiers, quoted and joined by dots."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)
