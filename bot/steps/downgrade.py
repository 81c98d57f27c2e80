"""The destructive step: the tool's own downgrade, to one absolute revision, at most once."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.steps.move import did_it_happen, move


@step(on_crash=OnCrash.PROBE, probe=did_it_happen, timeout=dt.timedelta(hours=2), destructive=True, says="downgrade")
async def downgrade(world: World) -> Evidence:
    return await move(world, lambda: world.target.tool.downgrade(world.plan.to, world))
