"""Behind a closed door: writers out, a clone, an archive, the downgrade; then forward again, and everything is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import psycopg
import pytest

from bot.place import Connect
from tests.harness import Bot
from tests.history import SHOP
from tests.scenario import parts
from tests.scenario.real import BACK, DOOR, FORWARD, MakeShop, approved
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

_SCORES = "SELECT id, score FROM orders WHERE id <= 500 ORDER BY id"
_RATINGS = "SELECT * FROM ratings ORDER BY id"


@asynccontextmanager
async def writers(bot: Bot, count: int = 3) -> AsyncIterator[list[int]]:
    """Clients that write all the time, and come back at once when they are thrown out: the ids that they know were committed."""
    written: list[int] = []

    async def write(place: int) -> None:
        number = 1000 + place
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                session = await asyncpg.connect(bot.target.url(), timeout=5)
                try:
                    while True:
                        await session.execute("INSERT INTO orders (id, name) VALUES ($1, 'written')", number)
                        written.append(number)
                        number += count
                        await asyncio.sleep(0.02)
                finally:
                    session.terminate()
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(write(place)) for place in range(count)]
    try:
        yield written
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def states(bot: Bot) -> dict[str, str]:
    run = bot.journaled("select id from backout.runs order by created desc limit 1")[0][0]
    return {row[0]: row[1] for row in bot.journaled(f"select step, state from backout.attempts where run = '{run}'")}


async def test_writers_are_out_while_it_runs_and_come_back_by_themselves(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(**DOOR)
    acl = "SELECT datacl::text FROM pg_database WHERE datname = current_database()"
    before = bot.query(acl)
    async with writers(bot) as written:
        await bot.until(lambda: len(written) > 20, what="writing")
        await approved(bot, BACK)
        await parts.ends(bot, "succeeded")
        so_far = len(written)
        await bot.until(lambda: len(written) > so_far + 20, what="writing again")
    assert bot.stands() == "0002"
    assert bot.query(acl) == before
    lost = set(written) - {row[0] for row in bot.query("SELECT id FROM orders WHERE name = 'written'")}
    assert lost == set(), "every acknowledged write is there"
    assert states(bot) == dict.fromkeys(
        ("back_up", "rehearse", "check_preconditions", "stop_writers", "restore_point", "archive", "downgrade", "reconcile", "verify",
         "start_writers"),
        "done",
    )  # fmt: skip
    (kept,) = bot.journaled("select file from backout.backups where file->>'format' = 'clone'")
    with psycopg.connect(server.model_copy(update={"database": kept[0]["name"]}).url(), autocommit=True) as session:
        row = session.execute("SELECT count(score) FROM orders").fetchone()
        assert row == (200,)


async def test_what_a_downgrade_destroyed_is_back_after_the_next_upgrade(make_shop: MakeShop) -> None:
    """Upgrade, write, downgrade with its archive, write more, forward again: every value that did not conflict is back."""
    bot = await make_shop(**DOOR)
    scores, ratings = bot.query(_SCORES), bot.query(_RATINGS)
    await approved(bot, BACK)
    await parts.ends(bot, "succeeded")
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute("INSERT INTO orders (id, name) VALUES (900, 'later')")
        session.execute("UPDATE orders SET cents = 777 WHERE id = 5")
        session.execute("DELETE FROM orders WHERE id = 200")
    await approved(bot, FORWARD)
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0003"
    gone = [(ident, score) for ident, score in scores if ident != 200]
    assert [row for row in bot.query(_SCORES)] == gone  # noqa: C416  tuples are compared
    assert bot.query(_RATINGS) == ratings
    assert bot.query("SELECT cents, score FROM orders WHERE id = 5") == [(777, 5)]
    assert bot.query("SELECT score FROM orders WHERE id = 900") == [(None,)]
    (facts,) = bot.journaled("select facts from backout.attempts where step = 'put_back'")
    assert "id=200" in str(facts), "the conflict is named"
    await bot.until(lambda: "put" in bot.thread(), what="told")


async def test_a_red_verification_keeps_the_door_closed_until_a_person_decides(make_shop: MakeShop) -> None:
    bot = await make_shop(**DOOR, verify=[{"name": "nobody expects this", "sql": "select count(*) from orders", "expect": -1}])
    await approved(bot, BACK)
    card = await bot.card_in("needs_decision")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(bot.target.url())
    await bot.slack.click(card, "leave", "U0DBA")
    await parts.ends(bot, "failed")
    assert bot.stands() == "0002"


async def test_a_door_that_can_not_be_closed_is_refused_before_anything(make_shop: MakeShop) -> None:
    """Backout's role is the application's own."""
    bot = await make_shop(start=False, **DOOR)
    del bot.config["targets"]["shop"]["admin"]
    await bot.start()
    await bot.ask(BACK)
    await bot.until(lambda: bot.events("refused"), what="refused")
    assert bot.events("refused")[0]["code"].startswith("door_")
    assert bot.stands() == "0003"


async def test_what_the_copy_did_not_show_is_found_archived_and_named(make_shop: MakeShop) -> None:
    """A downgrade that behaves otherwise in production: it looks whether it is tried on a copy."""
    bot = await make_shop(
        **DOOR, down=SHOP["0003"].down + "\nif not os.environ.get('BACKOUT_REHEARSAL'):\n    op.execute('delete from orders where id = 7')", verify=[]
    )
    await approved(bot, BACK)
    await parts.ends(bot, "succeeded")
    (facts,) = bot.journaled("select facts from backout.attempts where step = 'reconcile'")
    assert "public.orders" in str(facts[0]["more"])
    assert "public.orders" in await bot.reported()
    archived = [(part["table"], part["rows"]) for row in bot.journaled("select archive from backout.archives") for part in row[0]["parts"]]
    assert ("public.orders", 1) in archived


async def test_rows_that_the_downgrade_deleted_come_back_and_rows_that_people_deleted_do_not(make_shop: MakeShop) -> None:
    bot = await make_shop(**DOOR, down=SHOP["0003"].down + "\nop.execute('delete from orders where id in (301, 302)')", verify=[])
    await approved(bot, BACK)
    await parts.ends(bot, "succeeded")
    archived = [
        (part["table"], part["what"], part["rows"]) for row in bot.journaled("select archive from backout.archives") for part in row[0]["parts"]
    ]
    assert ("public.orders", "rows", 2) in archived, "only those rows, not the whole table"
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute("DELETE FROM orders WHERE id = 303")
    code, output = await bot.run("reapply", "shop", "0003", "--reason", "it is mended", "--sev", "high", "--no-wait", user="U0DEV")
    assert code == 0, output
    card = await bot.card_in("awaiting_approval")
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT id, name FROM orders WHERE id BETWEEN 301 AND 304 ORDER BY 1") == [(301, "n301"), (302, "n302"), (304, "n304")]
    assert bot.query("SELECT count(*) FROM ratings") == [(50,)]
