"""Facts of a run in words, shared by the card, the thread and the private answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from bot.evidence import Archive, Loss, size
from bot.model import AttemptState, Event, Option, Plan, Run, SeatView, State, StepView, View
from bot.moment import told
from bot.steps import STEPS
from bot.steps.stage_backup import asked_for
from bot.strategy import ON_A_COPY, UNREAD, WAYS, Strategy
from bot.words import DATA, ISOLATION, destroyed, line, many, moved, span, worst_first
from handlers import copies
from handlers.text import clean, code, people, person, safe, when

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

_ARCHIVED = frozenset({"table", "rows", "column", "values", "enum"})
_TOLD = 2  # losses in a sentence
_MARKS: Mapping[str, str] = {"waiting": "·", "intended": "▸", "done": "✓", "failed": "✗", "unknown": "?"}


_FIRST: Mapping[Strategy, str] = {
    "reapply": "forward again ",
    "restore": "restore ",
    "in_place": "restore in place ",
    "at_provider": "restore at the provider ",
    "pitr": "back in time ",
    "tables": "tables ",
    "stamp": "stamp ",
}


def newest(view: View, *kinds: str) -> Event | None:
    """The newest event of one of these kinds."""
    return next((event for event in reversed(view.events) if event.kind in kinds), None)


def forward(run: Run) -> bool:
    """A reapply goes forward again."""
    return strategy(run) == "reapply"


def state(run: Run, now: State | None = None) -> str:
    now = now or run.state
    return WAYS[strategy(run)].done if now is State.SUCCEEDED else STATES[now]


def strategy(run: Run) -> Strategy:
    return run.plan.strategy if run.plan else run.request.strategy


def way(run: Run) -> str:
    """From where to where, in plain words; unknown before there is a plan."""
    return f"{_FIRST.get(strategy(run), '')}{clean(run.from_ or '?', 40)} {ARROW} {clean(_to(run), 40)}"


def _to(run: Run) -> str:
    """Where nobody knows the revision there: the backup by its name, or the moment."""
    if run.to != UNREAD or run.plan is None:
        return run.to
    if run.plan.point:
        return told(dt.datetime.fromisoformat(run.plan.point))
    return str(asked_for(run.plan).get("backup", run.to))


def touched(run: Run) -> bool:
    """Something was begun on production itself."""
    return any(attempt.step not in ON_A_COPY for attempt in run.attempts)


# ------------------------------------------------------------------ what would be done


def undoing(plan: Plan) -> str:
    """What is asked for, as 'undo ...' goes on, or the whole of it for a reapply."""
    if not plan.way.by_tool:
        return copies.undoing(plan)
    where = f"on {code(plan.target, 60)}"
    if plan.strategy == "reapply":
        archived = f" and put back what run {code(plan.archive, 20)} archived" if plan.archive else ", with nothing to put back"
        return f"go forward again to {code(plan.to, 40)} {where}{archived}"
    if len(plan.undone) == 1:
        one = plan.undone[0]
        return f"undo {code(one.revision, 40)} {safe(one.message, 80)}".rstrip() + f" {where}, back to {code(plan.to, 40)}"
    return f"undo {many(len(plan.undone), 'migration')} {where}, back from {code(plan.from_, 40)} to {code(plan.to, 40)}"


def undone_lines(plan: Plan) -> list[str]:
    return [f"• {code(each.revision, 40)} {safe(each.message, 120)}{_day(each.date)}" for each in plan.undone]


def _day(date: str | None) -> str:
    """A script's date, to the minute."""
    return f" ({safe(date[:16], 30)})" if date else ""


# ------------------------------------------------------------------ what is lost


def _said(text: object) -> str:
    return safe(text, 200)


def losses(plan: Plan) -> str:
    """The loss in a sentence or two: both of two, else the worst."""
    if not plan.way.by_tool:
        return copies.losses(plan)
    tried = plan.rehearsal is not None and plan.rehearsal.done
    sampled = tried and plan.rehearsal is not None and plan.rehearsal.sampled is not None
    if not plan.loss and sampled:
        return "The sampled rows showed nothing that it destroys."
    if plan.strategy == "reapply" and not plan.loss:
        return "It destroys nothing." if tried else "What it changes is not known before it was tried."
    if not plan.loss:
        return "It destroys nothing." if tried else "Reading the scripts found nothing that it destroys."
    worst = worst_first(plan.loss)
    limit = len(worst) if len(worst) <= _TOLD else 1
    told = ", ".join(destroyed(loss, code, _said) for loss in worst[:limit])
    more = f" and {many(len(worst) - limit, 'other thing')}" if len(worst) > limit else ""
    if all(loss.count == 0 or loss.kind not in DATA for loss in worst):
        return f"It destroys no data; gone would be {told}{more}."
    read = "As far as sampled rows tell, " if sampled else "" if tried else "As far as reading the scripts tells, "
    return f"{read}{'it' if read else 'It'} *destroys* {told}{more}.{_archived(plan)}"


def _archived(plan: Plan) -> str:
    if not any(step.name == "archive" for step in plan.steps):
        return ""
    kinds = {loss.kind for loss in plan.loss if loss.kind in DATA and loss.count != 0}
    return " The data is archived first and can be put back." if kinds <= _ARCHIVED else " What can be archived is archived first."


