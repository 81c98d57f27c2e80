"""A shop whose downgrade counts how often it ran, and a bot for it as its own process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.crash.world import COUNTED, PLAIN, Gate
from tests.harness import Bot
from tests.scenario.conftest import MakeBot
from tests.scenario.conftest import make_bot as make_bot  # noqa: PLC0414  pytest finds the fixture here

MakeShop = Callable[..., Awaitable[Bot]]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def make_shop(make_bot: MakeBot, gate: Gate) -> MakeShop:
    """`await make_shop(downgrade=..., env=..., start=..., tool={...}, **target)`. If not told otherwise the tool waits a minute for locks."""

    async def make(
        *, downgrade: str = PLAIN, env: str | None = None, start: bool = True, tool: dict[str, Any] | None = None,
        **target: Any,
    ) -> Bot:  # fmt: skip
        bot = await make_bot(start=False, downgrades={"0005": downgrade}, env=env or gate.env(), **target)
        bot.config["targets"]["shop"]["tool"] |= {"lock_timeout": "60s", **(tool or {})}
        with psycopg.connect(bot.target.url(), autocommit=True) as session:
            session.execute(COUNTED)
        if start:
            await bot.start()
        return bot

    return make
