"""The card's first words: what is the case, or what is to be decided. A View in, a few lines out; pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta

from bot.evidence import PutBack
from bot.model import State, View
from bot.moment import told
from bot.rollback.addresses import wanted
from bot.words import many, span
from handlers import story
from handlers.text import code, safe, when


def _planning(view: View) -> str:
    asks = {
        "reapply": "going forward again to",
        "restore": "restoring",
        "in_place": "dropping the database for",
        "at_provider": "restoring",
        "tables": "bringing back",
        "pitr": "going back in time to",
        "stamp": "marking it as",
    }
    return f"*Finding out* what {asks.get(story.strategy(view.run), 'going back to')} {code(view.run.to, 80)} would do. Nothing is changed yet."


def _rehearsing(view: View) -> str:
    plan, doing = view.run.plan, _doing(view)
    if plan and (waits := wanted(view.run)):
        at = safe(told(datetime.fromisoformat(plan.point or "")), 60)
        return (
            f"*Waiting for {safe(waits.provider, 60)}:* recover {code(view.run.target, 60)} to {at}, then enter the new address. "
            f"The thread says how; it waits until {when(waits.until)}.\n"
            "Production is not touched, and nobody is asked before what was recovered is looked at."
        )
    tries = f"\nIt tries to {story.undoing(plan)}. Nobody is asked before that is done." if plan else ""
    far = f" Step {doing[0]} of {len(view.steps)}: {doing[2] or doing[1]}." if doing else ""
    return f"*Trying it on a copy.* Production is not touched.{far}{tries}"


def _doing(view: View) -> tuple[int, str, str] | None:
    """The step that runs: its place, its name, and how far it is."""
    numbered = [(place, safe(step.says, 120), safe(step.progress, 160)) for place, step in enumerate(view.steps, 1) if step.state == "intended"]
    return numbered[-1] if numbered else None


def _awaiting(view: View) -> str:
    plan = view.run.plan
    if plan is None:
        return "*Decide:* approve or reject."
    tried, decide = story.tried(view), f"*Decide:* {story.undoing(plan)}?"
    missing = len(story.open_seats(view))
    until = f" until {when(view.until)}" if view.until else ""
    needed = f"It needs {many(missing, 'more approval')}{until}; the last one starts it."
    proven = plan.rehearsal is not None and plan.rehearsal.done and plan.rehearsal.sampled is None
    first = [f"{decide} {story.losses(plan)}", tried] if proven else [tried, f"{decide} {story.losses(plan)}"]
    return "\n".join(part for part in (first[0], story.isolation(plan), first[1], needed) if part)


def _running(view: View) -> str:
    if view.run.ending is not None:
        return f"*Ending as {story.state(view.run, view.run.ending)}.* What was stopped is started again first."
    doing = _doing(view)
    at = f"*Running, step {doing[0]} of {len(view.steps)}:* {doing[1]}." if doing else "*Running.*"
    return f"{at} Freeze deploys until this has ended."


_CHOICES = "_Retry_ tries the step again. {restore}_Leave_ ends the run as it stands and starts the writers. _Escalate_ asks the next in line."
_RESTORE = "_Restore_ goes back to the restore point, after the approvals were given again. "


def _deciding(view: View) -> str:
    asked = story.newest(view, "decision_needed")
    if asked is None:
        return "*A person must decide* how this goes on."
    why = safe(asked.data.get("why", ""), 600)
    return f"*A person must decide.* {why}\nAsked {_minutes(view.now - asked.at)} ago.{_stopped(view)}\n{_choices(asked.data.get('options', ()))}"


def _choices(options: Collection[str]) -> str:
    return _CHOICES.format(restore=_RESTORE if "restore" in options else "")


def _stopped(view: View) -> str:
    stop = view.run.last_attempt("stop_writers")
    if stop is None or stop.ended is None:
        return ""
    return f" Writers are stopped for {_minutes(view.now - stop.ended)}."


def _minutes(passed: timedelta) -> str:
    whole = passed // timedelta(minutes=1)
    return span(whole * 60) if whole > 0 else "less than a minute"


def _ended(view: View) -> str:
    ended = story.newest(view, "ended")
    said = safe(ended.data.get("summary", ""), 600) if ended else "" if story.touched(view.run) else "Nothing was changed."
    return "\n".join(part for part in (f"*{story.state(view.run).capitalize()}.* {said}".rstrip(), *_after(view)) if part)


def _after(view: View) -> list[str]:
    """What became of the data: more gone than was shown, where its archive is, what came back."""
    run, told = view.run, []
    if more := story.facts(run, "reconcile").get("more"):
        told.append(f"*More is gone than the copy had shown:* {story.named(more)}. Look at the thread.")
    made = story.archive(run)
    if made is not None and made.parts and story.is_done(run, "downgrade"):
        told.append(f"Archived: {story.kept(made)}. Bring it back with {story.put_it_back(made)}.")
    told += [_back(PutBack(**one)) for one in story.facts(run, "put_back").get("put_back", ())]
    return told


def _back(one: PutBack) -> str:
    left = f" *{many(one.conflicts_total, 'conflict')} left alone:* look at the thread." if one.conflicts_total else ""
    return f"Put back: {many(one.rows, 'row')} and {many(one.values, 'value')}.{left}"


def _rejected(view: View) -> str:
    by = story.newest(view, "rejected")
    why = f" Reason: {safe(by.data.get('reason', ''), 400)}" if by else ""
    return f"{_ended(view)}{why}"


def _refused(view: View) -> str:
    refusal = view.run.refusal or {}
    untouched = view.run.attempts and not story.touched(view.run)
    tried = untouched and any(attempt.step not in ("back_up", "recover") for attempt in view.run.attempts)
    after = " after it was tried on a copy" if tried else ""
    lines = [f"*Refused{after}* ({code(refusal.get('code', 'refused'))}). {safe(refusal.get('message', ''), 800)}"]
    if untouched:
        lines.append("Production was not touched.")
    if refusal.get("next"):
        lines.append(f"*Next:* {safe(refusal['next'], 500)}")
    return "\n".join(lines)


SENTENCES: Mapping[State, Callable[[View], str]] = {
    State.PLANNING: _planning,
    State.REHEARSING: _rehearsing,
    State.AWAITING_APPROVAL: _awaiting,
    State.RUNNING: _running,
    State.NEEDS_DECISION: _deciding,
    State.SUCCEEDED: _ended,
    State.FAILED: _ended,
    State.ABORTED: _ended,
    State.REJECTED: _rejected,
    State.EXPIRED: _ended,
    State.REFUSED: _refused,
}
