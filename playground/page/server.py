"""Serves the page on 127.0.0.1: static files, the state as JSON, actions, and a stream that says when to look again.

Everything lies below a random word in the address, so that no other page on this machine can guess it; Host and Origin are checked as well.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from playground.page.actions import ACTIONS, act, problem
from playground.page.scene import Scene, mark, seen_by
from playground.slack.model import NotPossible

_FILES = Path(__file__).parent / "static"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_BEAT = 10.0  # seconds between two signs of life on the stream
_TOGETHER = 0.05  # seconds in which changes count as one
_BODY = 256 * 1024
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """`async with Page(scene) as page` serves it at `page.url`. `port` 0 takes a free one; so does a port that is taken (see `taken`)."""

    def __init__(self, scene: Scene, port: int = 0) -> None:
        self._scene = scene
        self._wanted = port
        self._word = secrets.token_urlsafe(16)
        self._runner: web.AppRunner | None = None
        self._closing = asyncio.Event()
        self.port = 0
        #: whether another program had the port
        self.taken = False

    @property
    def url(self) -> str:
        """The page's address, secret word and last slash included."""
        return f"http://127.0.0.1:{self.port}/{self._word}/"

    async def __aenter__(self) -> Page:
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._wanted).start()
        except OSError:
            self.taken = True
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=_BODY)
        app.router.add_get("/{word}/", self._file)
        app.router.add_get("/{word}/static/{name}", self._file)
        app.router.add_get("/{word}/app/state", self._state)
        app.router.add_get("/{word}/app/events", self._events)
        app.router.add_get("/{word}/app/file/{file}", self._shared)
        app.router.add_post("/{word}/app/do/{action}", self._do)
        return app

    # -------------------------------------------------------------- who may ask

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request) if self._is_ours(request) else _refused()
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.reason)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _is_ours(self, request: web.Request) -> bool:
        hosts = {f"127.0.0.1:{self.port}", f"localhost:{self.port}"}
        origin = request.headers.get("Origin")
        return (
            request.host in hosts
            and origin in (None, f"http://{request.host}")
            and request.headers.get("Sec-Fetch-Site") in {None, "same-origin", "none"}
            and secrets.compare_digest(request.match_info.get("word", "").encode(), self._word.encode())
        )

    # -------------------------------------------------------------- what is there

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name", "index.html")
        there = {path.name: path for path in _FILES.iterdir() if path.suffix in _KINDS}
        if name not in there:
            return web.Response(status=404, text="There is no such file.")
        return web.Response(body=there[name].read_bytes(), content_type=_KINDS[there[name].suffix], charset="utf-8")

    async def _state(self, request: web.Request) -> web.StreamResponse:
        me = request.query.get("as", "")
        if me not in self._scene.roles:
            me = next(iter(self._scene.roles))
        return _packed(json.dumps(seen_by(self._scene, me)), "application/json")

    async def _shared(self, request: web.Request) -> web.StreamResponse:
        """A file that stands in the channel, as text whatever it is."""
        file = self._scene.slack.uploads.get(request.match_info["file"])
        if file is None or file.data is None or file.channel is None:
            return web.Response(status=404, text="There is no such file.")
        return _packed(file.data.decode(errors="replace"), "text/plain")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the state's mark now, and again whenever it is another."""
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = None
        with suppress(ConnectionError):
            while not self._closing.is_set():
                now = mark(self._scene)
                await response.write(b": here\n\n" if now == sent else f"data: {now}\n\n".encode())
                sent = now
                await self._until_another(now)
        return response

    async def _until_another(self, now: str) -> None:
        """Wait until something changed, the server closes, or it is time for a sign of life."""
        slack = self._scene.slack
        seen = slack.changes
        if mark(self._scene) != now:
            return
        waiting = [asyncio.ensure_future(slack.until_changed(seen)), asyncio.ensure_future(self._closing.wait())]
        try:
            done, _ = await asyncio.wait(waiting, timeout=_BEAT, return_when=asyncio.FIRST_COMPLETED)
            if waiting[0] in done:
                await asyncio.sleep(_TOGETHER)
        finally:
            for task in waiting:
                task.cancel()

    # -------------------------------------------------------------- what is done

    async def _do(self, request: web.Request) -> web.StreamResponse:
        """JSON {as, ...} -> {ok, said}: `said` is for the person who did it."""
        if request.content_type != "application/json":
            return web.Response(status=415, text="Send JSON.")
        name = request.match_info["action"]
        if name not in ACTIONS:
            return web.Response(status=404, text="There is no such action.")
        args = await _object(request)
        if args is None:
            return web.Response(status=400, text="Send a JSON object.")
        try:
            said = await act(self._scene, name, str(args.get("as")), args)
        except NotPossible as error:
            return web.json_response(problem(error))
        return web.json_response({"ok": said is None, "said": said})


async def _object(request: web.Request) -> Mapping[str, Any] | None:
    try:
        body = json.loads(await request.text())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _packed(text: str, kind: str) -> web.Response:
    response = web.Response(text=text, content_type=kind)
    response.enable_compression()
    return response


def _refused() -> web.Response:
    return web.Response(
        status=403, text="This is not the demo's address any more, or another page asked. Open the address that backout demo printed last."
    )
