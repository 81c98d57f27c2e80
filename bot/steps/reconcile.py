"""The restore point against production, before anybody writes again: what else is gone is archived too, and named (databases.md F7)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from bot.durable import Evidence, OnCrash, World, step
from bot.evidence import Archive
from bot.steps.archive import DATA, keep, rows, until
from bot.steps.restore_point import taken


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="compare with the restore point")
async def reconcile(world: World) -> Evidence:
    file = taken(world.earlier.get("restore_point"))
    if file is None or file.format != "clone":
        return Evidence("the restore point is a dump, so there is nothing to compare with")
    before = world.target.database.beside(file.name)
    losses, touched = await world.target.database.touched_since(before.admin, world.progress)
    found = world.plan.data(losses)
    approved = {loss.thing() for loss in world.plan.loss}
    more = [loss for loss in found if loss.thing() not in approved]
    archived = _archived(world)
    missing = [loss for loss in found if loss.kind in DATA and loss.name not in archived]
    kept = await keep(world, before, missing, f"{world.target.name}-{world.run}-more.archive", touched)
    facts: dict[str, Any] = {"loss": [loss.model_dump(mode="json") for loss in found], "more": [f"{loss.kind} {loss.name}" for loss in more]}
    if kept is not None:
        facts |= {"archive": kept.model_dump(mode="json"), **until(world)}
    told = f"{len(found)} losses, all of them as on the copy" if found else "nothing is lost"
    if more:
        told = f"{len(more)} losses that the copy had not shown: {', '.join(f'{loss.kind} {loss.name}' for loss in more[:4])}"
    return Evidence(told + (f"; archived as well: {rows(kept.parts)}" if kept else ""), facts)


def _archived(world: World) -> set[str]:
    """Names of the losses that the archive has, or has said that it can't have."""
    done = world.earlier.get("archive")
    if done is None or "archive" not in done.facts:
        return set()
    kept = Archive(**done.facts["archive"])
    whole = {part.table for part in kept.parts if part.what != "column"}
    columns = {f"{part.table}.{column}" for part in kept.parts for column in part.columns}
    return {loss.name for loss in world.plan.loss if loss.table in whole or loss.name in columns or loss.name in kept.left_out}
