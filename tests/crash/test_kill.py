"""kill -9 of the bot, wherever a run may be: it goes on, nothing happens twice, and the thread says what happened."""

from __future__ import annotations

import pytest

from tests.crash.conftest import MakeShop
from tests.crash.world import (
    NEVER,
    Gate,
    approved,
    attempts,
    counted,
    everything_was_told,
    held,
    inside,
    journal_full,
    journal_held,
    sessions,
    slow_health,
    succeeded_once,
    waits_for_a_lock,
    waits_in_the_journal,
)  # fmt: skip

pytestmark = pytest.mark.crash

_STEPS = ("check_preconditions", "restore_point", "archive", "downgrade", "verify", "start_writers")


# ------------------------------------------------------------------ before the run begins


async def test_a_command_and_an_approval_that_were_acknowledged_are_not_lost_when_the_bot_dies_at_once(make_shop: MakeShop) -> None:
    bot = await make_shop()
    await bot.ask("0004 sev high because checkout is down")
    await bot.kill()
    await bot.start()
    card = await bot.card_in("awaiting_approval")
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.kill()
    await bot.start()
    await succeeded_once(bot)


async def test_a_run_that_is_killed_while_it_is_planned_and_while_it_waits_can_still_be_approved(make_shop: MakeShop, gate: Gate) -> None:
    bot = await make_shop()
    with journal_held(bot, "alarms", "new.kind = 'down'"):
        await bot.ask("0004 sev high because checkout is down")
        await waits_in_the_journal(bot)
        assert bot.journaled("select state from backout.runs") == [("planning",)], "it is known, and the engine has not heard of it"
        await bot.kill()
    with gate.closed("current"):
        await bot.start()
        await gate.reached(bot, "current")
        assert bot.journaled("select state from backout.runs") == [("planning",)]
        await bot.kill()
    with journal_held(bot, "events", "new.kind = 'planned'"):
        await bot.start()
        await waits_in_the_journal(bot)
        await bot.kill()
    await bot.start()
    card = await bot.card_in("awaiting_approval")
    await bot.kill()
    assert counted(bot) == NEVER
    assert "already" not in bot.private("U0DEV"), "nobody is told that their own request is in the way"
    await bot.start()
    await bot.slack.click(card, "approve", "U0DBA")
    await succeeded_once(bot)
    assert [len(bot.events(kind)) for kind in ("requested", "planned", "asked", "started")] == [1, 1, 1, 1]


async def test_people_are_asked_though_the_bot_died_while_it_asked_them(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with journal_held(bot, "events", "new.kind = 'asked'"):
        await bot.ask("0004 sev high because checkout is down")
        await waits_in_the_journal(bot)
        await bot.kill()
    await bot.start()
    await bot.until(lambda: "approval" in bot.private("U0DBA"), what="asking for approval", within=15)
    assert len(bot.events("asked")) == 1


# ------------------------------------------------------------------ inside its steps


async def test_a_run_that_is_killed_inside_one_step_after_the_other_goes_on_and_says_so(make_shop: MakeShop, gate: Gate) -> None:
    async with slow_health() as (url, asked, answers):
        bot = await make_shop(health={"url": url})
        await bot.ask("0004 sev high because checkout is down")
        card = await bot.card_in("awaiting_approval")
        with gate.closed("current"):
            await bot.slack.click(card, "approve", "U0DBA")
            await inside(bot, "check_preconditions")
            await gate.reached(bot, "current")
            await bot.kill()
        with held(bot, "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE"):
            await bot.start()
            await waits_for_a_lock(bot, "restore_point")  # pg_dump does
            await bot.kill()
        await bot.start()
        await bot.until(asked.is_set, what="asked for health")
        assert [each["state"] for each in attempts(bot, "verify")] == ["intended"]
        await bot.kill()
        answers.set()
        await bot.start()
        await succeeded_once(bot)
    told = [(each["step"], each["attempt"]) for each in bot.events("interrupted")]
    assert told == [("check_preconditions", 1), ("restore_point", 1), ("verify", 1)]
    assert bot.thread().count("Backout was restarted during") == 3
    assert (await bot.reported()).count("interrupted") >= 3


async def test_a_run_that_is_killed_before_each_line_of_its_steps_does_each_of_them_once(make_shop: MakeShop) -> None:
    """After the effect and before its outcome is journaled; and between the steps."""
    bot = await make_shop()
    await bot.ask("0004 sev high because checkout is down")
    card = await bot.card_in("awaiting_approval")
    lines = [(kind, step) for step in _STEPS for kind in ("step_started", "step_done")]
    for kind, step in [*lines, ("ended", None), ("reported", None)]:
        of = f" and new.data->>'step' = '{step}'" if step else ""
        with journal_held(bot, "events", f"new.kind = '{kind}'{of}"):
            if (kind, step) == lines[0]:
                await bot.slack.click(card, "approve", "U0DBA")
            else:
                await bot.start()
            await waits_in_the_journal(bot)
            await bot.kill()
    await bot.start()
    await succeeded_once(bot)
    assert [each["step"] for each in bot.events("interrupted")] == list(_STEPS)


async def test_a_cancelled_run_that_is_killed_in_its_downgrade_finds_out_what_became_of_it_before_it_ends(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with held(bot):
        card = await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        await bot.slack.click(card, "cancel", "U0DEV")
        await bot.until(lambda: bot.events("cancel_requested"), what="cancelling")
        await bot.kill()
        assert sessions(bot, "downgrade"), "the tool lives on"
        await bot.start()
        await bot.card_in("aborted")
        assert sessions(bot, "downgrade") == []
    await everything_was_told(bot)
    assert counted(bot) == {**NEVER, "begun": 1}
    assert [each["step"] for each in bot.events("interrupted")] == ["downgrade"]
    assert [each["state"] for each in attempts(bot, "start_writers")] == ["done"]


# ------------------------------------------------------------------ the journal itself


async def test_a_journal_that_takes_no_line_for_a_while_does_not_lose_the_run(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with journal_full(bot, "events", "new.kind = 'step_done' and new.data->>'step' = 'downgrade'"):
        await approved(bot)
        await bot.until(lambda: bot.stands() == "0004", what="downgraded")
        await bot.until(lambda: bot.journaled("select is_called from backout.refused") == [(True,)], what="refused by the journal")
        assert [each["state"] for each in attempts(bot, "downgrade")] == ["intended"]
    await succeeded_once(bot)


# ------------------------------------------------------------------ between Slack and the journal


async def test_what_slack_has_got_is_not_posted_again_though_the_journal_did_not_learn_of_it(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with journal_held(bot, "deliveries", "new.key = 'card'"):
        await bot.ask("0004 sev high because checkout is down")
        await waits_in_the_journal(bot)
        await bot.kill()
        assert len(bot.cards()) == 1
    await bot.start()
    with journal_held(bot, "deliveries", "new.content like 'post-mortem-%'"):
        await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0DBA")
        await bot.reported()
        await waits_in_the_journal(bot)
        await bot.kill()
    await bot.start()
    await succeeded_once(bot)
