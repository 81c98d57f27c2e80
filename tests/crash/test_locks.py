"""A downgrade never makes a queue in front of a table: it gives up soon, says who was in the way, and a person decides."""

from __future__ import annotations

import json

import pytest

from tests.contract import projects
from tests.crash.conftest import MakeShop
from tests.crash.world import PLAIN, READS_ORDERS, approved, attempts, held, in_thread, run_of, succeeded_once

pytestmark = pytest.mark.crash

_SHORT = {"lock_timeout": "2s", "statement_timeout": "77s"}
_SEEN = """op.execute("create table seen as select name, setting from pg_settings where name in
 ('lock_timeout', 'statement_timeout', 'client_connection_check_interval', 'application_name')")
"""


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
async def test_who_was_in_the_way_is_named_and_a_retry_succeeds_once_they_left(make_shop: MakeShop, driver: str) -> None:
    bot = await make_shop(downgrade=_SEEN.replace("\n ", " ") + PLAIN, env=projects.env_for(driver), tool=_SHORT)
    with held(bot) as pid:
        await approved(bot)
        card = await bot.card_in("needs_decision")
        failed = attempts(bot, "downgrade")[0]
        assert failed["state"] == "failed"
        found = [(each["pid"], each["user"], each["query"]) for each in failed["facts"]["blockers"]]
        assert found == [(pid, bot.target.user, READS_ORDERS)]
        shown = json.dumps(card["blocks"])
        assert all(word in shown for word in (str(pid), bot.target.user, "ACCESS SHARE"))
        await in_thread(bot, f"pid {pid}  {bot.target.user}")
    await bot.slack.click(card, "retry", "U0DBA")
    await succeeded_once(bot, begun=2)
    assert dict(bot.query("select name, setting from seen")) == {
        "lock_timeout": "2000",
        "statement_timeout": "77000",
        "client_connection_check_interval": "1000",
        "application_name": f"backout/{run_of(bot)}/downgrade/2",
    }
    assert attempts(bot, "downgrade")[1]["facts"]["driver"] == driver


async def test_two_failed_attempts_ask_the_next_rung_by_themselves(make_shop: MakeShop) -> None:
    bot = await make_shop(tool=_SHORT)
    with held(bot):
        await approved(bot)
        await bot.slack.click(await bot.card_in("needs_decision"), "retry", "U0DBA")
        await bot.until(lambda: len(bot.events("decision_needed")) == 2, what="asked again")
        assert (await bot.told("U0SENIOR", "escalated")).count("escalated") == 1
    assert [(each["role"], each["people"]) for each in bot.events("escalated")] == [("senior-backend", ["U0SENIOR"])]
    await bot.slack.click(await bot.card_in("needs_decision"), "retry", "U0SENIOR")
    await succeeded_once(bot, begun=3)
