"""Programs in containers: one merged stream of output, standard input that can be closed, and an end that is seen over there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Protocol

import aiodocker
import aiohttp
from aiodocker.stream import Stream

from bot.containers.api import Engine, running
from bot.errors import BackoutError, OutcomeUnknown

log = logging.getLogger(__name__)

_GONE = 20.0  # seconds that an engine gets to end what was killed
_PAUSE = 0.1
_NOBODY_KNOWS = -1


class Place(Protocol):
    """Where one program runs."""

    async def ended(self) -> int | None:
        """Its exit code, None while it runs."""

    async def kill(self) -> None: ...


class ContainerProgram:
    """Implements running.Program."""

    def __init__(self, stream: Stream, place: Place, pid: int, first: bytes = b"") -> None:
        self.pid = pid
        self._stream, self._place, self._first = stream, place, first

    async def output(self) -> AsyncIterator[bytes]:
        """Both streams without their frames. It ends too when the engine goes away: whoever reads has not had the last word then."""
        if self._first:
            yield self._first
        while (message := await _read(self._stream)) is not None:
            yield message

    async def send(self, data: bytes) -> None:
        if _transport(self._stream) is not None:
            with suppress(ConnectionError):
                await self._stream.write_in(data)

    async def close_stdin(self) -> None:
        """Half of the connection: what the program still says is heard."""
        transport = _transport(self._stream)
        if transport is not None and not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    async def wait(self) -> int:
        """-1 when the engine can't say: then nobody knows."""
        try:
            while (code := await self._place.ended()) is None:  # noqa: ASYNC110  a condition of another process
                await asyncio.sleep(_PAUSE)
        except BackoutError as error:
            log.warning("how the program ended can't be known: %s", error)
            return _NOBODY_KNOWS
        return code

    async def kill(self) -> None:
        """Raises OutcomeUnknown when it can't be seen gone."""
        try:
            async with asyncio.timeout(_GONE):
                if await self._place.ended() is None:
                    await self._place.kill()
                while await self._place.ended() is None:  # noqa: ASYNC110  a condition of another process
                    await asyncio.sleep(_PAUSE)
        except TimeoutError:
            raise OutcomeUnknown(f"The program could not be ended within {_GONE:g} s where it runs.") from None
        except BackoutError as error:
            raise OutcomeUnknown(f"The program could not be seen ended where it runs: {error}") from error


class OneOff:
    """A container that is the program."""

    def __init__(self, engine: Engine, identity: str) -> None:
        self._engine, self._id = engine, identity

    async def ended(self) -> int | None:
        found = await self._engine.found(self._id)
        if found is None:
            return _NOBODY_KNOWS
        return None if running(found) else int(found["State"].get("ExitCode") or 0)

    async def kill(self) -> None:
        await self._engine.remove(self._id, force=True)


class Executed:
    """A program in a container that others need. The engine can't end one of those, so the container's own kill does."""

    def __init__(self, engine: Engine, container: str, identity: str, pid: int) -> None:
        self._engine, self._container, self._id, self._pid = engine, container, identity, pid

    async def ended(self) -> int | None:
        return await self._engine.exec_ended(self._id)

    async def kill(self) -> None:
        """Its whole group: an engine makes every such program the leader of one."""
        words = f"kill -9 -{self._pid} 2>/dev/null || kill -9 {self._pid} 2>/dev/null"
        await self._engine.exec_quietly(self._container, ["sh", "-c", words])


async def first_line(stream: Stream) -> tuple[str, bytes]:
    """The first line and what came behind it; an empty line when there was none."""
    seen = b""
    while b"\n" not in seen and (data := await _read(stream)) is not None:
        seen += data
    line, _, rest = seen.partition(b"\n")
    return line.decode("utf-8", "replace").strip(), rest


async def _read(stream: Stream) -> bytes | None:
    try:
        message = await stream.read_out()
    except (aiohttp.ClientError, aiodocker.DockerError, OSError) as error:
        log.warning("the engine went away while a program ran: %s", error)
        return None
    return None if message is None else message.data


def _transport(stream: Stream) -> asyncio.WriteTransport | None:
    """aiodocker has no public way to close one half of the connection, as `docker run -i` does."""
    response = stream._resp
    connection = response.connection if response is not None else None
    transport = connection.transport if connection is not None else None
    return transport if isinstance(transport, asyncio.WriteTransport) and not transport.is_closing() else None


def environment(given: Sequence[str], more: dict[str, str]) -> list[str]:
    """NAME=VALUE, each name once: of two, programs would take the first."""
    merged = dict(one.split("=", 1) for one in given if "=" in one) | more
    return [f"{name}={value}" for name, value in merged.items()]
