"""Before a database is dropped: could its copy be restored into its place, by the role that would, on this very server?

Only schemas are restored, into a database that is dropped again: the copy's, and the one that is there now, since its dump is the only way back. What
a right, a tablespace, an extension or pg_hba.conf would refuse after the drop is refused here.
"""

from __future__ import annotations

import re

from bot.durable import World
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile
from bot.steps.restore_beside import trial_name
from bot.steps.restore_point import note

#: a restore ended by a right that is missing; a thing that could not be given to its owner. By what the server said
IS_RIGHT = re.compile(r"permission denied|must be (?:owner of|superuser|member of|able to SET ROLE)|[Oo]nly (?:superusers|roles)")
IS_OWNER = re.compile(r"must be (?:member of role|able to SET ROLE) |role .* does not exist")
_ENTRY = re.compile(r"^([A-Z ]+ [^:]+): ")


async def fillable(world: World) -> None:
    """The copy, and the way back from it. Raises Refusal(in_place_rights), StepFailed, OutcomeUnknown. A dead attempt's database is replaced."""
    target, plan, source = world.target, world.plan, world.plan.source
    if source is None or source.foreign:
        raise StepFailed("The plan names no copy that was tried. Nothing was executed.")
    await world.progress("restoring the copy's schema beside, as it will be restored")
    ignored = await _tried(world, source, source.name)
    if more := _unheard(ignored, plan.rehearsal.partial if plan.rehearsal else ()):
        raise _unable(world, source, source.name, f"what was approved did not say that this would be missing: {'; '.join(more[:3])}")
    await world.progress("restoring the schema as it is now beside, as the restore point would be")
    now = await target.backup.take_schema(f"{target.name}-{world.run}-schema.dump", None, world)
    try:
        ignored = await _tried(world, now, "its own restore point")
    finally:
        await target.backup.remove(now)
    if others := [each for each in ignored if IS_OWNER.search(each)]:
        raise _unable(world, now, "its own restore point", others[0])


async def _tried(world: World, file: BackupFile, what: str) -> tuple[str, ...]:
    """What is left out when its schema is restored."""
    target, name = world.target, note(world.target.name, world.run)
    place = target.database.replacing
    made = await place.make(await place.belongings(), trial_name(target.name, world.run), name, adopted=file.adopted)
    beside = made.model_copy(update={"adopted": file.adopted})
    await world.journal.keep_backup(target.name, world.run, world.plan.to, beside, world.clock.now() + target.keep)
    try:
        async with target.database.inside(beside) as database:
            return await target.backup.restore(file, database.admin, world.plan.identity.version, world, schema=True)
    except (StepFailed, Refusal) as error:
        raise _unable(world, file, what, str(error)) from error
    finally:
        await target.database.drop_clone(beside, name)
        await world.journal.forget_backup(target.name, beside.name)


def _unheard(ignored: tuple[str, ...], said: tuple[str, ...]) -> list[str]:
    """By the thing alone: the same is said in other words elsewhere."""
    known = {_thing(each.removeprefix("not restored: ")) for each in said}
    return [each for each in ignored if _thing(each) not in known]


def _thing(sentence: str) -> str:
    found = _ENTRY.match(sentence)
    return found[1] if found else sentence


def _unable(world: World, file: BackupFile, what: str, why: str) -> Refusal:
    database = world.target.database
    return unable(world.target.name, database.tool.user if file.adopted else database.admin.user, what, why)


def unable(target: str, who: str, what: str, why: str) -> Refusal:
    return Refusal(
        "in_place_rights",
        f"{target} would be dropped, and {who} could not restore {what} into its place: {why.removesuffix('.')}. Nothing was dropped.",
        f"Give {who} what is missing, or restore beside the database, which keeps what is there.",
    )
