"""Rows of the journal -> nouns."""

from __future__ import annotations

from typing import Any

from bot.errors import Refusal
from bot.model import Attempt, Plan, Request, Run, Seat


def unknown_run(run: str) -> Refusal:
    return Refusal("unknown_run", f"There is no run {run[:40]}.", "List the newest with /rollback history.")


async def run(db: Any, run_id: str) -> Run:
    """One run with its seats and attempts. Raises Refusal(unknown_run)."""
    row = await db.fetchrow("select * from backout.runs where id = $1", run_id)
    if row is None:
        raise unknown_run(run_id)
    seats = await db.fetch("select role, by, at from backout.seats where run = $1 order by place", run_id)
    attempts = await db.fetch(
        "select step, attempt, state, executor, round, began, ended, summary, progress, facts from backout.attempts where run = $1 order by place",
        run_id,
    )
    return Run(
        id=row["id"], target=row["target"], state=row["state"], request=Request(**row["request"]),
        plan=Plan(**row["plan"]) if row["plan"] else None, digest=row["digest"], seats=tuple(Seat(**dict(seat)) for seat in seats),
        escalated=tuple(row["escalated"]), ending=row["ending"], decision=row["decision"], refusal=row["refusal"], round=row["round"],
        attempts=tuple(Attempt(**dict(attempt)) for attempt in attempts), seq=row["seq"], created=row["created"], ended=row["ended"],
    )  # fmt: skip
