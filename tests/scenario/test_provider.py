"""An instant that a provider recovers: the run says what to ask for, waits for the address, and treats what is there as a stranger's."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import secrets
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from bot.place import Connect
from tests import history
from tests.conftest import MakeDatabase, _databases, _running
from tests.harness import Bot, Json
from tests.scenario import parts
from tests.scenario.real import MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

BUTTON = "backout_address"
PROVIDER = {"kind": "aws-rds", "instance": "shop-production"}
ALL = "SELECT md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM orders t"


@dataclass
class Recovered:
    """The provider's new server, at another place and with another password; `connect` is its master user on the shop."""

    connect: Connect
    make: MakeDatabase

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.connect.url(), autocommit=True) as session:
            return session.execute(sql).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def another_server() -> Iterator[Connect]:
    with _running("recovered") as connect:
        yield connect


@pytest.fixture
def recovered(another_server: Connect, tmp_path: Path) -> Iterator[Recovered]:
    """The shop as it was: 0003, 500 orders and one more, on a server of its own."""
    with _databases(another_server) as make:
        connect = make("shop")
        history.made(tmp_path / "recovered", connect)
        with psycopg.connect(connect.url(), autocommit=True) as session:
            session.execute("INSERT INTO orders (id, name) VALUES (900, 'before the instant')")
        yield Recovered(connect, make)


async def story(make_shop: MakeShop, **provider: str) -> Bot:
    """Good rows, an instant, a bad script."""
    backups = {"store": "./backups", "provider": {**PROVIDER, **provider}}
    bot = await make_shop(start=False, platform={"kind": "database"}, admin="${ADMIN_URL}", backups=backups)
    bot.environ["BACKOUT_LOG"] = "debug"
    parts.execute(bot, "INSERT INTO orders (id, name) VALUES (900, 'before the instant')")
    parts.execute(bot, "DELETE FROM ratings; DELETE FROM orders WHERE id > 100; UPDATE orders SET name = 'WRONG'")
    await bot.start()
    return bot


def an_hour_ago() -> str:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)).isoformat(timespec="seconds")  # noqa: TID251  a person looks at a clock


async def waits(bot: Bot) -> Json:
    """The card, once it asks for the address."""

    def asked() -> bool:
        card = bot.card()
        return card is not None and ("Enter the address", BUTTON) in parts.buttons(card)

    await bot.until(asked, what="waiting for an address")
    card = bot.card()
    assert card is not None
    return card


async def asked(bot: Bot) -> Json:
    await bot.ask(f"pitr {an_hour_ago()} sev critical because a script deleted orders")
    return await waits(bot)


async def form(bot: Bot, user: str = "U0DEV") -> Json:
    """The form, opened by its button."""
    await bot.slack.click(await waits(bot), BUTTON, user)
    await bot.until(lambda: bot.slack.views(user), what="a form")
    return dict(bot.slack.views(user)[-1])


async def enter(bot: Bot, address: str, user: str = "U0DEV") -> None:
    ack = await bot.slack.submit(await form(bot, user), {"address": address}, user)
    assert ack.ok


async def told(bot: Bot, address: str, user: str = "U0DEV") -> str:
    """What the form says about an address that is not taken, or what is said in private when it took long."""
    await enter(bot, address, user)
    await bot.until(lambda: "errors" in bot.slack.views(user)[-1] if bot.slack.views(user) else bot.slack.ephemerals(user), what="an answer")
    said = bot.slack.views(user)[-1]["errors"]["address"] if bot.slack.views(user) else bot.slack.ephemerals(user)[-1]["text"]
    for view in bot.slack.views(user):
        bot.slack.close_view(user, view["id"])
    return str(said)


def nowhere(bot: Bot, *words: str) -> None:
    """Not in the journal, DBOS' tables, the log, nor anything that Slack was given."""
    kept = bot.log.read_text() + str(bot.slack.situation()) + bot.thread() + str(bot.cards()) + "".join(f.text for f in bot.slack.files())
    kept += "".join(bot.private(user) for user in ("U0DEV", "U0DBA", "U0LEAD", "U0BYSTANDER"))
    with psycopg.connect(bot.journal.url(), autocommit=True) as session:
        tables = session.execute("SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables WHERE schemaname !~ '^(pg_|inf)'")
        for (table,) in tables.fetchall():
            kept += "".join(str(row) for row in session.execute(f"SELECT t::text FROM {table} t").fetchall())
    assert "step_started" in kept, "the journal was read"
    for word in words:
        assert word not in kept


async def approved(bot: Bot) -> None:
    card = await bot.card_in("awaiting_approval")
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0LEAD")


