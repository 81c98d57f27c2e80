"""An approval holds for what was shown, and not for more."""

from __future__ import annotations

import pytest

from bot.evidence import Loss, LossClass, Rehearsal
from bot.model import Plan, PlanStep, Undone
from bot.place import Identity
from bot.rollback.hold import concerns, differences, grown
from bot.rollback.loss import attributed, loss_class, resolved

IDENTITY = Identity(system="1", timeline=1, oid=2, database="shop", version=180004, started="now")
SCORE = Loss(kind="column", name="public.orders.score", count=10_000)


def plan(**more: object) -> Plan:
    base = Plan(
        target="shop", from_="0005", to="0004", undone=(Undone(revision="0005", message="scores", date=None, sha256="00"),),
        steps=(PlanStep(name="downgrade"),), loss=(SCORE,), loss_class=LossClass.MEDIUM, identity=IDENTITY,
        rehearsal=Rehearsal(done=True, loss=(SCORE,)),
    )  # fmt: skip
    return base.model_copy(update=more)


def counted(count: int | None) -> Loss:
    return SCORE.model_copy(update={"count": count})


@pytest.mark.parametrize(("count", "holds"), [(10_000, True), (11_000, True), (11_001, False), (9_000, True), (None, True)])
def test_a_count_may_grow_by_a_tenth_and_no_more(count: int | None, holds: bool) -> None:
    assert (grown(plan(), [counted(count)]) == ()) is holds


def test_a_small_count_may_grow_by_a_thousand_rows() -> None:
    small = plan(loss=(counted(5),))
    assert grown(small, [counted(1005)]) == ()
    (said,) = grown(small, [counted(1006)])
    assert "1006" in said
    assert "1005" in said


def test_what_was_empty_and_is_empty_no_more_raises_the_class() -> None:
    empty = plan(loss=(counted(0),), loss_class=LossClass.NONE)
    (said,) = grown(empty, [counted(3)])
    assert "loss class is medium" in said


def test_a_plan_that_is_made_again_and_was_not_tried_again_is_the_same_plan() -> None:
    again = plan(rehearsal=None, loss=(), loss_class=LossClass.NONE)
    assert differences(plan(), again) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"from_": "0006"}, "moved"),
        ({"to": "0003"}, "leads to 0003"),
        ({"identity": IDENTITY.model_copy(update={"oid": 3})}, "another database"),
        ({"identity": IDENTITY.model_copy(update={"timeline": 2})}, "timeline"),
        ({"undone": (Undone(revision="0005", message="scores", date=None, sha256="01"),)}, "edited"),
        ({"foreseen": (Loss(kind="table", name="orders"),)}, "other things"),
        ({"steps": (PlanStep(name="upgrade"),)}, "other steps"),
        ({"archive": "r9"}, "another archive"),
        ({"verify": ("orders",)}, "verification"),
    ],
)
def test_each_change_voids_and_says_which(change: dict[str, object], said: str) -> None:
    assert any(said in sentence for sentence in differences(plan(), plan(**change)))


def test_a_digest_covers_what_is_lost_and_not_how_much() -> None:
    assert plan(loss=(counted(1),)).digest() == plan(loss=(counted(2),)).digest()
    assert plan(loss=()).digest() != plan().digest()
    assert plan(rehearsal=Rehearsal(done=True, statements_sha256="other")).digest() != plan().digest()
    assert plan(rehearsal=Rehearsal(done=True, loss=(SCORE,), seconds={"move": 3.0})).digest() == plan().digest()


def test_only_what_lies_under_a_loss_concerns_it() -> None:
    objects = {"column public.orders.score": "integer", "column public.orders.id": "integer", "table public.orders": "x", "index public.ix": "y"}
    assert set(concerns(objects, [SCORE])) == {"column public.orders.score"}
    assert set(concerns(objects, [Loss(kind="table", name="public.orders")])) == {
        "column public.orders.score", "column public.orders.id", "table public.orders",
    }  # fmt: skip


def test_an_empty_table_is_no_loss_and_a_full_one_is_high() -> None:
    assert loss_class([Loss(kind="table", name="a", count=0)]) is LossClass.NONE
    assert loss_class([Loss(kind="table", name="a", count=1)]) is LossClass.HIGH
    assert loss_class([Loss(kind="table", name="a")]) is LossClass.HIGH
    assert loss_class([Loss(kind="values", name="a.b", count=1)]) is LossClass.MEDIUM


def test_names_in_scripts_are_found_in_the_catalog_or_left_as_they_are() -> None:
    objects = ['table public."Odd.Name"', 'column public."Odd.Name".score', "table a.twice", "table b.twice"]
    said = [Loss(kind="column", name='"Odd.Name".score'), Loss(kind="table", name="twice"), Loss(kind="index", name="ix")]
    assert [one.name for one in resolved(said, objects)] == ['public."Odd.Name".score', "twice", "ix"]


def test_a_loss_is_of_the_revision_whose_script_names_it() -> None:
    said = [Loss(kind="column", name="orders.score", revision="0005"), Loss(kind="table", name="ratings", revision="0004")]
    found = [SCORE, Loss(kind="table", name="public.ratings"), Loss(kind="rows", name="public.orders")]
    assert [one.revision for one in attributed(found, said, ["0005", "0004"])] == ["0005", "0004", ""]
    assert [one.revision for one in attributed(found, said, ["0005"])] == ["0005", "0005", "0005"]
