"""The journal -> the post-mortem, as Markdown, in UTC. The same bytes every time: only what the journal held when the run ended is in it.

What nobody wrote down stays visibly blank; nothing is made up.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

from bot.model import Attempt, AttemptState, Event, Run, State, View
from bot.rollback import plan_copies, proof, report_parts
from bot.rollback.markup import BLANK, code, line, plain, seconds, utc
from bot.steps import STEPS
from bot.steps.replace import gone
from bot.strategy import ON_A_COPY

_END = {
    State.SUCCEEDED: "The {moving} was done and verified.",
    State.FAILED: "A person chose to leave it as it stood.",
    State.ABORTED: "It was cancelled.",
    State.REJECTED: "A person rejected it. Nothing was done to the database.",
    State.EXPIRED: "Nobody filled the seats in time. Nothing was done to the database.",
    State.REFUSED: "Backout refused it.",
}


def markdown(view: View) -> str:
    """The whole file. Its first line is the contract's."""
    run = view.run
    events = _until_the_end(view.events)
    parts: list[Iterable[str]] = [
        [f"# Post-mortem: {run.target} {line(run.from_ or BLANK)} -> {line(run.to) if run.plan else plain(run.to)}: {run.state}", ""],
        _summary(view),
        _timeline(events),
        proof.section(view),
        _approvals(view, events),
        _ran(view),
        _verified(view),
        report_parts.lost(view),
        report_parts.kept(view),
        report_parts.code_seen(view),
        report_parts.logs(view),
        _wrong(view, events),
        _checklist(view, events),
        _actions(run),
    ]
    return "\n".join(each for part in parts for each in part).rstrip() + "\n"


def summary(view: View) -> str:
    """Two or three short sentences for the thread."""
    run = view.run
    failed = sum(a.state in (AttemptState.FAILED, AttemptState.UNKNOWN) for a in run.attempts)
    end = "It went back to the restore point, as a person chose." if _went_back(run) else _END.get(run.state, f"It is {run.state}.")
    end = f"The database was dropped, and nothing is in its place. {end}" if gone(run) else end
    said = [end.format(moving=run.plan.way.noun if run.plan else "rollback")]
    if took := _on_production(run):
        said.append(_took(took))
    elif run.attempts and run.state is State.REFUSED:
        said.append("It was tried on a copy; production was not touched.")
    moved = run.last_attempt("downgrade")
    if moved is not None and moved.state is AttemptState.DONE and "archive" in report_parts.facts(run, "archive"):
        said.append("What it destroyed is archived and can be put back.")
    if failed:
        said.append(f"{failed} attempt{'s' if failed > 1 else ''} did not go well.")
    return " ".join(said)


def _went_back(run: Run) -> bool:
    """A person chose the restore point after a step had failed, and it is in its place."""
    return run.state is State.FAILED and plan_copies.went_back(run) and bool(report_parts.facts(run, report_parts.moving(run.plan)))


def ending(run: Run) -> str:
    """Where the database stands now and how it was found, in a sentence or two."""
    began = _on_production(run)
    if not began:
        return "Nothing was changed."
    if gone(run):
        return (
            f"There is NO database {run.target}: it was dropped, and nothing was restored into its place. {report_parts.way_back(run)}{_took(began)}"
        )
    name = run.plan.way.noun if run.plan else "rollback"
    done, verified = run.last_attempt(report_parts.moving(run.plan)), run.last_attempt("verify")
    if done is None:
        return f"The {name} had not begun. {_took(began)}"
    if done.state is not AttemptState.DONE:
        return f"The {name} did not go through: look at its evidence in the thread. {_took(began)}"
    found = verified.summary if verified is not None else "it was not verified"
    return f"{run.target} stands at {done.facts.get('stands', run.to)}; {_back(run)}{found.rstrip('.')}. {_took(began)}"


def _back(run: Run) -> str:
    """A reapply that ended before its archive was back must say so."""
    last = run.last_attempt("put_back")
    if not run.plan or not any(step.name == "put_back" for step in run.plan.steps):
        return ""
    return f"{last.summary.rstrip('.')}; " if last is not None and last.state is AttemptState.DONE else "its archive is not back; "


def _on_production(run: Run) -> list[Attempt]:
    return [attempt for attempt in run.attempts if attempt.step not in ON_A_COPY]


