"""The database is dropped, and the copy restored into its place: for a server without room for both. The way back is the restore point in the store.

What is dropped is remembered first. From the drop on nothing has the database's name until the copy is whole, so that whoever comes after a crash
finds one of three: the old database, none, or the copy.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.durable import Evidence, Happened, OnCrash, Probed, World, step
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile, Snapshot, size
from bot.model import Attempt, AttemptState, Run
from bot.ports import Database
from bot.steps.move import heads
from bot.steps.restore_beside import incoming_name, itself
from bot.steps.restore_point import note, taken
from bot.strategy import UNREAD
from bot.words import many


@dataclass(frozen=True)
class _Known:
    """What the attempts of this run remembered, in whatever round. `ours`: the databases that it may drop."""

    belongings: Mapping[str, Any] | None
    ours: frozenset[int]
    dropping: bool
    #: what this round fills, or has put in the place; `filled`: it was whole
    incoming: BackupFile | None
    filled: bool
    #: the copy is this run's own restore point, of the database that was approved
    back: bool

    @classmethod
    def of(cls, world: World, run: Run) -> _Known:
        all_ = [a for a in run.attempts if a.step == "replace"]
        mine = [a for a in all_ if a.round == run.round and "incoming" in a.facts]
        put = [a.facts["incoming"]["oid"] for a in all_ if a.round != run.round and "incoming" in a.facts]
        taken_ = [file.name for a in run.attempts if a.step == "restore_point" and a.round != run.round and (file := taken(a))]
        return cls(
            belongings=next((a.facts["belongings"] for a in all_ if "belongings" in a.facts), None),
            ours=frozenset([world.plan.identity.oid, *put]),
            dropping=dropped(run) is not None,
            incoming=BackupFile(**mine[-1].facts["incoming"]) if mine else None,
            filled=bool(mine) and bool(mine[-1].facts.get("filled")),
            back=world.plan.source is not None and world.plan.source.name in taken_,
        )


def dropped(run: Run) -> int | None:
    """The OID of a database that this run has dropped, or may have, while nothing took its place; by what its attempts remembered."""
    found: int | None = None
    for attempt in run.attempts:
        if attempt.step == "replace":
            found = None if attempt.state is AttemptState.DONE else attempt.facts.get("dropping", found)
    return found


async def is_it_replaced(world: World, _former: Attempt) -> Probed:
    """The executor has ended every session of the former attempt. OIDs tell which database has the name."""
    known, place = await _known(world), world.target.database.replacing
    stands = await place.stands()
    if known.incoming is not None and stands == known.incoming.oid:
        await world.journal.forget_backup(world.target.name, known.incoming.name)
        return Probed(Happened.YES, "the copy is in its place")
    if stands is None and known.dropping:
        return Probed(Happened.NO, "the database was dropped, and the copy is not in its place yet")
    if stands in known.ours:
        await place.reopen(stands)
        return Probed(Happened.NO, "the database had not been dropped", {"dropping": None})
    return Probed(Happened.UNKNOWN, "there is no database, and this run did not drop it" if stands is None else _stranger(world, stands))


@step(
    on_crash=OnCrash.PROBE, probe=is_it_replaced, timeout=dt.timedelta(hours=12), destructive=True, replaces=True,
    says="drop the database and restore the copy into its place",
)  # fmt: skip
async def replace(world: World) -> Evidence:
    """Goes on where a former attempt ended, in whatever round. Raises StepFailed, OutcomeUnknown."""
    target, place, known = world.target, world.target.database.replacing, await _known(world)
    began = world.clock.monotonic()
    stands = await place.stands()
    if known.incoming is not None and stands == known.incoming.oid:
        return Evidence("the copy was in its place already", await _seen(world, itself(world)))
    if known.back and stands == world.plan.identity.oid:
        await place.reopen(stands)
        return Evidence("the database had not been dropped, so it is as it was", await _seen(world, target.database))
    belongings = known.belongings
    if stands is not None:
        belongings = await _drop(world, known, stands)
    if belongings is None or (stands is None and not known.dropping):
        raise StepFailed(
            f"There is no database {world.plan.identity.database}, and this run did not drop it. Nothing was executed. Find out who did."
        )
    incoming, ignored = await _filled(world, known, belongings)
    await world.progress("giving it the database's name")
    notes = await place.put(incoming, belongings, world.application)
    await world.journal.forget_backup(target.name, incoming.name)
    return _done(world, world.clock.monotonic() - began, ignored, notes)


async def _drop(world: World, known: _Known, stands: int) -> Mapping[str, Any]:
    """Everything that is needed to go on without it is proven and remembered first; what it wore, by whoever drops it."""
    target, place = world.target, world.target.database.replacing
    if world.plan.source is not None and world.plan.source.adopted and (rights := await target.database.reach()):
        raise StepFailed(f"Code in the copy is somebody else's and would run by {target.database.tool.user}, who has {rights}. Nothing was executed.")
    if stands not in known.ours:
        raise StepFailed(f"{_stranger(world, stands)}. It was left alone: find out whose it is.")
    await _proven(world)
    belongings = known.belongings or await place.belongings()
    if target.platform.stops:
        await target.platform.prove_stopped(world)  # in the same second (databases.md F8)
    await world.remember(belongings=dict(belongings), dropping=stands)
    try:
        await place.drop(stands, world.application)
    except StepFailed:
        await world.remember(dropping=None)
        raise
    return belongings


async def _proven(world: World) -> None:
    """The copy, and the only way back, are in the store as they were made."""
    point = world.earlier.get("restore_point")
    files = [world.plan.source, taken(point)] if point is not None else [world.plan.source]
    for file in files:
        if file is None or file.foreign or not await world.target.backup.usable(file):
            name = file.name if file else "The copy"
            raise StepFailed(f"{name} is gone, or is not what it was when it was made. Nothing was executed.")


async def _filled(world: World, known: _Known, belongings: Mapping[str, Any]) -> tuple[BackupFile, tuple[str, ...]]:
    """The copy, whole, under a name of ours; a half that a dead attempt left is made again."""
    target, plan, name = world.target, world.plan, note(world.target.name, world.run)
    if known.incoming is not None and known.filled and await target.database.replacing.made(known.incoming, name):
        async with target.database.inside(known.incoming) as beside:
            await world.remember(**await _seen(world, beside), incoming=known.incoming.model_dump(mode="json"), filled=True)
        return known.incoming, ()
    if plan.source is None or plan.source.foreign:
        raise StepFailed("The plan names no copy that was tried.")
    made = await target.database.replacing.make(belongings, incoming_name(target.name, world.run), name, adopted=plan.source.adopted)
    incoming = made.model_copy(update={"adopted": plan.source.adopted})
    await world.journal.keep_backup(target.name, world.run, plan.to, incoming, world.clock.now() + target.keep)
    await world.remember(incoming=incoming.model_dump(mode="json"), filled=False)
    async with target.database.inside(incoming) as beside:
        ignored = await target.backup.restore(plan.source, beside.admin, plan.identity.version, world)
        seen = await _seen(world, beside)
        await _as_approved(world, beside, Snapshot(**seen["before"]))
    await world.remember(**seen, filled=True)
    return incoming, ignored


async def _as_approved(world: World, beside: Database, seen: Snapshot) -> None:
    """It stands where the plan says, and has the rows that the trial had. Raises StepFailed."""
    plan = world.plan
    try:
        stands = await beside.heads(*plan.version)
    except Refusal as refusal:
        if refusal.code != "version_table_missing":
            raise
        stands = ()
    if plan.to != UNREAD and stands != heads(plan.to):
        raise StepFailed(f"What was restored stands at {', '.join(stands) or 'base'}, not at {plan.to}. It was not put in the database's place.")
    tried = plan.rehearsal.rows if plan.rehearsal else {}
    fewer = [f"{table} {seen.counts.get(table, 0):,} of {count:,}" for table, count in sorted(tried.items()) if seen.counts.get(table, 0) < count]
    if fewer:
        named = f"{', '.join(fewer[:3])}{f' and {len(fewer) - 3} more' if len(fewer) > 3 else ''}"
        raise StepFailed(f"What was restored has fewer rows than when it was tried: {named}. It was not put in the database's place.")


async def _seen(world: World, database: Database) -> dict[str, Any]:
    """What it holds: the verification compares with exactly that."""
    await world.progress("looking at what is there")
    seen = await database.snapshot(count=True)
    answers = {one.name: (await database.ask(one.sql)).model_dump(mode="json") for one in world.target.verify}
    return {"before": seen.model_dump(mode="json"), "fingerprint": seen.fingerprint(), "answers": answers}


def _done(world: World, took: float, ignored: tuple[str, ...], notes: tuple[str, ...]) -> Evidence:
    source = world.plan.source
    what = f"{source.name}, {size(source.size)}" if source else "the copy"
    left = f"; left out: {'; '.join(ignored[:3])}" if ignored else ""
    more = f"; {many(len(notes), 'thing')} not as before: {'; '.join(notes[:3])}" if notes else ""
    facts = {"ignored": list(ignored), "notes": list(notes), "seconds": round(took, 1)}
    return Evidence(f"the database was dropped, and is {what} now, in {took:.1f} s{left}{more}", facts)


async def let_in(world: World) -> bool:
    """Before the writers start: a database that was to be dropped, and was not, lets everybody in again. False: there is no database."""
    known, place = await _known(world), world.target.database.replacing
    stands = await place.stands()
    if stands in known.ours:
        await place.reopen(stands)
    return stands is not None


def gone(run: Run) -> bool:
    """It ended without a database."""
    last = run.last_attempt("start_writers")
    return last is not None and last.facts.get("database") is False


async def _known(world: World) -> _Known:
    return _Known.of(world, await world.journal.run(world.run))


def _stranger(world: World, stands: int) -> str:
    return f"the database {world.plan.identity.database} is another one now (OID {stands}), which neither was approved nor made by this run"
