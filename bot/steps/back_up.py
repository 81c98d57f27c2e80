"""A copy of production for the rehearsal, proven readable: the very file that is restored and tried."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.evidence import size


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="copy the database")
async def back_up(world: World) -> Evidence:
    """One file per run: an interrupted attempt leaves a partial file that the next one replaces."""
    target = world.target
    file = await target.backup.take(f"{target.name}-{world.run}-rehearsed.dump", world)
    await world.journal.keep_backup(target.name, world.run, world.plan.from_, file, world.clock.now() + target.keep)
    return Evidence(f"{size(file.size)}, {file.objects} objects, read back to the last byte", {"file": file.model_dump(mode="json")})
