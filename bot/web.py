"""HTTP: our own health, Slack's requests when Socket Mode is off, and the look at a target's health."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from bot.errors import ConfigError, StepFailed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Reasons = Callable[[], Awaitable[dict[str, str]]]

_BODY = 64 * 1024  # bytes of a health answer that are read


class Looker:
    """ports.Web."""

    async def get(self, url: str, *, timeout: dt.timedelta) -> tuple[int, bytes, float]:
        began = asyncio.get_running_loop().time()
        try:
            limit = aiohttp.ClientTimeout(total=timeout.total_seconds())
            async with aiohttp.ClientSession(timeout=limit) as session, session.get(url, allow_redirects=False) as answer:
                body = await _beginning(answer.content)
                return answer.status, body, asyncio.get_running_loop().time() - began
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StepFailed(f"no answer: {type(error).__name__}") from error


async def _beginning(stream: aiohttp.StreamReader) -> bytes:
    """One read gives what has arrived so far, which may be a piece."""
    found = b""
    while len(found) < _BODY and (piece := await stream.read(_BODY - len(found))):
        found += piece
    return found


class Server:
    """GET /healthz: the process lives. GET /readyz: journal, engine and Slack can be used, or why not. POST /slack/events: Slack's, if given."""

    def __init__(self, *, reasons: Reasons, slack: Handler | None) -> None:
        self._reasons = reasons
        app = web.Application(client_max_size=2**20)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        if slack is not None:
            app.router.add_post("/slack/events", slack)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> None:
        """Raises ConfigError when the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"HOST/PORT: can't listen on {host}:{port} ({error.strerror}). Stop what listens there, or set PORT.") from error

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _alive(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = await self._reasons()
        return web.json_response(reasons or {"status": "ready"}, status=503 if reasons else 200)
