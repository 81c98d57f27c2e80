"""What the tests of a target's server share: sessions of its users, a physical copy of it, a pooler in front of it."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from bot import embedded
from bot.databases.postgres import PostgresDatabase
from bot.embedded import EmbeddedPostgres, binaries
from bot.errors import Refusal
from bot.place import Connect
from bot.process import run
from bot.settings import inherited

Open: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def database_of(tool: Connect, admin: Connect, **more: object) -> PostgresDatabase:
    return PostgresDatabase(target="shop", tool=tool, admin=admin, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def session(connect: Connect, **settings: str) -> AsyncIterator[Open]:
    found = await asyncpg.connect(connect.url(), server_settings=settings)
    try:
        yield found
    finally:
        found.terminate()


async def execute(connect: Connect, *statements: str) -> None:
    async with session(connect) as open_:
        for statement in statements:
            await open_.execute(statement)
        await open_.close()


async def refused(code: str, asking: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await asking  # type: ignore[misc]
    assert caught.value.code == code, caught.value.message
    assert caught.value.next
    return caught.value


def _open_directory() -> Path:
    home = Path(tempfile.mkdtemp(prefix="backout-copy-"))
    (home / "copy").mkdir()
    for place in (home, home / "copy"):
        place.chmod(0o711)
    return home


def _hand_over(place: Path, password: str) -> None:
    """A cluster that EmbeddedPostgres takes for its own."""
    (place / "password").write_text(password)
    if os.geteuid() == 0:
        for path in (place / "data", *(place / "data").rglob("*")):
            shutil.chown(path, embedded.ACCOUNT, embedded.ACCOUNT)


@asynccontextmanager
async def physical_copy(server: Connect, *, standby: bool) -> AsyncIterator[Connect]:
    home = _open_directory()
    try:
        place = home / "copy"
        argv = [
            str(binaries() / "pg_basebackup"),
            "-D",
            str(place / "data"),
            "-h",
            server.host,
            "-p",
            str(server.port),
            "-U",
            server.user,
            "-c",
            "fast",
        ]
        done = await run([*argv, "-R"] if standby else argv, env={**inherited(), "PGPASSWORD": server.password}, timeout=dt.timedelta(seconds=60))
        assert done.code == 0, done.output
        _hand_over(place, server.password)
        async with EmbeddedPostgres(home, name="copy", durable=False) as connect:
            yield connect
    finally:
        shutil.rmtree(home)


class TransactionPooler:
    """A stand-in: once it has let a client in, by a session of the server's, it hands such sessions out, per transaction, to whoever asks."""

    def __init__(self, server: Connect, *, last_in_first_out: bool) -> None:
        self._server = server
        self._free: asyncio.Queue[asyncio.StreamWriter] = asyncio.LifoQueue() if last_in_first_out else asyncio.Queue()
        self._given: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}  # client -> server
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> int:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._listening.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            await self._let_in(client, to_client)
            while (message := await self._message(client))[:1] != b"X":
                if to_client not in self._given:
                    self._given[to_client] = await self._free.get()
                self._given[to_client].write(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        to_client.close()

    async def _let_in(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        hello = await self._untyped(client)
        if len(hello) == 8:  # does it speak TLS?
            to_client.write(b"N")
            hello = await self._untyped(client)
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        self._given[to_client] = to_server
        to_server.write(hello)
        self._tasks.append(asyncio.create_task(self._answer(server, to_server)))

    async def _answer(self, server: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        try:
            while True:
                message = await self._message(server)
                owner = next(client for client, given in self._given.items() if given is to_server)
                if message[:1] == b"Z" and message[5:] == b"I":
                    del self._given[owner]
                    self._free.put_nowait(to_server)
                owner.write(message)
        finally:
            to_server.close()

    async def _untyped(self, reader: asyncio.StreamReader) -> bytes:
        length = await reader.readexactly(4)
        return length + await reader.readexactly(int.from_bytes(length, "big") - 4)

    async def _message(self, reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly(1) + await self._untyped(reader)


class Line:
    """A line to the server that breaks, both ways, right after Backout has said so many things: what was said last may still be done."""

    def __init__(self, server: Connect, breaks_after: int) -> None:
        self._server, self._left = server, breaks_after

    @property
    def broke(self) -> bool:
        return self._left <= 0

    async def __aenter__(self) -> Line:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._listening.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        with suppress(ConnectionError):
            await asyncio.gather(self._say(client, to_server, to_client), self._answer(server, to_client))
        for writer in (to_client, to_server):
            writer.close()

    async def _say(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, to_client: asyncio.StreamWriter) -> None:
        while (said := await client.read(65536)) and self._left > 0:
            to_server.write(said)
            await to_server.drain()
            self._left -= 1
            if self.broke:
                break
        to_server.close()
        to_client.close()

    async def _answer(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(65536):
            to_client.write(data)
