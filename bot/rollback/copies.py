"""What a copy that is to come back is like: restored on a server that is thrown away, or looked at where it lies; compared with production now.

A copy that a blocking verification condemns, or that can't be restored, is a Refusal(copy_condemned); what can't be tried is said (`done=False`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Awaitable, Callable
from typing import Any

from bot.durable import World
from bot.errors import FenceLost, OutcomeUnknown, Refusal, StepFailed
from bot.evidence import BackupFile, Loss, Rehearsal, Snapshot
from bot.moment import told
from bot.place import Connect
from bot.ports import Database, Scratch
from bot.rollback import verify
from bot.steps.fillable import IS_OWNER, IS_RIGHT, unable
from bot.steps.restore_point import is_clone
from bot.strategy import UNREAD

_COPY = "backout_copy"
_PROGRAMS = ("function ", "trigger ", "rule ", "view ", "materialized view ", "policy ")
_OWNER = re.compile(r"^owner [^;]*; ")
_NAMED = 5


async def copy_tried(world: World) -> Rehearsal:
    """Within the target's time budget."""
    source = world.plan.source
    if source is None:
        return Rehearsal(done=False, why="the plan names no copy")
    if is_clone(source):
        return await within(world, lambda: _where_it_lies(world, source))
    return await within(world, lambda: restored(world, source))


async def instant_tried(world: World) -> Rehearsal:
    """The instant is recovered, dumped into the store, and looked at. Without that there is nothing to ask about. Raises Refusal(pitr_failed)."""
    points, plan = world.target.pitr, world.plan
    if points is None or plan.point is None:
        raise Refusal("no_point_in_time", "There is no archive to recover from any more.", "Look at backups.pitr in backout.yml.")
    began = world.clock.monotonic()
    try:
        async with points.open(dt.datetime.fromisoformat(plan.point), world) as recovered:
            beside = world.target.elsewhere(recovered.admin)
            newest = f"its last transaction is of {told(recovered.last)}" if recovered.last else "it holds the base backup and nothing newer"
            found = await _looked(world, beside, f"a server recovered to {told(dt.datetime.fromisoformat(plan.point))}")
            replayed = round(world.clock.monotonic() - began, 1)
            await world.progress("dumping what was recovered")
            file = await world.target.backup.of(recovered.admin).take(f"{world.target.name}-{world.run}-recovered.dump", world)
            stands = await beside.heads(*plan.version)
    except StepFailed as error:
        raise Refusal(
            "pitr_failed", f"{plan.point} could not be recovered. {error}", "Mend what the message names, or choose another instant."
        ) from error
    await world.journal.keep_backup(world.target.name, world.run, ", ".join(stands) or "base", file, world.clock.now() + world.target.keep)
    taken = round(world.clock.monotonic() - began - replayed, 1)
    return found.model_copy(
        update={
            "backup": file, "size": file.size, "seconds": {"recover": replayed, "dump": taken}, "stands": ", ".join(stands) or "base",
            "findings": (newest, *found.findings),
        }
    )  # fmt: skip


async def within(world: World, tried: Callable[[], Awaitable[Rehearsal]]) -> Rehearsal:
    within = world.target.rehearsal.within
    try:
        async with asyncio.timeout(within.total_seconds()):
            return await tried()
    except TimeoutError:
        return Rehearsal(done=False, why=f"it did not end within {within.total_seconds():.0f} s (rehearsal.within)")
    except (OutcomeUnknown, FenceLost) as error:
        return Rehearsal(done=False, why=str(error))
    except Refusal as refusal:
        if refusal.code != "rehearsal_impossible":
            raise
        return Rehearsal(done=False, why=f"{refusal.message} {refusal.next}")


async def _where_it_lies(world: World, source: BackupFile) -> Rehearsal:
    """A clone is a database already: nobody enters it, so it is what it was when it was made."""
    beside = world.target.database.beside(source.name)
    found = await _looked(world, beside, f"the clone {source.name} itself")
    production = world.target.database
    await world.progress("comparing every row with production")
    lost = world.plan.data(await beside.lost_since(production.admin, world.progress))
    return found.model_copy(update={"loss": lost})


async def restored(world: World, source: BackupFile) -> Rehearsal:
    """Restored elsewhere and looked at. Raises Refusal (copy_condemned, rehearsal_impossible)."""
    scratches = world.target.rehearsal.where
    if scratches is None:
        return Rehearsal(done=False, why=world.target.rehearsal.why_not)
    await harmless(world, source)
    began = world.clock.monotonic()
    async with scratches.open(world) as scratch:
        await world.progress("restoring the copy elsewhere")
        into = await _into(world, scratch, source)
        # What others made is a program: it gets the application's role, which may do nothing else there (databases.md F15).
        copy = world.target.elsewhere(scratch.at(_COPY)[0].tool) if source.theirs else scratch.at(_COPY)[0]
        try:
            ignored = await world.target.backup.restore(source, into, scratch.version, world, owners=scratch.owners)
        except StepFailed as error:
            if world.plan.way.in_place and IS_RIGHT.search(error.message):
                raise unable(world.target.name, into.user, source.name, error.message) from error
            raise condemned(source.name, error.message) from error
        if world.plan.way.in_place and (others := [each for each in ignored if IS_OWNER.search(each)]):
            raise unable(world.target.name, into.user, source.name, others[0])
        took = round(world.clock.monotonic() - began, 1)
        if not source.foreign:
            await world.journal.prove_backup(world.target.name, source.name)
        cut = await scratch.cut_off(_COPY)
        found = await _looked(world, copy, scratch.says, theirs=source.theirs)
        if source.foreign:
            found = await _adopted(world, scratch.superuser(_COPY), found)
        partial = (*found.partial, *scratch.partial, *(f"not restored: {each}" for each in ignored), *cut)
    return found.model_copy(update={"partial": partial, "seconds": {"restore": took}, "size": source.size})


