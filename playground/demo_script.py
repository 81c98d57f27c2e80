"""The scripted demo: one whole rollback, told as it happens."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp

from playground.demo_screen import DECISION, Screen, card_state
from playground.demo_stage import CHANNEL, COMMAND, PEOPLE, DemoFailed, Stage, StartPostgres, staged
from playground.slack.model import Ack, Json, wall_clock

T = TypeVar("T")

_WRONG = "U0SENIOR"
_OVER = frozenset({"succeeded", "failed", "aborted", "rejected", "expired", "refused", "needs_decision"})
_NEXT = (
    "The databases, the migration, the backup and the bot were real; only Slack was a stand-in. The servers are stopped and their folder is removed. "
    "Next: “Read on” in README.md. “install” and “configure” bring Backout to your own Slack and database, “for approvers” is for those who will be "
    "asked, and “operate” is for the night it matters."
)


async def play(start_postgres: StartPostgres, screen: Screen, pause: float) -> None:
    """`pause`: seconds before each scene. Raises DemoFailed, and what its parts raise when they can't be started."""
    screen.tell("Starting a Postgres with a shop of 150,000 rows in it, a stand-in for Slack, and Backout as its own process. A few seconds.")
    async with staged(start_postgres) as stage:
        summary = await _Story(stage, screen, pause).told()
    screen.scene("That was it")
    screen.tell(summary)


class _Story:
    """The evening of the incident, scene by scene. Whatever doesn't go as it should raises DemoFailed."""

    def __init__(self, stage: Stage, screen: Screen, pause: float) -> None:
        self._stage, self._screen, self._slack, self._pause = stage, screen, stage.slack, pause
        self._at: dict[str, dt.datetime] = {}

    async def told(self) -> str:
        """Play it; returns what is to be said at the end."""
        card = await self._asked()
        await self._pressed_by_the_wrong_person(card)
        await self._approved(card)
        await self._carried_out()
        await self._reported()
        asked, approved, healthy = (self._at[moment] for moment in ("asked", "approved", "healthy"))
        return (
            f"Asked for at {asked:%H:%M:%S}, approved at {approved:%H:%M:%S}, selling again at {healthy:%H:%M:%S} UTC: "
            f"{(healthy - asked).total_seconds():.0f} seconds in all, {(healthy - approved).total_seconds():.0f} of them after the approval. "
            f"{_NEXT}"
        )

    async def _scene(self, title: str) -> None:
        self._screen.catch_up(self._slack)
        await asyncio.sleep(self._pause)
        self._screen.scene(title)

    async def _asked(self) -> Json:
        await self._scene("Checkout is down")
        await self._look(healthy=False)
        await self._done(self._slack.say(CHANNEL, "U0DEV", "Checkout is down since the deploy. Every order fails."))
        self._screen.tell(f"Dev types: /rollback {COMMAND}")
        self._at["asked"] = wall_clock()
        await self._done(self._slack.command(CHANNEL, "U0DEV", "/rollback", COMMAND))
        card = await self._card_in(DECISION)
        await self._until(lambda: self._slack.dms("U0DBA"), "Dana was asked")
        return card

    async def _pressed_by_the_wrong_person(self, card: Json) -> None:
        await self._scene("Somebody presses a button that isn't theirs")
        self._screen.tell("Sam, a senior backend engineer and no DBA, presses [Approve].")
        await self._done(self._slack.click(card, "approve", _WRONG))
        await self._until(lambda: self._slack.ephemerals(_WRONG), "Sam was told why not")

    async def _approved(self, card: Json) -> None:
        await self._scene("The DBA approves")
        self._screen.tell("Dana presses [Approve]. It was the only open seat, so the run starts.")
        self._at["approved"] = wall_clock()
        await self._done(self._slack.click(card, "approve", "U0DBA"))
        await self._card_in("running")
        await self._done(self._slack.say(CHANNEL, "U0DEV", "Deploys are frozen, the team knows.", card["ts"]))

    async def _carried_out(self) -> None:
        await self._card_in("succeeded")
        self._at["healthy"] = wall_clock()
        await self._scene("The shop sells again")
        await self._look(healthy=True)

    async def _reported(self) -> None:
        file = await self._until(lambda: next((each for each in self._slack.files() if each.name.startswith("post-mortem-")), None), "the report")
        await self._scene("What the team reads the next day")
        self._screen.show(f"the file {file.name}", file.text)

    # -------------------------------------------------------------- doing and waiting

    async def _done(self, action: Awaitable[Ack]) -> None:
        ack = await action
        if not ack.ok:
            raise DemoFailed(f"The bot did not take it: {ack.problem or ack.status}.")
        self._screen.catch_up(self._slack)

    async def _until(self, condition: Callable[[], T | None], what: str) -> T:
        """Drawing what is new meanwhile. An answer that only one person sees is a refusal: nobody but the wrong person should get one."""

        def standing() -> T | None:
            self._screen.catch_up(self._slack)
            if any(self._slack.ephemerals(user) for user in PEOPLE if user != _WRONG):
                raise DemoFailed(f"The bot refused before {what}; its answer is the last one above.")
            return condition()

        return await self._stage.until(standing, what)

    async def _card_in(self, state: str) -> Json:
        def standing() -> Json | None:
            cards = [message for message in self._slack.messages(CHANNEL) if card_state(message) in {state, *_OVER}]
            return cards[-1] if cards else None

        card = await self._until(standing, f"the card was in {state}")
        if card_state(card) not in {state, "succeeded"}:
            raise DemoFailed(f"The card went to {card_state(card)} instead of {state}:\n{self._slack.render(card)}")
        return card

    async def _look(self, *, healthy: bool) -> None:
        """Ask the shop whether it sells."""
        address = f"{self._stage.shop}/health"
        async with aiohttp.ClientSession() as session, session.get(address) as answer:
            status, said = answer.status, await answer.text()
        self._screen.tell(f"GET {address} -> {status} {said}")
        if (status == 200) is not healthy:
            raise DemoFailed(f"The shop should be {'healthy' if healthy else 'unhealthy'} now.")
