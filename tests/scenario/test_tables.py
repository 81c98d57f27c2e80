"""Rows of single tables come back out of a backup; the live table stays what it is, and what is newer stays in it."""

from __future__ import annotations

import gzip

import psycopg
import pytest

from tests.harness import Bot
from tests.scenario import parts
from tests.scenario.real import BACK, DOOR, MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

_REF = "SELECT conrelid::regclass::text FROM pg_constraint WHERE confrelid = 'orders'::regclass"


async def backed_up(bot: Bot) -> str:
    """A dump of the database as it is: a rehearsal makes one, and its run is cancelled."""
    card = await parts.ask(bot, BACK)
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    return str(bot.journaled("select name from backout.backups where file->>'format' = 'custom' order by made desc")[0][0])


def hurt(bot: Bot) -> None:
    """What a bad script did: rows gone, values wrong; and what people did since."""
    parts.execute(bot, "DELETE FROM ratings; DELETE FROM orders WHERE id BETWEEN 401 AND 450")
    parts.execute(bot, "UPDATE orders SET name = 'WRONG' WHERE id <= 3")
    parts.execute(bot, "INSERT INTO orders (id, name) VALUES (900, 'later')")


@pytest.mark.parametrize("door", [True, False], ids=["door", "nobody stopped"])
async def test_rows_that_are_gone_come_back_and_everything_else_stays(make_shop: MakeShop, door: bool) -> None:
    bot = await make_shop(**(DOOR if door else {"admin": "${ADMIN_URL}"}))
    name = await backed_up(bot)
    hurt(bot)
    oid = bot.query("SELECT 'orders'::regclass::oid")
    card = await parts.ask(bot, f"tables orders, ratings from {name} sev high because a script deleted them")
    assert "50 rows only in the backup, 1 only in the database" in str(card), "what would come back was counted on a copy"
    assert bot.query("SELECT count(*) FROM ratings") == [(0,)], "nothing has happened yet"
    await bot.slack.click(card, "approve", "U0DBA")
    card = await parts.ends(bot, "succeeded")
    assert "tables brought back" in str(card)
    assert bot.query("SELECT count(*) FROM orders WHERE id BETWEEN 401 AND 450") == [(50,)]
    assert bot.query("SELECT count(*), sum(stars) FROM ratings") == [(50, 100)]
    assert bot.query("SELECT count(*) FROM orders WHERE name = 'WRONG'") == [(3,)], "rows that differ are kept, as the target says"
    assert bot.query("SELECT name FROM orders WHERE id = 900") == [("later",)]
    assert bot.query("SELECT 'orders'::regclass::oid") == oid, "it is the same table"
    assert bot.query(_REF) == [("ratings",)], "and foreign keys still point at it"


async def test_rows_that_differ_are_replaced_where_the_target_says_so(make_shop: MakeShop) -> None:
    bot = await make_shop(**DOOR, tables={"different": "replace"})
    name = await backed_up(bot)
    hurt(bot)
    card = await parts.ask(bot, f"tables orders,ratings from {name} sev high because of this")
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders WHERE name = 'WRONG'") == [(0,)]


@pytest.mark.parametrize(
    ("words", "code"),
    [("nothing from {name}", "unknown_table"), ("orders from nothing", "unknown_backup"), ("orders", "tables_unclear")],
)
async def test_what_can_not_be_brought_back_is_refused_and_said(make_shop: MakeShop, words: str, code: str) -> None:
    bot = await make_shop(admin="${ADMIN_URL}")
    name = await backed_up(bot)
    await bot.ask(f"tables {words.format(name=name)} sev high because of this")
    await parts.refused(bot)
    assert bot.events("refused")[-1]["code"] == code


async def test_a_table_whose_columns_are_others_now_is_refused_before_anybody_is_asked(make_shop: MakeShop) -> None:
    bot = await make_shop(admin="${ADMIN_URL}")
    name = await backed_up(bot)
    parts.execute(bot, "ALTER TABLE orders ADD COLUMN colour text")
    await bot.ask(f"tables orders from {name} sev high because of this")
    await parts.refused(bot)
    assert bot.events("refused")[-1]["code"] == "table_not_mergeable"
    assert "colour" in bot.events("refused")[-1]["message"]


def exported(bot: Bot, name: str) -> None:
    """The table as a CSV beside the backups, as a person would leave it there."""
    with psycopg.connect(bot.target.url()) as session, session.cursor().copy("COPY orders TO STDOUT (FORMAT csv, HEADER)") as copy:
        text = b"".join(bytes(block) for block in copy)
    folder = bot.root / "backups"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


@pytest.mark.parametrize("name", ["orders.csv", "orders.csv.gz"])
async def test_rows_come_back_out_of_a_csv(make_shop: MakeShop, name: str) -> None:
    bot = await make_shop(**DOOR)
    exported(bot, name)
    hurt(bot)
    card = await parts.ask(bot, f"tables orders from {name} sev high because a script deleted them")
    assert "50 rows only in the backup, 1 only in the database" in str(card)
    assert bot.query("SELECT count(*) FROM orders WHERE id BETWEEN 401 AND 450") == [(0,)], "nothing has happened yet"
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders WHERE id BETWEEN 401 AND 450") == [(50,)]
    assert bot.query("SELECT name FROM orders WHERE id = 900") == [("later",)]
    assert [one.name for one in (bot.root / "backups").glob("*schema*")] == [], "the schema that it was loaded into is gone again"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("tables orders,ratings from orders.csv", "tables_unclear", "the rows of one table"),
        ("restore orders.csv", "foreign_backup", "no database"),
        ("tables ratings from orders.csv", "copy_condemned", "other columns than public.ratings"),
    ],
)
async def test_a_csv_is_the_rows_of_one_table_and_of_that_one(make_shop: MakeShop, words: str, code: str, says: str) -> None:
    bot = await make_shop(admin="${ADMIN_URL}")
    exported(bot, "orders.csv")
    await bot.ask(f"{words} sev high because of this")
    await parts.refused(bot)
    ((found,),) = bot.journaled("select refusal from backout.runs")
    assert found["code"] == code
    assert says in found["message"]
