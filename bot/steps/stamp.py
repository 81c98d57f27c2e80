"""Only the version table: the tool writes down where the database stands, and no script runs."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.steps.move import did_it_happen, move


@step(on_crash=OnCrash.PROBE, probe=did_it_happen, timeout=dt.timedelta(minutes=15), destructive=True, says="write the revision down")
async def stamp(world: World) -> Evidence:
    return await move(world, lambda: world.target.tool.stamp(world.plan.to, world))
