"""What the command line prints: the same facts as the channel, for a terminal and for scripts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bot.errors import Refusal
from bot.model import Event, Plan, Run, View


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
        "loss": [{"kind": loss.kind, "name": loss.name, "revision": loss.revision} for loss in plan.loss] if plan else [],
        "loss_class": plan.loss_class if plan else None,
        "expected_seconds": plan.expected_seconds if plan else None,
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
    }


def check_json(target: str, reasons: Iterable[Refusal]) -> dict[str, Any]:
    """CONTRACT's object of `check --json`; a warning does not make a target unready."""
    found = list(reasons)
    told = [{"code": r.code, "message": r.message, "next": r.next} for r in found]
    return {"target": target, "ready": all(r.warning for r in found), "reasons": told}


def refusal(found: Refusal) -> str:
    return f"{found.code}: {found.message}\n  next: {found.next}"


def plan(made: Plan) -> str:
    """What a run would do, the decision first."""
    expected = f"{made.expected_seconds:.0f} s (median of earlier runs)" if made.expected_seconds is not None else "not measured yet"
    lines = [f"{made.target}: {made.from_} -> {made.to}, by {made.strategy}", "", "undone, newest first:"]
    lines += [f"  {one.revision}  {one.message}  {(one.date or '')[:16]}".rstrip() for one in made.undone]
    lines += ["", f"lost (class {made.loss_class}), as far as reading the scripts goes:"]
    lines += [f"  {one.kind} {one.name}  by {one.revision}" for one in made.loss] or ["  nothing"]
    lines += ["", f"steps: {', '.join(step.name for step in made.steps)}", f"expected time: {expected}", f"digest: {made.digest()}"]
    lines += [f"note: {remark}" for remark in made.remarks]
    return "\n".join(lines)


def status(view: View) -> str:
    run = view.run
    lines = [f"{run.id}  {run.target}: {run.from_ or '?'} -> {run.to}  {run.state}", f"  {run.request.severity}, asked by {run.request.by.id}: "]
    lines[1] += " ".join(run.request.reason.split())
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


def event(happened: Event) -> str:
    """A line of progress; empty for what only the journal needs."""
    data = happened.data
    at = f"{happened.at:%H:%M:%S}"
    match happened.kind:
        case "step_started":
            return f"{at}  {data['step']} ..."
        case "step_done":
            return f"{at}  {data['step']} done in {data['seconds']:.1f} s: {data['summary']}"
        case "step_failed" | "step_unknown":
            return f"{at}  {data['step']} {happened.kind.removeprefix('step_')}: {data['message']}"
        case "asked":
            return f"{at}  waiting for {', '.join(data['roles'])} ({', '.join(data['people']) or 'nobody holds that'})"
        case "approved":
            return f"{at}  {data['by']} approved as {data['role']}"
        case "decision_needed":
            return f"{at}  a decision is needed: backout decide RUN retry|leave|escalate --as USER"
        case "refused":
            return f"{at}  refused, {data['code']}: {data['message']} {data['next']}"
        case "denied" | "ticked" | "requested":
            return ""
        case _:
            return f"{at}  {happened.kind.replace('_', ' ')}"
