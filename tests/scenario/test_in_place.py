"""A server without room for two databases: the database is dropped, and the copy restored into its place. Only where the words say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from bot.place import Connect
from tests.crash.test_copies import run_roles
from tests.crash.world import journal_held, waits_in_the_journal
from tests.harness import Bot, Json
from tests.scenario import parts
from tests.scenario.real import BACK, DOOR, MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_tables import backed_up, hurt

ALL = "SELECT md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM orders t"
RATINGS = "SELECT md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM ratings t"
ACL = "SELECT datacl::text FROM pg_database WHERE datname = current_database()"
WHY = "sev high because the disk is full"
#: the old database was dropped, and the new one is there and empty
FILLING = r"new.name like '%\_incoming' and new.name not like '%\_schema\_incoming'"
HIGH = {"dba": 1, "team-lead": 1}


async def in_place(bot: Bot, server: Connect, within: float = 120.0) -> None:
    """From a backup to the new database, whatever stops the writers."""

    async def awaited(text: str) -> Json:
        before = len(bot.cards())
        await bot.ask(text)
        await bot.until(lambda: len(bot.cards()) > before and bot.state() == "awaiting_approval", what="asked for approval", within=within)
        return await bot.card_in("awaiting_approval")

    await bot.slack.click(await awaited(BACK), "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    ((name,),) = bot.journaled("select name from backout.backups where file->>'format' = 'custom'")
    ratings, was = bot.query(RATINGS), oid(bot, server)
    parts.execute(bot, "DELETE FROM ratings")
    await bot.slack.click(await awaited(f"restore {name} in place {WHY}"), "approve", "U0DBA")
    await bot.card_in("succeeded", within=within)
    assert bot.query(RATINGS) == ratings
    assert oid(bot, server) not in (None, was)
    assert beside(bot, server) == []


async def hurt_shop(make_shop: MakeShop, **more: Any) -> tuple[Bot, str]:
    """A shop whose data was spoilt after its backup; what is dropped needs two seats."""
    bot = await make_shop(start=False, **{**DOOR, **more})
    bot.config["policy"]["loss"] = {"high": HIGH}
    await bot.start()
    name = await backed_up(bot)
    hurt(bot)
    return bot, name


async def asked(bot: Bot, name: str) -> Any:
    return await parts.ask(bot, f"restore {name} in place {WHY}")


async def pressed(bot: Bot) -> None:
    await parts.approve(bot, "U0DBA")
    await parts.approve(bot, "U0LEAD")


def oid(bot: Bot, server: Connect) -> int | None:
    with psycopg.connect(server.url(), autocommit=True) as session:
        found = session.execute("SELECT oid::int8 FROM pg_database WHERE datname = %s", (bot.target.database,)).fetchone()
    return int(found[0]) if found else None


def on_server(server: Connect, statement: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as session:
        session.execute(statement)  # type: ignore[arg-type]


def beside(bot: Bot, server: Connect) -> list[str]:
    """What this bot's runs made on the server, under whatever name."""
    runs = [row[0] for row in bot.journaled("select id from backout.runs")]
    with psycopg.connect(server.url(), autocommit=True) as session:
        found = session.execute("SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database").fetchall()
    return [name for name, note in found if note and any(note.endswith(f"run {run}") for run in runs)]


def spoil(path: str) -> None:
    Path(path).write_bytes(b"not the dump any more")


async def test_the_database_is_dropped_and_the_backup_is_restored_into_its_place(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(start=False, **DOOR)
    whole, ratings, acl = bot.query(ALL), bot.query(RATINGS), bot.query(ACL)
    bot.config["policy"]["loss"] = {"high": HIGH}
    on_server(server, f"ALTER DATABASE \"{bot.target.database}\" SET statement_timeout = '71s'")
    await bot.start()
    name = await backed_up(bot)
    hurt(bot)
    parts.execute(bot, "CREATE TABLE later (id int)")
    was = oid(bot, server)
    card = await asked(bot, name)
    told = str(card)
    assert "public.later" in told
    assert "DROP" in told
    assert "The only way back is the dump" in told
    assert "Expected time without a database: at least" in told
    assert bot.journaled("select plan->>'loss_class' from backout.runs order by created desc limit 1") == [("high",)]
    said = await parts.denied(bot, "U0BYSTANDER", "approve", bot.slack.click(card, "approve", "U0BYSTANDER"))
    assert "approval is for" in said
    await parts.approve(bot, "U0DBA")
    assert bot.state() == "awaiting_approval", "one seat is not enough for what is lost"
    assert oid(bot, server) == was
    await parts.approve(bot, "U0LEAD")
    card = await parts.ends(bot, "succeeded")
    assert "restored in place" in str(card)
    assert (bot.query(ALL), bot.query(RATINGS), bot.query(ACL)) == (whole, ratings, acl)
    assert bot.query("SHOW statement_timeout") == [("71s",)]
    assert oid(bot, server) != was
    assert beside(bot, server) == []
    assert run_roles(server) == []
    ((point,),) = bot.journaled("select facts->'file'->>'path' from backout.attempts where step = 'restore_point'")
    report = await bot.reported()
    assert f"(OID {was}) was dropped" in report
    assert point in report
    assert "kept until" in report


async def test_the_ordinary_restore_is_another_plan_with_another_digest(make_shop: MakeShop) -> None:
    bot, name = await hurt_shop(make_shop)
    digests = set()
    for words in ("", "in place "):
        card = await parts.ask(bot, f"restore {name} {words}{WHY}")
        digests.add(parts.payload(card)["digest"])
        await bot.slack.click(card, "cancel", "U0DEV")
        await parts.ends(bot, "aborted")
    assert len(digests) == 2
    steps = bot.journaled("select jsonb_path_query_array(plan->'steps', '$[*].name') from backout.runs order by created desc limit 2")
    assert steps[0][0] == ["check_preconditions", "stop_writers", "restore_point", "replace", "verify", "start_writers"]
    assert "replace" not in steps[1][0]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ({"rehearsal": {"server": "none"}}, "in_place_untried"),
        ({"platform": {"kind": "none"}}, "in_place_writers"),
        ({"rehearsal": {"within": "1s"}}, "in_place_untried"),
    ],
    ids=["no trial", "nobody stopped", "the trial did not end"],
)
async def test_without_a_trial_or_with_writers_it_is_refused(make_shop: MakeShop, server: Connect, target: dict[str, Any], code: str) -> None:
    bot, name = await hurt_shop(make_shop)
    was = oid(bot, server)
    bot.config["targets"]["shop"] |= target
    await bot.kill()
    await bot.start()
    await bot.ask(f"restore {name} in place {WHY}")
    assert (await parts.refused(bot))["code"] == code
    assert oid(bot, server) == was


