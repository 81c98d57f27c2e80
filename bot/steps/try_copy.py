"""Before anybody is asked: the copy that is to come back is restored elsewhere, and looked at."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, World, step
from bot.evidence import Rehearsal


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="restore the copy elsewhere and look at it")
async def try_copy(world: World) -> Evidence:
    return _told(await world.copy_tried(world))


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=48), destructive=False, says="recover the instant beside, and look at it")
async def recover(world: World) -> Evidence:
    """What was recovered is dumped: from then on it is a backup like any other. It begins again after a crash.

    A provider is waited for up to a day (backups.provider.within), which is part of the time.
    """
    return _told(await world.instant_tried(world))


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="bring the rows back on a copy")
async def try_tables(world: World) -> Evidence:
    return _told(await world.tables_tried(world))


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=1), destructive=False, says="build that revision from nothing, and compare")
async def try_stamp(world: World) -> Evidence:
    return _told(await world.stamp_tried(world))


def _told(found: Rehearsal) -> Evidence:
    told = f"looked at on {found.server}" if found.done else f"not tried: {found.why}"
    return Evidence(told, {"rehearsal": found.model_dump(mode="json")})
