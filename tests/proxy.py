"""A line to a server that can be cut, and on which answers can be changed."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from bot.place import Connect


class Proxy:
    """`async with Proxy(server) as proxy`: whoever connects to `proxy.port` talks to the server, until `cut`.

    `rewrite` is (bytes, other bytes of the same length), replaced in what the server says.
    """

    def __init__(self, server: Connect, *, rewrite: tuple[bytes, bytes] | None = None) -> None:
        self._server, self._rewrite = server, rewrite
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._down = False
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._listening.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def to(self, connect: Connect) -> Connect:
        """The same database, through this line."""
        return connect.model_copy(update={"host": "127.0.0.1", "port": self.port})

    def cut(self) -> None:
        """Every connection is reset, on both sides, and new ones are refused."""
        self._down = True
        for writer in self._open:
            _reset(writer)

    def mend(self, server: Connect | None = None) -> None:
        """Also to another server from now on."""
        self._server = server or self._server
        self._down = False

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if self._down:
            _reset(to_client)
            return
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        self._open |= {to_client, to_server}
        with suppress(ConnectionError):
            await asyncio.gather(self._pump(client, to_server, None), self._pump(server, to_client, self._rewrite))
        self._open -= {to_client, to_server}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, rewrite: tuple[bytes, bytes] | None) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data.replace(*rewrite) if rewrite else data)
                await sink.drain()
        finally:
            sink.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
