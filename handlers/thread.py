"""The thread: what each event of a run says. An event in, a Message out, or None for what the thread does not show; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bot import words
from bot.model import Attempt, Event, State, View
from bot.rollback import proof
from bot.words import many, span
from handlers import card, kept, story
from handlers.blocks import Message, section, within_limits
from handlers.text import code, fenced, people, person, safe, short, when

REPORT = "reported"
_ROWS = 20  # checks in the thread's table; the file has all


def message(view: View, event: Event) -> Message | None:
    """What the thread gets for this event. The file of `reported` is not here: its content is computed when it is sent."""
    said = _SAYS.get(event.kind)
    found = said(view, event) if said else None
    if found is None:
        return None
    body = found.blocks or (section(found.text),)
    metadata = {"event_type": "backout_event", "event_payload": {"run": view.run.id, "seq": event.seq}}
    return Message(found.text, within_limits(body), metadata, found.files, found.people, found.calls)


def _planned(view: View, event: Event) -> Message | None:
    plan = view.run.plan
    if plan is None:
        return None
    scripts, told = kept.written(plan)
    if not event.data.get("digest"):
        return Message(f"Planned: {story.undoing(plan)}. It is tried on a copy first; nobody is asked before that is done.{told}", files=scripts)
    text = f"Planned: {story.undoing(plan)}. {story.tried(view)} Loss class {plan.loss_class}. {_digest(event)}{told}"
    whole = ((f"plan-{view.run.id}.md", _plan_file(view)),) if card.plan_is_cut(view) else ()
    return Message(text, files=(*whole, *scripts))


def _digest(event: Event) -> str:
    return f"Digest {code(short(str(event.data.get('digest', ''))))}."


def _rehearsed(view: View, event: Event) -> Message | None:
    """What the copy showed, and all of it as a file. Of a plan that is void by now there is nothing left to show."""
    plan = view.run.plan
    if plan is None or plan.rehearsal is None or event.data.get("digest") != view.run.digest:
        return Message("It was tried on a copy; the plan was changed since.")
    if not plan.rehearsal.done:
        text = f"{story.tried(view)} {story.losses(plan)} Loss class {plan.loss_class}. {_digest(event)}"
    else:
        said = [words.expected(plan.rehearsal, _said), words.forward(plan.rehearsal, _said), story.isolation(plan)]
        text = " ".join([story.tried(view), story.losses(plan), *filter(None, said), f"Loss class {plan.loss_class}.", _digest(event)])
    return Message(text, files=((_file_of(view, event), proof.page(view.run.id, plan, event.at)),))


def _file_of(view: View, event: Event) -> str:
    """Each rehearsal of a run has a file of its own."""
    number = sum(each.kind == "rehearsed" and each.seq <= event.seq for each in view.events)
    return f"rehearsal-{view.run.id}{f'-{number}' if number > 1 else ''}.md"


def _said(text: object) -> str:
    return safe(text, 300)


def _plan_file(view: View) -> str:
    plan = view.run.plan
    assert plan is not None  # noqa: S101  for the type checker: the only caller looked
    lines = [f"# Plan {view.run.id}: {plan.target} {plan.from_} -> {plan.to}", "", "## Undone, newest first", ""]
    lines += [f"- {each.revision} {each.message} {each.date or ''}".rstrip() for each in plan.undone]
    lines += ["", f"## Destroyed (loss class {plan.loss_class})", ""]
    lines += [f"- {each.kind} {each.name}, undoing {each.revision}{'' if each.certain else ' (not certain)'}" for each in plan.loss]
    return "\n".join([*lines, "", "## Steps", "", *(f"{place}. {step.name}" for place, step in enumerate(plan.steps, 1)), ""])


def _refused(view: View, event: Event) -> Message | None:
    # Without an effect the card and the private answer say it; the thread only matters to those who watched it run.
    if not view.run.attempts:
        return None
    return Message(f"*Refused* ({code(event.data.get('code', ''))}). {_of(event, 'message', 800)}\n*Next:* {_of(event, 'next', 500)}")


def _address_wanted(view: View, event: Event) -> Message:
    """What to do at the provider's: here where it is short, and as a file in any case."""
    guide = str(event.data.get("guide") or "")
    until = f" It waits until {when(event.data['until'])}." if event.data.get("until") else ""
    what = f"{code(view.run.target, 60)} to *{_of(event, 'point', 60)}*, beside the present one"
    text = f"{_by(event)}: {_of(event, 'provider', 60)} has to recover {what}."
    shown = f"\n{fenced(guide, 1500)}" if len(guide) <= 1500 else " The file says how."
    end = f"\nThen press *Enter the address* on the card.{until}"
    return Message(f"{text}{shown}{end}", files=((f"recovery-{view.run.id}.txt", f"{guide}\n"),))


