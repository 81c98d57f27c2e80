"""Writing down where a database stands, without running a script: asked for, compared with that revision, approved, done by the tool itself."""

from __future__ import annotations

from tests.scenario import parts
from tests.scenario.real import DOOR, MakeShop, rehearsed
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

STAMP = "stamp 0003 sev high because the restored copy lost its version"


async def test_a_version_table_that_got_lost_is_written_again_and_the_card_says_that_it_is_true(make_shop: MakeShop) -> None:
    bot = await make_shop()
    rows = bot.query("SELECT md5(string_agg(t::text, '' ORDER BY t.id)) FROM orders t")
    parts.execute(bot, "DROP TABLE alembic_version")

    card = await parts.ask(bot, STAMP)

    assert "The schema is the one that `0003` builds from nothing" in str(card)
    assert (rehearsed(bot)["done"], rehearsed(bot)["expected"]) == (True, "same")
    await bot.slack.click(card, "approve", "U0DBA")
    card = await parts.ends(bot, "succeeded")
    assert "stamped" in str(card)
    assert bot.stands() == "0003"
    assert bot.query("SELECT md5(string_agg(t::text, '' ORDER BY t.id)) FROM orders t") == rows
    assert "shop base -> 0003: succeeded" in await bot.reported()


async def test_a_stamp_that_would_be_a_lie_says_first_where_the_schema_differs(make_shop: MakeShop) -> None:
    bot = await make_shop()

    card = await parts.ask(bot, "stamp 0002 sev high because we think so")

    assert "The schema is NOT the one that `0002` builds from nothing" in str(card)
    assert "table public.ratings is only in this database" in str(card)
    await bot.slack.click(card, "reject", "U0DBA")
    assert bot.stands() == "0003", "nothing is written before somebody approves"


async def test_a_revision_that_no_script_has_is_written_over(make_shop: MakeShop) -> None:
    bot = await make_shop()
    parts.execute(bot, "UPDATE alembic_version SET version_num = 'gone1234'")

    code, output = await bot.run("stamp", "shop", "head", "--reason", "somebody wrote nonsense", "--sev", "high", "--no-wait", user="U0DEV")
    assert code == 0, output
    card = await bot.card_in("awaiting_approval")
    await bot.slack.click(card, "approve", "U0DBA")

    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0003"


async def test_a_revision_that_is_written_there_already_is_refused(make_shop: MakeShop) -> None:
    bot = await make_shop()

    await bot.ask(STAMP)

    await parts.refused(bot)
    assert "already_stamped" in str(bot.journaled("select refusal from backout.runs"))


async def test_what_people_write_meanwhile_turns_no_stamp_red_since_nobody_is_stopped_for_it(make_shop: MakeShop) -> None:
    moves = {"name": "goes on", "sql": "SELECT clock_timestamp()", "expect": "same"}
    bot = await make_shop(verify=[moves], **DOOR)
    parts.execute(bot, "DROP TABLE alembic_version")

    await bot.slack.click(await parts.ask(bot, STAMP), "approve", "U0DBA")

    await parts.ends(bot, "succeeded")
    ((checks,),) = bot.journaled("select facts->'checks' from backout.attempts where step = 'verify'")
    assert [(one["ok"], one["blocking"]) for one in checks if one["name"] == "goes on"] == [(False, False)]
