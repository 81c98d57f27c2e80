"""The provider makes the server anew from one of its backups, beside the one that runs, and stages the swap. The server that runs is not touched.

It is asked once. Whoever comes after a crash looks over there for what came of the asking, and asks again only when a person says so.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any

from bot.durable import Evidence, OnCrash, World, step
from bot.errors import OutcomeUnknown, StepFailed
from bot.keeping import Progress, Restoring
from bot.model import Plan, Run
from bot.words import span

_SLOWEST = 8.0  # seconds between two looks: a token's requests are counted
_GRACE = 60.0  # seconds that something asked for gets to show itself, where the answer was lost


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(hours=7), destructive=False, says="let the provider stage its backup")
async def stage_backup(world: World) -> Evidence:
    """Raises StepFailed, with the fact `asked` False where asking again begins nothing twice; Refusal."""
    restoring, backup = provider(world), str(asked_for(world.plan)["backup"])
    facts = asked(world)
    if not facts:
        facts = await _ask(world, restoring, backup)
    began = world.clock.monotonic()
    said = await _until_staged(world, restoring, facts, min(_GRACE, restoring.patience.total_seconds()))
    if said.state != "done":
        raise StepFailed(_why(world, said, restoring), {"asked": False} if said.state in ("failed", "unknown") else {})
    staged = await restoring.staged(facts["noted"])
    others = f", and with it what others staged: {', '.join(staged.others[:4])}" if staged.others else ""
    took = span(world.clock.monotonic() - began)
    return Evidence(
        f"the backup {backup} is staged to take the place of {facts['noted']['name']}'s volume, after {took}{others}",
        {"noted": facts["noted"], "job": facts["job"], "asked": True},
    )


async def _ask(world: World, restoring: Restoring, backup: str) -> Mapping[str, Any]:
    """Nothing is staged yet, nobody writes, and what is there is written down; then it is asked for, once."""
    for refusal in await restoring.refuse(world.target.database.tool):
        raise refusal
    await world.target.platform.prove_stopped(world)
    noted = dict(await restoring.look())
    await world.remember(noted=noted, asked=True, job="")
    await world.progress(f"asking {_who(world)} for the backup")
    try:
        job = await restoring.stage(backup)
    except OutcomeUnknown:
        job = ""  # it may have begun: its traces tell
    except StepFailed:
        await world.remember(asked=False)
        raise
    await world.remember(job=job)
    return {"noted": noted, "job": job}


async def _until_staged(world: World, restoring: Restoring, facts: Mapping[str, Any], grace: float) -> Progress:
    """Until it is, or it failed, or nothing of it shows for `grace` seconds, or the patience is at its end."""
    began, pause, told = world.clock.monotonic(), 0.5, ""
    while True:
        try:
            seen = await restoring.staging(facts["noted"], facts["job"])
        except StepFailed as error:
            seen = Progress("under way", f"it can't be asked now: {error.message}")
        gone = world.clock.monotonic() - began
        if seen.state in ("done", "failed") or gone >= (grace if seen.state == "unknown" else restoring.patience.total_seconds()):
            return seen
        if seen.says != told or pause >= _SLOWEST:
            told = seen.says
            await world.progress(f"{seen.says or 'looking whether it has begun'}, for {span(gone)}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _SLOWEST)


def _why(world: World, seen: Progress, restoring: Restoring) -> str:
    who = _who(world)
    match seen.state:
        case "failed":
            return f"{who} could not bring the backup back: {seen.says}. The database is as it was. Retry asks again."
        case "unknown":
            return (
                f"{who} was asked, its answer was lost, and nothing of it is to be seen. The database is as it was. "
                "Look over there whether a restore has begun: Retry asks again."
            )
    hours = span(restoring.patience.total_seconds())
    return f"{who} is not done after {hours}: {seen.says}. The database is as it was. Retry goes on waiting for the same restore."


def _who(world: World) -> str:
    return str(asked_for(world.plan)["provider"]).capitalize()


def provider(world: World) -> Restoring:
    found = world.target.provider.restoring if world.target.provider is not None else None
    if found is None:
        raise StepFailed("There is no provider any more that could bring a backup back. Nothing was executed. Look at backups.provider.")
    return found


def asked_for(plan: Plan) -> Mapping[str, Any]:
    """What a plan wants of the provider: `provider` (its kind), `backup` (as they call it), `made`, `databases`; empty where it wants nothing."""
    return next((each.params for each in plan.steps if each.name == "stage_backup"), {})


def asked(world: World) -> Mapping[str, Any]:
    """What the newest attempt that asked wrote down; empty: none has, or what it asked for came to nothing."""
    last = next((a for a in reversed(world.former) if "asked" in a.facts), None)
    return last.facts if last is not None and last.facts["asked"] else {}


def staged_by(run: Run) -> Mapping[str, Any] | None:
    """What was there before this run asked, where what it asked for may wait to be deployed. None: nothing of it does."""
    if any(a.step == "deploy_backup" and a.facts.get("deploying") for a in run.attempts):
        return None
    last = next((a for a in reversed(run.attempts) if a.step == "stage_backup" and "asked" in a.facts), None)
    return last.facts["noted"] if last is not None and last.facts["asked"] else None
