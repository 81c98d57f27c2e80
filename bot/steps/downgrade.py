"""The destructive step: the tool's own downgrade, to one absolute revision, at most once.

What the tool says is not believed: the revision is read on another connection afterwards. After a crash the revision is not believed either
(a backend of the dead attempt may still execute, an autocommit block commits while the version table stays): see `did_it_happen`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from bot.durable import Evidence, Happened, OnCrash, Probed, World, step
from bot.errors import StepFailed
from bot.model import Attempt, Snapshot

_BIG = 5000  # objects of a catalog that are still kept in the journal one by one


async def did_it_happen(world: World, former: Attempt) -> Probed:
    """The executor has ended every backend of the former attempt and seen it gone. Revision and catalog fingerprint then tell, or a person must."""
    plan, facts = world.plan, former.facts
    stands = await world.target.database.heads(plan.version_table, plan.version_table_schema)
    seen: dict[str, Any] = {"revision": ", ".join(stands) or "base"}
    if "backend" not in facts and stands == _heads(plan.from_):
        return Probed(Happened.NO, "the tool had not been told to begin", seen)
    if not plan.one_transaction:
        return Probed(Happened.UNKNOWN, "the scripts may commit in the middle, so the revision proves nothing", seen)
    fingerprint = (await world.target.database.snapshot(count=False)).fingerprint()
    seen["same_schema"] = fingerprint == facts.get("fingerprint")
    if stands == _heads(plan.to):
        return Probed(Happened.YES, f"the database stands at {plan.to}", seen)
    if stands == _heads(plan.from_) and seen["same_schema"]:
        return Probed(Happened.NO, f"the database stands at {plan.from_} and its schema is as it was", seen)
    return Probed(Happened.UNKNOWN, f"the database stands at {seen['revision']} with a schema that is neither before nor after", seen)


@step(on_crash=OnCrash.PROBE, probe=did_it_happen, timeout=dt.timedelta(hours=2), destructive=True, says="downgrade")
async def downgrade(world: World) -> Evidence:
    plan, database = world.plan, world.target.database
    stands = await database.heads(plan.version_table, plan.version_table_schema)
    if stands == _heads(plan.to) and world.former:
        return Evidence(f"the database already stands at {plan.to}; nothing was executed", dict(world.former[0].facts))
    if stands != _heads(plan.from_):
        raise StepFailed(f"the database stands at {', '.join(stands) or 'base'}, not at {plan.from_}: somebody moved it. Nothing was executed")
    await world.remember(**await _stock(world))
    facts = await world.target.tool.downgrade(plan.to, world)
    stands = await database.heads(plan.version_table, plan.version_table_schema)
    if stands != _heads(plan.to):
        raise StepFailed(f"the tool reported success, but the database stands at {', '.join(stands) or 'base'}, not at {plan.to}", facts)
    statements = len(facts.get("statements", ()))
    return Evidence(f"{plan.from_} -> {plan.to}, {statements} statement{'' if statements == 1 else 's'}", facts)


async def _stock(world: World) -> dict[str, Any]:
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


def _heads(revision: str) -> tuple[str, ...]:
    return () if revision == "base" else (revision,)
