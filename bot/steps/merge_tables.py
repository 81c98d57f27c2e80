"""Rows of single tables come back out of a backup, by key, in one transaction; the live tables stay what they are (databases.md F16)."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.merges import Merged
from bot.steps.move import stock
from bot.steps.restore_beside import incoming
from bot.words import many

_SHOWN = 5


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="bring the rows back")
async def merge_tables(world: World) -> Evidence:
    """All or nothing, and twice comes to the same. Raises StepFailed, OutcomeUnknown."""
    plan, target = world.plan, world.target
    await world.remember(**await stock(world))
    if target.platform.stops:
        await target.platform.prove_stopped(world)
    found = await target.database.merge_tables(plan.tables_back, incoming(world), plan.rule, world.progress)
    return Evidence(says(found), {"merged": found.model_dump(mode="json")})


def says(found: Merged) -> str:
    told = [
        f"{one.table}: {many(one.inserted, 'row')} came back, {one.updated:,} changed, {one.deleted:,} deleted, {one.kept:,} left as they are"
        for one in found.tables
    ]
    if found.conflicts_total:
        named = "; ".join(f"{each.table} {each.key}: {each.why}" for each in found.conflicts[:_SHOWN])
        told.append(f"{many(found.conflicts_total, 'conflict')} left alone ({named})")
    return "; ".join(told)
