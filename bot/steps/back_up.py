"""A copy of the database as it is now, proven readable, before anything is destroyed."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="back up the database")
async def back_up(world: World) -> Evidence:
    """One file per run: an interrupted attempt leaves a partial file that the next one replaces."""
    target = world.target
    file = await target.backup.take(f"{target.name}-{world.run}.dump", world)
    await world.journal.keep_backup(target.name, world.run, world.plan.from_, file, world.clock.now() + target.keep)
    return Evidence(f"{size(file.size)}, {file.objects} objects, read back to the last byte", {"file": file.model_dump(mode="json")})


def size(count: int) -> str:
    """Bytes for people: 512 B, 1.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
