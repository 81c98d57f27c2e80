"""The page over a local Slack without a bot: the test itself posts with the bot's token, whatever it likes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from playground.page import Page
from playground.slack import SlackStandIn
from tests.harness import CHANNEL, PEOPLE, Json, workspace


class Quiet:
    """A Scene in which nothing is broken and nothing can be started."""

    def __init__(self, slack: SlackStandIn, session: aiohttp.ClientSession) -> None:
        self.slack = slack
        self.turn = 0
        self.roles = dict(PEOPLE)
        self.channel = CHANNEL
        self.command = "/rollback"
        self._session = session

    def controls(self) -> Json:
        return {
            "bot": {"running": False, "ready": False, "problem": None}, "shop": {"healthy": True, "says": "open"},
            "incident": "none", "incidents": [], "blocker": None, "suggestion": None,
        }  # fmt: skip

    async def start_bot(self) -> None:
        raise AssertionError("this page has no bot")

    async def kill_bot(self) -> None:
        raise AssertionError("this page has no bot")

    async def reset(self, incident: str) -> None:
        raise AssertionError("this page has no bot")

    async def end_blocker(self) -> None:
        raise AssertionError("this page has no bot")

    async def call(self, method: str, **args: Any) -> Json:
        """As the bot. What Slack refuses fails the test."""
        written = {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in args.items()}
        headers = {"Authorization": f"Bearer {self.slack.bot_token}"}
        async with self._session.post(f"{self.slack.api_url}{method}", data=written, headers=headers) as answer:
            said: Json = await answer.json()
            assert said["ok"], said
            return said

    async def post(self, text: str, **args: Any) -> str:
        """The message's ts."""
        return str((await self.call("chat.postMessage", channel=CHANNEL, text=text, **args))["ts"])

    async def share(self, name: str, text: str, thread_ts: str | None = None) -> None:
        ticket = await self.call("files.getUploadURLExternal", filename=name, length=len(text.encode()))
        async with self._session.post(ticket["upload_url"], data=text.encode()) as answer:
            assert answer.status == 200
        where = {"thread_ts": thread_ts} if thread_ts else {}
        await self.call("files.completeUploadExternal", files=[{"id": ticket["file_id"], "title": name}], channel_id=CHANNEL, **where)


@asynccontextmanager
async def quiet() -> AsyncIterator[tuple[Quiet, str]]:
    """The scene and its page's address."""
    async with workspace() as slack, aiohttp.ClientSession() as session:
        scene = Quiet(slack, session)
        async with Page(scene) as page:
            yield scene, page.url
