"""The application, once its writers are back."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import StepFailed


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=10), destructive=False, says="look at the application's health")
async def look_at_health(world: World) -> Evidence:
    found = await world.health(world)
    if bad := [one for one in found if one["ok"] is False]:
        raise StepFailed(f"The application is not well: {bad[0]['says']}", {"checks": found})
    return Evidence("; ".join(one["says"] for one in found), {"checks": found})
