"""A bot in its own process for each story."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.harness import Bot, configuration, project, workspace

MakeBot = Callable[..., Awaitable[Bot]]


@pytest.fixture
async def make_bot(tmp_path: Path, make_database: MakeDatabase, make_journal_database: MakeDatabase) -> AsyncIterator[MakeBot]:
    """`await make_bot(http=..., downgrades={...}, env=..., start=False, **target)`; killed afterwards."""
    bots: list[Bot] = []
    async with AsyncExitStack() as stack:

        async def make(
            *, http: bool = False, start: bool = True, downgrades: dict[str, str] | None = None, env: str | None = None,
            top: dict[str, Any] | None = None, **target: Any,
        ) -> Bot:  # fmt: skip
            slack = await stack.enter_async_context(workspace())
            database = projects.seed(make_database("shop"))
            directory = project(tmp_path / f"project{len(bots)}", downgrades=downgrades, env=env)
            root = tmp_path / f"bot{len(bots)}"
            root.mkdir()
            config = {**configuration(directory.directory, root, **target), **(top or {})}
            bot = Bot(root, database, make_journal_database("journal"), slack, config, http)
            bots.append(bot)
            if start:
                await bot.start()
            return bot

        try:
            yield make
        finally:
            for bot in bots:
                if bot.process is not None:
                    await bot.kill()
