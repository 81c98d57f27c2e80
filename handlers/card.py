"""The card: one message per run, decision first. A View in, Block Kit out; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from bot.model import ENDS, State, View
from handlers import story
from handlers.blocks import BOXES, Block, Message, button, checkboxes, confirm, context, header, is_cut, listing, option, section, within_limits
from handlers.text import clean, code, many, safe, span, when

ROOM = 1500  # characters of a list on the card
_SHOWN_BOXES = 20


def card(view: View, seq: int | None = None) -> Message:
    """The whole card as it should stand now; the same view and seq give the same bytes. `seq` (default: the journal's) goes into the metadata."""
    run = view.run
    head = [header(f"{run.target}: {story.way(run)} · {story.STATES[run.state]}"), section(_SENTENCES[run.state](view))]
    blocks = [*head, *(block for part in _ORDER.get(run.state, _ENDED) for block in part(view))]
    text = f"{safe(run.target, 60)}: {safe(run.from_ or '?', 60)} -> {safe(run.to, 60)} · {run.state} · {run.id}"
    return Message(text=text, blocks=within_limits(blocks), metadata=_metadata(view, view.run.seq if seq is None else seq))


def tick_value(item: str) -> str:
    """A box's value: the same for the same words, wherever they stand in the configuration."""
    return hashlib.sha256(item.encode()).hexdigest()[:12]


def _metadata(view: View, seq: int) -> dict[str, Any]:
    run = view.run
    payload = {
        "run": run.id, "target": run.target, "state": str(run.state), "from": run.from_ or "", "to": run.to,
        "severity": str(run.request.severity), "digest": run.digest or "", "seq": seq,
    }  # fmt: skip
    return {"event_type": "backout_card", "event_payload": payload}


# ------------------------------------------------------------------ the sentence that says what is the case, or to be decided


def _planning(view: View) -> str:
    return f"*Finding out* what going back to {code(view.run.to, 40)} would do. Nothing is changed yet."


def _rehearsing(view: View) -> str:
    return "*Trying it on a copy.* Production is not touched."


def _awaiting(view: View) -> str:
    plan = view.run.plan
    if plan is None:
        return "*Decide:* approve or reject."
    missing = len(story.open_seats(view))
    until = f" until {when(view.until)}" if view.until else ""
    needed = f"It needs {many(missing, 'more approval')}{until}; the last one starts it."
    return f"*Decide:* undo {story.undoing(plan)}? {story.losses(plan)} {needed}"


def _running(view: View) -> str:
    if view.run.ending is not None:
        return f"*Ending as {story.STATES[view.run.ending]}.* What was stopped is started again first."
    numbered = [(place, step) for place, step in enumerate(view.steps, 1) if step.state == "intended"]
    if not numbered:
        return "*Running.* Freeze deploys until this has ended."
    place, step = numbered[-1]
    return f"*Running, step {place} of {len(view.steps)}:* {safe(step.says, 120)}. Freeze deploys until this has ended."


_CHOICES = "_Retry_ tries the step again. _Leave_ ends the run as it stands and starts the writers. _Escalate_ asks the next in line."


def _deciding(view: View) -> str:
    asked = story.newest(view, "decision_needed")
    if asked is None:
        return "*A person must decide* how this goes on."
    why = safe(asked.data.get("why", ""), 600)
    return f"*A person must decide.* {why}\nAsked {_minutes(view.now - asked.at)} ago.{_stopped(view)}\n{_CHOICES}"


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
    said = safe(ended.data.get("summary", ""), 600) if ended else "" if view.run.attempts else "Nothing was changed."
    return f"*{story.STATES[view.run.state].capitalize()}.* {said}".rstrip()


def _rejected(view: View) -> str:
    by = story.newest(view, "rejected")
    why = f" Reason: {safe(by.data.get('reason', ''), 400)}" if by else ""
    return f"{_ended(view)}{why}"


def _refused(view: View) -> str:
    refusal = view.run.refusal or {}
    next_ = safe(refusal.get("next", ""), 500)
    return (
        f"*Refused* ({code(refusal.get('code', 'refused'))}). {safe(refusal.get('message', ''), 800)}\n{f'*Next:* {next_}' if next_ else ''}".rstrip()
    )


_SENTENCES: Mapping[State, Callable[[View], str]] = {
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


# ------------------------------------------------------------------ what the decision rests on


def _remarks(view: View) -> list[Block]:
    remarks = view.run.plan.remarks if view.run.plan else ()
    if not remarks:
        return []
    return [section("*Know before you decide*\n" + listing((f"• {safe(each, 300)}" for each in remarks), ROOM))]


def _what(view: View) -> list[Block]:
    plan = view.run.plan
    if plan is None:
        return []
    lost = listing(story.loss_lines(plan), ROOM) or "Reading the scripts found nothing."
    downgrade = view.run.last_attempt("downgrade")
    undone, destroyed = ("Undone", "Destroyed") if downgrade and downgrade.state == "done" else ("Would be undone", "Would be destroyed")
    return [
        section(f"*{undone}, newest first*\n{listing(story.undone_lines(plan), ROOM)}"),
        section(f"*{destroyed} (loss class {plan.loss_class})*\n{lost}"),
    ]


def _steps(view: View) -> list[Block]:
    plan = view.run.plan
    if plan is None or not view.steps:
        return []
    done = listing((story.step_line(step, short=view.run.state is State.NEEDS_DECISION) for step in view.steps), 2 * ROOM - 600)
    expected = [] if view.run.state in ENDS else [context(story.expected(plan))]
    return [section(f"*Steps ({plan.strategy})*\n{done}"), *expected]


def plan_is_cut(view: View) -> bool:
    """The card can't show all of the plan, so the thread gets it as a file."""
    plan = view.run.plan
    return plan is not None and (is_cut(story.undone_lines(plan), ROOM) or is_cut(story.loss_lines(plan), ROOM))


def _seats(view: View) -> list[Block]:
    if not view.seats:
        return []
    until = f", until {when(view.until)}" if view.until and view.run.state is State.AWAITING_APPROVAL else ""
    return [section(f"*Approvals{until}*\n{listing((story.seat_line(seat, open_=view.run.state not in ENDS) for seat in view.seats), ROOM)}")]


def _asking(view: View) -> list[Block]:
    return [context(story.asking(view.run))]


def _advice(view: View) -> list[Block]:
    return [context(f"Advice: {safe(view.advice, 300)}")] if view.advice and view.run.state not in ENDS else []


# ------------------------------------------------------------------ what can be pressed


def _ticks(view: View) -> list[Block]:
    questions = _boxes(view, "Reasons not to roll back: tick what was considered", view.questions, "q")
    return questions + _boxes(view, "Checklist", view.checklist, "c")


def _boxes(view: View, heading: str, items: Sequence[str], kind: str) -> list[Block]:
    if not items:
        return []
    blocks = [context(f"*{heading}*")]
    for place in range(0, min(len(items), _SHOWN_BOXES), BOXES):
        name = f"tick_{kind}{place // BOXES}"
        some = items[place : place + BOXES]
        options = {item: option(item, tick_value(item)) for item in some}
        ticked = [made for item, made in options.items() if item in view.ticked]
        element = checkboxes(name, list(options.values()), ticked)
        blocks.append({"type": "actions", "block_id": f"{name}:{view.run.id}", "elements": [element]})
    return blocks


def _buttons(view: View) -> list[Block]:
    run = view.run
    value = f"{run.id}:{run.digest or ''}"
    elements = [button(label, label.lower(), value, style=_STYLES.get(label), confirm=_confirm(view, label)) for label in _labels(view)]
    return [{"type": "actions", "block_id": f"backout:{run.id}", "elements": elements}] if elements else []


#: What a person needs first stands first; what is only looked up stands below the buttons.
_ORDER: Mapping[State, Sequence[Callable[[View], list[Block]]]] = {
    State.PLANNING: (_asking, _buttons),
    State.REHEARSING: (_remarks, _what, _asking, _buttons, _steps, _ticks),
    State.AWAITING_APPROVAL: (_remarks, _what, _seats, _asking, _advice, _buttons, _steps, _ticks),
    State.RUNNING: (_steps, _buttons, _seats, _asking, _what),
    State.NEEDS_DECISION: (_buttons, _steps, _seats, _asking, _what),
}
_ENDED = (_steps, _seats, _asking, _what)

_STYLES = {"Approve": "primary", "Reject": "danger", "Restore": "danger"}


def _labels(view: View) -> list[str]:
    match view.run.state:
        case State.PLANNING | State.REHEARSING | State.RUNNING:
            return ["Cancel"]
        case State.AWAITING_APPROVAL:
            withdraw = ["Withdraw"] if any(seat.by for seat in view.seats) else []
            return ["Approve", "Reject", *withdraw, "Cancel"]
        case State.NEEDS_DECISION:
            asked = story.newest(view, "decision_needed")
            restore = ["Restore"] if asked and "restore" in asked.data.get("options", ()) else []
            return ["Retry", *restore, "Leave", "Escalate"]
        case _:
            return []


def _confirm(view: View, label: str) -> Block | None:
    run = view.run
    way = f"{clean(run.target, 40)}, {story.way(run)}"
    if label == "Approve":
        open_ = len(story.open_seats(view))
        last = "This is the last seat: the run starts at once." if open_ == 1 else "The press that fills the last seat starts the run."
        return confirm("Approve this rollback?", f"{way}. {last}", "Approve", "Not yet")
    if label == "Cancel" and run.state is State.RUNNING:
        return confirm("Cancel this run?", f"{way}. It stops after the current step and starts what was stopped.", "Stop it", "Let it run")
    if label == "Leave":
        return confirm("Leave it as it is?", f"{way}. What was stopped is started again and the run ends as failed.", "Leave it", "Back")
    if label == "Restore":
        return confirm("Restore the backup?", f"{way}. Everything written since is lost. It needs the approvals again.", "Restore", "Back")
    return None
