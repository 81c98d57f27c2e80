"""Copies are kept as long as the target says, a day after their run at least, and a target's newest dump and its last proven one always."""

from __future__ import annotations

import datetime as dt

from bot.durable import TargetParts
from bot.evidence import BackupFile
from bot.ports import Clock, Journal
from bot.steps.restore_point import is_clone, note

_AFTER_RUN = dt.timedelta(hours=24)


async def retain(target: TargetParts, journal: Journal, clock: Clock) -> None:
    """Remove what is past its time; first the copy, then its line in the journal. Raises StepFailed when a copy would not go."""
    kept = await journal.backups(target.name)
    dumps = [each for each in kept if not is_clone(each["file"])]  # a clone lies on the server itself: its time is its time
    stay = {each["name"] for each in (*dumps[:1], *[each for each in dumps if each["proven"]][:1])}
    for old in kept:
        over = old["ended"] is not None and old["ended"] + _AFTER_RUN < clock.now()
        if old["keep_until"] < clock.now() and over and old["name"] not in stay:
            await _remove(target, old["file"], old["run"])
            await journal.forget_backup(target.name, old["name"])
    for archive, until in await journal.archives(target.name):
        if until < clock.now():
            await target.archives.remove(archive.file)
            await journal.forget_archive(target.name, archive.file.name)
    if target.rehearsal.where is not None:
        await target.rehearsal.where.clean()
    if target.pitr is not None:
        await target.pitr.clean()


async def _remove(target: TargetParts, file: BackupFile, run: str) -> None:
    if is_clone(file):
        await target.database.drop_clone(file, note(target.name, run))
    else:
        await target.backup.remove(file)
