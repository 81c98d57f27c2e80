"""How things reach the bot: signed requests to its address, or envelopes on its socket; and how its answer is judged."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode

import aiohttp

from playground.slack.model import Ack, Delivery, Json, wall_clock
from playground.slack.sockets import Sockets
from playground.slack.workspace import Workspace

#: takes the body of an ack and does what Slack does with it; says what is wrong with it
Judge = Callable[[str], str | None]


def _nothing(_: str) -> str | None:
    return None


class Sender:
    """`ack_within` seconds is how long Slack waits. What was sent is kept, newest last."""

    def __init__(self, workspace: Workspace, sockets: Sockets, signing_secret: str, ack_within: float) -> None:
        self._workspace = workspace
        self._sockets = sockets
        self._secret = signing_secret
        self.ack_within = ack_within
        self.url: str | None = None
        self.session: aiohttp.ClientSession | None = None
        self.sent: list[Delivery] = []

    async def send(self, kind: str, payload: Json, *, attempt: int = 0, reason: str = "", judge: Judge = _nothing) -> Ack:
        """`kind` is Socket Mode's word: slash_commands, interactive, events_api."""
        return await self._first(Delivery(kind, payload, str(uuid.uuid4()), attempt, reason), judge)

    async def again(self, delivery: Delivery) -> Ack:
        """The same bytes once more, old signature and all; on a socket, the same envelope."""
        return await self._deliver(delivery, _nothing)

    async def redeliver(self, delivery: Delivery, reason: str) -> Ack:
        """Slack's own retry: the same request, newly signed, counted."""
        return await self._first(replace(delivery, attempt=delivery.attempt + 1, reason=reason, headers={}, body=b""), _nothing)

    async def _first(self, delivery: Delivery, judge: Judge) -> Ack:
        delivery.body = _body(delivery)
        delivery.headers = self._headers(delivery)
        self.sent.append(delivery)
        return await self._deliver(delivery, judge)

    async def _deliver(self, delivery: Delivery, judge: Judge) -> Ack:
        ack = await (self._post(delivery) if self.url else self._sockets.deliver(delivery, self.ack_within))
        if ack.ok:
            ack = replace(ack, problem=judge(ack.body))
        self._workspace.acks.append(ack)
        self._workspace.changed()
        return ack

    async def _post(self, delivery: Delivery) -> Ack:
        if self.session is None or self.url is None:
            raise RuntimeError("the stand-in was not started")
        began = time.monotonic()
        limit = aiohttp.ClientTimeout(total=self.ack_within)
        try:
            async with self.session.post(self.url, data=delivery.body, headers=delivery.headers, timeout=limit) as answer:
                body, status = await answer.text(), answer.status
        except TimeoutError:
            return Ack(0, "", time.monotonic() - began, delivery.kind, "operation_timeout")
        except aiohttp.ClientError as error:
            return Ack(0, "", time.monotonic() - began, delivery.kind, f"dispatch_failed: {type(error).__name__}")
        problem = None if status == 200 else f"http_status {status}"
        return Ack(status, body, time.monotonic() - began, delivery.kind, problem)

    def _headers(self, delivery: Delivery) -> dict[str, str]:
        stamp = str(int(wall_clock().timestamp()))
        base = b"v0:" + stamp.encode() + b":" + delivery.body
        kind = "application/json" if delivery.kind == "events_api" else "application/x-www-form-urlencoded"
        headers = {
            "Content-Type": kind,
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": "v0=" + hmac.new(self._secret.encode(), base, hashlib.sha256).hexdigest(),
            "User-Agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
        }
        if delivery.attempt:
            headers |= {"X-Slack-Retry-Num": str(delivery.attempt), "X-Slack-Retry-Reason": delivery.reason}
        return headers


def _body(delivery: Delivery) -> bytes:
    if delivery.kind == "events_api":
        return json.dumps(delivery.payload).encode()
    form = delivery.payload if delivery.kind == "slash_commands" else {"payload": json.dumps(delivery.payload)}
    return urlencode(form).encode()
