"""Nothing is asked for before it was tried: what the copy showed is on the card, and production has not changed by it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from bot.databases.postgres import PostgresDatabase
from bot.place import Connect
from tests.harness import Bot
from tests.history import SHOP
from tests.scenario import parts
from tests.scenario.real import BACK as ASK
from tests.scenario.real import MakeShop, rehearsed, scratches
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here


async def photo(bot: Bot, server: Connect) -> object:
    return (await PostgresDatabase(target="shop", tool=bot.target, admin=server).snapshot(count=True)).model_dump()


async def test_the_card_says_what_the_downgrade_did_to_a_copy_and_production_is_as_it_was(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop()
    before = await photo(bot, server)
    await bot.ask(ASK)
    await bot.card_in("awaiting_approval")
    found = rehearsed(bot)
    assert found["done"] is True
    losses = {(loss["kind"], loss["name"]): loss for loss in found["loss"]}
    assert losses["column", "public.orders.score"]["count"] == 200
    assert losses["table", "public.ratings"]["count"] == 50
    assert losses["column", "public.orders.score"]["keys"][0] == "id=1"
    assert found["expected"] == "same", found["findings"]
    assert found["forward"] == "works", found["forward_says"]
    assert found["one_transaction"] is True
    assert {one["table"] for one in found["locks"]} >= {"public.orders", "public.ratings"}
    assert found["statements_total"] >= 2
    assert await photo(bot, server) == before
    assert scratches(bot) == []
    shown = str(bot.card())
    assert "200" in shown
    assert "public.orders.score" in shown


async def test_after_the_rehearsal_the_run_does_what_the_copy_showed(make_shop: MakeShop) -> None:
    bot = await make_shop()
    card = await parts.ask(bot, ASK)
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0002"
    (archived,) = bot.journaled("select archive from backout.archives")
    assert {(part["table"], part["rows"]) for part in archived[0]["parts"]} >= {("public.ratings", 50)}


async def test_a_downgrade_that_fails_on_the_copy_is_refused_and_production_never_saw_it(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(down="op.drop_column('orders', 'score')\nop.execute('select 1/0')")
    before = await photo(bot, server)
    await bot.ask(ASK)
    card = await bot.card_in("refused")
    assert "division by zero" in str(card)
    assert bot.events("refused")[0]["code"] == "rehearsal_failed"
    assert await photo(bot, server) == before
    assert scratches(bot) == []


async def test_a_downgrade_that_claims_success_and_does_nothing_is_found(make_shop: MakeShop) -> None:
    bot = await make_shop(down="if False:\n    op.drop_column('orders', 'score')\nprint('done')")
    await bot.ask(ASK)
    await bot.card_in("refused")
    assert bot.events("refused")[0]["code"] == "empty_downgrade"


async def test_half_a_downgrade_is_asked_for_with_what_is_missing(make_shop: MakeShop) -> None:
    bot = await make_shop(down="op.drop_table('ratings')")
    await bot.ask(ASK)
    await bot.card_in("awaiting_approval")
    found = rehearsed(bot)
    assert found["expected"] == "differs"
    assert any("public.orders.score" in finding for finding in found["findings"])


async def test_a_loss_that_no_script_names_is_found_by_comparing(make_shop: MakeShop) -> None:
    bot = await make_shop(down=SHOP["0003"].down + "\nfor name in ['orders']:\n    op.execute('delete from ' + name + ' where id <= 3')")
    await bot.ask(ASK)
    await bot.card_in("awaiting_approval")
    losses = {(loss["kind"], loss["name"]): loss for loss in rehearsed(bot)["loss"]}
    assert losses["rows", "public.orders"]["count"] == 3


async def test_a_history_that_can_not_be_built_from_nothing_is_said_to_be_unverifiable(make_shop: MakeShop) -> None:
    bot = await make_shop()
    (Path(bot.config["targets"]["shop"]["tool"]["directory"]) / "migrations" / "versions" / "0001.py").write_text(
        '"""orders"""\nrevision = "0001"\ndown_revision = None\ndef upgrade():\n    raise RuntimeError("no")\ndef downgrade():\n    pass\n'
    )
    await bot.ask(ASK)
    await bot.card_in("awaiting_approval")
    found = rehearsed(bot)
    assert found["expected"] == "unverifiable"
    assert found["done"] is True


async def test_a_database_over_the_limit_is_asked_for_with_its_first_line_saying_that_it_was_not_tried(make_shop: MakeShop) -> None:
    bot = await make_shop(rehearsal={"max_size": "1MB"})
    await bot.ask(ASK)
    card = await bot.card_in("awaiting_approval")
    assert rehearsed(bot)["done"] is False
    first = next(block for block in card["blocks"] if block["type"] == "section")
    assert "Not tried on a copy" in str(first)
    assert "limit for a rehearsal" in str(first)


async def test_rows_that_come_after_the_rehearsal_void_the_approval_only_beyond_the_bound(make_shop: MakeShop) -> None:
    bot = await make_shop()
    card = await parts.ask(bot, ASK)
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute("INSERT INTO ratings (order_id, stars) SELECT 1, 1 FROM generate_series(1, 3000)")
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.until(lambda: bot.events("voided"), what="voided")
    assert "3050" in str(bot.events("voided")[0]["what"])
    again = await bot.card_in("awaiting_approval")
    assert bot.stands() == "0003"
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute("INSERT INTO ratings (order_id, stars) SELECT 1, 1 FROM generate_series(1, 500)")
    await bot.slack.click(again, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert len(bot.events("voided")) == 1


async def test_a_rehearsal_that_is_cancelled_leaves_nothing_behind(make_shop: MakeShop, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    bot = await make_shop(down=f"import time\nwhile os.path.exists({str(held)!r}): time.sleep(0.05)\n" + SHOP["0003"].down)
    await bot.ask(ASK)
    card = await bot.card_in("rehearsing")
    await bot.until(lambda: scratches(bot), what="trying")
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    await bot.until(lambda: not scratches(bot), what="cleared away")
    assert bot.stands() == "0003"


async def test_a_bot_that_is_killed_while_it_rehearses_begins_again_and_asks_once(make_shop: MakeShop, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    bot = await make_shop(down=f"import time\nwhile os.path.exists({str(held)!r}): time.sleep(0.05)\n" + SHOP["0003"].down)
    await bot.ask(ASK)
    await bot.until(lambda: scratches(bot), what="trying")
    await bot.kill()
    held.unlink()
    await bot.start()
    card = await bot.card_in("awaiting_approval")
    assert len(bot.events("asked")) == 1
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    await bot.until(lambda: not scratches(bot), what="cleared away", within=30)


async def test_who_is_in_the_way_is_named_before_and_can_be_ended_by_those_who_decide(make_shop: MakeShop) -> None:
    bot = await make_shop(start=False)
    bot.config["targets"]["shop"]["tool"]["lock_timeout"] = "1s"
    await bot.start()
    with psycopg.connect(bot.target.url(), application_name="a long report") as report:
        report.execute("LOCK TABLE ratings IN ACCESS SHARE MODE")
        card = await parts.ask(bot, ASK)
        assert f"It would wait now for 1 session: {report.info.backend_pid}" in str(card)
        await bot.slack.click(card, "approve", "U0DBA")
        card = await bot.card_in("needs_decision")
        await parts.denied(bot, "U0BYSTANDER", "end_sessions", bot.slack.click(card, "end_sessions", "U0BYSTANDER"))
        await bot.slack.click(card, "end_sessions", "U0DBA")
        await bot.until(lambda: bot.events("sessions_ended"), what="ended")
        assert [one["pid"] for one in bot.events("sessions_ended")[0]["sessions"]] == [report.info.backend_pid]
        await bot.slack.click(card, "retry", "U0DBA")
        await parts.ends(bot, "succeeded")
        with pytest.raises(psycopg.OperationalError):
            report.execute("SELECT 1")
