"""The way back when a downgrade can't do it: a whole copy comes back, is looked at before anybody is asked, and what was there is kept."""

from __future__ import annotations

import psycopg
import pytest

from bot.place import Connect
from tests.harness import Bot
from tests.history import SHOP
from tests.scenario import parts
from tests.scenario.real import BACK, DOOR, MakeShop, approved
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_round_trip import writers

SHA = """
SELECT md5(string_agg(md5(t::text), '' ORDER BY t.id)) FROM (SELECT id, name, cents, at FROM orders) t"""
ALL = "SELECT md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM orders t"
#: fails in production only, in the middle: what went before is committed
HALF = (
    "op.execute('delete from orders where id > 400')\n"
    "if not os.environ.get('BACKOUT_REHEARSAL'):\n"
    "    with op.get_context().autocommit_block():\n"
    "        op.execute('select 1/0')\n" + SHOP["0003"].down
)


def backup(bot: Bot, revision: str = "0003", form: str = "custom") -> str:
    """The newest backup of that revision."""
    rows = bot.journaled(f"select name from backout.backups where revision = '{revision}' and file->>'format' = '{form}' order by made desc")
    return str(rows[0][0])


async def rolled_back(bot: Bot) -> None:
    await approved(bot, BACK)
    await parts.ends(bot, "succeeded")


async def test_a_backup_is_restored_looked_at_approved_and_swapped_in_and_the_old_database_is_kept(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(platform={"kind": "database"}, admin="${ADMIN_URL}")
    whole = bot.query(ALL)
    acl = bot.query("SELECT datacl::text FROM pg_database WHERE datname = current_database()")
    await rolled_back(bot)
    parts.execute(bot, "INSERT INTO orders (id, name) VALUES (900, 'later')")
    name = backup(bot)
    card = await parts.ask(bot, f"restore {name} sev high because the downgrade was a mistake")
    assert name in str(card)
    assert "it stands at 0003" in str(card), "it was looked at before anybody was asked"
    assert bot.stands() == "0002", "production is as it was"
    await bot.slack.click(card, "approve", "U0DBA")
    card = await parts.ends(bot, "succeeded")
    assert "restored" in str(card)
    assert bot.stands() == "0003"
    assert bot.query(ALL) == whole
    assert bot.query("SELECT datacl::text FROM pg_database WHERE datname = current_database()") == acl
    assert bot.query("SELECT count(*) FROM orders WHERE id = 900") == [(0,)]
    (kept,) = bot.journaled("select facts->'kept'->>'name' from backout.attempts where step = 'swap'")
    with psycopg.connect(server.model_copy(update={"database": kept[0]}).url(), autocommit=True) as session:
        assert session.execute("SELECT count(*) FROM orders WHERE id = 900").fetchone() == (1,)
        session.execute("SELECT 1")
    report = await bot.reported()
    assert kept[0] in report
    assert "Nothing is destroyed" in report


async def test_after_a_failed_downgrade_the_restore_point_is_seconds_away_and_needs_the_approvals_again(make_shop: MakeShop) -> None:
    bot = await make_shop(**DOOR, down=HALF, verify=[])
    whole = bot.query(ALL)
    await approved(bot, BACK)
    card = await bot.card_in("needs_decision")
    assert ("Restore", "restore") in parts.buttons(card)
    await bot.slack.click(card, "restore", "U0DBA")
    card = await bot.card_in("awaiting_approval")
    assert "restore point" in str(card)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(bot.target.url())
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "failed")
    assert bot.stands() == "0003"
    assert bot.query(ALL) == whole, "every row is as it was"
    assert "went back to the restore point" in await bot.reported()


async def test_who_rejects_the_restore_point_opens_the_door_and_the_run_ends(make_shop: MakeShop) -> None:
    bot = await make_shop(**DOOR, down=HALF, verify=[])
    await approved(bot, BACK)
    card = await bot.card_in("needs_decision")
    await bot.slack.click(card, "restore", "U0DBA")
    card = await bot.card_in("awaiting_approval")
    code, output = await bot.run("reject", parts.run_of(card), "--reason", "fix forward", user="U0DBA")
    assert code == 0, output
    await parts.ends(bot, "rejected")
    assert bot.query("SELECT 1") == [(1,)], "the door is open again"


