"""What the command line prints: the same facts as the channel, for a terminal and for scripts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

from bot import words
from bot.errors import Refusal
from bot.evidence import Archive, Duty, Listed, Loss
from bot.model import Event, Plan, Run, View
from bot.place import Right

_MORE = 20  # losses that a terminal shows
_COUNTED = {"kind", "name", "revision", "certain", "count", "written", "of", "bytes", "newest", "why"}
_TRIED = {"done", "why", "server", "partial", "seconds", "statements_total", "expected", "findings", "forward", "sampled"}


def line(text: object) -> str:
    """Others' words on one line of a terminal, without control and direction characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def plan_json(target: str, plan: Plan | None, refusal: Refusal | None) -> dict[str, Any]:
    """CONTRACT's object of `plan --json`."""
    return {
        "target": target,
        "from": plan.from_ if plan else None,
        "to": plan.to if plan else None,
        "undone": [{"revision": u.revision, "message": u.message, "date": u.date} for u in plan.undone] if plan else [],
        "strategy": plan.strategy if plan else None,
        "steps": [step.name for step in plan.steps] if plan else [],
        "digest": plan.digest() if plan else None,
        "refusal": refusal_json(refusal),
        "loss": [loss_json(loss) for loss in plan.loss] if plan else [],
        "foreseen": [loss_json(loss) for loss in plan.foreseen] if plan else [],
        "rehearse": [step.name for step in plan.rehearse] if plan else [],
        "archive": plan.archive if plan else None,
        "loss_class": plan.loss_class if plan else None,
        "expected_seconds": plan.expected_seconds if plan else None,
    }


def loss_json(loss: Loss) -> dict[str, Any]:
    """What is null was not counted."""
    return loss.model_dump(mode="json", include=_COUNTED)


def archive_json(made: Archive, until: Any) -> dict[str, Any]:
    return {
        "run": made.run,
        "from": made.upper,
        "to": made.lower,
        "file": made.file.model_dump(mode="json"),
        "tables": [{"table": part.table, "what": part.what, "rows": part.rows, "bytes": part.bytes} for part in made.parts],
        "left_out": made.left_out,
        "keep_until": until,
    }


def refusal_json(refusal: Refusal | None) -> dict[str, str] | None:
    return {"code": refusal.code, "message": refusal.message, "next": refusal.next} if refusal else None


def status_json(view: View) -> dict[str, Any]:
    """CONTRACT's object of `status --json`."""
    run = view.run
    return {
        "run": run.id,
        "target": run.target,
        "state": run.state,
        "from": run.from_,
        "to": run.to,
        "severity": run.request.severity,
        "reason": run.request.reason,
        "requested_by": run.request.by.id,
        "digest": run.digest,
        "seats": [{"role": seat.role, "by": seat.by} for seat in view.seats],
        "steps": [{"name": s.name, "state": s.state, "attempt": s.attempt, "seconds": s.seconds} for s in view.steps],
        "refusal": run.refusal,
        "strategy": run.plan.strategy if run.plan else run.request.strategy,
        "loss": [loss_json(loss) for loss in run.plan.loss] if run.plan else [],
        "loss_class": run.plan.loss_class if run.plan else None,
        "expected_seconds": run.plan.expected_seconds if run.plan else None,
        "rehearsal": _rehearsal_json(run.plan),
    }


def _rehearsal_json(plan: Plan | None) -> dict[str, Any] | None:
    """Null while there is none; the whole of it is in the file of the thread."""
    found = plan.rehearsal if plan else None
    if found is None:
        return None
    return found.model_dump(mode="json", include=_TRIED)


def check_json(target: str, reasons: Iterable[Refusal], rights_: Iterable[Right], duties_: Iterable[Duty]) -> dict[str, Any]:
    """CONTRACT's object of `check --json`; a warning does not make a target unready."""
    found = list(reasons)
    told = [{"code": r.code, "message": r.message, "next": r.next} for r in found]
    ready = all(r.warning for r in found)
    return {"target": target, "ready": ready, "reasons": told, "rights": [one.model_dump(mode="json") for one in rights_],
            "duties": [one.model_dump(mode="json", exclude={"told"}) for one in duties_]}  # fmt: skip


