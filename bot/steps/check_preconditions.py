"""Before anything is touched: is this still the database, the scripts and the plan that people approved?"""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=5), destructive=False, says="check that nothing changed since the approval")
async def check_preconditions(world: World) -> Evidence:
    """Plan again, compare, count again. Raises PlanChanged, which voids the approvals, or the Refusal that stands in the way now."""
    await world.replan()
    await world.target.tool.prepare()  # for the move, behind stopped writers
    await world.counted_again()
    return Evidence(f"{world.plan.from_} is current, scripts and database are as approved")