async def test_from_the_guide_to_the_report_and_the_address_is_nowhere(make_shop: MakeShop, recovered: Recovered) -> None:
    bot = await story(make_shop)
    theirs = "CREATE FUNCTION theirs(i int) RETURNS bool LANGUAGE sql AS 'SELECT true'; ALTER TABLE orders ADD CONSTRAINT seen CHECK (theirs(id))"
    with psycopg.connect(recovered.connect.url(), autocommit=True) as session:
        session.execute(theirs)
    card = await asked(bot)
    assert "Waiting for aws-rds" in str(card["blocks"][1])
    assert ("Cancel", "cancel") in parts.buttons(card)
    await bot.until(bot.slack.files, what="the guide")
    guide = bot.slack.files()[0]
    assert guide.name == f"recovery-{parts.run_of(card)}.txt"
    assert "restore-db-instance-to-point-in-time" in guide.text
    assert "restore-db-instance-to-point-in-time" in bot.thread()
    await enter(bot, recovered.connect.url())
    card = await bot.card_in("awaiting_approval")
    assert "it stands at 0003" in str(card)
    assert "recovered by aws-rds" in str(card)
    assert "its system identifier is another one" in str(card), "a reservation"
    assert "code that production does not have, read it before you approve: constraint public.orders.seen, function public.theirs" in str(card)
    assert bot.query("SELECT count(*) FROM orders") == [(100,)], "nothing has happened yet"
    await approved(bot)
    await parts.ends(bot, "succeeded")
    assert bot.query(ALL) != []
    assert bot.query("SELECT count(*) FROM orders") == [(501,)]
    assert bot.query("SELECT name FROM orders WHERE id = 900") == [("before the instant",)]
    assert bot.query("SELECT count(*) FROM ratings") == [(50,)]
    assert recovered.query("SELECT count(*) FROM orders") == [(501,)], "it is only read"
    backups = {name for (name,) in bot.journaled("SELECT name FROM backout.backups")}
    run = parts.run_of(card)
    assert f"shop-{run}-adopted.dump" in backups
    assert f"shop-{run}-recovered.dump" not in backups, "a stranger's dump does not stay"
    assert not (bot.root / "backups" / f"shop-{run}-recovered.dump").exists()
    assert "entered where it was recovered" in await bot.reported()
    nowhere(bot, recovered.connect.password, str(recovered.connect.port))


async def test_a_wrong_address_is_refused_in_the_form_and_the_run_goes_on_waiting(
    make_shop: MakeShop, recovered: Recovered, another_server: Connect
) -> None:
    bot = await story(make_shop)
    await asked(bot)
    good, secret = recovered.connect, secrets.token_hex(12)
    empty = recovered.make("empty")
    for address, says in (
        (bot.target.url(), "leads to shop itself"),
        (f"the password is {secret}", "must begin with postgresql://"),
        (f"postgresql://{secret}@127.0.0.1:1/shop", "can't be reached"),
        (good.model_copy(update={"password": secret}).url(), "password authentication failed"),
        (good.model_copy(update={"database": "no_such"}).url(), "There is no database"),
        (empty.url(), "There is no version table"),
        (another_server.url(), "There is no version table"),
    ):
        assert says in await told(bot, address), says
    codes = [one["code"] for one in bot.events("address_refused")]
    assert codes == [
        "address_of_production", "address_unreadable", "unreachable", "wrong_credentials", "database_missing", "version_table_missing",
        "version_table_missing",
    ]  # fmt: skip
    await waits(bot)
    assert bot.query("SELECT count(*) FROM orders") == [(100,)]
    with psycopg.connect(bot.journal.url()) as session:
        kept = str(session.execute("SELECT data::text FROM backout.events").fetchall())
    assert secret not in kept
    assert empty.password not in kept
    assert secret not in bot.log.read_text()
    assert str(good.port) not in kept


async def test_only_the_requester_and_holders_of_a_role_may_enter_it(make_shop: MakeShop, recovered: Recovered) -> None:
    bot = await story(make_shop)
    card = await asked(bot)
    said = await parts.denied(bot, "U0BYSTANDER", "address", bot.slack.click(card, BUTTON, "U0BYSTANDER"))
    assert "DBA on call" in said
    view = await form(bot, "U0DBA")
    bot.config["roles"]["dba"]["users"] = ["U0SENIOR"]
    await bot.kill()
    await bot.start()
    await waits(bot)
    ack = await bot.slack.submit(view, {"address": recovered.connect.url()}, "U0DBA")
    assert ack.ok
    assert "You don't hold one now" in bot.slack.views("U0DBA")[-1]["errors"]["address"], "asked again when it is sent"
    await waits(bot)
    await enter(bot, recovered.connect.url(), "U0SENIOR")
    await bot.card_in("awaiting_approval")
    nowhere(bot, recovered.connect.password)


