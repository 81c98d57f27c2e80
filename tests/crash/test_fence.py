"""One Backout at a time acts on a target, whatever journal it has, and it acts on that very database."""

from __future__ import annotations

import copy
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.crash.conftest import MakeShop
from tests.crash.world import COUNTED, NEVER, Gate, approved, attempts, counted, held, in_thread, succeeded_once, waits_for_a_lock
from tests.harness import Bot, workspace

pytestmark = pytest.mark.crash

_FENCES = (
    "select l.pid from pg_locks l join pg_stat_activity s on s.pid = l.pid where l.locktype = 'advisory' and l.granted"
    " and s.datname = 'postgres' and s.application_name = 'backout/control'"
)


def _ask(server: Connect, statement: str) -> list[tuple[object, ...]]:
    """As the server's superuser, in its maintenance database."""
    with psycopg.connect(server.url(), autocommit=True) as session:
        return session.execute(statement).fetchall()


async def test_a_second_backout_is_refused_while_the_first_is_at_work(
    make_shop: MakeShop, gate: Gate, make_journal_database: MakeDatabase, tmp_path: Path
) -> None:
    bot = await make_shop()
    root = tmp_path / "twin"
    root.mkdir()
    config = copy.deepcopy(bot.config)
    config["targets"]["shop"]["backups"]["store"] = str(root / "backups")
    async with workspace() as slack:
        twin = Bot(root, bot.target, make_journal_database("journal"), slack, config)
        try:
            await twin.start()
            with gate.closed("connected"):
                await approved(bot)
                await gate.reached(bot, "connected")
                await approved(twin)
                card = await twin.card_in("needs_decision")
                assert [each["facts"]["code"] for each in attempts(twin, "check_preconditions")] == ["fence_taken"]
                assert twin.journaled("select distinct step from backout.attempts") == [("check_preconditions",)]
                assert list((root / "backups").iterdir()) == []
            await succeeded_once(bot)
            await twin.slack.click(card, "leave", "U0DBA")
            await twin.card_in("failed")
        finally:
            await twin.kill()
    assert counted(bot)["ran"] == 1


async def test_a_fence_that_was_lost_between_two_steps_stops_the_run_and_a_person_is_asked(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop()
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        assert len(_ask(server, _FENCES)) == 1
        _ask(server, f"select pg_terminate_backend(pid) from ({_FENCES}) f")
    card = await bot.card_in("needs_decision")
    assert [each["state"] for each in attempts(bot, "verify")] == ["failed"]
    await in_thread(bot, "fence is lost")
    await bot.slack.click(card, "retry", "U0DBA")
    await succeeded_once(bot)


async def test_the_target_can_be_cloned_while_a_fenced_run_waits_for_a_decision(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(tool={"lock_timeout": "1s"})
    with held(bot):
        await approved(bot)
        card = await bot.card_in("needs_decision")
    assert len(_ask(server, _FENCES)) == 1, "the run holds its fence while it waits"
    clone = sql.Identifier(f"{bot.target.database}_clone")
    with psycopg.connect(server.url(), autocommit=True) as session:
        session.execute(sql.SQL("create database {} template {}").format(clone, sql.Identifier(bot.target.database)))
        session.execute(sql.SQL("drop database {}").format(clone))
    await bot.slack.click(card, "retry", "U0DBA")
    await succeeded_once(bot, begun=2)


# ------------------------------------------------------------------ the very database

_PAST_SQLALCHEMY = """
import psycopg2
where = {copy!r} if config.cmd_opts.cmd[0].__name__ in {when!r} else os.environ["DATABASE_URL"]
"""


def _copy_of_production(bot: Bot, journal_server: Connect) -> Connect:
    """Another server's database of the same name at the same revision, with the same rows."""
    twin = journal_server.model_copy(update={"database": bot.target.database})
    with psycopg.connect(journal_server.url(), autocommit=True) as session:
        session.execute(sql.SQL("create database {}").format(sql.Identifier(twin.database)))
    projects.seed(twin)
    with psycopg.connect(twin.url(), autocommit=True) as session:
        session.execute(COUNTED)
    return twin


@pytest.mark.parametrize("when", [("current", "downgrade"), ("downgrade",)], ids=["always", "only for the downgrade"])
async def test_an_env_py_that_connects_to_a_copy_of_production_is_refused(
    make_shop: MakeShop, journal_server: Connect, when: tuple[str, ...]
) -> None:
    bot = await make_shop(start=False)
    copied = _copy_of_production(bot, journal_server)
    try:
        env = projects.env(
            "create_engine('postgresql+psycopg2://', creator=lambda: psycopg2.connect(where))",
            first=_PAST_SQLALCHEMY.format(copy=copied.url(), when=when),
        )
        (Path(bot.config["targets"]["shop"]["tool"]["directory"]) / "migrations" / "env.py").write_text(env)
        await bot.start()
        if "current" in when:
            await bot.ask("0004 sev high because checkout is down")
            await bot.told("U0DEV", "wrong_database")
            assert bot.journaled("select state from backout.runs") == [("refused",)]
        else:
            await approved(bot)
            await bot.card_in("needs_decision")
            failed = attempts(bot, "downgrade")
            assert [each["state"] for each in failed] == ["failed"]
            assert "connected to another database than the one meant" in failed[0]["summary"]
            await in_thread(bot, "Nothing was executed")
        twin = Bot(bot.root, copied, bot.journal, bot.slack, bot.config)
        assert (counted(bot), counted(twin)) == (NEVER, NEVER)
    finally:
        with psycopg.connect(journal_server.url(), autocommit=True) as session:
            session.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(copied.database)))
