"""All platforms of a target: stopped in the order of backout.yml, started in reverse; and nobody but us in the database, door or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from bot.errors import Refusal, StepFailed
from bot.keeping import Work
from bot.place import Connect, Session
from bot.platforms.services import BY_HAND
from bot.running import Platform
from bot.words import many

_LEAVE = 30.0  # seconds that sessions get to go once their services have stopped
_PAUSE = 0.2
_SHOWN = 3


#: sessions of the target's database that aren't ours, and prepared transactions (pid 0). Raises Refusal, StepFailed, OutcomeUnknown
Strangers = Callable[[], Awaitable[tuple[Session, ...]]]
#: what lives in the database by itself and was kept out meanwhile comes back
Wake = Callable[[], Awaitable[None]]


class Several:
    """Implements running.Platform. Where one of them is the door, the door proves that nobody is inside."""

    stops = True
    has_services = True

    def __init__(self, platforms: Sequence[Platform], strangers: Strangers, *, wake: Wake | None = None, patience: float = _LEAVE) -> None:
        self.kind = " + ".join(one.kind for one in platforms)
        self._platforms, self._strangers, self._wake, self._patience = tuple(platforms), strangers, wake, patience
        self.migrates_on_start = any(one.migrates_on_start for one in platforms)
        self.rolls_back = any(one.rolls_back for one in platforms)
        self._door = any(one.kind == "database" for one in platforms)

    async def ready(self) -> tuple[Refusal, ...]:
        return tuple([refusal for one in self._platforms for refusal in await one.ready()])

    async def stop_writers(self, work: Work) -> Mapping[str, Any]:
        facts: dict[str, Any] = {}
        said = []
        for one in self._platforms:
            found = await one.stop_writers(work)
            said.append(str(found["says"]))
            facts |= found
        if not self._door:
            await self._seen_gone(work)
            said.append("nobody else is in the database")
        return {**facts, "says": "; ".join(said)}

    async def _seen_gone(self, work: Work) -> None:
        """Sessions end a moment after their programs. Raises StepFailed, which names who remains."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience
        while there := await self._strangers():
            if loop.time() >= until:
                raise _still_there(there)
            await work.progress(f"waiting for {many(len(there), 'session')} to leave: {_names(there)}")
            await asyncio.sleep(_PAUSE)

    async def prove_stopped(self, work: Work) -> None:
        for one in self._platforms:
            await one.prove_stopped(work)
        if not self._door and (there := await self._strangers()):
            raise _still_there(there)

    async def start_writers(self, work: Work) -> Mapping[str, Any]:
        """A failing one stops the line, unless the run leaves: then whatever can be started is, and all that could not is named."""
        facts: dict[str, Any] = {}
        said: list[str] = []
        failed: list[StepFailed] = []
        for one in reversed(self._platforms):
            try:
                found = await one.start_writers(work)
            except StepFailed as error:
                failed.append(error)
                if work.leaving:
                    continue
                break
            said.append(str(found["says"]))
            facts |= found
        if self._wake is not None and not self._door:
            await self._wake()
        if failed:
            by_hand = [line for error in failed for line in error.facts.get(BY_HAND, ())]
            raise StepFailed(" ".join(error.message for error in failed), {**failed[0].facts, BY_HAND: by_hand})
        return {**facts, "says": "; ".join(said)}

    async def entrance(self, work: Work) -> Connect | None:
        for one in self._platforms:
            if (connect := await one.entrance(work)) is not None:
                return connect
        return None

    async def former(self) -> Mapping[str, Any]:
        return {place: each for one in self._platforms for place, each in (await one.former()).items()}

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> Mapping[str, Any]:
        said = [str((await one.roll_back(former, work))["says"]) for one in self._platforms]
        return {"says": "; ".join(filter(None, said))}

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        return {service: told for one in self._platforms for service, told in (await one.logs(lines)).items()}


def _still_there(there: Sequence[Session]) -> StepFailed:
    told = f"The services have stopped, but sessions of others are in the database ({len(there)}): {_names(there)}."
    facts = {"strangers": [one.model_dump(mode="json") for one in there[:10]]}
    return StepFailed(f"{told} Nothing was executed. End them, or stop what they belong to, then retry.", facts)


def _names(there: Sequence[Session]) -> str:
    named = [_name(one) for one in there[:_SHOWN]]
    return ", ".join(named) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")


def _name(one: Session) -> str:
    if not one.pid:
        return str(one.state)
    return f"{one.pid} ({one.user or 'unknown'}{f', {one.application}' if one.application else ''})"
