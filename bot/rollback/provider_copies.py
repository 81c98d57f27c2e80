"""An instant that a provider recovers: a person does that, and enters where it is. What comes from there is a stranger's copy (databases.md F15)."""

from __future__ import annotations

import asyncio
import datetime as dt

from bot.durable import World
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile, Rehearsal
from bot.keeping import Provider
from bot.moment import told
from bot.place import Connect, Elsewhere
from bot.rollback import addresses, copies
from bot.strategy import UNREAD

WANTED = "address_wanted"


async def instant_tried(world: World) -> Rehearsal:
    """As the plan says: from the archive, or by the provider."""
    by = next((one.params.get("provider") for one in world.plan.rehearse), None)
    if by is None:
        return await copies.instant_tried(world)
    if world.target.provider is None or world.target.provider.kind != by or world.plan.point is None:
        raise Refusal("no_point_in_time", f"{by} is not the provider of {world.target.name} any more.", "Look at backups.provider, then ask again.")
    return await _tried(world, world.target.provider, dt.datetime.fromisoformat(world.plan.point))


async def _tried(world: World, provider: Provider, point: dt.datetime) -> Rehearsal:
    """Wait for the address, dump what is there, restore the dump on a server that is thrown away, and look at it.

    After a crash the address is gone, and is asked for again. Raises Refusal(address_not_entered, copy_condemned, ...).
    """
    until = _until(world, provider)
    await _ask(world, provider, point, until)
    while True:
        address = await _awaited(world, provider, until)
        began = world.clock.monotonic()
        try:
            seen, file = await _dumped(world, address)
            break
        except (StepFailed, Refusal) as error:
            said = addresses.concealed(str(error), address)
            await world.journal.record(world.run, "address_failed", message=said)
            await world.progress("it could not be dumped; the address is asked for again")
    taken = round(world.clock.monotonic() - began, 1)
    try:
        found = await copies.restored(world, file)
    finally:
        await asyncio.shield(_forgotten(world, file))
    notes, doubts = _newest(world, seen, point)
    return found.model_copy(
        update={
            "findings": (f"recovered by {provider.kind}", *notes, *found.findings), "partial": (*doubts, *found.partial),
            "seconds": {"dump": taken, **found.seconds},
        }
    )  # fmt: skip


def _until(world: World, provider: Provider) -> dt.datetime:
    """Counted from the first asking: a restart gives no new time."""
    return min([world.clock.now(), *(one.began for one in world.former)]) + provider.within


async def _ask(world: World, provider: Provider, point: dt.datetime, until: dt.datetime) -> None:
    if any(event.kind == WANTED for event in await world.journal.events(world.run)):
        return
    guide = provider.recovery(world.target.database.tool.database, point)
    by = (await world.journal.run(world.run)).request.by.id
    await world.journal.record(
        world.run, WANTED, provider=provider.kind, point=told(point), by=by, until=until.isoformat(timespec="seconds"), guide=guide
    )  # fmt: skip


async def _awaited(world: World, provider: Provider, until: dt.datetime) -> Connect:
    waits = {"provider": provider.kind, "until": until.isoformat(timespec="seconds")}
    await world.remember(**{addresses.FACT: waits})
    await world.progress(f"waiting for the address of what {provider.kind} recovered")
    try:
        async with asyncio.timeout(max(0.0, (until - world.clock.now()).total_seconds())):
            return await world.address()
    except TimeoutError:
        hours = provider.within.total_seconds() / 3600
        raise Refusal(
            "address_not_entered", f"Nobody entered the address of a recovered server within {hours:g} h (backups.provider.within).",
            "Ask again once it is there.",
        ) from None  # fmt: skip
    finally:
        await asyncio.shield(world.remember(**{addresses.FACT: None}))


async def _dumped(world: World, address: Connect) -> tuple[Elsewhere, BackupFile]:
    """It is a stranger's from here on, and listed, so that it goes at its time whatever happens."""
    target = world.target
    await world.progress("looking at what was recovered")
    async with target.database.challenge() as lock:
        seen = await target.elsewhere(address).looked_at(lock)
        if seen.same:
            raise StepFailed("The address leads to production itself by now.")
    await world.progress("dumping what was recovered")
    made = await target.backup.of(address).take(f"{target.name}-{world.run}-recovered.dump", world)
    file = made.model_copy(update={"foreign": True})
    await world.journal.keep_backup(target.name, world.run, UNREAD, file, world.clock.now() + target.keep)
    return seen, file


async def _forgotten(world: World, file: BackupFile) -> None:
    """What was adopted is the backup."""
    await world.target.backup.remove(file)
    await world.journal.forget_backup(world.target.name, file.name)


def _newest(world: World, seen: Elsewhere, point: dt.datetime) -> tuple[list[str], list[str]]:
    """What its server says of its age, and what of it makes a reservation."""
    doubts = []
    if seen.system and seen.system != world.plan.identity.system:
        doubts.append("its server is no copy of production's files: its system identifier is another one")
    if seen.last is None:
        return ["when its last transaction was can't be told there (track_commit_timestamp is off)"], doubts
    last = dt.datetime.fromisoformat(seen.last)
    if last > point:
        doubts.append(f"its server has transactions after the instant, the last of {told(last)}: of whatever database")
    return [f"its server's last transaction is of {told(last)}"], doubts
