"""Would it be true? The revision that is to be written down is built from nothing by the application's own scripts, and compared with production."""

from __future__ import annotations

from bot.durable import World
from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.evidence import Rehearsal, Snapshot
from bot.model import Plan
from bot.rollback import compare
from bot.rollback.ahead import BUILT
from bot.rollback.copies import within
from bot.steps.move import heads

_TOLD = 20  # differences that are told


async def stamp_tried(world: World) -> Rehearsal:
    """Within the target's time budget. Differences are told and refuse nothing: whoever stamps may know why."""
    return await within(world, lambda: _tried(world))


async def _tried(world: World) -> Rehearsal:
    scratches, plan = world.target.rehearsal.where, world.plan
    if scratches is None:
        return Rehearsal(done=False, why=world.target.rehearsal.why_not)
    began = world.clock.monotonic()
    async with scratches.open(world) as scratch:
        await scratch.create(BUILT)
        database, tool = scratch.at(BUILT)
        await world.progress(f"building {plan.to} from nothing")
        try:
            if heads(plan.to):
                await tool.upgrade(plan.to, world, from_=(), scripts=None)
        except (StepFailed, OutcomeUnknown, Refusal) as error:
            return Rehearsal(done=False, why=f"{plan.to} can't be built from nothing, so nobody can say whether this schema is it: {error}"[:400])
        built = await database.snapshot(count=False)
        server = scratch.says
    await world.progress("comparing the schema with production's")
    differs = compare.drift(built, await world.target.database.snapshot(count=False), leave_out=_versions(plan, built))
    took = round(world.clock.monotonic() - began, 1)
    return Rehearsal(
        done=True, server=server, seconds={"build": took}, one_transaction=True, expected="differs" if differs else "same", findings=differs[:_TOLD]
    )


def _versions(plan: Plan, built: Snapshot) -> str:
    """The version table, also where production has none: then as it was built."""
    made = [key.removeprefix("table ") for key in built.objects if key.startswith("table ") and key.endswith(f".{plan.version_table}")]
    return plan.versions if plan.version_table_schema or not made else made[0]
