"""Who may press what: seats, roles, the wrong person, and presses that meet."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.harness import CHANNEL, POLICY, ROLES, Bot
from tests.scenario.conftest import MakeBot
from tests.scenario.parts import AT_THE_GATE, Gate, approve, ask, buttons, denied, ends, payload, run_of

CRITICAL = "0004 sev critical because checkout is down"


def policy(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(POLICY)), **changes}


def roles(**users: list[str]) -> dict[str, Any]:
    made = json.loads(json.dumps(ROLES))
    for role, named in users.items():
        made[role]["users"] = named
    return dict(made)


async def test_whoever_holds_no_role_of_the_run_is_told_so_in_private_and_nothing_happens(make_bot: MakeBot) -> None:
    bot = await make_bot(http=True)
    card = await ask(bot)
    for action in ("approve", "reject", "cancel"):
        await denied(bot, "U0BYSTANDER", action, bot.slack.click(card, action, "U0BYSTANDER"))
    await denied(bot, "U0LEAD", "approve", bot.slack.click(card, "approve", "U0LEAD"))  # a role, but none of this run's
    await denied(bot, "U0DEV", "approve", bot.slack.click(card, "approve", "U0DEV"))  # the requester
    await denied(bot, "U0STRANGER", "approve", bot.slack.click(card, "approve", "U0STRANGER"))  # of another company
    forged = f"{run_of(card)}:{'0' * 64}"
    said = await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA", value=forged))
    assert "plan changed" in said
    assert bot.state() == "awaiting_approval"
    assert bot.stands() == "0005"
    # The requester may cancel, without any role.
    await approve(bot, "U0DEV", "cancel")
    await ends(bot, "aborted")
    late = await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA", stale=True))
    assert "aborted" in late
    # A role's holder may cancel what somebody else asked for.
    await ask(bot)
    await approve(bot, "U0DBA", "cancel")
    await ends(bot, "aborted")
    assert bot.stands() == "0005"


async def test_a_stranger_of_another_company_can_not_ask_either(make_bot: MakeBot) -> None:
    bot = await make_bot()
    ack = await bot.slack.command(CHANNEL, "U0STRANGER", "/rollback", "0004 sev high because I can")
    assert ack.ok
    assert not ack.body
    await bot.told("U0STRANGER", "Nothing was done")
    assert bot.journaled("select count(*) from backout.runs") == [(0,)]
    assert bot.cards() == []


async def test_a_requester_approves_their_own_run_only_where_the_policy_lets_them(make_bot: MakeBot) -> None:
    lenient = policy(medium={"approve": {"dba": 1}, "within": "4h", "self": True})
    bot = await make_bot(top={"policy": lenient})
    card = await ask(bot, user="U0DBA")
    assert "somebody else" in await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA"))
    await approve(bot, "U0DBA", "cancel")
    await ends(bot, "aborted")
    await ask(bot, "0004 sev medium because checkout is slow", user="U0DBA")
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")
    assert bot.stands() == "0004"


async def test_two_seats_need_two_people_and_the_press_that_fills_the_last_starts_the_run(make_bot: MakeBot) -> None:
    bot = await make_bot(top={"roles": roles(**{"team-lead": ["U0DBA"]})})
    card = await ask(bot, CRITICAL)
    assert ("Withdraw", "withdraw") not in buttons(card), "there is nothing to withdraw yet"
    await approve(bot, "U0DBA")  # holds both roles: the first open seat in the policy's order
    await bot.until(lambda: ("Withdraw", "withdraw") in buttons(bot.card() or {}), what="one seat filled")
    assert [(one["by"], one["role"]) for one in bot.events("approved")] == [("U0DBA", "dba")]
    assert "already" in await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA"))
    assert "no approval" in await denied(bot, "U0LEAD", "withdraw", bot.slack.click(card, "withdraw", "U0LEAD"))
    await approve(bot, "U0DBA", "withdraw")
    await bot.until(lambda: ("Withdraw", "withdraw") not in buttons(bot.card() or {}), what="withdrawn")
    assert bot.events("started") == []
    # From the user group, and before the seat that stands first.
    await approve(bot, "U0LEAD")
    await bot.until(lambda: len(bot.events("approved")) == 2, what="the lead's seat filled")
    assert bot.events("approved")[-1] == {"by": "U0LEAD", "role": "team-lead", "digest": payload(card)["digest"]}
    assert bot.events("started") == [], "one seat is open still"
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")
    assert "U0DBA" in bot.thread()
    assert "U0LEAD" in bot.thread()


async def test_presses_that_meet_count_once(make_bot: MakeBot) -> None:
    bot = await make_bot(http=True, top={"roles": roles(dba=["U0DBA", "U0SENIOR"])})
    card = await ask(bot, CRITICAL)
    presses = [bot.slack.click(card, "approve", "U0DBA") for _ in range(4)]
    assert all(ack.ok for ack in await asyncio.gather(*presses))
    await bot.until(lambda: len(bot.events("denied")) == 3, what="three of four presses denied")
    assert [(one["by"], one["role"]) for one in bot.events("approved")] == [("U0DBA", "dba")]
    assert bot.state() == "awaiting_approval"
    await approve(bot, "U0DEV", "cancel")
    await ends(bot, "aborted")
    # Two people, one seat.
    card = await ask(bot)
    both = [bot.slack.click(card, "approve", user) for user in ("U0DBA", "U0SENIOR")]
    assert all(ack.ok for ack in await asyncio.gather(*both))
    await ends(bot, "succeeded")
    assert len(bot.events("approved")) == 2, "one for each run"
    assert len(bot.events("started")) == 1
    winner = bot.events("approved")[-1]["by"]
    loser = {"U0DBA": "U0SENIOR", "U0SENIOR": "U0DBA"}[winner]
    await bot.until(lambda: bot.slack.ephemerals(loser), what="the slower one told")
    assert bot.events("denied")[-1]["by"] == loser


async def test_reject_asks_for_the_reason_and_ends_the_run(make_bot: MakeBot) -> None:
    bot = await make_bot()
    card = await ask(bot)
    ack = await bot.slack.click(card, "reject", "U0DBA")
    assert ack.ok
    view = await bot.until(lambda: bot.slack.views("U0DBA"), what="the form for the reason")
    form = view[-1]
    assert form["callback_id"] == "backout_reject"
    inputs = [block for block in form["blocks"] if block["type"] == "input"]
    assert [(block["block_id"], block["element"]["action_id"]) for block in inputs] == [("reason", "reason")]
    assert bot.state() == "awaiting_approval", "opening the form ends nothing"
    sent = await bot.slack.submit(form, {"reason": "the fix forward <!channel> is on its way"}, "U0DBA")
    assert sent.ok
    assert not sent.body
    await ends(bot, "rejected")
    assert "<!channel>" not in bot.thread()
    assert "the fix forward" in bot.thread()
    assert (await bot.reported()).startswith("# Post-mortem: shop 0005 -> 0004: rejected\n")
    assert bot.stands() == "0005"


async def test_a_run_that_is_cancelled_ends_after_the_current_step_and_starts_the_writers(make_bot: MakeBot) -> None:
    bot = await make_bot(verify=AT_THE_GATE)
    gate = Gate(bot)
    card = await ask(bot)
    gate.close()
    await approve(bot, "U0DBA")
    await gate.reached()
    running = await bot.card_in("running")
    assert buttons(running) == [("Cancel", "cancel")]
    await denied(bot, "U0BYSTANDER", "cancel", bot.slack.click(running, "cancel", "U0BYSTANDER"))
    await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA", stale=True))
    await approve(bot, "U0DEV", "cancel")
    await bot.until(lambda: bot.events("cancel_requested"), what="cancelling")
    assert bot.state() == "running", "the current step is finished first"
    again = await denied(bot, "U0DEV", "cancel", bot.slack.click(running, "cancel", "U0DEV", stale=True))
    assert "ending" in again
    gate.open()
    await ends(bot, "aborted")
    assert [one["step"] for one in bot.events("step_done")] == ["check_preconditions", "start_writers"]
    assert bot.stands() == "0005"


async def test_another_script_voids_the_approvals_where_everybody_sees_it(make_bot: MakeBot) -> None:
    bot = await make_bot()
    card = await ask(bot)
    edit(bot, "op.drop_column('orders', 'score')", "op.drop_column('orders', 'score')\n    op.drop_column('orders', 'note')")
    await approve(bot, "U0DBA")
    await bot.until(lambda: bot.state() == "awaiting_approval" and payload(bot.card() or {})["digest"] != payload(card)["digest"], what="asked again")
    assert bot.stands() == "0005", "nothing was executed"
    await bot.until(lambda: "void" in bot.thread(), what="told that the approvals are void")
    renewed = bot.card()
    assert renewed is not None
    assert ("Withdraw", "withdraw") not in buttons(renewed), "no approval is left"
    assert len(bot.cards()) == 1
    old = await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA", stale=True))
    assert "old" in old
    await approve(bot, "U0DBA")
    # What was approved anew is carried out, and no decision is asked for about the attempt that found the change.
    state = await bot.until(lambda: bot.state() in ("succeeded", "needs_decision") and bot.state(), what="carried out")
    assert state == "succeeded"
    await ends(bot, "succeeded")
    assert [one["digest"] for one in bot.events("approved")] == [payload(card)["digest"], payload(renewed)["digest"]]
    assert bot.query("select column_name from information_schema.columns where table_name = 'orders' order by 1") == [("id",), ("name",)]


async def test_what_would_be_lost_raises_the_seats(make_bot: MakeBot) -> None:
    by_loss = policy(loss={"medium": {"dba": 1}, "high": {"team-lead": 1, "dba": 1}})
    bot = await make_bot(top={"policy": by_loss})
    await ask(bot)  # drops a column
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")
    card = await ask(bot, "0003 sev high because customers are gone")  # drops a table
    await approve(bot, "U0DBA")
    await bot.until(lambda: len(bot.events("approved")) == 2, what="the first of two seats filled")
    assert len(bot.events("started")) == 1, "a table is worth another approval"
    await denied(bot, "U0DBA", "approve", bot.slack.click(card, "approve", "U0DBA"))
    await approve(bot, "U0LEAD")
    await ends(bot, "succeeded")
    assert bot.stands() == "0003"


def edit(bot: Bot, old: str, new: str) -> None:
    """Somebody deploys another script for 0005."""
    folder = Path(bot.config["targets"]["shop"]["tool"]["directory"]) / "migrations" / "versions"
    script = next(folder.glob("0005_*.py"))
    script.write_text(script.read_text().replace(old, new))
