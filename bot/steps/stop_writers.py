"""Nobody but us writes from here on: what is stopped is written down first, and is started again at every end."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step

LINES = 50  #: of each service's log, kept as evidence before and after


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=15), destructive=False, says="stop the writers")
async def stop_writers(world: World) -> Evidence:
    logs = await world.target.platform.logs(LINES)
    if logs:
        await world.remember(logs={name: list(lines) for name, lines in logs.items()})
    facts = await world.target.platform.stop_writers(world)
    return Evidence(str(facts["says"]), facts)
