"""A database that is too large to be copied: its schema with some rows. What the copy then shows is what the scripts do, never how much is lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from contextlib import suppress

from bot.durable import World
from bot.errors import StepFailed
from bot.evidence import Loss
from bot.model import PlanStep
from bot.ports import Scratch
from bot.rollback import loss
from bot.words import many

STEP = PlanStep(name="rehearse", params={"sample": True})
_WITHIN = dt.timedelta(seconds=60)  # to count on production what the sample showed to be lost
_UNKNOWN = {"count": None, "written": None, "of": None, "bytes": None, "newest": None, "keys": ()}
#: what the rows of a sample can't disprove
_OF_ROWS = ("rows", "unreadable")


def wanted(world: World) -> bool:
    return any(step.params.get("sample") for step in world.plan.rehearse)


async def fill(world: World, scratch: Scratch, name: str) -> tuple[int, tuple[str, ...]]:
    """How many rows are in that empty database then, and what is to be said of them. Raises StepFailed, Refusal, OutcomeUnknown."""
    target, into = world.target, scratch.superuser(name)
    said = [*await target.database.objections(target.rehearsal.max_size)][:1]
    async with target.database.sampling(world) as sampling:
        file = await target.backup.take_schema(f"{target.name}-{world.run}-schema.dump", sampling.snapshot, world)
        await world.journal.keep_backup(
            target.name, world.run, world.plan.from_, file, world.clock.now() + target.keep
        )  # so that it goes in any case
        try:
            ignored = await target.backup.restore_schema(file, into, scratch.version, "pre-data", world, owners=scratch.owners)
            rows = await sampling.copy_into(into, world.progress)
            ignored += await target.backup.restore_schema(file, into, scratch.version, "post-data", world, owners=scratch.owners)
        finally:
            with suppress(StepFailed):  # then it goes at its time
                await target.backup.remove(file)
                await world.journal.forget_backup(target.name, file.name)
    unfilled = await scratch.at(name)[0].fill_views()
    first = f"tried on the schema with {many(rows.rows, 'sampled row')} of {many(rows.tables, 'table')}, not on a copy of the data"
    left_out = [f"restoring the schema left something out: {one}"[:300] for one in ignored]
    return rows.rows, (first, *said, *rows.said[:20], *left_out[:20], *unfilled[:20])


async def counted(world: World, found: Iterable[Loss], objects: Mapping[str, str]) -> tuple[Loss, ...]:
    """What the sample showed, counted on production; of rows and values nobody can know how many. What only scripts say of rows stays said."""
    things = list(found)
    of_rows = [one.model_copy(update={**_UNKNOWN, "why": _share(one)}) for one in things if one.kind in ("rows", "values")]
    of_schema = await world.target.database.recount([one for one in things if one.kind not in ("rows", "values")], _WITHIN)
    seen = {one.table for one in of_rows}
    read = [one for one in loss.resolved(world.plan.foreseen, objects) if one.kind in _OF_ROWS and one.name not in seen]
    return (*of_schema, *of_rows, *read)


def _share(one: Loss) -> str:
    of = "" if one.of is None else f" of {one.of:,}"
    return f"{one.count:,}{of} of the sampled rows; how many it would be is not known" if one.count is not None else one.why
