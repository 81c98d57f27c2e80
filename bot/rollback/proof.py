"""What a copy showed, as Markdown: all of it as the thread's file, the short of it in the post-mortem. Pure, and the same bytes every time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

from bot import words
from bot.evidence import Loss, Ran, Rehearsal, size
from bot.model import Plan, Run, View
from bot.rollback.markup import line, plain, seconds, utc

_SHOWN = 100  # lines of a list


def page(run: str, plan: Plan, at: dt.datetime | None) -> str:
    """The file `rehearsal-RUN.md`: the plan with all its evidence. `at`: when the rehearsal ended."""
    tried = plan.rehearsal or Rehearsal(done=False)
    parts: list[Iterable[str]] = [
        [f"# Rehearsal {run}: {line(plan.target)} {line(plan.from_)} -> {line(plan.to)}", ""],
        _short(plan, tried, at),
        ["## What it destroys", "", f"Loss class: {plan.loss_class}.", "", *lost(plan.loss, tried), ""],
        _locks(tried),
        _statements(tried),
        _schema(tried),
        _ways(plan),
        ["## The plan", "", *(f"- {plain(one.revision)} {plain(one.message)}{_day(one.date)}" for one in plan.undone), ""],
        [*(f"- {plain(remark)}" for remark in plan.remarks), ""] if plan.remarks else [],
        [f"{place}. {plain(step.name)}" for place, step in enumerate(plan.steps, 1)],
    ]
    return "\n".join(each for part in parts for each in part).rstrip() + "\n"


def section(view: View) -> Iterator[str]:
    """The post-mortem's part."""
    plan = view.run.plan
    yield "## Rehearsal"
    yield ""
    tried = plan.rehearsal if plan else None
    if plan is None or tried is None:
        yield "It did not come to one." if not view.run.attempts else "It was not brought to its end."
        yield from _so_far(view.run)
    elif not tried.done:
        yield f"It was not tried on a copy: {plain(tried.why or 'nobody wrote down why')}".rstrip(".") + "."
    else:
        ended = next((event.at for event in reversed(view.events) if event.kind == "rehearsed"), None)
        yield from _took(plan, tried, ended, _really(view.run, plan))
        yield ""
        told = [words.expected(tried, plain), words.forward(tried, plain), *(f"Reservation: {plain(each)}" for each in tried.partial)]
        yield from (f"- {each}" for each in (*told, *(f"Put back on the copy: {plain(each)}" for each in tried.put_back)) if each)
    yield ""


def _so_far(run: Run) -> Iterator[str]:
    """What was measured of a rehearsal that was refused."""
    last = run.last_attempt("rehearse")
    if last is None or "rehearsal" not in last.facts:
        return
    tried = Rehearsal(**last.facts["rehearsal"])
    yield ""
    yield f"On {plain(tried.server or 'a copy')} it came so far:"
    yield ""
    yield from (f"- {plain(name.replace('_', ' '))}: {seconds(took)}" for name, took in sorted(tried.seconds.items()))
    yield from (f"- {words.locked(one, plain)}" for one in tried.locks[:_SHOWN])
    yield ""
    yield from _statements(tried, "###")


def lost(losses: Iterable[Loss], tried: Rehearsal | None) -> Iterator[str]:
    """One line for each loss, the worst first."""
    found = words.worst_first(losses)
    if not found:
        sampled = tried is not None and tried.sampled is not None
        sure = "as far as sampled rows show" if sampled else "" if tried is not None and tried.done else "as far as reading the scripts goes"
        yield f"Nothing, {sure}." if sure else "Nothing."
    for one in found:
        sure = "" if one.certain else ", which reading alone can not tell"
        yield f"- {words.line(one, plain, plain)}{f', by {plain(one.revision)}' if one.revision else ''}{sure}"


def _really(run: Run, plan: Plan) -> float | None:
    """Seconds that the tool took in production: its own, without our looking before and after."""
    last = run.last_attempt(plan.way.move)
    if last is None or last.state != "done":
        return None
    took = last.facts.get("seconds")
    return float(took) if isinstance(took, int | float) else last.seconds


