"""Some minutes with the application back: does the revision stay, is it well, how fast does it answer?

A Cancel leaves the watch: everything was done and verified, so the run has succeeded.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import StepFailed
from bot.strategy import UNREAD

_EVERY = 5.0  # seconds between two looks
_RED = 3  # looks in a row after which the application is said to be unwell


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=2), destructive=False, says="watch the application")
async def watch(world: World) -> Evidence:
    """Raises StepFailed when the revision moves by itself, or health stays red."""
    seen = _Seen(world)
    until = world.clock.monotonic() + world.target.watch.total_seconds()
    while True:
        await seen.look()
        left = until - world.clock.monotonic()
        if left <= 0:
            return await seen.evidence("")
        if await world.ending():
            return await seen.evidence(f", left by a Cancel {left:.0f} s early")
        await world.progress(f"{seen.says()}; {left:.0f} s to go")
        await asyncio.sleep(min(_EVERY, left))


class _Seen:
    def __init__(self, world: World) -> None:
        self._world = world
        self._looks = self._red = 0
        self._seconds: list[float] = []
        deployed = world.earlier.get("deploy_backup") if world.plan.to == UNREAD else None
        self._to = str(deployed.facts["stands"]) if deployed is not None else world.plan.to

    async def look(self) -> None:
        world, plan = self._world, self._world.plan
        stands = await world.target.database.heads(*plan.version) if self._to != UNREAD else ()
        if self._to not in (UNREAD, ", ".join(stands) or "base"):
            now = ", ".join(stands) or "base"
            raise StepFailed(
                f"The database was at {self._to} and is at {now} again: something migrates it when it starts. "
                "Stop deploys, roll the application's own code back, then ask for a new rollback.",
                {"moved_by_itself": now},
            )
        self._looks += 1
        if world.target.health is None:
            return
        try:
            found = await world.health_now(world)
        except StepFailed as error:
            found = {"ok": False, "says": error.message}
        self._red = 0 if found["ok"] else self._red + 1
        if found.get("seconds") is not None:
            self._seconds.append(found["seconds"])
        if self._red >= _RED:
            raise StepFailed(f"The application is not well, {self._red} looks in a row: {found['says']}", {"health": found})

    def says(self) -> str:
        slow = f", answers in {sorted(self._seconds)[len(self._seconds) // 2] * 1000:.0f} ms" if self._seconds else ""
        return f"{self._looks} looks, the revision stayed at {self._to}{slow}"

    async def evidence(self, left: str) -> Evidence:
        facts: dict[str, Any] = {"looks": self._looks, "seconds": [round(one, 3) for one in self._seconds[-100:]]}
        facts["logs"] = {name: list(lines) for name, lines in (await self._world.target.platform.logs(50)).items()}
        return Evidence(self.says() + left, facts)
