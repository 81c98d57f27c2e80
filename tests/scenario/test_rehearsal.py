"""Nothing is asked for before it was tried: what the copy showed is on the card, and production has not changed by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bot.databases.postgres import PostgresDatabase
from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from tests.contract.test_scratch import everything_shared, home
from tests.harness import Bot
from tests.history import SHOP
from tests.scenario import parts
from tests.scenario.real import BACK as ASK
from tests.scenario.real import MakeShop, rehearsed, scratches
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

__all__ = ["home"]


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
    await parts.ends(bot, "refused")
    report = next(file for file in bot.slack.files() if file.name.startswith("post-mortem-"))
    told = (report.data or b"").decode()
    assert "ALTER TABLE orders DROP COLUMN score" in told, "what it came to is kept"
    assert "ACCESS EXCLUSIVE" in told
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


async def test_a_database_over_the_limit_is_tried_on_sampled_rows_and_its_first_line_says_so(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(start=False, rehearsal={"max_size": "1MB"})
    bot.config["policy"]["unrehearsed"] = {"cto": 1}
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute("INSERT INTO orders (id, name, score) SELECT g, 'n' || g, 1 FROM generate_series(501, 20000) g")
        session.execute("ANALYZE")
    before = await photo(bot, server)
    await bot.start()
    await bot.ask(ASK)
    card = await bot.card_in("awaiting_approval")
    found = rehearsed(bot)
    assert found["done"] is True
    assert 0 < found["sampled"] < 20_000
    assert "sampled rows" in found["partial"][0]
    assert "limit for a rehearsal" in found["partial"][1]
    assert (found["expected"], found["forward"]) == ("same", "works")
    losses = {(loss["kind"], loss["name"]): loss for loss in found["loss"]}
    assert losses["column", "public.orders.score"]["count"] == 200 + 19_500, "counted in production, not in the sample"
    assert losses["table", "public.ratings"]["count"] == 50
    first = next(block for block in card["blocks"] if block["type"] == "section")
    assert "Tried on the schema with" in str(first)
    assert ("cto",) in bot.journaled("select role from backout.seats")
    assert bot.journaled("select name from backout.backups") == []
    assert not list((bot.root / "backups").glob("*schema*"))
    assert await photo(bot, server) == before
    assert scratches(bot) == []


async def test_what_scripts_do_to_rows_is_not_taken_for_nothing_because_a_sample_has_none_of_them(make_shop: MakeShop) -> None:
    bot = await make_shop(down="op.execute('DELETE FROM ratings WHERE stars = 99')\n" + SHOP["0003"].down, rehearsal={"max_size": "1MB"})
    await bot.ask(ASK)
    await bot.card_in("awaiting_approval")
    losses = {(loss["kind"], loss["name"]): loss for loss in rehearsed(bot)["loss"]}
    assert losses["rows", "public.ratings"]["count"] is None


@pytest.fixture
def closed(server: Connect) -> Iterator[Callable[[], None]]:
    """`closed()`: nobody may enter a database of the server any more because everybody may."""
    names: list[str] = []
    with psycopg.connect(server.url(), autocommit=True) as session:

        def say(verb: str, who: str, some: list[str]) -> None:
            for name in some:
                session.execute(sql.SQL(f"{verb} CONNECT ON DATABASE {{}} {who} PUBLIC").format(sql.Identifier(name)))  # type: ignore[arg-type]

        def close() -> None:
            names.extend(row[0] for row in session.execute("SELECT datname FROM pg_database WHERE datallowconn"))
            say("REVOKE", "FROM", names)

        yield close
        there = {row[0] for row in session.execute("SELECT datname FROM pg_database")}
        say("GRANT", "TO", [name for name in names if name in there])


@pytest.mark.parametrize("kind", ["same", "another"])
async def test_it_is_tried_on_the_targets_own_server_or_on_another_and_nothing_is_left_there(
    make_shop: MakeShop, server: Connect, closed: Callable[[], None], home: Path, kind: str
) -> None:
    bot = await make_shop(start=False, admin="${ADMIN_URL}")
    async with EmbeddedPostgres(home, name="another", major=18, durable=False) as another:
        if kind == "same":
            closed()
        bot.environ["ANOTHER_URL"] = another.url()
        bot.config["targets"]["shop"]["rehearsal"] = {"server": "same" if kind == "same" else "${ANOTHER_URL}"}
        place = server if kind == "same" else another
        there, before = await everything_shared(place), await photo(bot, server)
        await bot.start()
        await bot.ask(ASK)
        await bot.card_in("awaiting_approval")
        found = rehearsed(bot)
        assert found["done"] is True, found["why"]
        losses = {(loss["kind"], loss["name"]): loss for loss in found["loss"]}
        assert losses["column", "public.orders.score"]["count"] == 200
        assert losses["table", "public.ratings"]["count"] == 50
        assert (found["expected"], found["forward"]) == ("same", "works"), (found["findings"], found["forward_says"])
        assert await photo(bot, server) == before
        assert await everything_shared(place) == there


async def test_a_downgrade_that_needs_more_on_the_targets_own_server_is_not_run_there(
    make_shop: MakeShop, server: Connect, closed: Callable[[], None]
) -> None:
    bot = await make_shop(start=False, down="op.execute('CREATE ROLE intruder_of_a_downgrade')\n" + SHOP["0003"].down, admin="${ADMIN_URL}")
    closed()
    bot.config["targets"]["shop"]["rehearsal"] = {"server": "same"}
    there = await everything_shared(server)
    await bot.start()
    await bot.ask(ASK)
    card = await bot.card_in("awaiting_approval")
    assert rehearsed(bot)["done"] is False
    assert "Not rehearsed: it needs more than a role has" in str(card)
    assert await everything_shared(server) == there


async def test_one_person_begins_one_rehearsal_in_a_while_also_after_a_restart_and_somebody_else_may(make_shop: MakeShop) -> None:
    bot = await make_shop(start=False)
    bot.config["policy"]["rehearse"] = {"every": "10m"}
    await bot.start()
    card = await parts.ask(bot, ASK)
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    for restarted in (False, True):
        if restarted:
            await bot.kill()
            await bot.start()
        told = len(bot.slack.ephemerals("U0DEV"))
        cards = len(bot.cards())
        await bot.ask(ASK)
        await bot.until(lambda told=told: len(bot.slack.ephemerals("U0DEV")) > told, what="refused in private")  # type: ignore[misc]
        assert "rehearsed_too_soon" in str(bot.slack.ephemerals("U0DEV")[-1])
        assert len(bot.cards()) == cards
    await bot.ask(ASK, "U0SENIOR")
    await bot.until(lambda: bot.state() == "awaiting_approval", what="somebody else may")


async def test_only_those_whom_the_policy_names_begin_a_rehearsal(make_shop: MakeShop) -> None:
    bot = await make_shop(start=False)
    bot.config["policy"]["rehearse"] = {"roles": ["dba"], "every": "1s"}
    await bot.start()
    await bot.ask(ASK)
    await bot.until(lambda: bot.slack.ephemerals("U0DEV"), what="refused in private")
    assert "may_not_rehearse" in str(bot.slack.ephemerals("U0DEV")[-1])
    assert "DBA on call" in str(bot.slack.ephemerals("U0DEV")[-1])
    await bot.ask(ASK, "U0DBA")
    await bot.until(lambda: bot.state() == "awaiting_approval", what="a DBA may")


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
    await bot.until(lambda: trying(bot), what="trying")
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    await bot.until(lambda: not scratches(bot), what="cleared away")
    assert bot.stands() == "0003"


def trying(bot: Bot) -> bool:
    return bool(scratches(bot) and bot.journaled("select 1 from backout.attempts where step = 'rehearse' and state = 'intended'"))


async def test_the_server_for_the_copy_is_opened_while_the_dump_is_taken_and_goes_when_there_is_none(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with psycopg.connect(bot.target.url()) as session:
        session.execute("LOCK TABLE ratings IN ACCESS EXCLUSIVE MODE")
        holder = session.info.backend_pid
        await bot.ask(ASK)
        await bot.until(lambda: scratches(bot), what="opened")
        assert bot.journaled("select step, state from backout.attempts") == [("back_up", "intended")]
        card = await bot.card_in("awaiting_approval")
    assert "kept a table locked" in str(card)
    assert f"It would wait now for 1 session: {holder} ({bot.target.user}" in str(card)
    assert scratches(bot) == []


async def test_a_bot_that_is_killed_while_it_rehearses_begins_again_and_asks_once(make_shop: MakeShop, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    bot = await make_shop(down=f"import time\nwhile os.path.exists({str(held)!r}): time.sleep(0.05)\n" + SHOP["0003"].down)
    await bot.ask(ASK)
    await bot.until(lambda: trying(bot), what="trying")
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
