"""Forward again: the tool's own upgrade, to one absolute revision, at most once."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.steps.move import did_it_happen, heads, move


@step(on_crash=OnCrash.PROBE, probe=did_it_happen, timeout=dt.timedelta(hours=2), destructive=True, says="upgrade")
async def upgrade(world: World) -> Evidence:
    plan = world.plan
    scripts = {each.revision: each.sha256 for each in plan.undone}
    return await move(world, lambda: world.target.tool.upgrade(plan.to, world, from_=heads(plan.from_), scripts=scripts))
