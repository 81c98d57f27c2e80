"""What the database published, and no restore brings back, is published again; what this role may not is told with its commands, and stops nobody."""

from __future__ import annotations

import datetime as dt

from bot.durable import Evidence, OnCrash, TargetParts, World, step
from bot.evidence import Publication
from bot.model import Plan, PlanStep
from bot.words import many


@step(on_crash=OnCrash.RERUN, timeout=dt.timedelta(minutes=10), destructive=False, says="make its publications again")
async def publish(world: World) -> Evidence:
    """One that is there is left as it is."""
    wanted = _wanted(world.plan)
    refused = await world.target.database.publications.make(wanted, world.application)
    made = [each.name for each in wanted if each.name not in refused]
    left = {each.name: list(each.statements) for each in wanted if each.name in refused}
    said = [f"{', '.join(made)} published again"] if made else []
    said += [f"not made again: {name} ({refused[name]}): {'; '.join(left[name])}" for name in left]
    return Evidence("; ".join(said), {"left": left, "refused": refused})


async def published(target: TargetParts) -> tuple[tuple[PlanStep, ...], tuple[str, ...]]:
    """The step, where the database publishes anything, and what the card says of it."""
    found = await target.database.publications.there()
    if not found:
        return (), ()
    named = ", ".join(each.name for each in found)
    step_ = PlanStep(name="publish", params={"publications": [each.model_dump(mode="json") for each in found]})
    said = f"A restore brings no publications. What {target.name} publishes now is made again as it is: {many(len(found), 'publication')}, {named}."
    return (step_,), (f"{said} Who subscribes begins anew.",)


def _wanted(plan: Plan) -> tuple[Publication, ...]:
    params = next((each.params for each in plan.steps if each.name == "publish"), {})
    return tuple(Publication(**each) for each in params.get("publications", ()))


def again(plan: Plan) -> tuple[PlanStep, ...]:
    """The same step, for another way to the end."""
    return tuple(each for each in plan.steps if each.name == "publish")