def _took(attempts: list[Attempt]) -> str:
    return f"The steps took {sum(attempt.seconds or 0.0 for attempt in attempts):.1f} s."


def _until_the_end(events: tuple[Event, ...]) -> list[Event]:
    last = next((event.seq for event in events if event.kind == "reported"), None)
    return [event for event in events if (last is None or event.seq < last) and event.kind != "ticked"]


def _summary(view: View) -> Iterator[str]:
    run, plan = view.run, view.run.plan
    yield "## Summary"
    yield ""
    yield summary(view)
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| Run | {run.id} |"
    yield f"| Severity | {run.request.severity} |"
    yield f"| Asked for by | {plain(run.request.by.id)} |"
    yield f"| Reason | {plain(run.request.reason)} |"
    yield f"| Began | {utc(run.created)} UTC |"
    yield f"| Ended | {utc(run.ended)}{' UTC' if run.ended else ''} |"
    if plan:
        yield f"| Database | {plain(plan.identity.database)}, PostgreSQL {plan.identity.version // 10000} |"
        yield f"| Plan | {(run.digest or '')[:12]} |"
    if run.refusal:
        yield f"| Refused | {run.refusal['code']}: {plain(run.refusal['message'])} {plain(run.refusal['next'])} |"
    yield ""
    if plan and plan.undone:
        yield f"{plan.way.revisions.capitalize()}:"
        yield ""
        for one in plan.undone:
            yield f"- {plain(one.revision)} {plain(one.message)}{f' ({plain(one.date)})' if one.date else ''}"
        yield ""


def _timeline(events: list[Event]) -> Iterator[str]:
    yield "## Timeline (UTC)"
    yield ""
    if events:
        yield f"Times without a date are of {utc(events[0].at)[:10]}."
        yield ""
    yield "| When | What |"
    yield "|---|---|"
    for event in events:
        at = event.at.astimezone(dt.UTC)
        same_day = at.date() == events[0].at.astimezone(dt.UTC).date()
        yield f"| {f'{at:%H:%M:%S}' if same_day else utc(at)} | {_sentence(event)} |"
    yield ""


_SAID = {
    "requested": "{by} asked for {rev}, severity {severity}: {reason}",
    "planned": "planned: {from} -> {to}, loss {loss_class}",
    "rehearsed": "the rehearsal ended: {from} -> {to}, loss {loss_class}",
    "refused": "refused, {code}: {message}",
    "address_wanted": "waiting for {provider} to recover {point}, until {until}",
    "address_refused": "{by} entered an address that was not taken: {code}",
    "address_entered": "{by} entered where it was recovered",
    "address_failed": "what was recovered could not be dumped: {message}",
    "voided": "approvals void: {what}",
    "asked": "asked {roles} ({people}) until {until}",
    "approved": "{by} approved as {role}",
    "withdrawn": "{by} withdrew the approval as {role}",
    "rejected": "{by} rejected: {reason}",
    "cancel_requested": "{by} cancelled",
    "denied": "{by} was denied ({action}): {why}",
    "escalated": "asked {role} ({people}) too: {why}",
    "decided": "{by} decided: {decision}",
    "sessions_ended": "{by} ended the sessions in the way: {sessions}",
    "decision_needed": "a decision is needed about {says}: {why}",
    "step_started": "{says}: began (attempt {attempt})",
    "step_done": "{says}: done in {took}. {summary}",
    "step_failed": "{says}: failed after {took}. {message}",
    "step_unknown": "{says}: nobody can say how it ended, after {took}. {message}",
    "interrupted": "{says}: {message}",
    "note": "note by {by}: {text}",
    "ended": "ended: {state}",
}


