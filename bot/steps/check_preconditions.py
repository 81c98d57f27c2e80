"""Before anything is touched: is this still the database, the scripts and the plan that people approved?"""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.steps.fillable import fillable


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=30), destructive=False, says="check that nothing changed since the approval")
async def check_preconditions(world: World) -> Evidence:
    """Plan again, compare, count again. Raises PlanChanged, which voids the approvals, or the Refusal that stands in the way now."""
    await world.replan()
    await world.target.tool.prepare()  # for the move, behind stopped writers
    await world.counted_again()
    if world.plan.way.in_place:
        await fillable(world)
    return Evidence(f"{world.plan.from_} is current, scripts and database are as approved")