async def test_forty_clients_that_come_back_at_once_lose_no_acknowledged_write(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(platform={"kind": "database"}, admin="${ADMIN_URL}")
    await rolled_back(bot)
    name = backup(bot)
    async with writers(bot, 40) as written:
        await bot.until(lambda: len(written) > 100, what="writing")
        card = await parts.ask(bot, f"restore {name} sev high because orders are wrong")
        await bot.slack.click(card, "approve", "U0DBA")
        await parts.ends(bot, "succeeded")
        so_far = len(written)
        await bot.until(lambda: len(written) > so_far + 100, what="writing again")
    (kept,) = bot.journaled("select facts->'kept'->>'name' from backout.attempts where step = 'swap'")
    with psycopg.connect(server.model_copy(update={"database": kept[0]}).url(), autocommit=True) as session:
        old = {row[0] for row in session.execute("SELECT id FROM orders WHERE name = 'written'")}
    new = {row[0] for row in bot.query("SELECT id FROM orders WHERE name = 'written'")}
    assert set(written) - old - new == set(), "each is in the old or in the new database"
    assert old
    assert new


async def test_a_copy_that_a_blocking_query_condemns_is_refused_before_anybody_is_asked(make_shop: MakeShop) -> None:
    bot = await make_shop(platform={"kind": "database"}, admin="${ADMIN_URL}")
    await rolled_back(bot)
    name = backup(bot)
    parts.execute(bot, "INSERT INTO orders (id, name) VALUES (900, 'later')")
    bot.config["targets"]["shop"]["verify"] = [{"name": "the late order", "sql": "select count(*) from orders where id = 900", "expect": 1}]
    await bot.kill()
    await bot.start()
    await bot.ask(f"restore {name} sev high because of this")
    await parts.refused(bot)
    refused = bot.events("refused")[-1]
    assert refused["code"] == "copy_condemned"
    assert "the late order" in refused["message"]
    assert bot.query("SELECT count(*) FROM orders WHERE id = 900") == [(1,)]


@pytest.mark.parametrize(
    ("damage", "said"), [(lambda path: path.write_bytes(path.read_bytes()[:-100]), "gone, or is not"), (lambda path: path.unlink(), "gone")]
)
async def test_a_damaged_backup_is_refused_and_production_is_as_it_was(make_shop: MakeShop, damage: object, said: str) -> None:
    bot = await make_shop(platform={"kind": "database"}, admin="${ADMIN_URL}")
    await rolled_back(bot)
    name = backup(bot)
    ((path,),) = bot.journaled(f"select file->>'path' from backout.backups where name = '{name}'")
    from pathlib import Path

    damage(Path(path))  # type: ignore[operator]
    await bot.ask(f"restore {name} sev high because of this")
    await parts.refused(bot)
    assert said in bot.events("refused")[-1]["message"]
    assert bot.stands() == "0002"


async def test_a_backup_that_does_not_exist_is_refused_with_those_that_do(make_shop: MakeShop) -> None:
    bot = await make_shop()
    await rolled_back(bot)
    await bot.ask("restore nothing.dump sev high because of this")
    await parts.refused(bot)
    assert bot.events("refused")[-1]["code"] == "unknown_backup"
    assert backup(bot) in bot.events("refused")[-1]["message"]


async def test_from_the_command_line_the_same(make_shop: MakeShop) -> None:
    bot = await make_shop(platform={"kind": "database"}, admin="${ADMIN_URL}")
    await rolled_back(bot)
    code, output = await bot.run("restore", "shop", backup(bot)[:-3], "--reason", "it was a mistake", "--sev", "high", "--no-wait", user="U0DEV")
    assert code == 0, output
    card = await bot.card_in("awaiting_approval")
    code, output = await bot.run("approve", parts.run_of(card), user="U0DBA")
    assert code == 0, output
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0003"
