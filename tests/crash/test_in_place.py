"""kill -9 at each point of a restore in place: the old database, none, or the copy is there, and the run goes on to the copy, or asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bot.place import Connect
from tests.crash.test_copies import killed_before_each_line, run_roles
from tests.crash.world import journal_held, waits_in_the_journal
from tests.harness import Bot
from tests.scenario import parts
from tests.scenario.real import DOOR, MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_in_place import ACL, ALL, FILLING, WHY, beside, oid
from tests.scenario.test_strangers import mark as mark  # noqa: PLC0414  and here
from tests.scenario.test_strangers import put
from tests.scenario.test_tables import backed_up, hurt

_STEPS = ("check_preconditions", "stop_writers", "restore_point", "replace", "verify", "start_writers")

#: rows of the journal that hold it: what is to be dropped was remembered, the copy was filled
_NOT_DROPPED = ("while its schema is tried", "before the drop", "while it is dropped")
_REMEMBERED = "new.step = 'replace' and new.facts ? 'dropping'"
_FILLED = "new.step = 'replace' and new.facts @> '{\"filled\": true}'"


async def whole(bot: Bot, server: Connect, rows: object, acl: object) -> None:
    """One complete database under the name, open, and nothing of the run beside it."""
    await parts.ends(bot, "succeeded")
    assert (bot.query(ALL), bot.query(ACL)) == (rows, acl)
    assert beside(bot, server) == []
    assert run_roles(server) == []
    assert bot.journaled("select count(*) from backout.backups where name like '%\\_incoming'") == [(0,)]


async def ended(bot: Bot) -> None:
    """It goes on by itself, or asks and Retry completes it."""
    await bot.until(lambda: bot.state() in ("succeeded", "needs_decision"), what="over, or asking")
    if bot.state() == "needs_decision":
        card = await bot.card_in("needs_decision")
        await bot.slack.click(card, "retry", "U0DBA")


async def waits_in_the_server(server: Connect, statement: str, bot: Bot) -> None:
    """The server is held in that statement by a lock."""
    found = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'backout/%%' AND query LIKE %s AND wait_event_type = 'Lock'"

    def waiting() -> bool:
        with psycopg.connect(server.url(), autocommit=True) as session:
            return bool(session.execute(found, (statement,)).fetchone())

    await bot.until(waiting, what=f"waiting in {statement}")


async def test_a_restore_in_place_that_is_killed_at_each_line_ends_with_the_copy(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(**DOOR)
    rows, acl = bot.query(ALL), bot.query(ACL)
    name = await backed_up(bot)
    hurt(bot)
    await killed_before_each_line(bot, f"restore {name} in place {WHY}", ("try_copy", *_STEPS))
    await whole(bot, server, rows, acl)
    assert bot.journaled("select step, count(*) from backout.attempts where state = 'done' group by run, step having count(*) > 1") == []


async def test_a_bot_that_is_killed_inside_the_replacement_goes_on(make_shop: MakeShop, server: Connect) -> None:
    """One shop for all moments: each ends with the copy in the place, and is hurt again."""
    bot = await make_shop(**DOOR)
    rows, acl = bot.query(ALL), bot.query(ACL)
    name = await backed_up(bot)
    for moment, killed in KILLED.items():
        hurt(bot)
        was = oid(bot, server)
        await parts.ask(bot, f"restore {name} in place {WHY}")
        await killed(bot, server)
        assert (oid(bot, server) == was) is (moment in _NOT_DROPPED), moment
        await bot.start()
        await ended(bot)
        await whole(bot, server, rows, acl)


async def _in_the_journal(bot: Bot, table: str, row: str, on: str) -> None:
    with journal_held(bot, table, row, on):
        await parts.approve(bot, "U0DBA")
        await waits_in_the_journal(bot)
        await bot.kill()


async def _before_the_drop(bot: Bot, _server: Connect) -> None:
    await _in_the_journal(bot, "attempts", _REMEMBERED, "update")


async def _before_the_restore(bot: Bot, _server: Connect) -> None:
    await _in_the_journal(bot, "backups", FILLING, "insert")


async def _before_the_dressing(bot: Bot, _server: Connect) -> None:
    await _in_the_journal(bot, "attempts", _FILLED, "update")


async def _between_drop_and_create(bot: Bot, server: Connect) -> None:
    """Whoever creates a database locks its template as a whole; the drop does not."""
    with psycopg.connect(server.url()) as holder:
        with journal_held(bot, "attempts", _REMEMBERED, "update"):
            await parts.approve(bot, "U0DBA")
            await waits_in_the_journal(bot)
            holder.execute("COMMENT ON DATABASE template0 IS 'held'")
        await waits_in_the_server(server, "CREATE DATABASE%", bot)
        await bot.kill()
        holder.rollback()


async def _while_its_schema_is_tried(bot: Bot, _server: Connect) -> None:
    """Beside the database, before anybody is stopped."""
    await _in_the_journal(bot, "backups", "new.name like '%\\_schema\\_incoming'", "insert")


async def _while_it_is_dropped(bot: Bot, server: Connect) -> None:
    """Somebody else's lock on the database as a whole holds the drop."""
    with psycopg.connect(server.url()) as holder:
        with journal_held(bot, "attempts", _REMEMBERED, "update"):
            await parts.approve(bot, "U0DBA")
            await waits_in_the_journal(bot)
            holder.execute(sql.SQL("COMMENT ON DATABASE {} IS 'held'").format(sql.Identifier(bot.target.database)))
        await waits_in_the_server(server, "DROP DATABASE%", bot)
        await bot.kill()
        await bot.until(lambda: not dropping(server), what="the drop ended by the server, since nobody waits for it")
        holder.rollback()


