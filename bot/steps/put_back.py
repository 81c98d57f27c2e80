"""What an earlier downgrade destroyed comes back: in one transaction, twice is harmless, conflicts are left alone and named."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import StepFailed
from bot.evidence import PutBack
from bot.words import many

_SHOWN = 5


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="put the archive back")
async def put_back(world: World) -> Evidence:
    if world.target.platform.stops:
        await world.target.platform.prove_stopped(world)
    done = await put_archive_back(world)
    if not done:
        return Evidence("there is no archive to put back")
    return Evidence("; ".join(says(one) for one in done), {"put_back": [one.model_dump(mode="json") for one in done]})


async def put_archive_back(world: World) -> list[PutBack]:
    """Every archive of the run that the plan names, into the database that the world has. Raises StepFailed."""
    target, done = world.target, []
    found = [kept for kept, _ in await world.journal.archives(target.name) if kept.run == world.plan.archive]
    if world.plan.archive and not found:
        raise StepFailed(f"The archive of run {world.plan.archive} is not kept any more, so nothing was put back.")
    for kept in reversed(found):
        async with target.archives.open(kept.file) as source:
            done.append(await target.database.put_back(kept, source, world.progress, triggers=target.triggers))
    return done


def says(one: PutBack) -> str:
    told = f"{many(one.rows, 'row')} and {many(one.values, 'value')} are back"
    if one.unchanged:
        told += f", {many(one.unchanged, 'value')} there already"
    if one.conflicts_total:
        named = "; ".join(f"{each.table} {each.key}: {each.why}" for each in one.conflicts[:_SHOWN])
        told += f", {many(one.conflicts_total, 'conflict')} left alone ({named})"
    return told
