"""A backup becomes a database beside the live one, closed to everybody, before anything of the live one is touched."""

from __future__ import annotations

import datetime as dt
import hashlib

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import StepFailed
from bot.evidence import BackupFile, size
from bot.ports import Database
from bot.steps import csv_beside
from bot.steps.restore_point import note
from bot.words import many

INCOMING = "_incoming"  #: so the name of a database ends that is being filled: nothing to go back to


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=12), destructive=False, says="restore the copy beside the database")
async def restore_beside(world: World) -> Evidence:
    """A dead attempt's half is replaced. It is listed before it is filled, so that it goes at its time whatever happens."""
    target, plan = world.target, world.plan
    if plan.source is None:
        raise StepFailed("The plan names no copy. Nothing was executed.")
    if plan.source.foreign and not csv_beside.is_csv(plan.source):
        raise StepFailed(f"{plan.source.name} was made by others, and nobody has seen it restored elsewhere. Nothing was executed.")
    if not await target.backup.usable(plan.source):
        raise StepFailed(f"{plan.source.name} is gone, or is not what it was when it was made. Nothing was executed. Choose another backup.")
    made = await target.database.beside_for_restore(incoming_name(target.name, world.run), note(target.name, world.run))
    beside = made.model_copy(update={"adopted": plan.source.adopted})
    await world.journal.keep_backup(target.name, world.run, plan.to, beside, world.clock.now() + target.keep)
    began = world.clock.monotonic()
    if csv_beside.is_csv(plan.source):
        return await _from_csv(world, plan.source, beside)
    async with target.database.inside(beside) as database:
        ignored = await target.backup.restore(plan.source, database.admin, plan.identity.version, world)
    took = world.clock.monotonic() - began
    left = f"; left out: {'; '.join(ignored[:3])}" if ignored else ""
    return Evidence(
        f"{plan.source.name}, {size(plan.source.size)}, in {took:.1f} s{left}", {"beside": beside.model_dump(mode="json"), "ignored": list(ignored)}
    )


async def _from_csv(world: World, source: BackupFile, beside: BackupFile) -> Evidence:
    target, version = world.target, world.plan.identity.version
    schema = await target.backup.take_schema(f"{target.name}-{world.run}-schema.dump", None, world)
    try:
        database = target.database.beside(beside.name)
        rows = await csv_beside.fill(world, database, database.admin, version, schema)
    finally:
        await target.backup.remove(schema)
    return Evidence(f"{many(rows, 'row')} of {source.name}, {size(source.size)}", {"beside": beside.model_dump(mode="json")})


def incoming_name(target: str, run: str) -> str:
    """Known by its comment, never by this name (databases.md F9)."""
    return f"backout_{hashlib.sha256(f'{target}/{run}'.encode()).hexdigest()[:8]}{INCOMING}"


def trial_name(target: str, run: str) -> str:
    """Of a database in which only is seen whether it could be filled."""
    return f"{incoming_name(target, run).removesuffix(INCOMING)}_schema{INCOMING}"


def itself(world: World) -> Database:
    """The database once the copy is in its place; entered as the application does where what took it is of others' making."""
    plan, database = world.plan, world.target.database
    theirs = plan.source is not None and plan.source.adopted and not plan.tables_back
    return world.target.elsewhere(database.tool) if theirs else database


def incoming(world: World) -> BackupFile:
    """What takes the database's place: what was restored beside it, else the copy of the plan itself. Raises StepFailed."""
    made = world.earlier.get("restore_beside")
    if made is not None:
        return BackupFile(**made.facts["beside"])
    if world.plan.source is None:
        raise StepFailed("There is no copy that could take the place. Nothing was executed.")
    return world.plan.source
