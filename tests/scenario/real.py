"""Bots whose target was really upgraded, so that it can be tried on a copy; with a door that can be closed, or without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bot.place import Connect
from tests import history
from tests.conftest import MakeDatabase
from tests.harness import Bot, configuration
from tests.history import SHOP, Step
from tests.scenario import parts
from tests.scenario.conftest import MakeBot

MakeShop = Callable[..., Awaitable[Bot]]
BACK = "0002 sev high because checkout is down"
FORWARD = "reapply 0003 sev high because it is mended"
DOOR: dict[str, Any] = {"platform": {"kind": "database"}, "admin": "${ADMIN_URL}"}


@pytest.fixture
def make_shop(make_bot: MakeBot, make_database: MakeDatabase, server: Connect, tmp_path: Path) -> Iterator[MakeShop]:
    """`await make_shop(down=..., up=..., start=False, **target)`: what 0003 does, and keys of the target. Clones are dropped afterwards."""
    made: list[Bot] = []

    async def make(*, down: str | None = None, up: str | None = None, start: bool = True, **target: Any) -> Bot:
        steps = {**SHOP, "0003": Step(up or SHOP["0003"].up, down or SHOP["0003"].down, "scores and ratings")}
        bot = await make_bot(start=False)
        bot.target = make_database("real")
        directory = history.made(tmp_path / f"real{len(made)}", bot.target, steps)
        bot.environ["ADMIN_URL"] = server.model_copy(update={"database": bot.target.database}).url()
        bot.config = configuration(directory, bot.root, **{"rehearsal": {}, **target})
        made.append(bot)
        if start:
            await bot.start()
        return bot

    yield make
    with psycopg.connect(server.url(), autocommit=True) as session:
        for bot in made:
            for (name,) in bot.journaled("select file->>'name' from backout.backups where file->>'format' = 'clone'"):
                session.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[arg-type]


async def approved(bot: Bot, text: str) -> None:
    """From the command to the press that starts the run."""
    card = await parts.ask(bot, text)
    await bot.slack.click(card, "approve", "U0DBA")


def scratches(bot: Bot) -> list[Path]:
    """What there is of throwaway servers of this bot's runs."""
    runs = [row[0] for row in bot.journaled("select id from backout.runs")]
    return [path for run in runs for path in (bot.root / "home" / "scratch").glob(f"*{run}*")]


def rehearsed(bot: Bot) -> dict[str, Any]:
    """The newest run's evidence, as the journal has it."""
    (found,) = bot.journaled("select plan->'rehearsal' from backout.runs order by created desc limit 1")
    return dict(found[0])
