"""A bot in its own process over a database that a published package made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bot.embedded import binaries
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.harness import Bot, configuration, workspace

pytest.register_assert_rewrite("tests.histories.walk")
from tests.histories.walk import ByHand, Story  # noqa: E402  its claims are shown in full when they fail

MakeStory = Callable[..., Awaitable[Story]]


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder with the clients of `server`'s major version."""
    return binaries()


@pytest.fixture
async def make_story(
    tmp_path: Path, server: Connect, programs: Path, make_database: MakeDatabase, make_journal_database: MakeDatabase
) -> AsyncIterator[MakeStory]:
    """`await make_story(tool={...}, made=..., by_hand=...)`: `made(connect)` brings the database to where the story begins."""
    bots: list[Bot] = []
    async with AsyncExitStack() as stack:

        async def make(*, tool: dict[str, Any], made: Callable[[Connect], None], by_hand: ByHand, **target: Any) -> Story:
            slack = await stack.enter_async_context(workspace())
            database = make_database("real")
            await asyncio.to_thread(made, database)
            root = tmp_path / f"bot{len(bots)}"
            root.mkdir()
            whole = {"rehearsal": {}, "verify": [{"name": "revision", "sql": "select version_num from alembic_version"}], **target}
            config = configuration(root, root, tool={"kind": "alembic", **tool}, **whole)
            bot = Bot(root, database, make_journal_database("journal"), slack, config)
            bots.append(bot)
            await bot.start()
            return Story(bot, server, programs, by_hand)

        try:
            yield make
        finally:
            for bot in bots:
                await bot.kill()
