"""A server of a major version, and on it a database with an owner, an application's role, and Backout's own role, with or without superuser."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot.databases.connecting import quoted
from bot.databases.door import Door
from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from tests.contract.servers import execute, session


@contextmanager
def running(major: int) -> Iterator[Connect]:
    """With logical slots and prepared transactions, which need settings from the start."""
    home = Path(tempfile.mkdtemp(prefix=f"backout-{major}-"))
    home.chmod(0o711)
    postgres = EmbeddedPostgres(home, name="own", major=major, durable=False)

    async def start() -> Connect:
        connect = await postgres.start()
        await execute(connect, "ALTER SYSTEM SET max_prepared_transactions = 10", "ALTER SYSTEM SET wal_level = logical")
        await postgres.stop()
        return await postgres.start()

    try:
        yield asyncio.run(start())
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(home)


@dataclass
class Place:
    """`app` owns the database, which holds table t. `backout` is Backout's own role; everything in `superuser` is done by the server's."""

    superuser: Connect
    app: Connect
    backout: Connect
    roles: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return quoted(self.app.database)

    @property
    def me(self) -> str:
        return quoted(self.backout.user)

    @property
    def maintenance(self) -> Connect:
        return self.backout.model_copy(update={"database": "postgres"})

    @property
    def door(self) -> Door:
        return Door(self.maintenance, self.app)

    async def do(self, *statements: str) -> None:
        await execute(self.superuser, *statements)

    async def value(self, query: str, *args: object) -> Any:
        async with session(self.superuser) as asking:
            return await asking.fetchval(query, *args)

    async def acl(self) -> str | None:
        found = await self.value("SELECT datacl::text FROM pg_database WHERE datname = $1", self.app.database)
        return None if found is None else str(found)

    async def another(self, name: str, *attributes: str) -> Connect:
        """A role with a login, as it enters the database."""
        password = secrets.token_hex(8)
        await self.do(f"CREATE ROLE {quoted(name)} LOGIN PASSWORD '{password}' {' '.join(attributes)}")
        self.roles.append(name)
        return self.app.model_copy(update={"user": name, "password": password})


async def _user(superuser: Connect, name: str, attributes: str) -> Connect:
    password = secrets.token_hex(8)
    await execute(superuser, f"CREATE ROLE {quoted(name)} LOGIN PASSWORD '{password}' {attributes}")
    return superuser.model_copy(update={"user": name, "password": password})


@asynccontextmanager
async def place(superuser: Connect, *, is_superuser: bool, database: str = "shop", role: str = "app") -> AsyncIterator[Place]:
    mark = secrets.token_hex(3)
    app = (await _user(superuser, f"{role}_{mark}", "")).model_copy(update={"database": f"{database}_{mark}"})
    backout = await _user(superuser, f"ops_{mark}", "SUPERUSER" if is_superuser else "CREATEROLE CREATEDB")
    found = Place(superuser, app, backout)
    async with session(superuser) as asking:
        version = asking.get_server_version().major
    if not is_superuser:
        await found.do(
            f"GRANT {quoted(app.user)} TO {found.me} {'WITH ADMIN OPTION' if version >= 16 else ''}", f"GRANT pg_signal_backend TO {found.me}"
        )
    await found.do(f"CREATE DATABASE {found.name} OWNER {quoted(app.user)}")
    await execute(app, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    try:
        yield found
    finally:
        await _clean(found)


async def _clean(found: Place) -> None:
    """Whatever the test left: databases and roles that are not the server's own."""
    async with session(found.superuser) as asking:
        for row in await asking.fetch("SELECT gid, database FROM pg_prepared_xacts"):
            await execute(found.superuser.model_copy(update={"database": row["database"]}), f"ROLLBACK PREPARED '{row['gid']}'")
        mine = "SELECT datname FROM pg_database d WHERE pg_get_userbyid(datdba) = ANY ($1) OR datname = $2"
        names = [found.app.user, found.backout.user, *found.roles]
        for row in await asking.fetch(mine, names, found.app.database):
            await asking.execute(f"ALTER DATABASE {quoted(row[0])} IS_TEMPLATE false")
            await asking.execute(f"DROP DATABASE {quoted(row[0])} WITH (FORCE)")
        keys = [row[0] for row in await asking.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE 'backout\\_%'")]
        for name in [*keys, *names]:
            await asking.execute(f"DROP OWNED BY {quoted(name)} CASCADE")
        for name in [*keys, *reversed(names)]:
            await asking.execute(f"DROP ROLE {quoted(name)}")