def _sentence(event: Event) -> str:
    """An event of a kind that has no sentence is named by its kind."""
    said = {key: plain(", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in event.data.items()}
    step = STEPS.get(event.data.get("step", ""))
    said |= {"says": step.says if step else said.get("step", ""), "took": seconds(event.data.get("seconds"))}
    if "until" in said:
        said["until"] = utc(dt.datetime.fromisoformat(event.data["until"]))
    if "people" in said:
        said["people"] = said["people"] or "nobody holds that role"
    template = _SAID.get(event.kind)
    return template.format_map(said) if template else plain(event.kind.replace("_", " "))


def _approvals(view: View, events: list[Event]) -> Iterator[str]:
    yield "## Who approved what"
    yield ""
    if not view.run.seats:
        yield "No approval was asked for."
    for seat in view.run.seats:
        yield f"- {seat.role}: {plain(seat.by) + ', ' + utc(seat.at) if seat.by else 'nobody'}"
    if any(event.kind == "voided" for event in events):
        yield ""
        yield "Earlier approvals were void, because the plan changed; see the timeline."
    if view.run.digest:
        yield ""
        yield f"What was approved is the plan {view.run.digest}."
    yield ""


def _ran(view: View) -> Iterator[str]:
    yield "## What ran"
    yield ""
    if not view.run.attempts:
        yield "Nothing."
        yield ""
        return
    yield "| Step | Attempt | End | Took | |"
    yield "|---|---|---|---|---|"
    for attempt in view.run.attempts:
        says = STEPS[attempt.step].says if attempt.step in STEPS else attempt.step
        yield f"| {says} | {attempt.attempt} | {attempt.state} | {seconds(attempt.seconds)} | {plain(attempt.summary)} |"
    yield ""
    for attempt in view.run.attempts:
        yield from _statements(attempt.facts)


def _statements(facts: dict[str, Any]) -> Iterator[str]:
    statements = facts.get("statements") or []
    if not statements:
        return
    yield f"Statements ({len(statements)}):"
    yield ""
    for one in statements[:50]:
        ms = one.get("ms")
        took = "did not end" if ms is None else seconds(ms / 1000)
        yield f"- {took}: {code(one.get('sql', ''), 300)}"
    if len(statements) > 50:
        yield f"- and {len(statements) - 50} more"
    yield ""


def _verified(view: View) -> Iterator[str]:
    last = {attempt.step: attempt.facts["checks"] for attempt in view.run.attempts if "checks" in attempt.facts}
    checks = [one for of_step in last.values() for one in of_step] if last else None
    yield "## Verification"
    yield ""
    if checks is None:
        yield "Nothing was verified." if not view.run.attempts else "The run ended before verification."
    else:
        yield "| Check | Result | Before | After | |"
        yield "|---|---|---|---|---|"
        for one in checks:
            result = {True: "ok", False: "RED" if one["blocking"] else "warning", None: "shown"}[one["ok"]]
            yield f"| {plain(one['name'])} | {result} | {plain(one['before'], 200)} | {plain(one['after'], 200)} | {plain(one['says'])} |"
    yield ""


def _wrong(view: View, events: list[Event]) -> Iterator[str]:
    yield "## What went wrong"
    yield ""
    bad = [a for a in view.run.attempts if a.state in (AttemptState.FAILED, AttemptState.UNKNOWN)]
    denied = [event for event in events if event.kind == "denied"]
    if not bad and not denied:
        yield "Nothing that Backout saw."
    for attempt in bad:
        yield f"- {attempt.step}, attempt {attempt.attempt}: {plain(attempt.summary)}"
        for key in ("sqlstate", "revision", "where"):
            if attempt.facts.get(key):
                yield f"    - {key}: {plain(attempt.facts[key])}"
        for one in (attempt.facts.get("blockers") or [])[:5]:
            yield f"    - waited for pid {one.get('pid')} ({plain(one.get('user'))}): {code(one.get('query'), 200)}"
        if attempt.facts.get("output"):
            yield f"    - output: {code(attempt.facts['output'], 1500)}"
    if denied:
        yield f"- {len(denied)} press{'es' if len(denied) > 1 else ''} by people who may not; see the timeline."
    yield ""


def _checklist(view: View, events: list[Event]) -> Iterator[str]:
    asked = (*view.questions, *view.checklist)
    if not asked:
        return
    yield "## Checklist"
    yield ""
    for item in asked:
        yield f"- [{'x' if item in view.ticked else ' '}] {plain(item)}"
    yield ""


def _actions(run: Run) -> Iterator[str]:
    yield "## To be filled in"
    yield ""
    for name in ("Root cause", "Impact on users", "How it was fixed for good", "How it is prevented next time", "Date of the next attempt"):
        yield f"- {name}: {BLANK}"
    yield ""
    yield "## Action items"
    yield ""
    yield "- [ ] Fix the migration, or remove it from the code: a deploy of the old code applies it again."
    yield "- [ ] Rehearse it up, down and up again before it ships."
    yield from report_parts.at_the_provider(run)
    yield "- [ ] Owner and date for each of the above."
