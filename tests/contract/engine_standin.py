"""A container engine that fails as a real one can't be made to on demand: on a socket, with one container, strict about what it is asked."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

VERSION = "1.41"
ID = "a" * 64


@dataclass
class StandIn:
    """`faults`: 'POST stop' -> status and message, 'hang', or 'cut' (the connection ends without an answer). Each happens once unless `always`."""

    path: Path
    faults: dict[str, tuple[int, str] | str] = field(default_factory=dict)
    always: bool = False
    running: bool = True
    policy: str = "always"
    asked: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"unix://{self.path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        found = re.fullmatch(rf"/(?:v{re.escape(VERSION)}/)?(version|containers/json|images/[\w:./-]+/json|containers/([\w.-]+)/(\w+))", request.path)
        if found is None:
            return _says(404, f"page not found: {request.path}")
        what = f"{request.method} {found[3] or found[1]}"
        self.asked.append(what)
        fault = self.faults.get(what) if self.always else self.faults.pop(what, None)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(fault, tuple):
            return _says(*fault)
        if found[2] not in (None, "shop", ID):
            return _says(404, f"No such container: {found[2]}")
        known: dict[str, Callable[[web.Request], Any]] = {
            "GET version": self._version, "GET containers/json": self._list, "GET json": self._show, "POST stop": self._stop,
            "POST start": self._start, "POST update": self._update,
        }  # fmt: skip
        if what not in known:
            return _says(404, "No such image" if "images" in what else f"page not found: {what}")
        if request.method == "POST":
            await request.read()
        return web.json_response(known[what](request))

    def _version(self, _: web.Request) -> dict[str, Any]:
        return {"ApiVersion": VERSION}

    def _list(self, _: web.Request) -> list[dict[str, Any]]:
        return [{"Id": ID, "Names": ["/shop"], "Labels": {}, "State": "running" if self.running else "exited"}]

    def _show(self, _: web.Request) -> dict[str, Any]:
        state = {"Running": self.running, "Paused": False, "Restarting": False, "ExitCode": 0, "StartedAt": "2026-11-30T12:00:00Z"}
        return {
            "Id": ID, "Name": "/shop", "Image": "sha256:b", "RestartCount": 0, "State": {**state, "Status": "running" if self.running else "exited"},
            "Config": {"Image": "shop:1", "Labels": {}}, "HostConfig": {"RestartPolicy": {"Name": self.policy}, "NetworkMode": "host"},
        }  # fmt: skip

    def _stop(self, request: web.Request) -> dict[str, Any]:
        assert request.query["t"].isdigit()
        self.running = False
        return {}

    def _start(self, _: web.Request) -> dict[str, Any]:
        self.running = True
        return {}

    def _update(self, _: web.Request) -> dict[str, Any]:
        self.policy = "no" if self.policy == "always" else "always"
        return {}


def _says(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"message": message}), content_type="application/json")


@asynccontextmanager
async def standing_in(path: Path) -> AsyncIterator[StandIn]:
    engine = StandIn(path)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", engine.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield engine
    finally:
        await runner.cleanup()
