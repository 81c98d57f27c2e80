"""kill -9 at each point of a restore, of the swap itself and of a merge: one database under the name, complete, and the run ends or asks."""

from __future__ import annotations

import psycopg
import pytest

from bot.place import Connect
from tests.crash.test_copies import killed_before_each_line, left_behind, run_roles
from tests.harness import Bot
from tests.scenario import parts
from tests.scenario.real import DOOR, MakeShop, scratches
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_tables import backed_up, hurt

_RESTORE = ("try_copy", "check_preconditions", "restore_beside", "stop_writers", "swap", "verify", "start_writers")
_TABLES = (
    "back_up", "try_tables", "check_preconditions", "restore_beside", "stop_writers", "restore_point", "merge_tables", "verify", "start_writers",
)  # fmt: skip
_ACL = "SELECT datacl::text FROM pg_database WHERE datname = current_database()"
_ALL = "SELECT md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM orders t"


def named(bot: Bot, server: Connect) -> list[str]:
    """Databases of this target's: the live one, kept ones, half ones."""
    with psycopg.connect(server.url(), autocommit=True) as session:
        listed = {row[0] for row in bot.journaled("select file->>'name' from backout.backups where file->>'format' = 'clone'")}
        found = session.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
        return [row[0] for row in found if row[0] == bot.target.database or row[0] in listed or row[0].startswith(f"{bot.target.database}_until")]


def done_twice(bot: Bot) -> list[object]:
    return bot.journaled("select run, step, count(*) from backout.attempts where state = 'done' group by run, step having count(*) > 1")


async def test_a_restore_that_is_killed_at_each_line_puts_one_whole_database_in_the_place(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(**DOOR)
    whole, acl = bot.query(_ALL), bot.query(_ACL)
    name = await backed_up(bot)
    hurt(bot)
    await killed_before_each_line(bot, f"restore {name} sev high because the data is wrong", _RESTORE)
    await parts.ends(bot, "succeeded")
    assert bot.query(_ALL) == whole
    assert bot.query(_ACL) == acl
    there = named(bot, server)
    assert len(there) == 2, there
    assert done_twice(bot) == []
    assert run_roles(server) == []
    assert left_behind(bot) == []
    await bot.until(lambda: not scratches(bot), what="cleared away")


async def test_a_merge_that_is_killed_at_each_line_brings_the_rows_back_once(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(**DOOR)
    acl = bot.query(_ACL)
    name = await backed_up(bot)
    hurt(bot)
    await killed_before_each_line(bot, f"tables orders,ratings from {name} sev high because a script deleted them", _TABLES)
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders") == [(501,)]
    assert bot.query("SELECT count(*), sum(stars) FROM ratings") == [(50, 100)]
    assert bot.query(_ACL) == acl
    assert done_twice(bot) == []
    assert run_roles(server) == []


@pytest.mark.parametrize("moment", ["before the first rename", "after the commit"])
async def test_a_bot_that_is_killed_inside_the_swap_finds_out_and_goes_on(make_shop: MakeShop, server: Connect, moment: str) -> None:
    """Held by a lock on the server's catalog of databases; or let through, and its outcome never journaled."""
    bot = await make_shop(**DOOR)
    whole = bot.query(_ALL)
    name = await backed_up(bot)
    hurt(bot)
    card = await parts.ask(bot, f"restore {name} sev high because the data is wrong")
    swapping = "select 1 from backout.attempts where step = 'swap' and state = 'intended' and facts ? 'kept_name'"
    with psycopg.connect(server.url()) as holder:
        if moment == "before the first rename":
            await bot.slack.click(card, "approve", "U0DBA")
            await bot.until(lambda: bot.journaled("select 1 from backout.attempts where step = 'stop_writers' and state = 'done'"), what="stopped")
            holder.execute("LOCK TABLE pg_database IN SHARE MODE")
            await bot.until(lambda: bot.journaled(swapping), what="in the swap")
        else:
            await bot.slack.click(card, "approve", "U0DBA")
            await bot.until(lambda: bot.journaled(swapping), what="in the swap")
        await bot.kill()
    await bot.start()
    await bot.until(lambda: bot.state() in ("succeeded", "needs_decision"), what="over, or asking")
    if bot.state() == "needs_decision":
        card = await bot.card_in("needs_decision")
        await bot.slack.click(card, "retry", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query(_ALL) == whole
    assert len(named(bot, server)) == 2
    assert run_roles(server) == []