async def test_killed_while_it_waits_and_after_the_address_was_entered_it_asks_again(make_shop: MakeShop, recovered: Recovered) -> None:
    bot = await story(make_shop)
    await asked(bot)
    await bot.kill()
    await bot.start()
    await bot.until(lambda: len(bot.events("step_started")) == 2, what="begun again")
    await waits(bot)
    with psycopg.connect(recovered.connect.url()) as lock:
        lock.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")  # the dump stands at it
        await enter(bot, recovered.connect.url())
        await bot.until(lambda: bot.events("address_entered"), what="entered")
        await bot.kill()
    await bot.start()
    await bot.until(lambda: len(bot.events("step_started")) == 3, what="begun again")
    assert len(bot.events("address_wanted")) == 1, "the guide is there once"
    await enter(bot, recovered.connect.url())
    await bot.card_in("awaiting_approval")
    await approved(bot)
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders") == [(501,)]
    nowhere(bot, recovered.connect.password)


async def test_a_dump_that_fails_asks_for_the_address_again(make_shop: MakeShop, recovered: Recovered) -> None:
    bot = await story(make_shop)
    await asked(bot)
    with psycopg.connect(recovered.connect.url()) as lock:
        lock.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        await enter(bot, recovered.connect.url())
        await bot.until(lambda: bot.events("address_failed"), what="failed")
    said = bot.events("address_failed")[0]["message"]
    assert "kept a table locked" in said
    assert "127.0.0.1" not in said
    await enter(bot, recovered.connect.url())
    await bot.card_in("awaiting_approval")
    nowhere(bot, recovered.connect.password)


async def test_a_cancel_ends_the_waiting_and_a_time_limit_says_what_happened(make_shop: MakeShop) -> None:
    bot = await story(make_shop, within="2s")
    await bot.ask(f"pitr {an_hour_ago()} sev critical because a script deleted orders")
    card = await parts.ends(bot, "refused")
    assert "Nobody entered the address" in str(card)
    assert bot.events("refused")[-1]["code"] == "address_not_entered"
    bot.config["targets"]["shop"]["backups"]["provider"]["within"] = "1h"
    await bot.kill()
    await bot.start()
    card = await asked(bot)
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    assert bot.query("SELECT count(*) FROM orders") == [(100,)]


async def test_what_is_in_the_future_or_has_no_zone_is_refused_at_once(make_shop: MakeShop) -> None:
    bot = await story(make_shop)
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()  # noqa: TID251  as above
    for time, code in ((later, "pitr_in_the_future"), ("2026-01-01 10:00", "pitr_time_unclear")):
        refusals = len(bot.events("refused"))
        await bot.ask(f"pitr {time} sev high because of this")
        await bot.until(lambda: len(bot.events("refused")) > refusals, what="refused")  # noqa: B023  awaited in this round
        assert bot.events("refused")[-1]["code"] == code


async def typed(bot: Bot, line: str, user: str = "U0DEV", **env: str) -> tuple[int, str]:
    """`backout address`, with this on its standard input."""
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test runs commands as a shell would
        sys.executable, "-m", "bot", "address", "--as", user, env=bot.env(BACKOUT_TOKEN=f"fake-token-of-{user}", **env),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate(line.encode() + b"\n")
    return process.returncode or 0, said.decode()


async def test_at_the_command_line_it_comes_by_standard_input(make_shop: MakeShop, recovered: Recovered) -> None:
    bot = await story(make_shop)
    await bot.kill()
    argv = ("pitr", "shop", an_hour_ago(), "--reason", "a script deleted orders", "--sev", "critical", "--no-wait")
    code, output = await bot.run(*argv, user="U0DEV")
    assert code == 0, output
    assert "backout address RUN" in output
    code, output = await typed(bot, recovered.connect.url())
    assert code == 0, output
    assert recovered.connect.password not in output
    assert bot.journaled("SELECT state FROM backout.runs") == [("awaiting_approval",)]


async def test_a_bot_that_lives_gets_it_from_the_command_line_and_nobody_else_can_send_it(make_shop: MakeShop, recovered: Recovered) -> None:
    bot = await story(make_shop)
    await asked(bot)
    door = bot.root / "home" / "address.sock"
    assert door.stat().st_mode & 0o777 == 0o600
    code, output = await typed(bot, recovered.connect.url(), "U0BYSTANDER")
    assert code == 1
    assert "You don't hold one now" in output
    code, output = await typed(bot, bot.target.url())
    assert code == 1
    assert "address_of_production" in output
    reader, writer = await asyncio.open_unix_connection(door)
    writer.write(json.dumps({"run": parts.run_of(await waits(bot)), "address": "x", "as": "U0DEV", "token": "wrong"}).encode() + b"\n")
    assert "BACKOUT_TOKEN" in json.loads(await reader.readline())["denied"]
    writer.close()
    code, output = await typed(bot, recovered.connect.url(), BACKOUT_HOME=str(bot.root / "another"))
    assert code == 1
    assert "address_elsewhere" in output, "as from another machine"
    code, output = await typed(bot, recovered.connect.url())
    assert code == 0, output
    await bot.card_in("awaiting_approval")
    nowhere(bot, recovered.connect.password)
    assert await bot.kill(signal.SIGTERM) == 0
    assert not door.exists()
