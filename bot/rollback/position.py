"""Where a run stands, read from its attempts: are the writers stopped, what may a person decide, what is still to be done before it ends."""

from __future__ import annotations

from bot.durable import Step
from bot.model import AttemptState, Run, State
from bot.rollback import plan_copies
from bot.steps import STEPS
from bot.steps.deploy_backup import under_way
from bot.steps.replace import dropped


def stopped(run: Run) -> bool:
    """Writers are stopped, or may be, and were not started since, in whatever round."""
    steps = [a.step for a in run.attempts if a.step == "stop_writers" or (a.step == "start_writers" and a.state is AttemptState.DONE)]
    return bool(steps) and steps[-1] == "stop_writers"


def decisions(run: Run) -> list[str]:
    """What a person can decide now. Going back is no way out of a failed start: the database is as it was planned."""
    ready = plan_copies.way_back(run) is not None and run.last_attempt("start_writers") is None
    return ["retry", *(["restore"] if ready else []), "leave", "escalate"]


def noted(run: Run) -> dict[str, object]:
    """What was written down of the writers since they were last started, in whatever round."""
    found: dict[str, object] = {}
    for attempt in run.attempts:
        if attempt.step == "stop_writers":
            found |= attempt.facts
        elif attempt.step == "start_writers" and attempt.state is AttemptState.DONE:
            found = {}
    return found


def wanted(run: Run, step: Step) -> bool:
    """A run that heads for its end does nothing more but start the writers, unless there is no database."""
    return run.ending is None or step in to_the_end(run)


def to_the_end(run: Run) -> list[Step]:
    """Cancelled when the database was dropped, the copy is brought into its place first, and a backup that is being deployed is waited for; a person
    who chose Leave wants it as it is."""
    last = run.last_attempt("replace")
    half = run.ending is State.ABORTED and last is not None and dropped(run) is not None
    deployed = run.ending is State.ABORTED and under_way(run)
    return [*([STEPS["replace"]] if half else []), *([STEPS["deploy_backup"]] if deployed else []), STEPS["start_writers"]]
