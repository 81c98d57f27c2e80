"""The cards that people meet: each by its name, as a View. The golden files hold how they look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bot.evidence import Locked, Loss, LossClass, Rehearsal
from bot.model import AttemptState, PlanStep, SeatView, State, StepView, View
from bot.steps import STEPS
from tests.unit.slack_parts import DIGEST, SCORE, STEPS_OF, archive, attempt, plan, proven, reapply, rehearsal, steps, view

Events = list[tuple[str, dict[str, Any]]]

DECIDING = ("decision_needed", {"step": "downgrade", "why": "lock timeout", "options": ["retry", "leave", "escalate"]})
TRIED: Events = [("planned", {}), ("rehearsed", {"digest": DIGEST})]
ON_A_COPY = (
    StepView(name="back_up", says="copy the database", state="done", attempt=1, seconds=2.0, summary="41.0 MB, 212 objects"),
    StepView(name="rehearse", says="try it on a copy", state="intended", attempt=1, progress="restoring the copy"),
)
HIGH = rehearsal(
    loss=(
        Loss(kind="table", name='public."Audit Log"', revision="0006", count=12_345_678, bytes=3_400_000_000, newest="2026-11-20 02:59:00+00"),
        Loss(kind="column", name="public.orders.flag", revision="0005", count=10_000, written=3, of=10_000, bytes=10_000),
        SCORE,
        Loss(kind="values", name="public.orders.price", revision="0005", count=17, of=3_000_000, keys=("id=4",), why="no longer fit numeric(8,2)"),
        Loss(kind="policy", name="public.orders.tenant", revision="0005"),
        Loss(kind="row security", name="public.orders", revision="0005", why="every row is seen by everybody who may read the table"),
    ),
    partial=("restoring the copy left something out: event trigger guard", "the copy ran on PostgreSQL 18, production is 15"),
    expected="differs", findings=("index public.ix_old is still there", "column public.orders.note is gone"),
    forward="fails", forward_says="Up again fails: column \"note\" does not exist",
    locks=(
        Locked(table="public.orders", mode="AccessExclusiveLock", held=64_000.0, bytes=1_200_000_000, rows=3_000_000),
        Locked(table='public."Audit Log"', mode="AccessExclusiveLock", held=12.0, bytes=3_400_000_000, rows=12_345_678),
        Locked(table="public.customers", mode="ShareRowExclusiveLock", held=3.0, bytes=8_000, rows=12),
    ),
)  # fmt: skip
TWO_SEATS = (
    SeatView(role="dba", title="DBA on call", holders=("U0DBA",)),
    SeatView(role="team-lead", title="Team lead", holders=("U0LEAD", "U0EVE")),
)
EMPTY = {
    "code": "empty_downgrade",
    "message": "On a copy the downgrade said it worked and changed nothing, though 3 changes were expected: index ix_orders_created.",
    "next": "Restore from before the migration, or fix forward. Or write the downgrade, then ask again.",
}


def high_loss() -> View:
    remark = "Nobody is stopped (platform: none): what is written during the run may be lost and can't be counted."
    return view(plan=proven(HIGH, loss_class=LossClass.HIGH, remarks=(remark,)), events=TRIED, seats=TWO_SEATS)


def refused() -> View:
    tried = (attempt("back_up", AttemptState.DONE, {}), attempt("rehearse", AttemptState.FAILED, EMPTY))
    events: Events = [("planned", {}), ("refused", EMPTY)]
    return view(State.REFUSED, plan=plan(rehearsal=None), digest=None, seats=(), events=events, attempts=tried, refusal=EMPTY)


def succeeded() -> View:
    ended = ("ended", {"state": "succeeded", "summary": "shop stands at 0004; 2 checks, none red. The steps took 9.1 s."})
    done = (attempt("archive", AttemptState.DONE, {"archive": archive().model_dump(mode="json")}), attempt("downgrade", AttemptState.DONE, {}))
    went = steps(**dict.fromkeys(STEPS_OF["downgrade"], "done"))
    return view(State.SUCCEEDED, plan=proven(), events=[*TRIED, ended], attempts=done, steps=went)


def untried() -> View:
    return view(plan=plan(rehearsal=Rehearsal(done=False, why="it has 40.0 GB, more than rehearsal.max_size (20.0 GB)")), events=[("planned", {})])


def sampled() -> View:
    said = "tried on the schema with 12,345 sampled rows of 3 tables, not on a copy of the data"
    made = proven(rehearsal(sampled=12_345, partial=(said,)))
    why = "it worked on sampled rows, and what it destroys is archived first and can be put back"
    first = made.options[0].model_copy(update={"certain": "tried on sampled rows", "why": why})
    return view(plan=made.model_copy(update={"options": (first, *made.options[1:])}), events=TRIED)


def waiting() -> View:
    step = PlanStep(name="recover", params={"provider": "aws-rds"})
    said = "aws-rds recovers it, as a person asks them to. Backout waits up to 12 h for the address, and looks before it asks."
    made = plan(strategy="pitr", to="unknown", point="2026-11-20T02:40:00+00:00", rehearse=(step,), rehearsal=None, loss=(), remarks=(said,))
    facts = {"waits": {"provider": "aws-rds", "until": "2026-11-20T15:00:00+00:00"}}
    recovering = StepView(name="recover", says="recover the instant beside, and look at it", state="intended", attempt=1, progress="waiting")
    return view(
        State.REHEARSING, plan=made, digest=None, seats=(), steps=(recovering,), events=[("planned", {})],
        attempts=(attempt("recover", AttemptState.INTENDED, facts),),
    )  # fmt: skip


def at_provider() -> View:
    """As plan_at_provider says it."""
    names = ("check_preconditions", "stop_writers", "restore_point", "stage_backup", "deploy_backup", "verify", "start_writers", "watch")
    said = (
        "The WHOLE server goes back to 2026-11-19 03:00:00 UTC, roles and passwords too. Databases on it now: shop, metabase.",
        "Gone from the service is what was written since. By the rows' own times, changed and deleted ones not seen: 4,812 rows in public.orders, "
        "the newest of 2026-11-20 02:59:31 UTC; 17 rows in public.customers, the newest of 2026-11-20 02:41:08 UTC.",
        "Railway may remove the backups that are newer: b29-backup.",
        "The way back: a dump of shop alone, taken after the writers stopped; and the former volume, which Railway keeps, mounted nowhere.",
    )
    asked = {"provider": "railway", "backup": "b28-backup", "made": "2026-11-19T03:00:00+00:00"}
    why = "the provider restores its backups in the server's place only, so nobody can look at this one before"
    made = plan(
        strategy="at_provider", to="unknown", undone=(), loss=(), foreseen=(), loss_class=LossClass.HIGH, remarks=said,
        steps=tuple(PlanStep(name=name, params=asked if name == "stage_backup" else {}) for name in names),
        rehearsal=Rehearsal(done=False, why=why),
    )  # fmt: skip
    waiting = tuple(StepView(name=name, says=STEPS[name].says, state="waiting") for name in names)
    return view(plan=made, events=[("planned", {})], seats=TWO_SEATS, steps=waiting)


CARDS: Mapping[str, Callable[[], View]] = {
    "planning": lambda: view(State.PLANNING, plan=None, digest=None, seats=(), steps=()),
    "rehearsing": lambda: view(State.REHEARSING, plan=plan(rehearsal=None), digest=None, seats=(), steps=ON_A_COPY, events=[("planned", {})]),
    "waiting_for_provider": waiting,
    "awaiting_approval": lambda: view(plan=proven(), events=TRIED),
    "high_loss": high_loss,
    "untried": untried,
    "sampled": sampled,
    "at_provider": at_provider,
    "reapply": lambda: view(plan=reapply(), events=TRIED, steps=steps("reapply")),
    "empty_downgrade": refused,
    "needs_decision": lambda: view(State.NEEDS_DECISION, plan=proven(), events=[*TRIED, DECIDING]),
    "succeeded": succeeded,
}
