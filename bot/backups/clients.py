"""pg_dump and pg_restore of a server's major version: the system's, else our own."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bot.errors import ConfigError, ProgramMissing, Refusal
from bot.place import Connect
from bot.process import run
from bot.settings import inherited

_NEEDS_TLS = {"require", "verify-ca", "verify-full"}
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True)
class Client:
    """pg_dump and pg_restore of one major version."""

    folder: Path
    major: int
    tls: bool

    def program(self, name: str) -> str:
        return str(self.folder / name)


async def client_for(server: int, sslmode: str | None, embedded: Callable[[int], Path]) -> Client:
    """For a server of that major version. Raises Refusal(client_older_than_server | tls_unsupported | tool_missing)."""
    for client in (await _installed(server), _wheel(server, embedded)):
        if client is None:
            continue
        if client.major < server:
            raise Refusal(
                "client_older_than_server",
                f"The server is PostgreSQL {server}, and the newest pg_dump here is of {client.major}: it would refuse.",
                f"Install the client programs of PostgreSQL {server} (on Debian: postgresql-client-{server}).",
            )
        if sslmode in _NEEDS_TLS and not client.tls:
            raise Refusal(
                "tls_unsupported",
                f"The URL asks for sslmode={sslmode}, and the only pg_dump here is Backout's own, which has no TLS.",
                f"Install the client programs of PostgreSQL {server} (on Debian: postgresql-client-{server}).",
            )
        return client
    raise Refusal("tool_missing", "There is no pg_dump here.", f"Install the client programs of PostgreSQL {server}.")


def environment(connect: Connect, application: str, options: Mapping[str, str]) -> dict[str, str]:
    """Everything by the environment: no secret in an argv, and a database's name is never taken for a connection string.

    `options` are settings of the sessions. What the programs say is read by us, so it is in English.
    """
    said = {
        "PGHOST": connect.host, "PGPORT": str(connect.port), "PGUSER": connect.user, "PGDATABASE": connect.database,
        "PGPASSWORD": connect.password, "PGSSLMODE": connect.sslmode or "prefer", "PGAPPNAME": application, "PGCONNECT_TIMEOUT": "10",
        "PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in options.items()),
    }  # fmt: skip
    return {**inherited(), "LC_ALL": "C", **{key: value for key, value in said.items() if value}}


def _wheel(server: int, embedded: Callable[[int], Path]) -> Client | None:
    major = 16 if server <= 16 else 18
    try:
        return Client(embedded(major), major, tls=False)
    except ConfigError:
        return None


async def _installed(major: int) -> Client | None:
    """That very major version, where Debian puts it or on PATH."""
    on_path = shutil.which("pg_dump", path=inherited()["PATH"])
    for folder in (Path(f"/usr/lib/postgresql/{major}/bin"), *([Path(on_path).parent] if on_path else [])):
        try:
            version = await run([str(folder / "pg_dump"), "--version"], env=inherited(), timeout=dt.timedelta(seconds=30))
        except ProgramMissing:
            continue
        found = _VERSION.search(version.output)
        if found and int(found[1]) == major and (folder / "pg_restore").exists():
            return Client(folder, major, tls=True)
    return None
