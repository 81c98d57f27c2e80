"""The card: one message per run, decision first. A View in, Block Kit out; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bot import words
from bot.model import ENDS, Plan, State, View
from bot.rollback.addresses import wanted
from bot.words import many
from handlers import copies, story
from handlers.blocks import BOXES, Block, Message, button, checkboxes, confirm, context, header, is_cut, listing, option, section, within_limits
from handlers.modals import ADDRESS
from handlers.sentences import SENTENCES
from handlers.text import clean, code, safe, when

ROOM = 700  # characters of a list on the card: on a phone the buttons are seen without much scrolling
LITTLE = 300
_WORST = 3  # losses above the buttons
_SHOWN_BOXES = 20


def card(view: View, seq: int | None = None) -> Message:
    """The whole card as it should stand now; the same view and seq give the same bytes. `seq` (default: the journal's) goes into the metadata."""
    run = view.run
    head = [header(f"{run.target}: {story.way(run)} · {story.state(run)}"), section(SENTENCES[run.state](view))]
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


# ------------------------------------------------------------------ what the decision rests on


def _remarks(view: View) -> list[Block]:
    remarks = view.run.plan.remarks if view.run.plan else ()
    if not remarks:
        return []
    return [section("*Know before you decide*\n" + listing((f"• {safe(each, 300)}" for each in remarks), ROOM))]


def _what(view: View) -> list[Block]:
    """What is undone and destroyed; while it is to be decided, the worst of it."""
    plan = view.run.plan
    if plan is None:
        return []
    moved = _moved(view, plan)
    if view.run.state is State.REFUSED:
        return moved
    lines = story.loss_lines(plan, story.found(view.run))
    shown = lines[:_WORST] if view.run.state is State.AWAITING_APPROVAL else lines
    more = [f"• and {len(lines) - len(shown)} more, below"] if len(lines) > len(shown) else []
    if not lines and plan.strategy != "downgrade":
        return moved
    lost_word = "destroyed" if plan.way.by_tool else "missing"
    title = lost_word.capitalize() if story.is_done(view.run, plan.way.move) else f"Would be {lost_word}"
    nothing = "Nothing." if _proven(plan) else "Nothing that sampled rows show." if _sampled(plan) else "Reading the scripts found nothing."
    lost = listing([*shown, *more], ROOM) or nothing
    return [*moved, section(f"*{title} (loss class {plan.loss_class})*\n{lost}")]


def _moved(view: View, plan: Plan) -> list[Block]:
    """The migrations. A single one that is undone stands in the decision already."""
    if not plan.undone or (plan.strategy == "downgrade" and len(plan.undone) == 1):
        return []
    done = story.is_done(view.run, plan.way.move)
    title = plan.way.revisions.capitalize() if done else f"Would be {plan.way.revisions}"
    return [section(f"*{title}*\n{listing(story.undone_lines(plan), LITTLE)}")]


def _proven(plan: Plan) -> bool:
    return plan.rehearsal is not None and plan.rehearsal.done and not _sampled(plan)


def _sampled(plan: Plan) -> bool:
    return plan.rehearsal is not None and plan.rehearsal.sampled is not None


def _showed(view: View) -> list[Block]:
    """What the copy showed, in few lines."""
    tried = view.run.plan.rehearsal if view.run.plan else None
    if tried is None or not tried.done:
        return []
    if view.run.plan and not view.run.plan.way.by_tool:
        shown = copies.showed(view.run.plan)
        return [section(f"*{copies.HEADS.get(view.run.plan.strategy, 'What the copy holds')}*\n" + listing(shown, ROOM))] if shown else []
    schema, forward = words.expected(tried, _said), words.forward(tried, _said)
    good = tried.expected == "same" and tried.forward == "works"
    found = [*([f"{schema} {forward}"] if good else [schema, forward]), *map(_said, tried.put_back)]
    if tried.locks:
        more = f", and {many(len(tried.locks) - 1, 'more table')}" if len(tried.locks) > 1 else ""
        found.append(words.locked(tried.locks[0], code) + more)
    if tried.partial:
        more = f" and {len(tried.partial) - 1} more, below" if len(tried.partial) > 1 else ""
        found.append(f"with reservations: {_said(tried.partial[0])}{more}")
    return [section("*What the copy showed*\n" + listing((f"• {each}" for each in found if each), ROOM))]


def _details(view: View) -> list[Block]:
    """Below the buttons: the rest of what the few lines left out."""
    plan = view.run.plan
    if plan is None:
        return []
    tried = plan.rehearsal
    found = story.loss_lines(plan)[_WORST:]
    if tried is not None and tried.done:
        found += [f"• {words.locked(one, code)}" for one in tried.locks[1:]]
        found += [f"• {_said(each)}" for each in (*tried.findings[1:], *tried.partial[1:])]
    return [section("*And besides*\n" + listing(found, ROOM))] if found else []


def _said(text: object) -> str:
    return safe(text, 200)


def _options(view: View) -> list[Block]:
    options = view.run.plan.options if view.run.plan else ()
    first = sorted(options, key=lambda each: (not each.recommended, not each.possible))
    return [section("*The ways there are*\n" + listing(map(story.option_line, first), ROOM))] if options else []


def _better_way(view: View) -> list[Block]:
    """Before the buttons only when it is not what the buttons are about."""
    return _options(view) if _another_is_better(view) else []


def _other_ways(view: View) -> list[Block]:
    return [] if _another_is_better(view) else _options(view)


def _another_is_better(view: View) -> bool:
    plan = view.run.plan
    return plan is not None and any(each.recommended and each.name != plan.strategy for each in plan.options)


def _ways_left(view: View) -> list[Block]:
    """After a copy proved the downgrade wrong."""
    plan = view.run.plan
    if plan is None or story.touched(view.run) or not view.run.attempts:
        return []
    left = [story.option_line(each) for each in plan.options if each.name != plan.strategy]
    left = left or ["• restore: from a backup of before the migration, if there is one", "• fix forward: a new migration mends it; nothing is lost"]
    return [section("*The ways that are left*\n" + listing(left, ROOM))]


def _steps(view: View) -> list[Block]:
    run, plan = view.run, view.run.plan
    began = any(step.state != "waiting" for step in view.steps)
    if plan is None or not view.steps or (run.state in ENDS and not began):
        return []
    done = listing((story.step_line(step, short=run.state is State.NEEDS_DECISION) for step in view.steps), 2 * ROOM)
    expected = [] if run.state in ENDS or run.state is State.REHEARSING else [context(story.expected(plan))]
    return [section(f"*Steps ({'on a copy' if run.state is State.REHEARSING else plan.strategy.replace('_', ' ')})*\n{done}"), *expected]


def plan_is_cut(view: View) -> bool:
    """The card can't show all of the plan, so the thread gets it as a file."""
    plan = view.run.plan
    return plan is not None and (is_cut(story.undone_lines(plan), LITTLE) or is_cut(story.loss_lines(plan), ROOM))


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


def _address(view: View) -> list[Block]:
    """For whoever knows where the provider recovered it."""
    if wanted(view.run) is None:
        return []
    element = button("Enter the address", ADDRESS, f"{view.run.id}:", style="primary")
    return [{"type": "actions", "block_id": f"address:{view.run.id}", "elements": [element]}]


def _in_the_way(view: View) -> list[Block]:
    """The sessions for which the failed step waited, and a way to end them."""
    run = view.run
    last = next((attempt for attempt in reversed(run.current) if attempt.state in {"failed", "unknown"}), None)
    if last is None or not (last.facts.get("blockers") or last.facts.get("strangers")):
        return []
    who = "is in the database" if last.facts.get("strangers") else "holds a lock on its tables"
    told = f"Whoever {who} then is ended, and loses what was not committed."
    asked = confirm("End the sessions in the way?", told, "End them", "Back")
    element = button("End these sessions", "end_sessions", f"{run.id}:{run.digest or ''}", style="danger", confirm=asked)
    return [{"type": "actions", "block_id": f"sessions:{run.id}", "elements": [element]}]


def _ways_out(view: View) -> list[Block]:
    """What going on could look like, besides trying again and leaving."""
    asked = story.newest(view, "decision_needed")
    ways = asked.data.get("ways", ()) if asked else ()
    return [section("*The ways there are now*\n" + listing((f"• {safe(each, 300)}" for each in ways), ROOM))] if ways else []


def _by_hand(view: View) -> list[Block]:
    """The writers could not be started: the commands for a person at a shell."""
    last = next((attempt for attempt in reversed(view.run.current) if attempt.state in {"failed", "unknown"}), None)
    commands = last.facts.get("by_hand", ()) if last is not None else ()
    return [section("*To start them by hand, then press Retry*\n" + listing((code(each, 200) for each in commands), ROOM))] if commands else []


#: What a person needs first stands first; what is only looked up stands below the buttons.
_ORDER: Mapping[State, Sequence[Callable[[View], list[Block]]]] = {
    State.PLANNING: (_asking, _buttons),
    State.REHEARSING: (_address, _buttons, _steps, _asking, _remarks, _what, _ticks),
    State.AWAITING_APPROVAL: (_remarks, _what, _showed, _better_way, _seats, _asking, _advice, _buttons, _other_ways, _details, _steps, _ticks),
    State.RUNNING: (_steps, _buttons, _seats, _asking, _what),
    State.NEEDS_DECISION: (_ways_out, _buttons, _in_the_way, _by_hand, _steps, _seats, _asking, _what),
    State.REFUSED: (_ways_left, _steps, _asking, _what),
}
_ENDED = (_steps, _seats, _asking, _what)

_APPROVE = {
    "reapply": "Approve going forward again?", "restore": "Approve this restore?",
    "in_place": "Approve dropping this database?", "at_provider": "Approve replacing the whole server?", "pitr": "Approve going back in time?",
    "tables": "Approve bringing these rows back?", "stamp": "Approve this stamp?",
}  # fmt: skip
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
        untried = "" if run.plan is None or _proven(run.plan) else " It was NOT tried on a copy."
        if run.plan is not None and _sampled(run.plan):
            untried = " It was tried on sampled rows only."
        if run.plan is not None and run.plan.way.in_place:
            last = f"The database is dropped before the copy is restored. {last}"
        what = _APPROVE.get(story.strategy(run), "Approve this rollback?")
        return confirm(what, f"{way}.{untried} {last}", "Approve", "Not yet")
    if label == "Cancel" and run.state is State.RUNNING:
        return confirm("Cancel this run?", f"{way}. It stops after the current step and starts what was stopped.", "Stop it", "Let it run")
    if label == "Leave":
        return confirm("Leave it as it is?", f"{way}. What was stopped is started again and the run ends as failed.", "Leave it", "Back")
    if label == "Restore":
        now = "dropped" if run.plan is not None and run.plan.way.in_place else "kept"
        return confirm("Back to the restore point?", f"{way}. What is now is {now}. It needs the approvals again.", "Restore", "Back")
    return None
