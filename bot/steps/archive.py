"""What will be lost is copied before it is destroyed, and the copy is read back and proven.

Read from the restore point, which can't change; where that is a dump, from production itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence

from bot.durable import Evidence, OnCrash, World, step
from bot.evidence import Archive, Loss, Part, Touched, size
from bot.ports import Database
from bot.steps.restore_point import is_clone, taken
from bot.words import many

DATA = ("table", "column", "rows", "values", "enum")
_KNOWN_BEFORE = ("table", "column", "enum")  # which rows and values go is only known afterwards; the clone still has them then


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="archive what will be lost")
async def archive(world: World) -> Evidence:
    """The counts are taken again first, behind the closed door. Raises PlanChanged when they grew beyond what was approved."""
    await world.counted_again()
    file = taken(world.earlier.get("restore_point"))
    cloned = file is not None and is_clone(file)
    source = world.target.database.beside(file.name) if file is not None and cloned else world.target.database
    kinds: Collection[str] = _KNOWN_BEFORE if cloned else DATA
    kept = await keep(world, source, [loss for loss in world.plan.loss if loss.kind in kinds], f"{world.target.name}-{world.run}.archive")
    if kept is None:
        return Evidence("nothing is archived, since no table or column goes")
    left = f"; NOT archived: {'; '.join(f'{name}: {why}' for name, why in kept.left_out.items())}" if kept.left_out else ""
    told = f"{rows(kept.parts)}, {size(kept.file.size)}, read back and compared{left}"
    return Evidence(told, {"archive": kept.model_dump(mode="json"), **until(world)})


async def keep(world: World, source: Database, losses: Sequence[Loss], name: str, touched: Mapping[str, Touched] | None = None) -> Archive | None:
    """Written, proven against `source`, and in the journal; None when there is nothing to keep. `touched`: which rows, where that is known."""
    if not losses:
        return None
    target, plan = world.target, world.plan
    async with target.archives.create(name) as sink:
        parts, left_out = await source.archive(losses, sink, world.progress, touched or {})
    file = await target.archives.kept(name)
    async with target.archives.open(file) as stored:
        await source.prove_archive(parts, stored, world.progress, touched or {})
    made = Archive(run=world.run, target=target.name, lower=plan.to, upper=plan.from_, file=file, parts=parts, left_out=dict(left_out))
    await world.journal.keep_archive(made, world.clock.now() + target.keep)
    return made


def until(world: World) -> dict[str, str]:
    """Until when a copy that was made now is kept, for people."""
    return {"until": f"{world.clock.now() + world.target.keep:%Y-%m-%d %H:%M} UTC"}


def rows(parts: Sequence[Part]) -> str:
    more = f" and {len(parts) - 4} more tables" if len(parts) > 4 else ""
    return "; ".join(f"{many(part.rows, 'row')} of {part.table}" for part in parts[:4]) + more
