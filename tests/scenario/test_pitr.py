"""Back to an instant: recovered on a server beside, looked at, approved, swapped in; the live server's neighbours never notice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from tests import history
from tests.contract.archived import Live, archiving
from tests.contract.servers import execute
from tests.harness import Bot, configuration
from tests.scenario import parts
from tests.scenario.conftest import MakeBot

ALL = "SELECT md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM orders t"


@pytest.fixture
async def live() -> AsyncIterator[Live]:
    async with archiving(16) as found:
        yield found


async def story(make_bot: MakeBot, live: Live, root: Path) -> Bot:
    """A base backup, good writes, an instant, a bad script; all of it archived."""
    await execute(live.server, "CREATE ROLE shop LOGIN PASSWORD 'fake-shop'", "CREATE DATABASE shop OWNER shop", "CREATE DATABASE neighbour")
    await execute(live.on("neighbour"), "CREATE TABLE t AS SELECT generate_series(1, 10) AS id")
    bot = await make_bot(start=False)
    bot.target = live.on("shop").model_copy(update={"user": "shop", "password": "fake-shop"})
    directory = history.made(root / "shop", bot.target)
    await live.back_up("monday")
    parts.execute(bot, "INSERT INTO orders (id, name) VALUES (900, 'before the instant')")
    await live.now("good")
    parts.execute(bot, "DELETE FROM ratings; DELETE FROM orders WHERE id > 100; UPDATE orders SET name = 'WRONG'")
    await live.archived()
    bot.environ["ADMIN_URL"] = live.on("shop").url()
    pitr = {"kind": "wal_folder", "base": str(live.base), "wal": str(live.wal)}
    target = {"rehearsal": {}, "platform": {"kind": "database"}, "admin": "${ADMIN_URL}", "backups": {"store": "./backups", "pitr": pitr}}
    bot.config = configuration(directory, bot.root, **target)
    await bot.start()
    return bot


async def test_the_database_is_as_it_was_at_the_instant_and_the_neighbour_is_untouched(make_bot: MakeBot, live: Live, tmp_path: Path) -> None:
    bot = await story(make_bot, live, tmp_path)
    card = await parts.ask(bot, f"pitr {live.moments['good'].isoformat()} sev critical because a script deleted orders")
    assert "it stands at 0003" in str(card)
    assert bot.query("SELECT count(*) FROM orders") == [(100,)], "nothing has happened yet"
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0LEAD")
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders") == [(501,)]
    assert bot.query("SELECT name FROM orders WHERE id = 900") == [("before the instant",)]
    assert bot.query("SELECT count(*) FROM ratings") == [(50,)]
    with psycopg.connect(live.on("neighbour").url()) as session:
        assert session.execute("SELECT count(*) FROM t").fetchone() == (10,)
    report = await bot.reported()
    assert "its last transaction is of" in report


async def test_an_instant_that_the_archive_does_not_cover_is_refused_with_what_it_covers(make_bot: MakeBot, live: Live, tmp_path: Path) -> None:
    bot = await story(make_bot, live, tmp_path)
    for time, code in (("2020-01-01T00:00:00Z", "pitr_outside_window"), ("2026-01-01 10:00", "pitr_time_unclear")):
        refusals = len(bot.events("refused"))
        await bot.ask(f"pitr {time} sev high because of this")
        await bot.until(lambda: len(bot.events("refused")) > refusals, what="refused")  # noqa: B023  awaited in this round
        assert bot.events("refused")[-1]["code"] == code
