"""Tables that are to come back, merged on a copy first: the database as it is now and the backup side by side, on a server that is thrown away."""

from __future__ import annotations

from collections.abc import Sequence

from bot.durable import World
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile, Loss, Rehearsal
from bot.merges import Compared, MergeRule
from bot.rollback.copies import condemned, harmless, within
from bot.steps import csv_beside
from bot.steps.merge_tables import says
from bot.steps.restore_point import is_clone, note

_COPY, _BACKUP = "backout_copy", "backout_backup"


async def tables_tried(world: World) -> Rehearsal:
    """Within the target's time budget. Raises Refusal(copy_condemned): a table can't be merged, or the backup can't be restored."""
    return await within(world, lambda: _tried(world))


async def _tried(world: World) -> Rehearsal:
    target, plan = world.target, world.plan
    scratches, source = target.rehearsal.where, plan.source
    if scratches is None or source is None:
        return Rehearsal(done=False, why=target.rehearsal.why_not or "the plan names no backup")
    if is_clone(source):
        return await _beside(world, source)
    await harmless(world, source)
    now = BackupFile(**world.earlier["back_up"].facts["file"])
    began = world.clock.monotonic()
    async with scratches.open(world) as scratch:
        for name, file in ((_COPY, now), (_BACKUP, source)):
            await world.progress(f"restoring {file.name} elsewhere")
            await scratch.create(name)
            into = scratch.at(name)[0].tool if file.adopted else scratch.superuser(name)
            try:
                if csv_beside.is_csv(file):
                    await csv_beside.fill(world, target.elsewhere(into), into, scratch.version, now)
                else:
                    await target.backup.restore(file, into, scratch.version, world)
            except StepFailed as error:
                raise condemned(file.name, error.message) from error
            await scratch.cut_off(name)
        took = round(world.clock.monotonic() - began, 1)
        beside = (await scratch.known_as(_BACKUP, note(target.name, world.run))).model_copy(update={"adopted": source.adopted})
        copy = scratch.at(_COPY)[0]
        compared = _mergeable(await copy.compare_tables(plan.tables_back, beside, world.progress), source.name)
        merged = await copy.merge_tables(plan.tables_back, beside, plan.rule, world.progress)
        findings = (*(_told(one) for one in compared), f"on the copy: {says(merged)}", *merged.notes)
        partial = scratch.partial
    return Rehearsal(
        done=True, server=scratch.says, partial=partial, size=source.size, seconds={"restore": took}, one_transaction=True, findings=findings,
        loss=tuple(_losses(compared, plan.rule)),
    )  # fmt: skip


async def _beside(world: World, source: BackupFile) -> Rehearsal:
    """A clone is compared where it lies; nothing is changed by that."""
    plan = world.plan
    compared = _mergeable(await world.target.database.compare_tables(plan.tables_back, source, world.progress), source.name)
    findings = tuple(_told(one) for one in compared)
    partial = ("The rows were compared with the clone where it lies; bringing them back was not tried.",)
    losses = tuple(_losses(compared, plan.rule))
    return Rehearsal(done=True, server=f"the clone {source.name} itself", partial=partial, one_transaction=True, findings=findings, loss=losses)


def _mergeable(compared: Sequence[Compared], backup: str) -> Sequence[Compared]:
    if bad := next((one for one in compared if one.why), None):
        raise Refusal("table_not_mergeable", f"{bad.table} can't come back out of {backup}: {bad.why}", "Leave it out, or restore the whole backup.")
    return compared


def _told(one: Compared) -> str:
    newer = "" if one.newer_different is None else f", {one.newer_different:,} of these newer than the backup"
    only = "" if one.newer_only_here is None else f", {one.newer_only_here:,} of these newer"
    return (
        f"{one.table}: {one.only_there:,} rows only in the backup, {one.only_here:,} only in the database{only}, "
        f"{one.different:,} differ{newer}, {one.equal:,} equal"
    )


def _losses(compared: Sequence[Compared], rule: MergeRule) -> list[Loss]:
    """What of the live rows goes: as many as the rule lets go at the most."""
    found = []
    for one in compared:
        changed = one.different if rule.different == "replace" else 0
        changed -= (one.newer_different or 0) if rule.newer == "keep" else 0
        gone = one.only_here - ((one.newer_only_here or 0) if rule.newer == "keep" else 0) if rule.only_here == "delete" else 0
        found += [Loss(kind="rows", name=one.table, count=gone, of=one.here)] if gone > 0 else []
        found += [Loss(kind="values", name=f"{one.table}.*", count=changed, of=one.here)] if changed > 0 else []
    return found
