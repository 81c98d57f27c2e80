"""Has the code followed the database? Everything is done and verified by then, so what can't be looked at is said and fails nothing."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import Refusal, StepFailed


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=10), destructive=False, says="look at the code")
async def look_at_code(world: World) -> Evidence:
    await world.progress("reading the code where it is deployed")
    try:
        seen = await world.target.tool.code(world.plan)
    except (Refusal, StepFailed) as error:
        return Evidence("the code could not be looked at", {"code": {"not_looked": str(error)}})
    return Evidence(seen.says, {"code": seen.model_dump(mode="json")})
