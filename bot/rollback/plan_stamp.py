"""A stamp: the version table says where the database stands, and no script runs. For after a restore, a repair by hand, a table that got lost."""

from __future__ import annotations

from bot.durable import TargetParts
from bot.model import Plan, PlanStep
from bot.ports import Journal
from bot.rollback import pace, route

_STEPS = ("check_preconditions", "stamp", "verify")


async def stamp(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    """Nobody is stopped for it. Raises Refusal."""
    await target.database.examine()
    for refusal in await target.runner.ready():
        if not refusal.warning:
            raise refusal
    history = await target.tool.read(unmarked=True)
    from_, to, between = route.marked(rev, history)
    steps = tuple(PlanStep(name=name) for name in _STEPS)
    tried = target.rehearsal.where is not None
    return Plan.model_validate({
        "target": target.name, "strategy": "stamp", "from_": from_, "to": to, "undone": route.undone_of(between),
        "identity": await target.database.identity(), "steps": steps, "rehearse": (PlanStep(name="try_stamp"),) if tried else (),
        "version_table": history.version_table, "version_table_schema": history.version_table_schema, "version_query": history.version_query,
        "one_transaction": True, "verify": tuple(one.name for one in target.verify),
        "expected_seconds": await pace.expected(target.name, steps, [one.revision for one in between], journal),
        "remarks": (
            f"Only {history.version_table} is written: {from_} becomes {to}. No script runs, and nobody is stopped.",
            f"The next deploy runs whatever lies above {to}.",
        ),
    } | ({} if tried else {"rehearsal": {"done": False, "why": target.rehearsal.why_not}}))  # fmt: skip
