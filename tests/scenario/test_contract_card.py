"""The card and the form, to the letter of the contract."""

from __future__ import annotations

from typing import Any

from tests.harness import CHANNEL, Bot, Json
from tests.scenario.conftest import MakeBot
from tests.scenario.parts import ASK, AT_THE_GATE, Gate, approve, ask, buttons, ends, payload, rows, run_of


def writes(bot: Bot) -> list[Json]:
    """Everything that Slack was sent for cards, in order."""
    calls = [dict(call.args) for call in bot.slack.calls if call.method in ("chat.postMessage", "chat.update") and call.error is None]
    return [one for one in calls if (one.get("metadata") or {}).get("event_type") == "backout_card"]


async def test_the_card_is_one_message_that_says_its_state_in_text_and_metadata(make_bot: MakeBot) -> None:
    bot = await make_bot(verify=AT_THE_GATE)
    gate = Gate(bot)
    card = await ask(bot)
    run = run_of(card)
    digest = payload(card)["digest"]
    assert card["text"] == f"shop: 0005 -> 0004 · awaiting_approval · {run}"
    expected = {"run": run, "target": "shop", "state": "awaiting_approval", "from": "0005", "to": "0004", "severity": "high", "digest": digest}
    assert payload(card) == {**expected, "seq": payload(card)["seq"]}
    assert len(digest) == 64
    assert buttons(card) == [("Approve", "approve"), ("Reject", "reject"), ("Cancel", "cancel")]
    gate.close()
    await approve(bot, "U0DBA")
    running = await bot.card_in("running")
    assert buttons(running) == [("Cancel", "cancel")]
    for shown in (card, running):
        (row,) = rows(shown)
        assert row["block_id"] == f"backout:{run}"
        assert {element["value"] for element in row["elements"]} == {f"{run}:{digest}"}
    gate.open()
    done = await ends(bot, "succeeded")
    assert done["text"] == f"shop: 0005 -> 0004 · succeeded · {run}"
    sent = writes(bot)
    assert len({one.get("ts", card["ts"]) for one in sent}) == 1, "posted once, then edited"
    seqs = [one["metadata"]["event_payload"]["seq"] for one in sent]
    assert seqs == sorted(seqs), "seq only grows"
    assert seqs[-1] > seqs[0]
    for one in sent:
        told = one["metadata"]["event_payload"]
        assert set(told) == {"run", "target", "state", "from", "to", "severity", "digest", "seq"}
        assert one["text"] == f"shop: {told['from'] or '?'} -> {told['to']} · {told['state']} · {run}"
        assert one["channel"] == CHANNEL
    assert [message["ts"] for message in bot.slack.messages(CHANNEL)] == [card["ts"]], "everything else is in its thread"


async def test_planning_that_takes_long_shows_a_card_that_can_be_cancelled(make_bot: MakeBot) -> None:
    bot = await make_bot(verify=AT_THE_GATE)
    gate = Gate(bot)
    gate.close()
    await bot.ask("-1 sev low because reports are slow")
    card = await bot.card_in("planning")
    assert buttons(card) == [("Cancel", "cancel")]
    assert (payload(card)["from"], payload(card)["to"], payload(card)["digest"]) == ("", "-1", "")
    await approve(bot, "U0DEV", "cancel")
    gate.open()
    await ends(bot, "aborted")
    assert bot.events("planned") == [], "a plan that nobody wants any more is not stored"
    assert bot.stands() == "0005"


async def test_while_it_is_tried_on_a_copy_nobody_is_asked_and_it_can_be_cancelled(make_bot: MakeBot) -> None:
    bot = await make_bot(rehearsal={"server": "throwaway"})
    await bot.ask(ASK)
    card = await bot.card_in("rehearsing")
    run = run_of(card)
    assert buttons(card) == [("Cancel", "cancel")]
    (row,) = rows(card)
    assert (row["block_id"], row["elements"][0]["value"]) == (f"backout:{run}", f"{run}:")
    assert (payload(card)["from"], payload(card)["to"], payload(card)["digest"]) == ("0005", "0004", "")
    assert "Production is not touched" in str(card["blocks"][1])
    assert bot.events("asked") == []
    await approve(bot, "U0DEV", "cancel")
    done = await ends(bot, "aborted")
    assert "Nothing was changed." in str(done["blocks"][1])
    assert bot.stands() == "0005"


async def test_a_reapply_goes_forward_again_by_its_own_form_and_card(make_bot: MakeBot) -> None:
    bot = await make_bot()
    await ask(bot)
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")
    await bot.ask("reapply 0005 sev low")
    form = (await bot.until(lambda: bot.slack.views("U0DEV"), what="the form of a reapply"))[-1]
    assert form["callback_id"] == "backout_request"
    assert [block["block_id"] for block in form["blocks"] if block["type"] == "input"] == ["target", "rev", "reason", "severity"]
    await bot.slack.submit(form, {"reason": "the fix is out"}, "U0DEV")
    await bot.until(lambda: len(bot.cards()) > 1 and bot.state() == "awaiting_approval", what="asked to go forward again")
    card = await bot.card_in("awaiting_approval")
    run = run_of(card)
    assert card["text"] == f"shop: 0004 -> 0005 · awaiting_approval · {run}"
    assert buttons(card) == [("Approve", "approve"), ("Reject", "reject"), ("Cancel", "cancel")]
    assert "go forward again to `0005`" in str(card["blocks"][1])
    await approve(bot, "U0DEV", "cancel")
    assert (await ends(bot, "aborted"))["text"] == f"shop: 0004 -> 0005 · aborted · {run}"
    assert bot.stands() == "0004"


