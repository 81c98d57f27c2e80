"""What several stories share: reading a card, being denied, and a gate that holds a running step for as long as a story needs."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import psycopg

from tests.harness import Bot, Json

ASK = "0004 sev high because checkout is down"

#: a verification that stands still while the gate is closed
AT_THE_GATE: list[Json] = [{"name": "gate", "sql": "select wait_at_gate()"}]

_GATE = """
CREATE TABLE gate (closed int);
CREATE FUNCTION wait_at_gate() RETURNS int LANGUAGE plpgsql AS $$
BEGIN WHILE EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN 0; END $$"""


def execute(bot: Bot, sql: str) -> None:
    """In the target, as its owner."""
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute(sql)  # type: ignore[arg-type]


class Gate:
    """Open when it is built. While closed, whoever calls wait_at_gate() in the target waits."""

    def __init__(self, bot: Bot) -> None:
        self._bot = bot
        execute(bot, _GATE)

    def close(self) -> None:
        execute(self._bot, "INSERT INTO gate VALUES (1)")

    def open(self) -> None:
        execute(self._bot, "DELETE FROM gate")

    async def reached(self) -> None:
        """Somebody stands at it."""
        waits = "select 1 from pg_stat_activity where query like 'select wait_at_gate()%' and state = 'active'"
        await self._bot.until(lambda: self._bot.query(waits), what="at the gate")


async def refused(bot: Bot) -> Json:
    """The newest run's refusal, once it has one. What is refused at once gets no card."""
    newest = "select refusal from backout.runs where created = (select max(created) from backout.runs) and state = 'refused'"
    await bot.until(lambda: bot.journaled(newest), what="refused")
    return dict(bot.journaled(newest)[0][0])


def payload(card: Json) -> Json:
    """The metadata's payload."""
    return dict(card["metadata"]["event_payload"])


def run_of(card: Json) -> str:
    return str(payload(card)["run"])


def rows(card: Json) -> list[Json]:
    """The blocks with the card's buttons; boxes are not buttons."""
    actions = [block for block in card.get("blocks", ()) if block["type"] == "actions"]
    return [block for block in actions if any(element["type"] == "button" for element in block["elements"])]


def buttons(card: Json) -> list[tuple[str, str]]:
    """Label and action_id of every button, as people see them."""
    return [(element["text"]["text"], element["action_id"]) for block in rows(card) for element in block["elements"]]


def happened(bot: Bot) -> list[tuple[str, str]]:
    """Run and kind of everything in the journal, in order, but for denials."""
    return [(row[0], row[1]) for row in bot.journaled("select run, kind from backout.events where kind <> 'denied' order by at, seq")]


async def ask(bot: Bot, text: str = ASK, user: str = "U0DEV") -> Json:
    """Ask, and wait for the card of this new run that can be approved."""
    before = len(bot.cards())
    await bot.ask(text, user)
    await bot.until(lambda: len(bot.cards()) > before and bot.state() == "awaiting_approval", what="asked for approval")
    return await bot.card_in("awaiting_approval")


async def ends(bot: Bot, state: str) -> Json:
    """The card in this end, with the report beneath it, and nothing left to press."""
    card = await bot.card_in(state)
    name = f"post-mortem-{run_of(card)}.md"
    await bot.until(lambda: any(file.name == name for file in bot.slack.files()), what=f"{state} and reported")
    assert buttons(card) == [], f"{state} has nothing to press"
    return card


async def denied(bot: Bot, user: str, action: str, press: Awaitable[Any]) -> str:
    """The press is answered to that person alone, is in the journal, and does nothing else. Returns the answer."""
    before, denials, told = happened(bot), len(bot.events("denied")), len(bot.slack.ephemerals(user))
    views = len(bot.slack.views(user))
    ack = await press
    assert ack.ok
    assert not ack.body
    await bot.until(lambda: len(bot.slack.ephemerals(user)) > told, what=f"told {user} no")
    found = bot.events("denied")
    assert len(found) == denials + 1, "one press, one entry"
    assert (found[-1]["by"], found[-1]["action"]) == (user, action)
    assert happened(bot) == before, "nothing else happened"
    assert len(bot.slack.views(user)) == views, "no form was opened"
    said = str(bot.slack.ephemerals(user)[-1]["text"])
    assert said not in bot.thread(), "the channel sees nothing of it"
    return said


async def approve(bot: Bot, user: str, action: str = "approve") -> None:
    """Press on the card as it stands now."""
    card = bot.card()
    assert card is not None
    ack = await bot.slack.click(card, action, user)
    assert ack.ok
    assert not ack.body