def isolation(plan: Plan) -> str:
    """The warning that rows are no longer kept apart; empty when nothing of it goes."""
    gone = [loss for loss in plan.loss if loss.kind in ISOLATION]
    if not gone:
        return ""
    named = ", ".join(destroyed(loss, code, _said) for loss in gone[:2]) + (f" and {len(gone) - 2} more" if len(gone) > 2 else "")
    return f"*Tenants may see each other's rows:* it takes away {named}."


def found(run: Run) -> tuple[Loss, ...]:
    """What is lost, as it is known by now: reconciled, else as planned."""
    seen = facts(run, "reconcile").get("loss")
    if seen is not None:
        return tuple(Loss(**one) for one in seen)
    return run.plan.loss if run.plan else ()


def loss_lines(plan: Plan, lost: Sequence[Loss] | None = None) -> list[str]:
    several = len(plan.undone) > 1
    shown = plan.loss if lost is None else lost
    return [
        f"• {line(loss, code, _said)}{f' (undoing {code(loss.revision, 40)})' if several and loss.revision else ''}" for loss in worst_first(shown)
    ]


def archive(run: Run) -> Archive | None:
    """The copy of what was destroyed, once it is there."""
    made = facts(run, "archive").get("archive")
    return Archive(**made) if made else None


def facts(run: Run, step: str) -> Mapping[str, Any]:
    """What a step that is done has left; nothing when it is not."""
    last = run.last_attempt(step)
    return last.facts if last is not None and last.state is AttemptState.DONE else {}


def is_done(run: Run, step: str) -> bool:
    last = run.last_attempt(step)
    return last is not None and last.state is AttemptState.DONE


def named(things: Sequence[object], limit: int = 4) -> str:
    more = f" and {len(things) - limit} more" if len(things) > limit else ""
    return ", ".join(code(each, 120) for each in things[:limit]) + more


# ------------------------------------------------------------------ how it is known


def tried(view: View) -> str:
    """When and how the plan was tried on a copy; or that it was not, and why."""
    plan = view.run.plan
    if plan is None:
        return ""
    found_ = plan.rehearsal
    event = newest(view, "rehearsed")
    at = f" {when(event.at)}" if event else ""
    if not plan.way.by_tool:
        return copies.tried(plan, at)
    if found_ is None or not found_.done:
        why = safe(found_.why, 300).rstrip(".") if found_ and found_.why else "nobody knows why"
        return f"*Not tried on a copy:* {why}. What it does is only read from its scripts."
    what = f"{span(moved(found_))}, {many(found_.statements_total or len(found_.statements), 'statement')}"
    head = f"*Tried on a copy, with reservations,*{at}" if found_.partial else f"Tried on a copy{at}"
    if found_.sampled is not None:
        head = f"*Tried on the schema with {many(found_.sampled, 'sampled row')},*{at}"
    return f"{head}: {what}."


def option_line(option: Option) -> str:
    if not option.possible:
        return f"• {option.name}: not possible. {safe(option.why, 160)}".rstrip()
    took = f" · {span(option.seconds)}" if option.seconds is not None else ""
    name = f"*{option.name}*, recommended" if option.recommended else option.name
    told = f"• {name}: loses {safe(option.loses, 160)}{took} · {safe(option.certain, 60)}"
    return told + (f". Why: {safe(option.why, 160)}" if option.recommended and option.why else "")


def expected(plan: Plan) -> str:
    if not plan.way.by_tool:
        return copies.expected(plan)
    if plan.expected_seconds is not None:
        return f"Expected time: about {span(plan.expected_seconds)}, the median of earlier runs."
    if plan.rehearsal is not None and plan.rehearsal.done and plan.rehearsal.sampled is None:
        copied = plan.rehearsal.seconds.get("back_up")
        also = f", a backup {span(copied)}" if copied is not None else ""
        return f"Expected time: on the copy the {'upgrade' if plan.strategy == 'reapply' else 'downgrade'} took {span(moved(plan.rehearsal))}{also}."
    return "Expected time: not measured yet."


# ------------------------------------------------------------------ seats, steps, people


def seat_line(seat: SeatView, *, open_: bool = True) -> str:
    """A seat: who sits on it, or who could while the run is `open_`."""
    title_ = safe(seat.title or seat.role, 60)
    if seat.by:
        return f"✓ {title_}: {person(seat.by)}"
    return f"· {title_}: open, {people(seat.holders, 6)} may approve" if open_ else f"· {title_}: nobody"


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
    known = STEPS.get(step)
    return next((each.says for each in view.steps if each.name == step), known.says if known else step)


def asking(run: Run) -> str:
    request = run.request
    return f"Severity {request.severity}, asked for by {person(request.by.id)} {when(run.created)}. Reason: {safe(request.reason, 500)}"


def title(view: View, role: object) -> str:
    name = str(role)
    return safe(view.titles.get(name, name), 60)


def kept(made: Archive) -> str:
    """'1,204 rows of `public.orders`, 1.2 MB'."""
    parts = ", ".join(f"{many(part.rows, 'row')} of {code(part.table)}" for part in made.parts[:3])
    more = f" and {len(made.parts) - 3} more" if len(made.parts) > 3 else ""
    return f"{parts or 'nothing'}{more}, {size(made.file.size)}"


def put_it_back(made: Archive) -> str:
    """What to type so that it comes back."""
    return code(f"reapply {made.target} {made.upper}", 140)
