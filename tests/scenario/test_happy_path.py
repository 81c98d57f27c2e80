"""`/rollback 0004` from the command to the post-mortem, with the bot as its own process."""

from __future__ import annotations

import pytest

from tests.harness import CHANNEL
from tests.scenario.conftest import MakeBot


@pytest.mark.parametrize("http", [True, False], ids=["HTTP", "Socket Mode"])
async def test_a_rollback_goes_from_the_command_to_the_post_mortem(make_bot: MakeBot, http: bool) -> None:
    bot = await make_bot(http=http)
    await bot.ask("0004 sev high because checkout is down")
    card = await bot.card_in("awaiting_approval")
    assert card["text"].startswith("shop: 0005 -> 0004 · awaiting_approval · r")
    await bot.told("U0DBA", "approval")
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.card_in("succeeded")
    report = await bot.reported()
    run = card["metadata"]["event_payload"]["run"]
    assert report.startswith("# Post-mortem: shop 0005 -> 0004: succeeded\n")
    assert bot.stands() == "0004"
    code, again = await bot.run("report", run)
    assert (code, again) == (0, report)
    seqs = [m["metadata"]["event_payload"]["seq"] for m in bot.cards()]
    assert len(seqs) == 1
    assert all(not ack.body for ack in bot.slack.acks)
    last = bot.slack.thread(card["ts"])[-1]
    assert any(file["name"] == f"post-mortem-{run}.md" for file in last["files"]), "the report is the run's last message"
    assert CHANNEL
