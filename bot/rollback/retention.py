"""Copies are kept as long as the target says, and a target's newest dump always."""

from __future__ import annotations

from bot.durable import TargetParts
from bot.evidence import BackupFile
from bot.ports import Clock, Journal
from bot.steps.restore_point import is_clone, note


async def retain(target: TargetParts, journal: Journal, clock: Clock) -> None:
    """Remove what is past its time; first the copy, then its line in the journal. Raises StepFailed when a copy would not go."""
    kept = await journal.backups(target.name)
    newest = next((each["name"] for each in kept if not is_clone(each["file"])), None)  # a clone lies on the server itself: its time is its time
    for old in kept:
        if old["keep_until"] < clock.now() and old["name"] != newest:
            await _remove(target, old["file"], old["run"])
            await journal.forget_backup(target.name, old["name"])
    for archive, until in await journal.archives(target.name):
        if until < clock.now():
            await target.archives.remove(archive.file)
            await journal.forget_archive(target.name, archive.file.name)
    if target.rehearsal.where is not None:
        await target.rehearsal.where.clean()


async def _remove(target: TargetParts, file: BackupFile, run: str) -> None:
    if is_clone(file):
        await target.database.drop_clone(file, note(target.name, run))
    else:
        await target.backup.remove(file)
