"""The plan on a copy: before anybody is asked, far from production, thrown away afterwards."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="try it on a copy")
async def rehearse(world: World) -> Evidence:
    """Raises Refusal(rehearsal_failed, empty_downgrade) for what the copy proved wrong; what can't be tried is a Rehearsal that was not done."""
    found = await world.rehearsal(world)
    told = f"{world.plan.from_} -> {world.plan.to} in {found.seconds.get('move', 0.0):.1f} s on {found.server}" if found.done else found.why
    return Evidence(told, {"rehearsal": found.model_dump(mode="json")})