def _took(plan: Plan, tried: Rehearsal, at: dt.datetime | None, really: float | None) -> Iterator[str]:
    what = plan.way.noun
    when = f" at {utc(at)} UTC" if at else ""
    if plan.strategy == "stamp":
        same = "is the one" if tried.expected == "same" else "is NOT the one"
        yield f"The schema {same} that {plain(plan.to)} builds from nothing, compared{when} on {plain(tried.server)}."
        yield from ("", *(f"- {plain(each)}" for each in tried.findings))
        return
    if not plan.way.by_tool:
        yield f"What comes back was looked at{when} on {plain(tried.server or 'a copy')}:"
        yield ""
        yield from (f"- {plain(each)}" for each in tried.findings)
        return
    when += f" with {words.many(tried.sampled, 'sampled row')}" if tried.sampled is not None else ""
    yield f"The {what} was tried{when} on {plain(tried.server or 'a copy')}: it took {seconds(words.moved(tried))} there."
    if really is not None:
        yield f"In production it took {seconds(really)}."


def _short(plan: Plan, tried: Rehearsal, at: dt.datetime | None) -> Iterator[str]:
    if not tried.done:
        yield f"Not tried on a copy: {plain(tried.why)}"
        yield ""
        return
    yield from _took(plan, tried, at, None)
    yield ""
    for name, took in sorted(tried.seconds.items()):
        yield f"- {plain(name.replace('_', ' '))}: {seconds(took)}"
    if tried.size is not None:
        yield f"- size of the backup: {size(tried.size)}"
    yield f"- {'one transaction: all or nothing' if tried.one_transaction else 'more than one transaction: it may end half done'}"
    yield from (f"- reservation: {plain(each)}" for each in tried.partial)
    yield from (f"- put back: {plain(each)}" for each in tried.put_back)
    yield ""


def _locks(tried: Rehearsal) -> Iterator[str]:
    yield "## Locks"
    yield ""
    yield from (f"- {words.locked(one, plain)}" for one in tried.locks[:_SHOWN])
    if not tried.locks:
        yield "None that others would wait for." if tried.done else "Not measured."
    yield ""


def _statements(tried: Rehearsal, level: str = "##") -> Iterator[str]:
    if not tried.statements:
        return
    yield f"{level} Statements ({tried.statements_total or len(tried.statements)})"
    yield ""
    yield "| Revision | Took | Rows | Strongest lock, held | Statement |"
    yield "|---|---|---|---|---|"
    for one in tried.statements[:_SHOWN]:
        yield f"| {plain(one.revision or '-')} | {_ms(one.ms)} | {_rows(one)} | {_lock(one)} | {plain(one.sql, 300)} |"
    yield ""
    if tried.statements_total > len(tried.statements[:_SHOWN]):
        yield f"And {tried.statements_total - len(tried.statements[:_SHOWN]):,} more."
        yield ""


def _ms(took: float | None) -> str:
    return "did not end" if took is None else f"{took:,.1f} ms"


def _rows(one: Ran) -> str:
    return "-" if one.rows is None else f"{one.rows:,}"


def _lock(one: Ran) -> str:
    if one.lock is None or one.table is None:
        return "-"
    return f"{words.lock(one.lock)} on {plain(one.table)}{f', {_ms(one.held)}' if one.held is not None else ''}"


def _schema(tried: Rehearsal) -> Iterator[str]:
    if not tried.done:
        return
    yield "## Schema, and the way forward"
    yield ""
    yield from (f"- {said}" for said in (words.expected(tried, plain), words.forward(tried, plain)) if said)
    yield from (f"- {plain(each)}" for each in tried.findings[1:_SHOWN])
    yield ""


def _ways(plan: Plan) -> Iterator[str]:
    if not plan.options:
        return
    yield "## The ways there are"
    yield ""
    for one in plan.options:
        took = seconds(one.seconds) if one.seconds is not None else "time not measured"
        able = f"loses {plain(one.loses)}; {took}; {plain(one.certain)}" if one.possible else "not possible"
        yield f"- {one.name}{' (recommended)' if one.recommended else ''}: {able}{f'; {plain(one.why)}' if one.why else ''}"
    yield ""


def _day(date: str | None) -> str:
    return f" ({plain(date)})" if date else ""
