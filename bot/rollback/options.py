"""The ways back, side by side: what each loses, how long it takes, how certain that is; one is recommended with its reason."""

from __future__ import annotations

from bot.durable import TargetParts
from bot.evidence import Loss, LossClass, Rehearsal, size
from bot.model import Option, Plan
from bot.ports import Journal
from bot.words import many


async def side_by_side(target: TargetParts, plan: Plan, journal: Journal) -> tuple[Option, ...]:
    """Downgrade, restore from before the migration, forward fix. Empty for a reapply, which is itself the way forward."""
    if plan.strategy != "downgrade":
        return ()
    found = (_downgrade(plan), await _restore(target, plan, journal), _forward())
    best = _best(plan)
    return tuple(one.model_copy(update={"recommended": one.name == best[0], "why": best[1] if one.name == best[0] else one.why}) for one in found)


def _downgrade(plan: Plan) -> Option:
    tried = plan.rehearsal
    if tried is None or not tried.done:
        return Option(name="downgrade", loses=_lost(plan.loss), seconds=plan.expected_seconds, certain="not tried on a copy")
    certain = "tried on a copy" if not tried.partial else "tried on a copy, with reservations"
    if tried.sampled is not None:
        return Option(name="downgrade", loses=_lost(plan.loss), seconds=plan.expected_seconds, certain="tried on sampled rows")
    return Option(name="downgrade", loses=_lost(plan.loss), seconds=plan.expected_seconds or _about(tried), certain=certain)


def _about(tried: Rehearsal) -> float:
    """A clone or dump and the move itself, as they took on the copy."""
    return round(tried.seconds.get("move", 0.0) + tried.seconds.get("back_up", 0.0), 1)


async def _restore(target: TargetParts, plan: Plan, journal: Journal) -> Option:
    for kept in await journal.backups(target.name):
        if kept["revision"] == plan.to and kept["file"].format != "schema":
            took = plan.rehearsal.seconds.get("restore") if plan.rehearsal else None
            return Option(
                name="restore", loses=f"everything written since {kept['made']:%Y-%m-%d %H:%M} UTC", seconds=took, certain="its dump was read back",
                why=f"{kept['name']}, {size(kept['file'].size)}",
            )  # fmt: skip
    return Option(
        name="restore", loses="everything written since", certain="-", possible=False, why=f"Backout knows no backup from when it stood at {plan.to}"
    )


def _forward() -> Option:
    return Option(name="fix forward", loses="nothing", certain="as good as the fix", why="the migration stays; a new one mends it")


def _lost(losses: tuple[Loss, ...]) -> str:
    told = [f"{_count(one)} of {one.name}" for one in losses if one.count != 0 and one.kind in _WHAT]
    if not told:
        return "nothing"
    return ", ".join(told[:2]) + (f" and {len(told) - 2} more" if len(told) > 2 else "")


_WHAT = {"table": "row", "column": "value", "rows": "row", "values": "value", "enum": "use"}


def _count(one: Loss) -> str:
    what = _WHAT[one.kind]
    return f"the {what}s" if one.count is None else many(one.count, what)


def _best(plan: Plan) -> tuple[str, str]:
    tried = plan.rehearsal
    if tried is None or not tried.done:
        return "fix forward", "nothing was proven on a copy: a fix forward destroys nothing"
    worked = "it worked on a copy" if tried.sampled is None else "it worked on sampled rows"
    if plan.loss_class is LossClass.NONE:
        return "downgrade", f"it loses nothing, and {worked}"
    archived = "what it destroys is archived first and can be put back"
    if plan.loss_class is LossClass.MEDIUM:
        return "downgrade", f"{worked}, and {archived}"
    return "downgrade", f"{worked}; the loss is high, but {archived}"
