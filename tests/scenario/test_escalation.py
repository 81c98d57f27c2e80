"""Who is asked next when nobody answers or nothing works, and what a failed downgrade puts before people."""

from __future__ import annotations

import json
from typing import Any

from tests.harness import POLICY, ROLES, Bot
from tests.scenario.conftest import MakeBot
from tests.scenario.parts import approve, ask, buttons, denied, ends, execute, happened, run_of

#: fails while `divisor` holds a zero
FRAGILE = {"0005": "op.execute('select 1 / n from divisor')\nop.drop_column('orders', 'score')"}


def impatient(within: str = "2s") -> dict[str, Any]:
    made = json.loads(json.dumps(POLICY))
    made["high"]["within"] = within
    return dict(made)


def dms(bot: Bot, user: str) -> str:
    return "\n".join(str(message["text"]) for message in bot.slack.dms(user))


async def test_when_nobody_answers_the_next_rung_is_asked_by_name_and_may_fill_the_seat(make_bot: MakeBot) -> None:
    bot = await make_bot(top={"policy": impatient("3s")})
    card = await ask(bot)
    assert "<@U0DBA>" in await bot.until(lambda: "<@U0DBA>" in bot.thread() and bot.thread(), what="the DBA asked")
    await denied(bot, "U0SENIOR", "approve", bot.slack.click(card, "approve", "U0SENIOR"))
    await bot.until(lambda: bot.events("escalated"), what="escalated")
    assert bot.events("escalated")[0]["role"] == "senior-backend"
    assert bot.events("escalated")[0]["people"] == ["U0SENIOR"]
    await bot.until(lambda: "<@U0SENIOR>" in bot.thread(), what="mentioned in the thread")
    await bot.until(lambda: card["ts"].replace(".", "") in dms(bot, "U0SENIOR"), what="sent the card's link")
    await approve(bot, "U0SENIOR")
    await ends(bot, "succeeded")
    assert [(one["by"], one["role"]) for one in bot.events("approved")] == [("U0SENIOR", "dba")]


async def test_at_the_ladders_end_it_expires_and_a_kill_in_between_forgets_nothing(make_bot: MakeBot) -> None:
    bot = await make_bot(top={"policy": impatient()})
    card = await ask(bot)
    await bot.until(lambda: bot.events("escalated"), what="escalated once")
    await bot.kill()
    await bot.start()
    await ends(bot, "expired")
    assert [one["role"] for one in bot.events("escalated")] == ["senior-backend", "cto"], "each rung once, in the ladder's order"
    assert len(bot.events("asked")) == 1
    assert "<@U0CTO>" in bot.thread()
    assert (await bot.reported()).startswith("# Post-mortem: shop 0005 -> 0004: expired\n")
    assert bot.stands() == "0005"
    await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA", stale=True))
    assert len(bot.cards()) == 1


async def test_a_target_that_is_down_for_too_long_brings_the_next_rung(make_bot: MakeBot) -> None:
    ladder = {"ladder": ["dba", "senior-backend", "cto"], "after": {"failed_attempts": 2, "down": "2s"}}
    bot = await make_bot(top={"escalation": ladder})
    await ask(bot)
    await bot.until(lambda: len(bot.events("escalated")) == 2, what="both rungs asked, one after the other")
    assert [one["role"] for one in bot.events("escalated")] == ["senior-backend", "cto"]
    assert "down" in bot.events("escalated")[0]["why"]
    assert bot.state() == "awaiting_approval", "being down for long ends nothing"
    await approve(bot, "U0DEV", "cancel")
    await ends(bot, "aborted")


async def failed(bot: Bot, times: int) -> None:
    await bot.until(lambda: len(bot.events("decision_needed")) == times, what=f"failed {times} times")
    await bot.card_in("needs_decision")


async def test_a_failed_downgrade_is_a_decision_with_its_evidence_and_a_way_back(make_bot: MakeBot) -> None:
    roles = json.loads(json.dumps(ROLES))
    roles["dba"]["users"] = ["U0DBA", "U0LEAD"]
    bot = await make_bot(http=True, downgrades=FRAGILE, top={"roles": roles})
    execute(bot, "CREATE TABLE divisor AS SELECT 0 AS n")
    await ask(bot, user="U0DBA")
    await approve(bot, "U0LEAD")
    await failed(bot, 1)
    card = await bot.card_in("needs_decision")
    assert buttons(card) == [("Retry", "retry"), ("Restore", "restore"), ("Leave", "leave"), ("Escalate", "escalate")]
    assert "division by zero" in bot.slack.render(card)
    assert bot.stands() == "0005", "the failed transaction left nothing"
    # The evidence and the way back: a file that is there, and two commands that name it.
    await bot.until(lambda: "pg_restore" in bot.slack.render_thread(card["ts"]), what="the evidence in the thread")
    thread = bot.slack.render_thread(card["ts"])
    assert "division by zero" in thread
    (backup,) = (bot.root / "backups").glob(f"*{run_of(card)}*.dump")
    assert backup.stat().st_size > 0
    assert "createdb" in thread
    assert str(backup) in thread
    assert bot.target.password not in thread
    # Whose decision it is, and whose not.
    for action in ("retry", "restore", "leave", "escalate"):
        await denied(bot, "U0BYSTANDER", action, bot.slack.click(card, action, "U0BYSTANDER"))
    before = happened(bot)
    await approve(bot, "U0DBA", "retry")  # a role's holder, who asked for the run
    await failed(bot, 2)
    assert happened(bot) != before
    # Two failed attempts escalate by themselves.
    await bot.until(lambda: bot.events("escalated"), what="escalated")
    assert bot.events("escalated")[0]["role"] == "senior-backend"
    await bot.until(lambda: "<@U0SENIOR>" in bot.thread(), what="asked by name")
    execute(bot, "UPDATE divisor SET n = 1")
    await approve(bot, "U0SENIOR", "retry")  # who was asked may decide
    await ends(bot, "succeeded")
    assert bot.stands() == "0004"
    assert [one["attempt"] for one in bot.events("step_failed")] == [1, 2]
    report = await bot.reported()
    assert "division by zero" in report
    assert report.count("downgrade, attempt") == 2


async def test_leave_ends_the_run_as_failed_and_escalate_asks_for_help(make_bot: MakeBot) -> None:
    bot = await make_bot(downgrades=FRAGILE)
    execute(bot, "CREATE TABLE divisor AS SELECT 0 AS n")
    await ask(bot)
    await approve(bot, "U0DBA")
    await failed(bot, 1)
    for rung in ("U0SENIOR", "U0CTO"):
        await approve(bot, "U0DBA", "escalate")
        await bot.until(lambda rung=rung: f"<@{rung}>" in bot.thread(), what=f"{rung} asked")
        await bot.until(lambda rung=rung: dms(bot, rung), what=f"{rung} written to")
    assert "&lt;" not in bot.thread(), "whoever asked is named in words, not in code"
    card = bot.card()
    assert card is not None
    assert "ladder" in await denied(bot, "U0DBA", "escalate", bot.slack.click(card, "escalate", "U0DBA"))
    assert bot.state() == "needs_decision"
    await approve(bot, "U0DBA", "leave")
    await ends(bot, "failed")
    assert [one["step"] for one in bot.events("step_done")][-1] == "start_writers", "every end starts the writers"
    assert (await bot.reported()).startswith("# Post-mortem: shop 0005 -> 0004: failed\n")
    assert bot.stands() == "0005"
    await denied(bot, "U0DBA", "retry", bot.slack.click(card, "retry", "U0DBA", stale=True))
