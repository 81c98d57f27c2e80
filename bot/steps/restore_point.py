"""A copy of the database as it is when the writers have stopped, before anything is destroyed: the way back.

A clone on the same server where one can be made: going back to it is a rename. Else a dump, read back to its last byte.
"""

from __future__ import annotations

import datetime as dt
import hashlib

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import OutcomeUnknown, StepFailed
from bot.evidence import BackupFile, size
from bot.model import Attempt


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=4), destructive=False, says="take a restore point")
async def restore_point(world: World) -> Evidence:
    """One per round: an interrupted attempt leaves a half that the next one replaces."""
    target, instead = world.target, ""
    method = next(each.params.get("method", "dump") for each in world.plan.steps if each.name == "restore_point")
    file = None
    if method == "clone":
        try:
            file = await target.database.clone(clone_name(world), note(target.name, world.run))
        except OutcomeUnknown:
            raise
        except StepFailed as error:
            instead = f"; a dump, since no clone could be made: {error.message}"
    if file is None:
        file = await target.backup.take(f"{target.name}-{world.run}.dump", world)
    until = world.clock.now() + target.keep
    await world.journal.keep_backup(target.name, world.run, world.plan.from_, file, until)
    told = f"clone {file.name}, {size(file.size)}" if is_clone(file) else f"{size(file.size)}, {file.objects} objects, read back to the last byte"
    return Evidence(told + instead, {"file": file.model_dump(mode="json"), "until": f"{until:%Y-%m-%d %H:%M} UTC"})


def clone_name(world: World) -> str:
    """Known by its comment, never by this name (databases.md F9)."""
    return f"backout_{hashlib.sha256(f'{world.target.name}/{world.run}'.encode()).hexdigest()[:8]}_restore"


def note(target: str, run: str) -> str:
    """The comment by which a clone is known as ours."""
    return f"Backout: restore point of {target}, run {run}"


def is_clone(file: BackupFile) -> bool:
    return file.format == "clone"


def taken(attempt: Attempt | None) -> BackupFile | None:
    """The restore point of a run, from the attempt that took it."""
    return BackupFile(**attempt.facts["file"]) if attempt is not None and "file" in attempt.facts else None
