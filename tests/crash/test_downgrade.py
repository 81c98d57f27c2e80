"""The destructive step, killed at every moment that matters: the change happens at most once, and where nobody can know, a person is asked.

After kill -9 a backend may still be there and execute later; the revision proves nothing (databases.md F4).
"""

from __future__ import annotations

import psycopg
import pytest

from tests.crash.conftest import MakeShop
from tests.crash.world import (
    AUTOCOMMIT,
    NEVER,
    Gate,
    approved,
    attempts,
    counted,
    held,
    in_thread,
    kill,
    programs,
    sessions,
    succeeded_once,
    waits_for_a_lock,
)  # fmt: skip

pytestmark = pytest.mark.crash

_INDEX = "select count(*) from pg_indexes where indexname = 'ix_name'"
#: As on servers before 14: the backend does not notice that its client is gone.
_DEAF = 'op.execute("set client_connection_check_interval = 0")\n'

# ------------------------------------------------------------------ an autocommit block: half of it may stand


@pytest.mark.parametrize("tool", [True, False], ids=["bot and tool are killed", "the tool lives on"])
async def test_half_a_downgrade_is_never_done_again_and_a_person_is_asked(make_shop: MakeShop, tool: bool) -> None:
    bot = await make_shop(downgrade=_DEAF + AUTOCOMMIT)
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        await kill(bot, tool=tool)
        assert sessions(bot, "downgrade"), "the dead attempt lives on in the server"
        await bot.start()
        card = await bot.card_in("needs_decision")
        assert sessions(bot, "downgrade") == [], "it was ended before anybody was asked"
    half = {"begun": 1, "ran": 1, "cents": 100, "stands": "0005"}
    assert (counted(bot), bot.query(_INDEX)) == (half, [(1,)])
    assert [each["state"] for each in attempts(bot, "downgrade")] == ["unknown"]
    await in_thread(bot, "Backout was restarted during")
    await in_thread(bot, "<@U0DBA>: *decide on the card:")
    await bot.kill()
    await bot.start()
    await bot.slack.click(card, "leave", "U0DBA")
    await bot.kill()
    await bot.start()
    await bot.card_in("failed")
    assert (await bot.reported()).startswith("# Post-mortem: shop 0005 -> 0004: failed\n")
    assert (counted(bot), bot.query(_INDEX)) == (half, [(1,)])


async def test_a_downgrade_that_the_orphan_finished_is_not_done_again_when_a_person_says_retry(make_shop: MakeShop) -> None:
    bot = await make_shop(downgrade=AUTOCOMMIT)
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        await kill(bot)
    await bot.until(lambda: bot.stands() == "0004", what="finished by the orphan")
    await bot.start()
    await bot.slack.click(await bot.card_in("needs_decision"), "retry", "U0DBA")
    await succeeded_once(bot)
    assert [each["state"] for each in attempts(bot, "downgrade")] == ["unknown", "done"]


# ------------------------------------------------------------------ one transaction: all or nothing, so the run goes on by itself


@pytest.mark.parametrize("tool", [True, False], ids=["bot and tool are killed", "the tool lives on"])
async def test_a_whole_downgrade_that_did_not_happen_is_done_again_unasked(make_shop: MakeShop, tool: bool) -> None:
    bot = await make_shop()
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        await kill(bot, tool=tool)
        await bot.start()
        await waits_for_a_lock(bot, "downgrade", attempt=2)
        assert sessions(bot, "downgrade") == [], "the former attempt was ended before the next one began"
    await succeeded_once(bot, begun=2)
    assert [each["state"] for each in attempts(bot, "downgrade")] == ["failed", "done"]
    assert bot.events("decision_needed") == []


async def test_a_whole_downgrade_that_the_orphan_finished_is_found_done(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        await kill(bot)
    await bot.until(lambda: bot.stands() == "0004", what="finished by the orphan")
    await bot.start()
    await succeeded_once(bot)
    assert "found after an interruption" in bot.thread()


async def test_a_downgrade_whose_tool_is_killed_after_its_commit_is_found_done(make_shop: MakeShop, gate: Gate) -> None:
    bot = await make_shop()
    with gate.closed("committed"):
        await approved(bot)
        await gate.reached(bot, "committed")
        await kill(bot, tool=True)
    assert bot.stands() == "0004"
    await bot.start()
    await succeeded_once(bot)
    assert [(each["step"], each["attempt"]) for each in bot.events("interrupted")] == [("downgrade", 1)]
    assert [each["state"] for each in attempts(bot, "downgrade")] == ["done"]


async def test_a_downgrade_that_is_killed_in_its_commit_is_done_once(make_shop: MakeShop) -> None:
    bot = await make_shop(start=False)
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute(
            "create function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(7); return null; end $$"
        )
        session.execute("create constraint trigger at_commit after insert on ran deferrable initially deferred for each row execute function wait()")
    await bot.start()
    with held(bot, "select pg_advisory_xact_lock(7)"):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        assert bot.query("select query from pg_stat_activity where wait_event_type = 'Lock'") == [("COMMIT",)]
        await kill(bot)
        await bot.start()
        await waits_for_a_lock(bot, "downgrade", attempt=2)
        assert sessions(bot, "downgrade") == []
    await succeeded_once(bot, begun=2)


async def test_an_orphaned_tool_that_was_not_told_to_begin_does_nothing(make_shop: MakeShop, gate: Gate) -> None:
    bot = await make_shop()
    with gate.closed("connected"):
        await approved(bot)
        await gate.reached(bot, "connected")
        await bot.kill()
    await bot.until(lambda: programs(bot) == [], what="ended by itself")
    assert counted(bot) == NEVER
    await bot.start()
    await succeeded_once(bot)
    assert "the tool had not been told to begin" in bot.thread()