async def _into(world: World, scratch: Scratch, source: BackupFile) -> Connect:
    """By whom it is restored there. Where the database is dropped for it: by the role that will do so, with no more rights than it will have."""
    if world.plan.way.in_place and not source.theirs:
        return await scratch.incoming(_COPY)
    await scratch.create(_COPY)
    return scratch.at(_COPY)[0].tool if source.theirs else scratch.superuser(_COPY)


async def harmless(world: World, source: BackupFile) -> None:
    """Code of others runs by the application's role: that one must not be able to do harm elsewhere. Raises Refusal(copy_condemned)."""
    if source.theirs and (rights := await world.target.database.reach()):
        who = world.target.database.tool.user
        raise condemned(source.name, f"its code is somebody else's, it would run by {who}, and that role has {rights}.")


async def _adopted(world: World, copy: Connect, found: Rehearsal) -> Rehearsal:
    """What others made comes back as a dump of ours, made of the copy that was looked at: no program of theirs is fed to production.

    What its schema defines comes along, which `_code` names.
    """
    await world.progress("dumping what was restored")
    made = await world.target.backup.of(copy).take(f"{world.target.name}-{world.run}-adopted.dump", world)
    file = made.model_copy(update={"adopted": True})
    await world.journal.keep_backup(world.target.name, world.run, found.stands, file, world.clock.now() + world.target.keep)
    return found.model_copy(update={"backup": file})


async def _looked(world: World, copy: Database, where: str, *, theirs: bool = False) -> Rehearsal:
    """Its revision, its rows beside production's, and the target's own queries. Raises Refusal(copy_condemned)."""
    plan = world.plan
    await world.progress("looking at the copy")
    stands = ", ".join(await copy.heads(*plan.version)) or "base"
    if plan.source is not None and plan.to not in (stands, UNREAD):
        raise condemned(plan.source.name, f"it stands at {stands}, not at {plan.to} as its entry says.")
    seen = await copy.snapshot(count=True)
    findings = [f"it stands at {stands}", *await _answers(world, copy)]
    production = await world.target.database.snapshot(count=True)
    if not plan.point:  # a server that recovered loads no TimescaleDB
        cut = [name.removeprefix("hypertable ") for name in production.objects.keys() - seen.objects.keys() if name.startswith("hypertable ")]
        findings += [f"{name} is a hypertable now, and a plain table in it" for name in sorted(cut) if f"table {name}" in seen.objects]
    gone = tuple(_gone(production, seen, plan.versions))
    rows = seen.counts if plan.way.in_place else {}
    doubts = tuple(_code(production, seen)) if theirs else ()
    return Rehearsal(
        done=True, server=where, stands=stands, one_transaction=True, loss=gone, findings=tuple(findings), rows=rows, partial=doubts
    )  # fmt: skip


async def _answers(world: World, copy: Database) -> list[str]:
    found = []
    for one in world.target.verify:
        try:
            judged = verify.judge(
                one.name, one.expected if one.expected != "same" else ..., one.blocking, None, await copy.ask(one.sql), stopped=True
            )
        except StepFailed as error:
            judged = verify.check(one.name, False, error.message, blocking=one.blocking)
        if judged["ok"] is False and judged["blocking"]:
            raise condemned(
                world.plan.source.name if world.plan.source else "The instant", f"{one.name}: {judged['says']}, it says {judged['after']}."
            )
        found.append(f"{one.name}: {judged['after'] or judged['says']}")
    return found


def _code(production: Snapshot, copy: Snapshot) -> list[str]:
    """What of a stranger's copy is a program, and no program of production's: once it is restored there it runs, some of it at once."""
    new = sorted(
        name for name, text in copy.objects.items()
        if (name.startswith(_PROGRAMS) or (name.startswith("constraint ") and text.startswith("CHECK")))
        and _OWNER.sub("", production.objects.get(name, "")) != _OWNER.sub("", text)
    )  # fmt: skip
    more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
    return [f"it brings code that production does not have, read it before you approve: {', '.join(new[:_NAMED])}{more}"] if new else []


def _gone(production: Snapshot, copy: Snapshot, versions: str) -> list[Loss]:
    """What production has and the copy has not, by names and numbers of rows: a copy that lies elsewhere can't be compared row by row."""
    found = []
    for table, count in sorted(production.counts.items()):
        there = copy.counts.get(table)
        if table == versions:
            continue
        if there is None and table in copy.uncounted:
            found.append(Loss(kind="rows", name=table, of=count, certain=False, why=f"not counted: {copy.uncounted[table]}"))
        elif there is None:
            found.append(Loss(kind="table", name=table, count=count))
        elif there is not None and count > there:
            found.append(Loss(kind="rows", name=table, count=count - there, of=count, certain=False, why="at least, by number"))
    gone = {key.removeprefix("column ") for key in production.objects if key.startswith("column ")} - {
        key.removeprefix("column ") for key in copy.objects if key.startswith("column ")
    }
    whole = {one.name for one in found if one.kind == "table"}
    return found + [Loss(kind="column", name=name) for name in sorted(gone) if name.rpartition(".")[0] not in whole]


def condemned(name: str, why: Any) -> Refusal:
    return Refusal("copy_condemned", f"{name} was looked at before anybody was asked, and is no way back: {why}", "Choose another backup.")
