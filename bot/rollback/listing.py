"""The list of backups: those that the journal knows, what others put into the store, and what the server's provider keeps."""

from __future__ import annotations

from bot.durable import TargetParts
from bot.errors import Refusal, StepFailed
from bot.evidence import Found, Listed
from bot.ports import Journal


async def listed(target: TargetParts, journal: Journal) -> tuple[Listed, ...]:
    """Newest first. A store that can't be looked at is an entry too: what the journal knows is shown in any case."""
    ours = [
        Listed(name=one["name"], **{key: one[key] for key in ("file", "made", "revision", "run", "keep_until", "proven")})
        for one in await journal.backups(target.name)
    ]
    known = {one.name for one in ours} | {kept.file.name for kept, _ in await journal.archives(target.name)}
    try:
        theirs = [_theirs(one) for one in await target.backup.found(known)]
    except (StepFailed, Refusal) as error:
        theirs = [Listed(name="the store", refused=f"What else lies there can't be looked at: {error}")]
    return (*ours, *theirs, *await of_the_provider(target))


async def of_the_provider(target: TargetParts) -> tuple[Listed, ...]:
    """Those that whoever runs the server keeps, and brings back themselves."""
    if target.provider is None:
        return ()
    try:
        return await target.provider.backups()
    except (StepFailed, Refusal) as error:
        return (Listed(name=target.provider.kind, refused=f"Its backups can't be listed: {error}"),)


def _theirs(found: Found) -> Listed:
    return Listed(
        name=found.file.name, file=found.file, made=found.made, revision=found.revision, postgres=found.postgres, database=found.database,
        tables=len(found.tables) if found.tables else None, refused=found.refused,
    )  # fmt: skip
