"""More tables than a dump may lock at once: said beforehand, with the numbers; a clone needs no such locks (databases.md F22)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from tests.large.story import BACK, fill
from tests.scenario import parts
from tests.scenario.real import DOOR, MakeShop, rehearsed

_TABLES = 1_200


@pytest.fixture(scope="module")
def server() -> Iterator[Connect]:
    """With room for 1,000 locks, as one with default settings has for 6,400."""
    home = Path(tempfile.mkdtemp(prefix="backout-locks-"))
    home.chmod(0o711)
    postgres = EmbeddedPostgres(home, name="locks", durable=False, settings={"max_locks_per_transaction": "10", "max_connections": "100"})
    try:
        yield asyncio.run(postgres.start())
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(home)


async def test_no_dump_is_begun_that_can_not_succeed_and_the_rollback_works_with_a_clone(make_shop: MakeShop) -> None:
    bot = await make_shop(start=False, **DOOR)
    fill(bot, _TABLES)
    await bot.start()
    card = await parts.ask(bot, BACK)
    assert rehearsed(bot)["done"] is False
    assert f"A dump locks {_TABLES + 3} tables at once" in str(card)
    assert "room for 1000 locks" in str(card)
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.card_in("succeeded", within=600)
    assert bot.stands() == "0002"
    assert not list((bot.root / "backups").glob("*.dump*"))


async def test_where_neither_clone_nor_dump_can_be_made_the_plan_says_so(make_shop: MakeShop) -> None:
    bot = await make_shop(start=False)
    fill(bot, _TABLES)
    await bot.start()
    await bot.ask(BACK)
    assert "no_restore_point" in await bot.told("U0DEV", "max_locks_per_transaction")
