"""The copy takes the database's place in one transaction; the database as it was is kept under another name (databases.md F10)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from bot.durable import Evidence, Happened, OnCrash, Probed, World, step
from bot.errors import StepFailed
from bot.evidence import BackupFile, Snapshot
from bot.model import Attempt
from bot.steps.move import heads
from bot.steps.restore_beside import incoming
from bot.steps.restore_point import note


async def is_it_swapped(world: World, former: Attempt) -> Probed:
    """The executor has ended every session of the former attempt. The server itself says which of the two has the name."""
    kept = former.facts.get("kept_name")
    if kept is None:
        return Probed(Happened.NO, "the swap had not begun")
    found = await world.target.database.swapped(incoming(world), kept)
    if found is None:
        return Probed(Happened.UNKNOWN, "nobody can say which of the two databases has the name")
    if not found:
        return Probed(Happened.NO, "the database is the one it was")
    old = BackupFile(**former.facts["was"] | {"name": kept, "path": kept})
    await _listed(world, old)
    return Probed(Happened.YES, "the copy is in its place", {"kept": old.model_dump(mode="json")})


@step(
    on_crash=OnCrash.PROBE, probe=is_it_swapped, timeout=dt.timedelta(minutes=30), destructive=True, replaces=True,
    says="put the copy in the database's place",
)  # fmt: skip
async def swap(world: World) -> Evidence:
    """What the copy holds is looked at first: the verification compares with exactly that. Raises StepFailed, OutcomeUnknown."""
    target, copy = world.target, incoming(world)
    await _look(world, copy)
    if target.platform.stops:
        await target.platform.prove_stopped(world)  # in the same second (databases.md F8)
    kept = next((a.facts["kept_name"] for a in world.former if "kept_name" in a.facts), None) or target.database.kept_name(world.clock.now())
    was = {"name": kept, "path": kept, "sha256": "", "size": 0, "format": "clone", "oid": (await target.database.identity()).oid}
    await world.remember(kept_name=kept, was=was)
    old = await target.database.swap(copy, kept, note(target.name, world.run), world.run, world.application)
    await _listed(world, old)
    return Evidence(f"{target.name} is {copy.name} now; as it was it is kept as {old.name}", {"kept": old.model_dump(mode="json")})


async def _look(world: World, copy: BackupFile) -> None:
    """Raises StepFailed when the copy does not stand where the plan says."""
    plan = world.plan
    async with world.target.database.inside(copy) as beside:
        stands = await beside.heads(*plan.version)
        if stands != heads(plan.to):
            raise StepFailed(f"The copy stands at {', '.join(stands) or 'base'}, not at {plan.to}. Nothing was executed.")
        await world.progress("looking at what the copy holds")
        seen: Snapshot = await beside.snapshot(count=True)
        answers: dict[str, Any] = {one.name: (await beside.ask(one.sql)).model_dump(mode="json") for one in world.target.verify}
    await world.remember(before=seen.model_dump(mode="json"), fingerprint=seen.fingerprint(), answers=answers)


async def _listed(world: World, old: BackupFile) -> None:
    """The old database is a backup like any other, and goes at its time; what took its place is none any more."""
    await world.journal.keep_backup(world.target.name, world.run, world.plan.from_, old, world.clock.now() + world.target.keep)
    await world.journal.forget_backup(world.target.name, incoming(world).name)