async def test_what_is_ticked_holds_no_button_back_and_what_is_not_stands_in_the_report(make_bot: MakeBot) -> None:
    bot = await make_bot(checklist=["Deploys are frozen", "Support knows"], questions=["Is a fix forward faster?"])
    card = await ask(bot)
    boxes = [element for block in card["blocks"] for element in block.get("elements", ()) if element["type"] == "checkboxes"]
    assert [option["text"]["text"] for element in boxes for option in element["options"]] == [
        "Is a fix forward faster?", "Deploys are frozen", "Support knows",
    ]  # fmt: skip
    frozen = boxes[1]["options"][0]["value"]
    await bot.slack.check(card, boxes[1]["action_id"], [frozen], "U0BYSTANDER")
    await bot.until(lambda: bot.events("ticked"), what="ticked")
    assert ("Approve", "approve") in buttons(bot.card() or {})
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")
    report = await bot.reported()
    assert "- [x] Deploys are frozen" in report
    assert "- [ ] Support knows" in report
    assert "- [ ] Is a fix forward faster?" in report


FORMS = (
    ("", {"target": "shop"}),
    ("0004", {"target": "shop", "rev": "0004"}),
    ("0004 sev high", {"target": "shop", "rev": "0004", "severity": "high"}),
    ("shop –1 because “checkout is down”", {"target": "shop", "rev": "-1", "reason": "checkout is down"}),
)


async def test_what_is_missing_is_asked_for_in_a_form_that_knows_the_rest(make_bot: MakeBot) -> None:
    bot = await make_bot()
    for text, given in FORMS:
        for old in bot.slack.views("U0DEV"):
            bot.slack.close_view("U0DEV", old["id"])
        await bot.ask(text)
        form = (await bot.until(lambda: bot.slack.views("U0DEV"), what=f"the form after {text!r}"))[-1]
        assert form["callback_id"] == "backout_request"
        inputs = {block["block_id"]: block["element"] for block in form["blocks"] if block["type"] == "input"}
        assert list(inputs) == ["target", "rev", "reason", "severity"]
        assert all(element["action_id"] == block_id for block_id, element in inputs.items())
        assert {name: before for name, element in inputs.items() if (before := prefilled(element))} == given
        assert bot.journaled("select count(*) from backout.runs") == [(0,)]
    ack = await bot.slack.submit(form, {"severity": "high"}, "U0DEV")
    assert ack.ok
    assert not ack.body
    card = await bot.card_in("awaiting_approval")
    assert (payload(card)["to"], payload(card)["severity"]) == ("0004", "high")
    assert bot.events("requested")[-1]["reason"] == "checkout is down"


def prefilled(element: Json) -> Any:
    return element.get("initial_value") or element.get("initial_option", {}).get("value")


async def test_no_form_is_opened_for_anything_else(make_bot: MakeBot) -> None:
    bot = await make_bot()
    # A form with two revisions in one field: the answer is private, and nothing begins.
    await bot.ask("0004")
    form = (await bot.until(lambda: bot.slack.views("U0DEV"), what="the form"))[-1]
    await bot.slack.submit(form, {"rev": "0004 0003", "reason": "x", "severity": "high"}, "U0DEV")
    await bot.told("U0DEV", "one revision")
    opened = len([call for call in bot.slack.calls if call.method == "views.open"])
    for text, answer in (
        ("help", "REV is the one that stays"),
        ("0004 sev urgent because x", "critical, high, medium, low"),
        ("0004 0003", "one word too many"),
        ("plan 0004", "This would undo"),
        ("status", "no run in this channel"),
        ("warehouse 0004 sev high because x", "one word too many"),
        ("9999 sev high because x", "unknown_revision"),
        ("0005 sev high because x", "nothing_to_roll_back"),
    ):
        before = len(bot.slack.ephemerals("U0DEV"))
        await bot.ask(text)
        await bot.until(lambda before=before: len(bot.slack.ephemerals("U0DEV")) > before, what=f"an answer to {text!r}")
        assert answer in str(bot.slack.ephemerals("U0DEV")[-1]["text"]), text
    await bot.ask("check")
    await bot.told("U0DEV", "can be rolled back right now")
    assert len([call for call in bot.slack.calls if call.method == "views.open"]) == opened
    silent = bot.journaled("select run from backout.events group by run having max(at) - min(at) < interval '3 s'")
    assert {run_of(card) for card in bot.cards()}.isdisjoint(row[0] for row in silent), "a plan that is refused at once leaves no card"
    assert len(bot.slack.messages(CHANNEL)) == len(bot.cards())
    assert all(ack.ok and not ack.body for ack in bot.slack.acks)
