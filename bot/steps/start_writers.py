"""The way out of every run: what was stopped is started again."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.steps.replace import let_in


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=15), destructive=False, says="start the writers")
async def start_writers(world: World) -> Evidence:
    there = {"database": await let_in(world)} if world.plan.way.in_place else {}
    facts = await world.target.platform.start_writers(world)
    return Evidence(str(facts["says"]), {**facts, **there})