def duties(found: Iterable[Duty]) -> list[str]:
    return [f"  last {one.kind} {one.at:%Y-%m-%d %H:%M} UTC: {'' if one.ok else 'FAILED. '}{line(one.says)}" for one in found]


def rights(found: Iterable[Right]) -> list[str]:
    """A table: what works, and the SQL of somebody who may for what does not."""
    return [f"  {'works  ' if one.works else 'REFUSED'}  {one.name}{f': {line(one.missing)}' if one.missing else ''}" for one in found]


def refusal(found: Refusal) -> str:
    return f"{found.code}: {found.message}\n  next: {found.next}"


def plan(made: Plan) -> str:
    """What a run would do, the decision first."""
    expected = f"{made.expected_seconds:.0f} s (median of earlier runs)" if made.expected_seconds is not None else "not measured yet"
    moved = f"{made.way.revisions}:"
    lines = [f"{made.target}: {made.from_} -> {made.to}, by {made.strategy}", "", moved]
    lines += [f"  {one.revision}  {line(one.message)}  {(one.date or '')[:16]}".rstrip() for one in made.undone]
    lines += ["", f"lost (class {made.loss_class}), {_known(made)}:", *_losses(made.loss)]
    lines += ["", f"steps: {', '.join(step.name for step in made.steps)}", f"expected time: {expected}", f"digest: {made.digest()}"]
    lines += [f"note: {line(remark)}" for remark in made.remarks]
    return "\n".join(lines)


def _known(made: Plan) -> str:
    tried = made.rehearsal
    if tried is not None and tried.done:
        return "as a copy showed it" if tried.sampled is None else "as sampled rows showed it, counted in production"
    return "as far as reading the scripts goes" + (
        f" (not tried on a copy: {line(tried.why)})" if tried is not None else "; a run tries it on a copy first"
    )


def _losses(losses: Iterable[Loss]) -> Iterator[str]:
    found = words.worst_first(losses)
    for one in found[:_MORE]:
        yield f"  {words.line(one, line, line)}{f', by {line(one.revision)}' if one.revision else ''}"
    if len(found) > _MORE:
        yield f"  and {len(found) - _MORE} more"
    if not found:
        yield "  nothing"


def _evidence(made: Plan) -> Iterator[str]:
    """What the copy showed, in few lines."""
    tried = made.rehearsal
    if tried is None:
        return
    if not tried.done:
        yield f"  NOT tried on a copy: {line(tried.why)}"
        return
    with_ = f", with {words.many(tried.sampled, 'sampled row')}" if tried.sampled is not None else ""
    yield f"  tried on {line(tried.server or 'a copy')}{with_}: {words.span(words.moved(tried))}, {words.many(tried.statements_total, 'statement')}"
    yield from (f"  {said}" for said in (words.expected(tried, line), words.forward(tried, line)) if said)
    yield from (f"  {words.locked(one, line)}" for one in tried.locks[:3])
    yield from (f"  reservation: {line(one)}" for one in tried.partial)
    yield from (f"  put back on the copy: {line(one)}" for one in tried.put_back)


def status(view: View) -> str:
    run = view.run
    lines = [f"{run.id}  {run.target}: {run.from_ or '?'} -> {run.to}  {run.state}", f"  {run.request.severity}, asked by {run.request.by.id}: "]
    lines[1] += " ".join(run.request.reason.split())
    if run.plan is not None and run.digest is not None:
        lines += [*_evidence(run.plan), f"  lost (class {run.plan.loss_class}), {_known(run.plan).partition(' (')[0]}:"]
        lines += [f"  {one}" for one in _losses(run.plan.loss)]
    lines += [f"  seat {seat.role}: {seat.by or 'open; ' + (', '.join(seat.holders) or 'nobody holds it')}" for seat in view.seats]
    for step in view.steps:
        took = f" {step.seconds:.1f} s" if step.seconds is not None else ""
        lines.append(f"  {step.name}: {step.state}{took}  {step.progress or step.summary}".rstrip())
    if run.refusal:
        lines.append(f"  {run.refusal['code']}: {run.refusal['message']} {run.refusal['next']}")
    lines += [f"  by hand: {command}" for command in (view.restore_commands if run.state == "needs_decision" else ())]
    return "\n".join(lines)