async def _while_it_is_restored(bot: Bot, server: Connect) -> None:
    """Somebody else's lock in the database that is being filled holds the restore."""
    with journal_held(bot, "backups", FILLING):
        await parts.approve(bot, "U0DBA")
        await waits_in_the_journal(bot)
        (made,) = beside(bot, server)
        holder = psycopg.connect(server.model_copy(update={"database": made}).url())
        holder.execute("LOCK TABLE pg_class IN SHARE MODE")
    await waits_in_the_server(server, "CREATE %", bot)
    await bot.kill()
    holder.close()


@pytest.mark.parametrize("theirs", [False, True], ids=["Backout's own dump", "a stranger's"])
async def test_a_bot_that_dies_when_the_application_can_not_log_in_goes_on_by_its_own_key(
    make_shop: MakeShop, server: Connect, theirs: bool, mark: Path
) -> None:
    """platform.roles took the application's login, and after the drop there is no database whose door could be entered."""
    bot = await make_shop(start=False, **DOOR)
    bot.config["targets"]["shop"]["platform"] = {"kind": "database", "roles": [bot.target.user]}
    put(bot, mark)
    await bot.start()
    rows, acl = bot.query(ALL), bot.query(ACL)
    name = "theirs.sql" if theirs else await backed_up(bot)
    hurt(bot)
    for killed in (_before_the_restore, _between_drop_and_create):
        await parts.ask(bot, f"restore {name} in place {WHY}")
        await killed(bot, server)
        assert login(bot, server) is False, "taken"
        await bot.start()
        await whole(bot, server, rows, acl)
        assert login(bot, server) is True, "and given back"


def login(bot: Bot, server: Connect) -> bool:
    with psycopg.connect(server.url(), autocommit=True) as session:
        return bool(session.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", (bot.target.user,)).fetchall()[0][0])


def dropping(server: Connect) -> bool:
    with psycopg.connect(server.url(), autocommit=True) as session:
        return bool(session.execute("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE%' AND state = 'active'").fetchone())


KILLED: dict[str, Callable[[Bot, Connect], Awaitable[None]]] = {
    "while its schema is tried": _while_its_schema_is_tried,
    "before the drop": _before_the_drop,
    "while it is dropped": _while_it_is_dropped,
    "between drop and create": _between_drop_and_create,
    "before the restore": _before_the_restore,
    "while it is restored": _while_it_is_restored,
    "before the dressing": _before_the_dressing,
}


async def test_a_cancel_of_a_bot_that_dies_when_the_database_was_dropped_brings_the_copy_first(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(**DOOR)
    rows, acl = bot.query(ALL), bot.query(ACL)
    name = await backed_up(bot)
    hurt(bot)
    card = await parts.ask(bot, f"restore {name} in place {WHY}")
    with journal_held(bot, "backups", FILLING):
        await bot.slack.click(card, "approve", "U0DBA")
        await waits_in_the_journal(bot)
        await bot.slack.click(await bot.card_in("running"), "cancel", "U0DEV")
        await bot.until(lambda: bot.events("cancel_requested")[1:], what="cancelled")
        await bot.kill()
    await bot.start()
    await parts.ends(bot, "aborted")
    assert (bot.query(ALL), bot.query(ACL)) == (rows, acl)
    assert run_roles(server) == []
