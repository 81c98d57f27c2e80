"""Words for plans that bring a copy back (a backup, an instant, tables) or write a revision down: for card, thread and private answers."""

from __future__ import annotations

from bot.evidence import Loss, size
from bot.model import Plan
from bot.steps.stage_backup import asked_for
from bot.words import destroyed, many, span, worst_first
from handlers.text import code, safe

#: what stands above the findings, where it isn't what a copy holds
HEADS = {"stamp": "Where the schema differs"}
_TOLD = 2  # losses in a sentence


def undoing(plan: Plan) -> str:
    """What is asked for, as 'it tries to ...' goes on."""
    where = code(plan.target, 60)
    if plan.strategy == "tables":
        tables = ", ".join(code(each, 80) for each in plan.tables_back[:4])
        return f"bring rows of {tables} back into {where} from {_copy(plan)}"
    if plan.strategy == "stamp":
        return f"write down that {where} stands at {code(plan.to, 40)}, not at {code(plan.from_, 40)}"
    if plan.way.in_place:
        return f"DROP {where} and restore {_copy(plan)} into its place, back to {code(plan.to, 40)}"
    if plan.way.at_provider:
        return f"put {_copy(plan)} of {_provider(plan)} in the place of the whole server of {where}"
    if plan.point:
        return f"take {where} back to {safe(plan.point, 40)}"
    return f"put {_copy(plan)} in the place of {where}, back to {code(plan.to, 40)}"


def _copy(plan: Plan) -> str:
    name = plan.source.name if plan.source else asked_for(plan).get("backup")
    return code(name, 120) if name else "a copy"


def _provider(plan: Plan) -> str:
    return safe(str(asked_for(plan).get("provider", "the provider")).capitalize(), 40)


def losses(plan: Plan) -> str:
    """What the live database would not have any more. It is kept, so nothing of it is destroyed."""
    if plan.strategy == "tables":
        return "Rows are added, and none is deleted or changed."
    if plan.strategy == "stamp":
        return "No script runs, and no data is touched. *The next deploy believes it.*"
    kept = "The database as it is now is kept beside it."
    if plan.way.in_place:
        kept = "*The database is dropped:* the only way back is the dump that is taken right before, when the writers have stopped."
    if plan.way.at_provider:
        return "*Everything written since that backup is gone from the service,* in every database on the server."
    if not plan.loss:
        return f"{'Nothing would be missing.' if plan.rehearsal and plan.rehearsal.done else 'What would be missing is not known.'} {kept}"
    worst = worst_first(plan.loss)
    limit = len(worst) if len(worst) <= _TOLD else 1
    told = ", ".join(_missing(one) for one in worst[:limit])
    more = f" and {many(len(worst) - limit, 'other thing')}" if len(worst) > limit else ""
    return f"*Missing afterwards* would be {told}{more}. {kept}"


def _missing(one: Loss) -> str:
    return destroyed(one, code, lambda text: safe(text, 200))


def tried(plan: Plan, at: str) -> str:
    """How the copy was looked at before anybody was asked."""
    found = plan.rehearsal
    if found is None or not found.done:
        why = safe(found.why, 300).rstrip(".") if found and found.why else "nobody knows why"
        if plan.strategy == "stamp":
            return f"*Not compared with that revision:* {why}."
        return f"*{'The backup' if plan.way.at_provider else 'The copy'} was not looked at:* {why}."
    if plan.strategy == "stamp":
        to = code(plan.to, 40)
        if found.expected == "same":
            return f"The schema is the one that {to} builds from nothing{at}."
        return f"*The schema is NOT the one that {to} builds from nothing*{at}."
    took = f", restored in {span(found.seconds['restore'])}" if "restore" in found.seconds else ""
    took = f", recovered in {span(found.seconds['recover'])}" if "recover" in found.seconds else took
    big = f", {size(found.size)}" if found.size else ""
    head = f"*Looked at, with reservations,*{at}" if found.partial else f"Looked at{at}"
    return f"{head} on {safe(found.server, 120)}{took}{big}."


def showed(plan: Plan) -> list[str]:
    """What the look found, a line each."""
    found = plan.rehearsal
    if found is None or not found.done:
        return []
    more = f" and {len(found.partial) - 1} more, below" if len(found.partial) > 1 else ""
    doubts = [f"• with reservations: {safe(found.partial[0], 200)}{more}"] if found.partial else []
    return [*doubts, *(f"• {safe(each, 200)}" for each in found.findings)]


def expected(plan: Plan) -> str:
    if plan.expected_seconds is not None:
        return f"Expected time: about {span(plan.expected_seconds)}, the median of earlier runs."
    if plan.strategy == "stamp":
        return "Expected time: seconds."
    took = plan.rehearsal.seconds.get("restore") if plan.rehearsal else None
    if plan.way.in_place:
        so_long = f"at least {span(took)}, which restoring took elsewhere; dumping it first comes on top" if took is not None else "not measured"
        return f"Expected time without a database: {so_long}."
    if plan.way.at_provider:
        return f"Expected time without a database: not measured. {_provider(plan)} copies the backup first, while it still runs; minutes by its size."
    if took is not None:
        return f"Expected time: restoring took {span(took)} elsewhere; nobody is stopped before it is there. The swap itself takes seconds."
    return "Expected time: the swap itself takes seconds."