async def test_after_a_failure_in_the_middle_retry_ends_it(make_shop: MakeShop, server: Connect) -> None:
    """Somebody takes the name while there is no database: theirs is left alone, and when it is gone, the run goes on."""
    bot, name = await hurt_shop(make_shop)
    await asked(bot, name)
    with journal_held(bot, "backups", FILLING):
        await pressed(bot)
        await waits_in_the_journal(bot)
        assert oid(bot, server) is None
        on_server(server, f'CREATE DATABASE "{bot.target.database}"')
    theirs = oid(bot, server)
    card = await bot.card_in("needs_decision")
    assert "left alone" in str(card)
    assert ("Restore", "restore") in parts.buttons(card)
    assert oid(bot, server) == theirs
    on_server(server, f'DROP DATABASE "{bot.target.database}"')
    await bot.slack.click(card, "retry", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders WHERE id BETWEEN 401 AND 450") == [(50,)]
    assert beside(bot, server) == []
    assert run_roles(server) == []


async def dropped_and_backup_gone(bot: Bot, name: str) -> Json:
    """The card that asks: the database is dropped, and its copy can't be had any more."""
    ((path,),) = bot.journaled(f"select file->>'path' from backout.backups where name = '{name}'")
    await asked(bot, name)
    with journal_held(bot, "backups", FILLING):
        await pressed(bot)
        await waits_in_the_journal(bot)
        spoil(path)
    return await bot.card_in("needs_decision")


async def test_after_a_failure_with_no_database_there_the_restore_point_comes_back(make_shop: MakeShop, server: Connect) -> None:
    """The backup vanishes when the database was dropped already: then its own dump is the way back, and every row is as it was."""
    bot, name = await hurt_shop(make_shop)
    whole, acl = bot.query(ALL), bot.query(ACL)
    card = await dropped_and_backup_gone(bot, name)
    assert oid(bot, server) is None
    assert ("Restore", "restore") in parts.buttons(card)
    await bot.slack.click(card, "restore", "U0DBA")
    card = await bot.card_in("awaiting_approval")
    assert "There is no database shop now" in str(card)
    await pressed(bot)
    await parts.ends(bot, "failed")
    assert (bot.query(ALL), bot.query(ACL)) == (whole, acl)
    assert bot.query("SELECT name FROM orders WHERE id = 900") == [("later",)], "what people did since is there"
    assert beside(bot, server) == []
    assert run_roles(server) == []
    assert "went back to the restore point" in await bot.reported()


async def test_who_leaves_it_without_a_database_is_told_so_with_the_dump(make_shop: MakeShop, server: Connect) -> None:
    bot, name = await hurt_shop(make_shop)
    card = await dropped_and_backup_gone(bot, name)
    await bot.slack.click(card, "leave", "U0DBA")
    card = await parts.ends(bot, "failed")
    assert "There is NO database shop" in str(card)
    ((point,),) = bot.journaled("select facts->'file'->>'path' from backout.attempts where step = 'restore_point'")
    report = await bot.reported()
    assert point in report
    assert "pg_restore" in report
    assert run_roles(server) == []


async def test_from_the_command_line_the_same(make_shop: MakeShop) -> None:
    bot = await make_shop(**DOOR)
    name = await backed_up(bot)
    hurt(bot)
    code, output = await bot.run("restore", "shop", name, "in", "--reason", "x", "--sev", "high", user="U0DEV")
    assert code == 2
    assert "nothing behind it but 'in place'" in output
    code, output = await bot.run("restore", "shop", name, "in", "place", "--reason", "x", "--sev", "high", "--no-wait", user="U0DEV")
    assert code == 0, output
    card = await bot.card_in("awaiting_approval")
    code, output = await bot.run("approve", parts.run_of(card), user="U0DBA")
    assert code == 0, output
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders WHERE id BETWEEN 401 AND 450") == [(50,)]
