"""Before a database is dropped: could its copy be restored into its place, by the role that would, on this very server?

Only the copy's schema is restored, into a database that is dropped again. What a right, a tablespace, an extension or pg_hba.conf would refuse
after the drop is refused here.
"""

from __future__ import annotations

import re

from bot.durable import World
from bot.errors import Refusal, StepFailed
from bot.steps.restore_beside import trial_name
from bot.steps.restore_point import note

#: a restore ended by a right that is missing; a thing that could not be given to its owner. By what the server said
IS_RIGHT = re.compile(r"permission denied|must be (?:owner of|superuser|member of|able to SET ROLE)|[Oo]nly (?:superusers|roles)")
IS_OWNER = re.compile(r"must be (?:member of role|able to SET ROLE) |role .* does not exist")
_ENTRY = re.compile(r"^([A-Z ]+ [^:]+): ")


async def fillable(world: World) -> None:
    """Raises Refusal(in_place_rights), StepFailed, OutcomeUnknown. A dead attempt's database is replaced."""
    target, plan, source = world.target, world.plan, world.plan.source
    if source is None or source.foreign:
        raise StepFailed("The plan names no copy that was tried. Nothing was executed.")
    place, name = target.database.replacing, note(target.name, world.run)
    await world.progress("restoring the copy's schema beside, as it will be restored")
    made = await place.make(await place.belongings(), trial_name(target.name, world.run), name, adopted=source.adopted)
    beside = made.model_copy(update={"adopted": source.adopted})
    await world.journal.keep_backup(target.name, world.run, plan.to, beside, world.clock.now() + target.keep)
    who = target.database.tool.user if source.adopted else target.database.admin.user
    try:
        async with target.database.inside(beside) as database:
            ignored = await target.backup.restore(source, database.admin, plan.identity.version, world, schema=True)
    except (StepFailed, Refusal) as error:
        raise unable(world, who, str(error)) from error
    finally:
        await target.database.drop_clone(beside, name)
        await world.journal.forget_backup(target.name, beside.name)
    if more := _unheard(ignored, plan.rehearsal.partial if plan.rehearsal else ()):
        raise unable(world, who, f"what was approved did not say that this would be missing: {'; '.join(more[:3])}.")


def _unheard(ignored: tuple[str, ...], said: tuple[str, ...]) -> list[str]:
    """By the thing alone: the same is said in other words elsewhere."""
    known = {_thing(each.removeprefix("not restored: ")) for each in said}
    return [each for each in ignored if _thing(each) not in known]


def _thing(sentence: str) -> str:
    found = _ENTRY.match(sentence)
    return found[1] if found else sentence


def unable(world: World, who: str, why: str) -> Refusal:
    source = world.plan.source.name if world.plan.source else "the copy"
    return Refusal(
        "in_place_rights",
        f"{world.target.name} would be dropped, and {who} could not restore {source} into its place: {why.removesuffix('.')}. Nothing was dropped.",
        f"Give {who} what is missing, or restore beside the database, which keeps what is there.",
    )
