"""The look at an application's health, at addresses that redirect, hang, drip, flood or lie for a while."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.durable import World
from bot.errors import StepFailed
from bot.rollback.verify import health_checks
from bot.steps.look_at_health import look_at_health
from bot.web import Looker

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
HEALTHY = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\nConnection: close\r\n\r\n{"status": "healthy"}'
SOON = dt.timedelta(seconds=0.3)


@asynccontextmanager
async def page(answer: Answer) -> AsyncIterator[str]:
    """`answer(path, writer)` for each request."""
    doing: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        doing.add(task)
        try:
            line = await reader.readline()
            await answer(line.split()[1].decode(), writer)
            with suppress(ConnectionError):
                await writer.drain()
        except asyncio.CancelledError:
            writer.transport.abort()  # the test is over
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in doing:
            task.cancel()
        await asyncio.gather(*doing, return_exceptions=True)


async def test_a_redirect_is_not_followed_and_is_not_health() -> None:
    paths: list[str] = []

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        paths.append(path)
        away = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(away if path == "/health" else HEALTHY)

    async with page(answer) as url:
        status, _, _ = await Looker().get(f"{url}/health", timeout=dt.timedelta(seconds=10))

    assert (status, paths) == (302, ["/health"])


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"], ids=["hangs", "hangs in its body"])
async def test_an_address_that_hangs_is_no_answer(first: bytes) -> None:
    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await asyncio.Event().wait()

    async with page(answer) as url:
        with pytest.raises(StepFailed, match="no answer: TimeoutError"):
            await Looker().get(f"{url}/health", timeout=SOON)


async def test_an_address_that_drips_without_end_is_no_answer() -> None:
    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with page(answer) as url:
        with pytest.raises(StepFailed, match="no answer"):
            await Looker().get(f"{url}/health", timeout=SOON)


async def test_a_body_that_comes_in_pieces_is_read_to_its_end() -> None:
    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        for piece in (HEALTHY[:-10], HEALTHY[-10:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)

    async with page(answer) as url:
        status, body, _ = await Looker().get(f"{url}/health", timeout=dt.timedelta(seconds=10))

    assert (status, body) == (200, b'{"status": "healthy"}')


async def test_of_a_flood_only_the_beginning_is_read() -> None:
    async def answer(_path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1_000_000)

    async with page(answer) as url:
        _, body, _ = await Looker().get(f"{url}/health", timeout=dt.timedelta(seconds=10))

    assert 0 < len(body) <= 64 * 1024


# ------------------------------------------------------------------ how long it is believed, and how long not


def world(monkeypatch: pytest.MonkeyPatch, answer: Callable[[float], tuple[int, bytes]]) -> tuple[World, list[str]]:
    """Its clock moves by what is slept; `answer(seconds)` is what the address says then."""
    now, told = [0.0], list[str]()

    async def sleep(pause: float) -> None:
        now[0] += pause

    async def get(_url: str, *, timeout: dt.timedelta) -> tuple[int, bytes, float]:
        return (*answer(now[0]), 0.008)

    async def progress(text: str) -> None:
        told.append(text)

    monkeypatch.setattr("asyncio.sleep", sleep)
    wanted = SimpleNamespace(url="http://127.0.0.1/health", expected={"status": "healthy"})
    made: dict[str, Any] = {
        "target": SimpleNamespace(health=wanted), "clock": SimpleNamespace(monotonic=lambda: now[0]), "web": SimpleNamespace(get=get),
        "progress": progress,
    }  # fmt: skip
    found = SimpleNamespace(**made)
    found.health = health_checks
    return cast("World", found), told


async def test_an_address_that_lies_for_30_seconds_is_looked_at_until_it_says_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load balancer's own page first, then the application that still starts, then health."""

    def answer(seconds: float) -> tuple[int, bytes]:
        if seconds < 15:
            return 200, b"<html>OK</html>"
        return 200, b'{"status": "starting"}' if seconds < 30 else b'{"status": "healthy"}'

    asked, told = world(monkeypatch, answer)
    found = await look_at_health.body(asked)

    assert found.facts["checks"][0]["ok"] is True
    assert "health: HTTP 200 in 8 ms, but the body is no JSON; looking again" in told
    assert 'health: HTTP 200 in 8 ms, but status is "starting", not "healthy"; looking again' in told


@pytest.mark.parametrize(("status", "body", "words"), [(302, b"", "HTTP 302"), (200, b'{"status": "starting"}', 'status is "starting"')])
async def test_an_address_that_never_says_it_is_red_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, words: str
) -> None:
    asked, _ = world(monkeypatch, lambda _: (status, body))
    with pytest.raises(StepFailed, match="The application is not well") as caught:
        await look_at_health.body(asked)
    assert words in caught.value.message