def history(runs: Iterable[Run]) -> str:
    lines = [
        f"{run.created:%Y-%m-%d %H:%M} UTC  {run.id}  {run.from_ or '?'} -> {run.to}  {run.state}  by {run.request.by.id}: "
        f"{' '.join(run.request.reason.split())[:60]}"
        for run in runs
    ]
    return "\n".join(lines) or "no runs yet"


def backups(kept: Iterable[Listed], archives: Iterable[tuple[Archive, Any]]) -> str:
    """Copies of the whole database, then what downgrades destroyed."""
    lines = [backup(one) for one in kept]
    for made, until in archives:
        tables = ", ".join(f"{words.many(part.rows, 'row')} of {line(part.table)}" for part in made.parts[:3])
        kept_until = f"kept until {until:%Y-%m-%d %H:%M} UTC; put back by: backout reapply {made.target} {made.upper}"
        lines.append(f"archive  {made.file.name}  {made.upper} -> {made.lower}  {tables or 'nothing'}  {made.file.path}  {kept_until}")
    return "\n".join(lines) or "no backups yet"


def backup(one: Listed) -> str:
    if one.file is None or one.made is None:
        return f"{one.name}  {line(one.refused)}"
    made = f"{one.made.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC  {line(one.name)}  at {line(one.revision) or '?'}"
    made += f"  {one.file.size} bytes  {line(one.file.path)}"
    sha256 = f"  sha256 {one.file.sha256}" if one.file.sha256 else ""
    if one.keep_until is not None:
        proven = f"restored whole {one.proven:%Y-%m-%d %H:%M} UTC" if one.proven else "not restored yet"
        return f"{made}{sha256}  {proven}  kept until {one.keep_until:%Y-%m-%d %H:%M} UTC"
    tables = f", {words.many(one.tables, 'table')}" if one.tables is not None else ""
    of = f"  by somebody else: {one.file.format}, PostgreSQL {line(one.postgres) or '?'}, database {line(one.database) or '?'}{tables}"
    return f"{made}{sha256}{of}" + (f"  can't be used: {line(one.refused)}" if one.refused else "")


#: kinds whose sentence needs no thought
_SAYS = {
    "approved": "{by} approved as {role}",
    "address_wanted": "waiting for {provider} to recover {point}\n{guide}\n  backout address RUN --as USER",
    "address_entered": "{by} entered where it was recovered",
    "address_failed": "what was recovered could not be dumped: {message}",
}


def event(happened: Event) -> str:
    """A line of progress; empty for what only the journal needs."""
    data = happened.data
    at = f"{happened.at:%H:%M:%S}"
    if template := _SAYS.get(happened.kind):
        return f"{at}  " + template.format_map({key: value if key == "guide" else line(value) for key, value in data.items()})
    match happened.kind:
        case "step_started":
            return f"{at}  {data['step']} ..."
        case "step_done":
            return f"{at}  {data['step']} done in {data['seconds']:.1f} s: {data['summary']}"
        case "step_failed" | "step_unknown":
            return f"{at}  {data['step']} {happened.kind.removeprefix('step_')}: {data['message']}"
        case "planned" if not data.get("digest"):
            return f"{at}  planned: {data.get('from')} -> {data.get('to')}; it is tried on a copy first"
        case "planned" | "rehearsed":
            return f"{at}  {happened.kind}: {data.get('from')} -> {data.get('to')}, loss class {data.get('loss_class')}"
        case "voided":
            return f"{at}  the plan changed, earlier approvals are void: {line('; '.join(map(str, data.get('what', ()))))}"
        case "asked":
            return f"{at}  waiting for {', '.join(data['roles'])} ({', '.join(data['people']) or 'nobody holds that'})"
        case "decision_needed":
            choices = "|".join(data.get("options", ("retry", "leave", "escalate")))
            ways = "".join(f"\n  {line(way)}" for way in data.get("ways", ()))
            return f"{at}  a decision is needed: {line(data.get('why', ''))}{ways}\n  backout decide RUN {choices} --as USER"
        case "refused":
            return f"{at}  refused, {data['code']}: {data['message']} {data['next']}"
        case "denied" | "ticked" | "requested":
            return ""
        case _:
            return f"{at}  {happened.kind.replace('_', ' ')}"
