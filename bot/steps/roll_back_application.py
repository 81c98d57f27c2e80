"""The application's own way back: made what it was before its last change, while it is stopped, so that it starts on the schema it knows."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=30), destructive=False, says="roll the application back")
async def roll_back_application(world: World) -> Evidence:
    """To exactly what the plan names: people approved it, and a deploy since then changes nothing of it."""
    former = next(each.params["former"] for each in world.plan.steps if each.name == "roll_back_application")
    facts = await world.target.platform.roll_back(former, world)
    return Evidence(str(facts["says"]), facts)
