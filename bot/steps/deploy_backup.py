"""What the provider staged is deployed: the server goes away, and comes back as it was when the backup was made.

Nothing is deployed that is not proven to be this swap and nothing else. That another state came back is proven by a mark that this one had. Whoever
comes after a crash finds one of three over there: the swap still staged, the new volume in its place, or neither, which a person looks into.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any

from bot.durable import Evidence, Happened, OnCrash, Probed, World, step
from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.keeping import Progress, Restoring
from bot.model import Attempt, Run
from bot.steps.restore_point import taken
from bot.steps.stage_backup import asked_for, provider, staged_by
from bot.strategy import UNREAD
from bot.words import span

_SLOWEST = 8.0  # seconds between two looks
_GRACE = 10.0  # seconds that a deploy gets to show itself, where its answer was lost
_NOT_YET = "the database does not answer yet"


async def is_it_deployed(world: World, former: Attempt) -> Probed:
    """What is deployed is never done here yet, since nobody has seen the database come back; a deploy that was just asked for gets time to show."""
    restoring, noted = provider(world), world.earlier["stage_backup"].facts["noted"]
    shows = await _shows(world, restoring, noted, _GRACE if former.facts.get("deploying") else 0.0)
    if shows == "deployed":
        return Probed(Happened.NO, "it was deployed, and nobody has seen the database come back yet")
    if shows == "staged":
        return Probed(Happened.NO, "it had not been deployed", {"deploying": False})
    return Probed(Happened.UNKNOWN, "nothing is staged any more, and nothing was deployed")


async def _shows(world: World, restoring: Restoring, noted: Mapping[str, Any], grace: float) -> str:
    """'deployed', or on its way, as soon as that shows; else after `grace` seconds 'staged', or 'nothing'."""
    began = world.clock.monotonic()
    while True:
        staged, seen = await restoring.staged(noted), await restoring.deployed(noted)
        if seen.state != "unknown":
            return "deployed"
        if world.clock.monotonic() - began >= grace:
            return "staged" if staged.swap else "nothing"
        await asyncio.sleep(_GRACE / 10)


@step(
    on_crash=OnCrash.PROBE, probe=is_it_deployed, timeout=dt.timedelta(hours=7), destructive=True, replaces=True, restarts=True,
    says="deploy the backup in the server's place",
)  # fmt: skip
async def deploy_backup(world: World) -> Evidence:
    """Raises StepFailed, OutcomeUnknown."""
    restoring, began = provider(world), world.clock.monotonic()
    backup = str(asked_for(world.plan)["backup"])
    noted: Mapping[str, Any] = world.earlier["stage_backup"].facts["noted"]
    seen: Mapping[str, Any] | None = next((each.facts for each in world.former if "before" in each.facts), None)
    if await _deployed_already(restoring, noted):
        await world.remember(deploying=True)
    else:
        seen = seen or await _look(world)
        await _deploy(world, restoring, noted, backup)
    new = await _until_another(world, restoring, noted)
    seen = seen or await _look(world)
    stands = await _stands(world)
    took = span(world.clock.monotonic() - began)
    facts = {
        "stands": stands, "instance": new, "was": noted["volume"], "seconds": round(world.clock.monotonic() - began, 1),
        "before": seen["before"], "answers": seen["answers"],
    }  # fmt: skip
    return Evidence(
        f"the backup {backup} took the place of the whole server in {took}; the database answers and stands at {stands}. Its volume is "
        f"{new} now: write that as backups.provider.volume. The former volume {noted['volume']} is kept over there, mounted nowhere",
        facts,
    )


async def _deployed_already(restoring: Restoring, noted: Mapping[str, Any]) -> bool:
    """By a former attempt, or by a person. Raises StepFailed where nothing is staged, and nothing was deployed."""
    if (await restoring.staged(noted)).swap:
        return False
    seen = await restoring.deployed(noted)
    if seen.state != "unknown":
        return True
    raise StepFailed(
        f"Nothing is staged any more, and {noted['name']} runs on the volume that it had: somebody discarded the swap. The database is as it was. "
        "Leave ends the run; another one can ask for the backup again."
    )


async def _look(world: World) -> Mapping[str, Any]:
    """The state that goes, for the verification; the one that came, where a person was faster."""
    database = world.target.database
    await world.progress("looking at what is there")
    seen = await database.snapshot(count=True)
    answers = {one.name: (await database.ask(one.sql)).model_dump(mode="json") for one in world.target.verify}
    facts = {"before": seen.model_dump(mode="json"), "fingerprint": seen.fingerprint(), "answers": answers}
    await world.remember(**facts)
    return facts


async def _deploy(world: World, restoring: Restoring, noted: Mapping[str, Any], backup: str) -> None:
    """The way back is in the store, the mark is there, nobody writes, and what is staged is this swap alone; then it is deployed."""
    target = world.target
    point = taken(world.earlier.get("restore_point"))
    if point is None or not await target.backup.usable(point):
        raise StepFailed("The restore point is gone, or is not what it was when it was made. Nothing was deployed.")
    await target.database.replacing.mark(world.run)
    if not await target.database.replacing.marked(world.run):
        raise StepFailed("The state that goes could not be marked, so nobody could tell it from the one that comes. Nothing was deployed.")
    await target.platform.prove_stopped(world)
    staged = await restoring.staged(noted)
    if staged.others or not staged.swap:
        what = f"besides the swap: {', '.join(staged.others[:4])}" if staged.swap else "and the swap of the volume is not among it"
        raise StepFailed(
            f"What is staged over there is not this backup alone, {what}. Nothing was deployed. Let whoever staged it discard it, then retry; "
            "or deploy all of it by hand, and retry when it is up.", {"staged": list(staged.others[:20])},
        )  # fmt: skip
    await world.remember(deploying=True)
    await world.progress(f"deploying the backup: {noted['name']} goes away until it is up again")
    try:
        await restoring.deploy(f"Backout {world.run}: restore of {backup}")
    except OutcomeUnknown as error:
        if await _shows(world, restoring, noted, _GRACE) != "deployed":
            await world.remember(deploying=False)
            raise StepFailed(f"The deploy was asked for, and does not show. {error.message} The database is as it was; Retry looks again.") from error
    except StepFailed:
        await world.remember(deploying=False)
        raise


async def _until_another(world: World, restoring: Restoring, noted: Mapping[str, Any]) -> str:
    """Deployed, as the provider says; and answering without the mark. The instance of the new volume."""
    began, pause, said = world.clock.monotonic(), 0.5, ""
    while True:
        try:
            seen = await restoring.deployed(noted)
        except StepFailed as error:
            seen = Progress("under way", f"the provider can't be asked now: {error.message}")
        if seen.state == "failed":
            raise StepFailed(f"{seen.says} on the new volume. {_by_hand(noted)}")
        problem = seen.says or "waiting for the deploy to begin"
        if seen.state == "done":
            problem = await _still(world)
            if not problem:
                return seen.says
        gone = world.clock.monotonic() - began
        if seen.state == "unknown" and gone >= 6 * _GRACE:
            raise StepFailed(f"It was deployed, and {noted['name']} runs on the volume that it had: somebody took that back over there.")
        if gone >= restoring.patience.total_seconds():
            raise StepFailed(f"Not there after {span(gone)}: {problem}. {_by_hand(noted)}")
        if problem != said or pause >= _SLOWEST:
            said = problem
            await world.progress(f"{problem}, for {span(gone)}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _SLOWEST)


async def _still(world: World) -> str:
    """Why it is not the other state that answers; '' when it is. Raises StepFailed for another server altogether."""
    try:
        now = await world.target.database.identity()
        marked = await world.target.database.replacing.marked(world.run)
    except (Refusal, StepFailed) as error:
        return f"{_NOT_YET} ({error.message.rstrip('.')})"
    if now.system != world.plan.identity.system:
        raise StepFailed("What answers now is another server altogether: it has not the system identifier that was approved. Look at its address.")
    return "what answers is still the state from before" if marked else ""


def _by_hand(noted: Mapping[str, Any]) -> str:
    return (
        f"Look at the log of {noted['name']}. To go back, mount its former volume {noted['volume']} at {noted['mount']} over there again. "
        "Retry looks again and deploys nothing twice."
    )


async def _stands(world: World) -> str:
    try:
        return ", ".join(await world.target.database.heads(*world.plan.version)) or "base"
    except Refusal as refusal:
        if refusal.code != "version_table_missing":
            raise
        return UNREAD


def under_way(run: Run) -> bool:
    """It was deployed, or may have been, and nobody has seen the database come back."""
    last = run.last_attempt("deploy_backup")
    return last is not None and last.state != "done" and any(a.step == "deploy_backup" and a.facts.get("deploying") for a in run.current)


async def left_staged(world: World) -> str:
    """Before the writers start: what this run staged and did not deploy, in words; '' where there is nothing. Its mark is taken away."""
    run = await world.journal.run(world.run)
    noted = staged_by(run)
    if noted is None:
        return ""
    await world.target.database.replacing.unmark(world.run)
    restoring = provider(world)
    try:
        seen = await restoring.staged(noted)
        there = bool(seen.swap)
    except StepFailed:
        there = True  # nobody can say: better said once too often
    return restoring.discard(noted) if there else ""
