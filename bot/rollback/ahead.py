"""What a rehearsal does before it has a dump: its server, and on it the databases that the history builds from nothing.

While the dump is taken, one session reads and hardly anything else has to do. What fails here is tried again, and told, when its time has come.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from bot.durable import World
from bot.errors import BackoutError
from bot.evidence import Snapshot
from bot.finishing import whatever_happens
from bot.model import Plan, State
from bot.ports import Scratch, Scratches
from bot.steps.move import heads

log = logging.getLogger(__name__)

BUILT = "backout_built"
#: a database that is built from nothing, at the lower revision of a plan and then at the upper one. Raises StepFailed, OutcomeUnknown, Refusal.
Built = Callable[[], Awaitable[tuple[Snapshot, Snapshot]]]


class _Early(World):
    """Work for a rehearsal whose step has not begun: nothing of it is remembered or shown."""

    async def may_begin(self) -> bool:
        return (await self.journal.run(self.run)).state is State.REHEARSING

    async def remember(self, **facts: object) -> None: ...

    async def progress(self, text: str) -> None: ...


class Ahead:
    """Begins as it is made. `close` ends it, whatever became of it."""

    def __init__(self, world: World, scratches: Scratches) -> None:
        self._world = _Early(**{each.name: getattr(world, each.name) for each in dataclasses.fields(world)})
        self._scratches = scratches
        self._there: asyncio.Future[tuple[Scratch, Built]] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._hold())

    async def found(self) -> tuple[Scratch, Built] | None:
        """None: it could not be opened."""
        either: set[asyncio.Future[Any]] = {self._there, self._task}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return self._there.result() if self._there.done() else None

    async def close(self) -> None:
        self._over.set()
        await asyncio.wait({self._task})

    async def _hold(self) -> None:
        try:
            async with self._scratches.open(self._world, early=True) as scratch:
                building = asyncio.create_task(self._build(scratch))
                try:
                    self._there.set_result((scratch, lambda: asyncio.shield(building)))
                    await self._over.wait()
                finally:
                    building.cancel()
                    await asyncio.gather(building, return_exceptions=True)
        except BackoutError as error:
            log.info("what was done ahead for the rehearsal of %s ended with: %s", self._world.run, error)

    async def _build(self, scratch: Scratch) -> tuple[Snapshot, Snapshot]:
        found = await built(self._world, scratch)
        await scratch.at(BUILT)[1].prepare()
        return found


@asynccontextmanager
async def opened(world: World, scratches: Scratches, ahead: Ahead | None, *, sampled: bool) -> AsyncIterator[tuple[Scratch, Built]]:
    """The server for the copy, gone afterwards: the one that was opened ahead, else a new one. Raises Refusal(rehearsal_impossible)."""
    if ahead is not None and (found := await ahead.found()) is not None:
        try:
            yield found
        finally:
            await whatever_happens(ahead.close())
    else:
        async with scratches.open(world, sampled=sampled) as scratch:
            yield scratch, lambda: built(world, scratch)


async def built(world: World, scratch: Scratch) -> tuple[Snapshot, Snapshot]:
    """Lower, upper. By the scripts as they lie there now."""
    await scratch.create(BUILT)
    try:
        database, tool = scratch.at(BUILT)
        seen, stands = [], "base"
        for revision in _between(world.plan):
            await world.progress(f"building {revision} from nothing")
            if revision != "base":
                await tool.upgrade(revision, world, from_=heads(stands), scripts=None)
            stands = revision
            seen.append(await database.snapshot(count=False))
        return seen[0], seen[1]
    finally:
        await scratch.drop(BUILT)


def _between(plan: Plan) -> tuple[str, str]:
    return (plan.to, plan.from_) if plan.strategy == "downgrade" else (plan.from_, plan.to)
