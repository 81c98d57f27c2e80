"""Every named test after the downgrade, with what was seen before it. A red blocking one needs a person's decision."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import StepFailed


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=30), destructive=False, says="verify")
async def verify(world: World) -> Evidence:
    found = await world.verification(world)
    bad = [one for one in found if one["ok"] is False and one["blocking"]]
    if bad:
        named = "; ".join(f"{one['name']}: {one['says']}" for one in bad[:3])
        raise StepFailed(f"{len(bad)} of {len(found)} checks are red. {named}", {"checks": found})
    warned = sum(one["ok"] is False for one in found)
    return Evidence(f"{len(found)} checks, none red" + (f", {warned} warned" if warned else ""), {"checks": found})
