"""Socket Mode: addresses that expire, hello, one socket for each envelope, acks, disconnects."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import Callable

from aiohttp import WSMsgType, web

from playground.slack.model import Ack, Delivery, Json
from playground.slack.workspace import Workspace

#: how long an address from apps.connections.open can be entered; Slack publishes no number
TICKET_SECONDS = 30.0


class Sockets:
    def __init__(self, workspace: Workspace, address: Callable[[str], str]) -> None:
        self._workspace = workspace
        self._address = address
        self._tickets: dict[str, float] = {}
        self._open: list[web.WebSocketResponse] = []
        self._waiting: dict[str, tuple[web.WebSocketResponse, asyncio.Future[Json]]] = {}
        self._turn = itertools.count()

    def __len__(self) -> int:
        return len(self._open)

    def ticket(self) -> str:
        """The address of a socket, good for TICKET_SECONDS."""
        ticket = secrets.token_urlsafe(16)
        self._tickets[ticket] = self._workspace.now() + TICKET_SECONDS
        return self._address(f"/link?ticket={ticket}&app_id={self._workspace.app_id}").replace("http", "ws", 1)

    async def accept(self, request: web.Request) -> web.StreamResponse:
        if self._workspace.now() > self._tickets.get(request.query.get("ticket", ""), 0.0):
            return web.Response(status=403, text="this address has expired")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(
            {"type": "hello", "num_connections": len(self._open) + 1, "connection_info": {"app_id": self._workspace.app_id},
             "debug_info": {"host": "local", "approximate_connection_time": 18_060}}
        )  # fmt: skip
        self._open.append(socket)
        self._workspace.changed()
        try:
            async for frame in socket:
                if frame.type is WSMsgType.TEXT:
                    self._acked(json.loads(frame.data))
        finally:
            self._gone(socket)
        return socket

    def _acked(self, frame: Json) -> None:
        _, answer = self._waiting.get(frame.get("envelope_id", ""), (None, None))
        if answer is not None and not answer.done():
            answer.set_result(frame)

    def _gone(self, socket: web.WebSocketResponse) -> None:
        if socket in self._open:
            self._open.remove(socket)
        for used, answer in self._waiting.values():
            if used is socket and not answer.done():
                answer.set_exception(ConnectionResetError())
        self._workspace.changed()

    async def deliver(self, delivery: Delivery, within: float) -> Ack:
        """Send to one socket and wait for its ack."""
        if not self._open:
            return Ack(0, "", 0.0, delivery.kind, "no socket is open")
        socket = self._open[next(self._turn) % len(self._open)]
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[delivery.envelope] = (socket, answer)
        began = time.monotonic()
        try:
            await socket.send_json(_envelope(delivery))
            frame = await asyncio.wait_for(answer, within)
        except TimeoutError:
            return Ack(0, "", time.monotonic() - began, delivery.kind, "operation_timeout")
        except ConnectionResetError:
            return Ack(0, "", time.monotonic() - began, delivery.kind, "the socket was closed")
        finally:
            self._waiting.pop(delivery.envelope, None)
        payload = frame.get("payload")
        return Ack(200, json.dumps(payload) if payload else "", time.monotonic() - began, delivery.kind)

    async def drop(self, reason: str | None) -> None:
        """Close every socket: with a disconnect frame, or, without a reason, by cutting the line."""
        dropped, self._open = self._open, []
        for socket in dropped:
            if reason is not None:
                await socket.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "local"}})
                await socket.close()
            elif (transport := socket.get_extra_info("socket")) is not None:
                transport.shutdown(2)
        self._workspace.changed()


def _envelope(delivery: Delivery) -> Json:
    kinds = {"slash_commands": True, "interactive": True, "events_api": False}
    frame: Json = {
        "envelope_id": delivery.envelope, "type": delivery.kind, "payload": delivery.payload, "accepts_response_payload": kinds[delivery.kind],
    }  # fmt: skip
    if delivery.kind == "events_api" or delivery.attempt:
        frame |= {"retry_attempt": delivery.attempt, "retry_reason": delivery.reason}
    return frame
