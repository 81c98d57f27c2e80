"""kill -9 of the bot, wherever a run may be: it goes on, nothing happens twice, and the thread says what happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.crash.conftest import MakeShop
from tests.crash.world import (
    NEVER,
    Gate,
    approved,
    attempts,
    counted,
    held,
    inside,
    journal_held,
    kill,
    slow_health,
    succeeded_once,
    waits_for_a_lock,
    waits_in_the_journal,
)  # fmt: skip
from tests.harness import Bot

pytestmark = pytest.mark.crash


# ------------------------------------------------------------------ inside a step


@asynccontextmanager
async def _checking(make: MakeShop, gate: Gate) -> AsyncIterator[Bot]:
    """env.py waits while the plan is made again."""
    bot = await make()
    await bot.ask("0004 sev high because checkout is down")
    card = await bot.card_in("awaiting_approval")
    with gate.closed("current"):
        await bot.slack.click(card, "approve", "U0DBA")
        await inside(bot, "check_preconditions")
        await gate.reached(bot, "current")
        yield bot


@asynccontextmanager
async def _backing_up(make: MakeShop, _: Gate) -> AsyncIterator[Bot]:
    """pg_dump waits for a table that somebody rewrites."""
    bot = await make()
    with held(bot, "LOCK TABLE customers IN ACCESS EXCLUSIVE MODE"):
        await approved(bot)
        await waits_for_a_lock(bot, "back_up")
        yield bot


@asynccontextmanager
async def _downgrading(make: MakeShop, _: Gate) -> AsyncIterator[Bot]:
    """The tool waits for a table that somebody reads."""
    bot = await make()
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        yield bot


@asynccontextmanager
async def _verifying(make: MakeShop, _: Gate) -> AsyncIterator[Bot]:
    """The application's health page does not answer."""
    async with slow_health() as (url, asked, _answers):
        bot = await make(health={"url": url})
        await approved(bot)
        await bot.until(asked.is_set, what="asked for health")
        yield bot
        _answers.set()
        await bot.start()
        await bot.card_in("succeeded")


@asynccontextmanager
async def _starting_writers(make: MakeShop, _: Gate) -> AsyncIterator[Bot]:
    """It is instant: the journal waits with its outcome."""
    bot = await make()
    with journal_held(bot, "attempts", "new.step = 'start_writers' and new.state = 'done'", on="update"):
        await approved(bot)
        await waits_in_the_journal(bot)
        yield bot


_Place = Callable[[MakeShop, Gate], AbstractAsyncContextManager[Bot]]
_INSIDE: dict[str, _Place] = {
    "check_preconditions": _checking,
    "back_up": _backing_up,
    "downgrade": _downgrading,
    "verify": _verifying,
    "start_writers": _starting_writers,
}


@pytest.mark.parametrize("step", _INSIDE)
async def test_a_run_that_is_killed_in_a_step_goes_on_and_says_so(make_shop: MakeShop, gate: Gate, step: str) -> None:
    async with _INSIDE[step](make_shop, gate) as bot:
        assert [each["state"] for each in attempts(bot, step)] == ["intended"]
        await kill(bot, tool=step == "downgrade")
    if bot.process is not None and bot.process.returncode is not None:
        await bot.start()
    await succeeded_once(bot, begun=2 if step == "downgrade" else 1)
    assert [(each["step"], each["attempt"]) for each in bot.events("interrupted")] == [(step, 1)]
    assert bot.thread().count("Backout was restarted during") == 1
    assert "interrupted" in (await bot.run("report", "--json"))[1]


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
    with gate.closed("current"):
        await bot.ask("0004 sev high because checkout is down")
        await gate.reached(bot, "current")
        assert bot.journaled("select state from backout.runs") == [("planning",)]
        await bot.kill()
    await bot.start()
    card = await bot.card_in("awaiting_approval")
    await bot.kill()
    assert counted(bot) == NEVER
    await bot.start()
    assert len(bot.events("asked")) == 1, "people are asked once"
    await bot.slack.click(card, "approve", "U0DBA")
    await succeeded_once(bot)


# ------------------------------------------------------------------ between two lines of the journal

_BEFORE_THE_STEPS = ["requested", "planned", "asked", "approved", "started"]
_STEPS = [f"{kind} {step}" for step in _INSIDE for kind in ("step_started", "step_done")]


def _line(name: str) -> str:
    kind, _, step = name.partition(" ")
    return f"new.kind = '{kind}'" + (f" and new.data->>'step' = '{step}'" if step else "")


async def test_a_run_that_is_killed_before_each_line_that_leads_to_its_start_starts_once(make_shop: MakeShop) -> None:
    bot = await make_shop()
    clicked = False
    for name in _BEFORE_THE_STEPS:
        with journal_held(bot, "events", _line(name)):
            if name == "requested":
                await bot.ask("0004 sev high because checkout is down")
            elif name == "approved":
                await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0DBA")
                clicked = True
            await waits_in_the_journal(bot)
            assert counted(bot) == NEVER
            await bot.kill()
        await bot.start()
    assert clicked
    await succeeded_once(bot)
    assert [len(bot.events(kind)) for kind in _BEFORE_THE_STEPS] == [1, 1, 1, 1, 1]


async def test_a_run_that_is_killed_before_each_line_of_its_steps_does_each_of_them_once(make_shop: MakeShop) -> None:
    bot = await make_shop()
    await bot.ask("0004 sev high because checkout is down")
    card = await bot.card_in("awaiting_approval")
    for name in [*_STEPS, "ended", "reported"]:
        with journal_held(bot, "events", _line(name)):
            if name == _STEPS[0]:
                await bot.slack.click(card, "approve", "U0DBA")
            else:
                await bot.start()
            await waits_in_the_journal(bot)
            await bot.kill()
    await bot.start()
    await succeeded_once(bot)
    assert [each["step"] for each in bot.events("interrupted")] == list(_INSIDE)


# ------------------------------------------------------------------ between Slack and the journal


@pytest.mark.parametrize("key", ["card", "file:%"])
async def test_what_slack_has_got_is_not_posted_again_though_the_journal_did_not_learn_of_it(make_shop: MakeShop, key: str) -> None:
    bot = await make_shop()
    with journal_held(bot, "deliveries", f"new.key like '{key}'"):
        await bot.ask("0004 sev high because checkout is down")
        if key != "card":
            await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0DBA")
            await bot.reported()
        await waits_in_the_journal(bot)
        await bot.kill()
        assert len(bot.cards()) == 1
    await bot.start()
    if key == "card":
        await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0DBA")
    await succeeded_once(bot)
