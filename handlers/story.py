"""Facts of a run in words, shared by the card, the thread and the private answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.model import Event, Loss, Plan, Run, SeatView, State, StepView, View
from handlers.text import clean, code, many, people, person, safe, span, when

ARROW = "→"

STATES: Mapping[State, str] = {
    State.PLANNING: "planning",
    State.REHEARSING: "trying it on a copy",
    State.AWAITING_APPROVAL: "waiting for approval",
    State.RUNNING: "running",
    State.NEEDS_DECISION: "a person must decide",
    State.SUCCEEDED: "rolled back",
    State.FAILED: "failed",
    State.ABORTED: "cancelled",
    State.REJECTED: "rejected",
    State.EXPIRED: "expired",
    State.REFUSED: "refused",
}

_DESTROYS: Mapping[str, tuple[str, str]] = {
    "table": ("drops table", "may drop table"),
    "column": ("drops column", "may drop column"),
    "rows": ("deletes rows of", "may delete rows of"),
    "index": ("drops index", "may drop index"),
    "constraint": ("drops constraint", "may drop constraint"),
    "policy": ("drops policy", "may drop policy"),
    "type": ("drops type", "may drop type"),
    "unreadable": ("can't be read:", "can't be read:"),
}

_WORST = ("unreadable", "table", "rows", "type", "column", "policy", "constraint", "index")

_MARKS: Mapping[str, str] = {"waiting": "·", "intended": "▸", "done": "✓", "failed": "✗", "unknown": "?"}


def newest(view: View, *kinds: str) -> Event | None:
    """The newest event of one of these kinds."""
    return next((event for event in reversed(view.events) if event.kind in kinds), None)


def way(run: Run) -> str:
    """From where to where, in plain words; unknown before there is a plan."""
    return f"{clean(run.from_ or '?', 40)} {ARROW} {clean(run.to, 40)}"


def destroys(loss: Loss) -> str:
    certain, perhaps = _DESTROYS[loss.kind]
    return f"{certain if loss.certain else perhaps} {code(loss.name)}"


def losses(plan: Plan, limit: int = 2) -> str:
    """The loss in half a sentence: the worst first."""
    if not plan.loss:
        return "Reading the scripts found nothing that it destroys."
    worst = sorted(plan.loss, key=lambda loss: _WORST.index(loss.kind))
    told = [destroys(loss) for loss in worst[:limit]]
    more = f" and {len(plan.loss) - limit} more" if len(plan.loss) > limit else ""
    said = ", ".join(told) + more
    return f"It {said}."


def undone_lines(plan: Plan) -> list[str]:
    return [f"• {code(each.revision, 40)} {safe(each.message, 120)}{_day(each.date)}" for each in plan.undone]


def _day(date: str | None) -> str:
    """A script's date, to the minute."""
    return f" ({safe(date[:16], 30)})" if date else ""


def loss_lines(plan: Plan) -> list[str]:
    several = len(plan.undone) > 1
    return [f"• {destroys(loss)}{f' (undoing {code(loss.revision, 40)})' if several else ''}" for loss in plan.loss]


def seat_line(seat: SeatView, *, open_: bool = True) -> str:
    """A seat: who sits on it, or who could while the run is `open_`."""
    title = safe(seat.title or seat.role, 60)
    if seat.by:
        return f"✓ {title}: {person(seat.by)}"
    return f"· {title}: open, {people(seat.holders, 6)} may approve" if open_ else f"· {title}: nobody"


def open_seats(view: View) -> list[SeatView]:
    return [seat for seat in view.seats if seat.by is None]


def step_line(step: StepView, *, short: bool = False) -> str:
    """A step with its state, its time and what it said last; `short`: not why it failed, which stands elsewhere."""
    again = f", attempt {step.attempt}" if step.attempt > 1 else ""
    took = f" · {span(step.seconds)}" if step.seconds is not None else ""
    said = step.progress if step.state == "intended" else "" if short and step.state in {"failed", "unknown"} else step.summary
    return f"{_MARKS.get(step.state, '·')} {safe(step.says, 120)}{again}{took}{f': {safe(said, 160)}' if said else ''}"


def says(view: View, step: str) -> str:
    """A step's name for people."""
    return next((each.says for each in view.steps if each.name == step), step)


def expected(plan: Plan) -> str:
    if plan.expected_seconds is None:
        return "Expected time: not measured yet."
    return f"Expected time: about {span(plan.expected_seconds)}, the median of earlier runs."


def asking(run: Run) -> str:
    request = run.request
    return f"Severity {request.severity}, asked for by {person(request.by.id)} {when(run.created)}. Reason: {safe(request.reason, 500)}"


def title(view: View, role: object) -> str:
    name = str(role)
    return safe(view.titles.get(name, name), 60)


def undoing(plan: Plan) -> str:
    return f"{many(len(plan.undone), 'migration')} on {code(plan.target, 60)}, back from {code(plan.from_, 40)} to {code(plan.to, 40)}"


def listed(items: Sequence[object], limit: int = 6) -> str:
    """Others' sentences in one of ours."""
    more = f"; and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(safe(item, 160) for item in items[:limit]) + more
