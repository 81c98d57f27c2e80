"""The way out of every run: what was stopped is started again."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.steps.deploy_backup import left_staged
from bot.steps.replace import let_in


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=15), destructive=False, says="start the writers")
async def start_writers(world: World) -> Evidence:
    there: dict[str, object] = {"database": await let_in(world)} if world.plan.way.in_place else {}
    left = await left_staged(world) if world.plan.way.at_provider else ""
    facts = await world.target.platform.start_writers(world)
    if left:
        there["left"] = left
    return Evidence(" ".join(filter(None, (str(facts["says"]) + ("." if left else ""), left))), {**facts, **there})