def _address_entered(view: View, event: Event) -> Message:
    return Message(f"{_by(event)} entered where it was recovered. It is dumped, restored elsewhere and looked at; the address is kept nowhere.")


def _address_failed(view: View, event: Event) -> Message:
    return Message(f"✗ *What was recovered could not be dumped.* {_of(event, 'message', 800)} Mend that, then enter the address again.")


def _asked(view: View, event: Event) -> Message:
    asked = tuple(str(each) for each in event.data.get("people", ()))
    roles = ", ".join(story.title(view, role) for role in event.data.get("roles", ()))
    until = f" It waits until {when(event.data['until'])}." if event.data.get("until") else ""
    plan = view.run.plan
    what = f"{_capital(story.undoing(plan))}. {story.losses(plan)} {story.tried(view)}" if plan else ""
    return Message(f"{people(asked)}: please approve or reject, as {roles}.{until}", people=asked, calls=f"Your approval is asked for. {what}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _escalated(view: View, event: Event) -> Message:
    asked = tuple(str(each) for each in event.data.get("people", ()))
    why = _of(event, "why", 300)
    text = f"{people(asked)}: asked now too, as {story.title(view, event.data.get('role', ''))}. {why}"
    return Message(text, people=asked, calls=f"A rollback of {code(view.run.target)} was escalated to you. {why}")


def _approved(view: View, event: Event) -> Message:
    return Message(f"{_by(event)} approved as {story.title(view, event.data.get('role', ''))}.")


def _withdrawn(view: View, event: Event) -> Message:
    return Message(f"{_by(event)} withdrew the approval as {story.title(view, event.data.get('role', ''))}.")


def _voided(view: View, event: Event) -> Message:
    what = "\n".join(f"• {safe(each, 300)}" for each in event.data.get("what", ())[:10])
    again = "It is tried on a copy again, then asked for again." if view.run.state is State.REHEARSING else "Please look again."
    return Message(f"*The plan changed: earlier approvals are void.* {again}\n{what}")


def _rejected(view: View, event: Event) -> Message:
    return Message(f"{_by(event)} rejected it. Reason: {_of(event, 'reason', 500)}")


def _cancelling(view: View, event: Event) -> Message:
    return Message(f"{_by(event)} cancels. The run ends after the current step; what was stopped is started again.")


def _expired(view: View, event: Event) -> Message:
    return Message("*Expired.* Nobody approved in time. Nothing was changed. Ask again if it is still needed.")


def _started(view: View, event: Event) -> Message:
    return Message("*Started.* Freeze deploys until this has ended.")


def _done(view: View, event: Event) -> Message:
    seconds = event.data.get("seconds")
    took = f" · {span(float(seconds))}" if seconds is not None else ""
    head = f"✓ {_step(view, event)}{took}."
    facts = _facts(view, event)
    special = _SHOWS.get(str(event.data.get("step")))
    if special is not None and (said := special(facts)):
        return Message(f"{head} {said[0]}", files=((_evidence_file(view, event), said[1]),) if said[1] else ())
    text = f"{head} {_capital(_of(event, 'summary', 300))}".rstrip()
    checks = facts.get("checks") or ()
    if not checks:
        files, told = kept.to_commit(facts)
        return Message(f"{text}{told}", files=files)
    rows = [_check(each) for each in checks]
    more = f"\n{len(rows) - _ROWS} more are in the file." if len(rows) > _ROWS else ""
    name = f"verification-{view.run.id}-{event.data.get('attempt', 1)}.txt"
    return Message(f"{text}\n{fenced(chr(10).join(rows[:_ROWS]))}{more}", files=((name, "\n".join(rows) + "\n"),))


def _evidence_file(view: View, event: Event) -> str:
    return f"{str(event.data.get('step')).replace('_', '-')}-{view.run.id}-{event.data.get('attempt', 1)}.txt"


def _failed(view: View, event: Event) -> Message:
    if _facts(view, event).get("changed"):
        return Message(f"✗ *{_step(view, event)}: the plan changed*, so nothing was done. {_of(event, 'message', 800)}")
    return Message(f"✗ *{_step(view, event)} failed*, attempt {event.data.get('attempt', 1)}. {_of(event, 'message', 800)}")


def _unknown(view: View, event: Event) -> Message:
    return Message(f"? *{_step(view, event)}: nobody can say yet whether it happened.* {_of(event, 'message', 800)}")


def _interrupted(view: View, event: Event) -> Message:
    return Message(f"Backout was restarted during “{_step(view, event)}”. {_of(event, 'message', 600)}")


def _deciding(view: View, event: Event) -> Message:
    deciders = dict.fromkeys(user for seat in view.seats for user in seat.holders)
    options = ", ".join(safe(each, 20).capitalize() for each in event.data.get("options", ()))
    parts = [f"{people(tuple(deciders))}: *decide on the card: {options}.* {_step(view, event)}: {_of(event, 'why', 800)}"]
    parts += _evidence(_facts(view, event))
    if view.restore_commands:
        file = story.facts(view.run, "restore_point").get("file") or {}
        what = "Back to the restore point, by hand" if file.get("format") == "clone" else "The backup, restored by hand"
        parts.append(f"{what}; what was written since is lost:\n" + fenced("\n".join(view.restore_commands), 1500))
    return Message(parts[0], blocks=tuple(section(part) for part in parts))


def _evidence(facts: Mapping[str, Any]) -> list[str]:
    found = []
    if checks := facts.get("checks"):
        found.append(fenced("\n".join(_check(each) for each in checks[:_ROWS])))
    if blockers := facts.get("blockers"):
        found.append("It waited for these sessions:\n" + fenced("\n".join(_session(each) for each in blockers[:10]), 1500))
    if output := facts.get("output"):
        found.append("The end of its output:\n" + fenced(str(output)[-1500:], 1500))
    if traceback := facts.get("traceback"):
        found.append(fenced("\n".join(str(line) for line in traceback)[-1200:], 1200))
    return found


def _decided(view: View, event: Event) -> Message:
    return Message(f"{_by(event)} decided: {_of(event, 'decision', 20)}.")


def _sessions_ended(view: View, event: Event) -> Message:
    ended = event.data.get("sessions") or ()
    lines = "\n".join(_session(each) for each in ended[:10])
    return Message(f"{_by(event)} ended {many(len(ended), 'session')} in the way." + (f"\n{fenced(lines, 1500)}" if ended else ""))


def _note(view: View, event: Event) -> Message:
    return Message(f"Note by {_by(event)}: {_of(event, 'text', 1500)}")


def _reported(view: View, event: Event) -> Message:
    return Message(f"*Report.* {_of(event, 'summary', 1500)}")


def _step(view: View, event: Event) -> str:
    return safe(story.says(view, str(event.data.get("step", ""))), 120)


def _by(event: Event) -> str:
    return person(str(event.data.get("by", "?")))


def _of(event: Event, key: str, limit: int) -> str:
    return safe(event.data.get(key) or "", limit)


def _facts(view: View, event: Event) -> Mapping[str, Any]:
    name, number = event.data.get("step"), event.data.get("attempt")
    mine: list[Attempt] = [each for each in view.run.attempts if each.step == name and number in {None, each.attempt}]
    return mine[-1].facts if mine else {}


def _check(check: Mapping[str, Any]) -> str:
    judged = {True: "ok  ", False: "RED ", None: "info"}[check.get("ok")]
    if check.get("ok") is False and not check.get("blocking", True):
        judged = "warn"
    before, after = str(check.get("before") or "-"), str(check.get("after") or "-")
    seen = after if before in {"-", after} else f"{before[:30]} -> {after}"
    told = f" ({check['says']})" if check.get("says") and check["says"] != after else ""
    return f"{judged}  {str(check.get('name', ''))[:60]}: {seen[:64]}{told[:140]}"


def _session(session: Mapping[str, Any]) -> str:
    age = session.get("age")
    parts = [f"pid {session.get('pid')}", session.get("user"), session.get("application"), session.get("state")]
    parts += [span(float(age)) if age is not None else None, str(session.get("query") or "")[:120]]
    return "  ".join(str(part) for part in parts if part)


#: steps that have more to say than a summary: a text, and what of it only fits a file
_SHOWS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str] | None]] = {
    "archive": kept.archived,
    "reconcile": kept.reconciled,
    "put_back": kept.put_back,
    "look_at_code": kept.looked_at_code,
}

_SAYS: Mapping[str, Callable[[View, Event], Message | None]] = {
    "planned": _planned,
    "rehearsed": _rehearsed,
    "refused": _refused,
    "address_wanted": _address_wanted,
    "address_entered": _address_entered,
    "address_failed": _address_failed,
    "asked": _asked,
    "escalated": _escalated,
    "approved": _approved,
    "withdrawn": _withdrawn,
    "voided": _voided,
    "rejected": _rejected,
    "cancel_requested": _cancelling,
    "expired": _expired,
    "started": _started,
    "step_done": _done,
    "step_failed": _failed,
    "step_unknown": _unknown,
    "interrupted": _interrupted,
    "decision_needed": _deciding,
    "decided": _decided,
    "sessions_ended": _sessions_ended,
    "note": _note,
    REPORT: _reported,
}
