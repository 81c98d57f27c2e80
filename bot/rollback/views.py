"""A run as it stands, with everything that a card, a thread, `status` and the report are rendered from."""

from __future__ import annotations

from bot.durable import TargetParts
from bot.model import Run, State, StepView, View
from bot.ports import Clock, Journal
from bot.rollback.approve import Authority
from bot.steps import STEPS
from bot.steps.restore_point import is_clone, taken


async def view(run: Run, target: TargetParts | None, journal: Journal, authority: Authority, clock: Clock) -> View:
    alarms = [alarm.due for alarm in await journal.alarms() if alarm.run == run.id and alarm.kind == "seat"]
    events = await journal.events(run.id)
    ticked: list[str] = next((event.data["items"] for event in reversed(events) if event.kind == "ticked"), [])
    advice = authority.need(run.request, run.plan).advice if run.plan else None
    return View(
        run=run, events=events, seats=await authority.seats(run), steps=_steps(run), until=alarms[0] if alarms else None, titles=authority.titles,
        advice=advice, questions=target.questions if target else (), checklist=target.checklist if target else (), ticked=tuple(ticked),
        restore_commands=_restore(run, target), now=clock.now(),
    )  # fmt: skip


def _only_tried(run: Run) -> bool:
    """It is on its copy, or it ended there."""
    begun = {attempt.step for attempt in run.current}
    tried = {planned.name for planned in run.plan.rehearse} if run.plan else set()
    return run.state is State.REHEARSING or (run.state is State.REFUSED and bool(begun) and begun <= tried)


def _steps(run: Run) -> tuple[StepView, ...]:
    shown = []
    planned_steps = () if run.plan is None else run.plan.rehearse if _only_tried(run) else run.plan.steps
    for planned in planned_steps:
        last = run.last_attempt(planned.name)
        says = STEPS[planned.name].says
        if last is None:
            shown.append(StepView(name=planned.name, says=says))
        else:
            shown.append(
                StepView(
                    name=planned.name, says=says, state=last.state, attempt=last.attempt, seconds=last.seconds, summary=last.summary,
                    progress=last.progress,
                )
            )  # fmt: skip
    return tuple(shown)


def _restore(run: Run, target: TargetParts | None) -> tuple[str, ...]:
    rounds = run.attempts if run.plan is not None and run.plan.way.in_place else run.current
    point = next((a for a in reversed(rounds) if a.step == "restore_point"), None)
    file = taken(point) or taken(run.last_attempt("back_up"))
    if file is None or target is None:
        return ()
    return target.database.how_to_go_back(file) if is_clone(file) else target.backup.how_to_restore(file)
