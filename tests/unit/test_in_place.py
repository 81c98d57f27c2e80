"""A restore in place before and after its drop: what is offered, what goes on, what card and report say."""

from __future__ import annotations

from typing import Any

import pytest

from bot.evidence import BackupFile, LossClass
from bot.model import Attempt, AttemptState, Plan, PlanStep, Run, State
from bot.rollback import plan_copies, report
from bot.rollback.position import to_the_end
from handlers.card import card
from tests.unit import slack_parts
from tests.unit.slack_parts import attempt, plan, rehearsal, run, view

DUMP = BackupFile(name="shop-r1.dump", path="/b/shop-r1.dump", sha256="a" * 64, size=41_000_000, format="custom")
POINT = DUMP.model_copy(update={"name": "shop-r7k2.dump", "path": "/b/shop-r7k2.dump"})
STEPS = tuple(PlanStep(name=name) for name in ("check_preconditions", "stop_writers", "restore_point", "replace", "verify", "start_writers"))
DROPPING: dict[str, Any] = {"dropping": 16384}


def in_place(**changes: Any) -> Plan:
    found = rehearsal(seconds={"restore": 75.0}, loss=())
    known = {"strategy": "in_place", "source": DUMP, "steps": STEPS, "undone": (), "loss": (), "loss_class": LossClass.HIGH, "rehearsal": found}
    return plan(**{**known, **changes})


def taken(round_: int = 1) -> Attempt:
    made = attempt("restore_point", AttemptState.DONE, {"file": POINT.model_dump(mode="json"), "until": "2026-12-08 03:00 UTC"})
    return made.model_copy(update={"round": round_})


def of(*attempts: Attempt, state: State = State.NEEDS_DECISION, **changes: Any) -> Run:
    request = run().request.model_copy(update={"strategy": "in_place"})
    return run(state, plan=changes.pop("plan", in_place()), attempts=attempts, request=request, **changes)


def test_its_digest_is_not_the_ordinary_restores() -> None:
    assert in_place().digest() != in_place(strategy="restore").digest()


@pytest.mark.parametrize(("facts", "offered"), [({}, False), ({"dropping": None}, False), (DROPPING, True)])
def test_the_restore_point_is_a_way_back_from_the_drop_on(facts: dict[str, Any], offered: bool) -> None:
    now = of(taken(), attempt("replace", AttemptState.FAILED, facts))
    assert (plan_copies.way_back(now) == POINT) is offered
    assert plan_copies.way_back(now.model_copy(update={"ending": State.ABORTED})) is None, "a run that ends goes nowhere else"


@pytest.mark.parametrize(
    ("ending", "last", "then"),
    [
        (State.ABORTED, attempt("replace", AttemptState.FAILED, DROPPING), ["replace", "start_writers"]),
        (State.ABORTED, attempt("replace", AttemptState.UNKNOWN, DROPPING), ["replace", "start_writers"]),
        (State.ABORTED, attempt("replace", AttemptState.DONE, DROPPING), ["start_writers"]),
        (State.ABORTED, attempt("replace", AttemptState.FAILED, {"dropping": None}), ["start_writers"]),
        (State.FAILED, attempt("replace", AttemptState.FAILED, DROPPING), ["start_writers"]),
        (State.ABORTED, taken(), ["start_writers"]),
    ],
    ids=["dropped", "nobody knows", "done", "not dropped", "a person left it", "not begun"],
)
def test_a_cancel_never_ends_between_the_drop_and_the_copy(ending: State, last: Attempt, then: list[str]) -> None:
    assert [step.name for step in to_the_end(of(last, state=State.RUNNING, ending=ending))] == then


def test_going_back_to_the_restore_point_is_no_success() -> None:
    assert plan_copies.went_back(of(taken())) is False
    assert plan_copies.went_back(of(taken(), plan=in_place(source=POINT), round=2)) is True


def test_the_card_says_first_that_it_is_dropped_and_for_how_long_it_is_away() -> None:
    shown = str(card(view(plan=in_place(), events=[("planned", {}), ("rehearsed", {"digest": slack_parts.DIGEST})])))
    decide = shown.index("*Decide:* DROP `shop` and restore `shop-r1.dump` into its place")
    assert decide < shown.index("the only way back is the dump that is taken right before")
    assert "Expected time without a database: at least 1 min 15 s" in shown
    assert "Approve dropping this database?" in shown


def test_an_end_without_a_database_names_the_dump_in_card_and_report() -> None:
    left = (taken(), attempt("replace", AttemptState.FAILED, DROPPING), attempt("start_writers", AttemptState.DONE, {"database": False}))
    ended = view(State.FAILED, plan=in_place(), attempts=left)
    said = report.ending(ended.run)
    assert said.startswith("There is NO database shop")
    assert "/b/shop-r7k2.dump, kept until 2026-12-08 03:00 UTC" in said
    told = report.markdown(ended)
    assert "The database was dropped, and nothing is in its place" in told
    assert "shop (OID 16384) was dropped" in told
    assert "/b/shop-r7k2.dump" in told
