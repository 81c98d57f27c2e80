"""What downgrade and upgrade share: the tool moves the database to one absolute revision, at most once.

What the tool says is not believed: the revision is read on another connection afterwards. After a crash the revision is not believed either
(a backend of the dead attempt may still execute, an autocommit block commits while the version table stays): see `did_it_happen`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bot.durable import Evidence, Happened, Probed, World
from bot.errors import Refusal, StepFailed
from bot.evidence import Snapshot
from bot.model import Attempt

_BIG = 5000  # objects of a catalog that are still kept in the journal one by one


async def did_it_happen(world: World, former: Attempt) -> Probed:
    """The executor has ended every backend of the former attempt and seen it gone. Revision and catalog fingerprint then tell, or a person must."""
    plan, facts = world.plan, former.facts
    stands = await _stands(world)
    seen: dict[str, Any] = {"revision": ", ".join(stands) or "base"}
    if "backend" not in facts and stands == heads(plan.from_):
        return Probed(Happened.NO, "the tool had not been told to begin", seen)
    if not plan.one_transaction:
        return Probed(Happened.UNKNOWN, "the scripts may commit in the middle, so the revision proves nothing", seen)
    fingerprint = (await world.target.database.snapshot(count=False)).fingerprint()
    seen["same_schema"] = fingerprint == facts.get("fingerprint")
    if stands == heads(plan.to):
        return Probed(Happened.YES, f"the database stands at {plan.to}", seen)
    if stands == heads(plan.from_) and seen["same_schema"]:
        return Probed(Happened.NO, f"the database stands at {plan.from_} and its schema is as it was", seen)
    return Probed(Happened.UNKNOWN, f"the database stands at {seen['revision']} with a schema that is neither before nor after", seen)


async def move(world: World, work: Callable[[], Awaitable[Mapping[str, Any]]]) -> Evidence:
    """`work` is the tool's. Raises StepFailed, OutcomeUnknown."""
    plan, database = world.plan, world.target.database
    stands = await _stands(world)
    if stands == heads(plan.to) and world.former:
        return Evidence(f"the database already stands at {plan.to}; nothing was executed", dict(world.former[0].facts))
    if stands != heads(plan.from_):
        raise StepFailed(f"the database stands at {', '.join(stands) or 'base'}, not at {plan.from_}: somebody moved it. Nothing was executed")
    await world.remember(**await stock(world))
    facts = await work()
    stands = await database.heads(*plan.version)
    if stands != heads(plan.to):
        raise StepFailed(f"the tool reported success, but the database stands at {', '.join(stands) or 'base'}, not at {plan.to}", dict(facts))
    statements = facts.get("statements_total", 0)
    return Evidence(f"{plan.from_} -> {plan.to}, {statements} statement{'' if statements == 1 else 's'}", facts)


async def _stands(world: World) -> tuple[str, ...]:
    """A database without a version table stands at base, where that was planned."""
    try:
        return await world.target.database.heads(*world.plan.version)
    except Refusal as refusal:
        if refusal.code != "version_table_missing" or world.plan.from_ != "base":
            raise
        return ()


async def stock(world: World) -> dict[str, Any]:
    """What is there right before: the first attempt's look counts, a later one may see half of the work."""
    for former in world.former:
        if "before" in former.facts:
            return {key: former.facts[key] for key in ("before", "fingerprint", "answers")}
    await world.progress("looking at the schema and counting rows")
    snapshot: Snapshot = await world.target.database.snapshot(count=True)
    kept = snapshot if len(snapshot.objects) <= _BIG else snapshot.model_copy(update={"objects": {}})
    answers = {}
    for check in world.target.verify:
        answers[check.name] = (await world.target.database.ask(check.sql)).model_dump(mode="json")
    return {"before": kept.model_dump(mode="json"), "fingerprint": snapshot.fingerprint(), "answers": answers}


def heads(revision: str) -> tuple[str, ...]:
    """A revision as the rows of the version table."""
    return () if revision == "base" else (revision,)
