"""Backout as its own process beside a database, asked over the local Slack; what its journal says about the seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.ground import Ground, place
from playground import shop
from tests.harness import Bot, Json, configuration, workspace

_WITHIN = 3600.0
_READING = 5.0  # seconds: nobody approves faster
_UP = 3.0  # seconds that it has been up: it did not start for this command
_ENDS = ("succeeded", "failed", "aborted", "rejected", "expired", "refused", "needs_decision")

_ASKED = """SELECT extract(epoch FROM e.at - r.created) FROM backout.runs r JOIN backout.events e ON e.run = r.id AND e.kind = 'asked'"""
_CARRIED_OUT = """SELECT extract(epoch FROM r.ended - e.at) FROM backout.runs r JOIN backout.events e ON e.run = r.id AND e.kind = 'approved'"""
_STEPS = "SELECT step, sum(extract(epoch FROM ended - began)) FROM backout.attempts GROUP BY step ORDER BY min(place)"


@asynccontextmanager
async def deployed(ground: Ground, database: str, *, project: Path = shop.DIRECTORY, http: bool = False, **target: Any) -> AsyncIterator[Bot]:
    """`backout serve` for that database, ready; Backout's own role there is the superuser, the tool's an ordinary one."""
    root = place(ground.root)
    journal = f"journal_{root.name.lower()}"
    ground.execute(f'CREATE DATABASE "{journal}"', on=ground.journal)
    config = configuration(project, root, admin="${ADMIN_URL}", **target)
    async with workspace() as slack:
        bot = Bot(root, ground.owner(database), ground.journal.model_copy(update={"database": journal}), slack, config, http)
        bot.environ["ADMIN_URL"] = ground.superuser(database).url()
        try:
            await bot.start()
            await asyncio.sleep(_UP)
            yield bot
        finally:
            if bot.process is not None:
                await bot.kill()


async def asked(bot: Bot) -> Json:
    """The card that asks for approval, however long that takes."""
    await bot.ask("0004 sev high because this is measured")
    return await _card(bot, "awaiting_approval")


async def approved(bot: Bot, card: Json) -> None:
    """Read, press, and wait for the end. The reading is no part of any measure."""
    await asyncio.sleep(_READING)
    await bot.slack.click(card, "approve", "U0DBA")
    await _card(bot, "succeeded")


async def _card(bot: Bot, state: str) -> Json:
    await bot.until(lambda: _run(bot)[0] in {state, *_ENDS}, what=state, within=_WITHIN)
    stands, refusal = _run(bot)
    if stands != state:
        raise RuntimeError(f"{stands} instead of {state}: {refusal}\n{bot.thread()}")
    await bot.until(lambda: bot.state() == state, what=f"a card in {state}")
    card = bot.card()
    return card or {}


def _run(bot: Bot) -> tuple[str, Any]:
    """State and refusal of the only run, as the journal has them: a refused one may have no card."""
    found = bot.journaled("SELECT state, refusal FROM backout.runs")
    return (str(found[0][0]), found[0][1]) if found else ("", None)


def until_asked(bot: Bot) -> float:
    """Seconds from the command to the card that asks."""
    ((seconds,),) = bot.journaled(_ASKED)
    return float(seconds)


def from_approval(bot: Bot) -> float:
    """Seconds from the press to the end."""
    ((seconds,),) = bot.journaled(_CARRIED_OUT)
    return float(seconds)


def steps(bot: Bot) -> dict[str, float]:
    """Seconds by step, in order."""
    return {f"step {step}": float(seconds) for step, seconds in bot.journaled(_STEPS)}


def rehearsed(bot: Bot) -> dict[str, float]:
    """Seconds by what the rehearsal did, as its evidence has them. Raises RuntimeError when there was none."""
    ((found,),) = bot.journaled("SELECT plan -> 'rehearsal' FROM backout.runs")
    if not found["done"]:
        raise RuntimeError(f"there was no rehearsal: {found['why']}")
    return {f"rehearsal {name}": float(seconds) for name, seconds in found["seconds"].items()}
