"""The ways back, side by side; one is recommended, with its reason."""

from __future__ import annotations

import datetime as dt
from typing import Any, cast

import pytest

from bot.durable import TargetParts
from bot.evidence import BackupFile, Loss, LossClass, Rehearsal
from bot.model import Option, Plan
from bot.ports import Journal
from bot.rollback.options import side_by_side
from tests.unit.test_hold import plan


class Backups:
    """The one question that is asked of a journal here."""

    def __init__(self, *revisions: str) -> None:
        self._revisions = revisions

    async def backups(self, target: str) -> tuple[dict[str, Any], ...]:
        file = BackupFile(name="shop-r1.dump", path="/b/shop-r1.dump", sha256="00", size=2_000_000)
        made = dt.datetime(2026, 11, 19, 22, 10, tzinfo=dt.UTC)
        return tuple({"revision": revision, "name": file.name, "file": file, "made": made} for revision in self._revisions)


class Shop:
    name = "shop"


async def ways(made: Plan, *revisions: str) -> dict[str, Option]:
    found = await side_by_side(cast("TargetParts", Shop()), made, cast("Journal", Backups(*revisions)))
    return {one.name: one for one in found}


async def test_what_each_way_loses_stands_beside_the_others() -> None:
    found = await ways(plan(), "0004")
    assert found["downgrade"].loses == "10,000 values of public.orders.score"
    assert found["restore"].loses == "everything written since 2026-11-19 22:10 UTC"
    assert found["fix forward"].loses == "nothing"
    assert [one.name for one in found.values() if one.recommended] == ["downgrade"]
    assert "archived" in found["downgrade"].why


async def test_a_restore_is_no_way_without_a_backup_from_before() -> None:
    found = await ways(plan(), "0005", "0003")
    assert found["restore"].possible is False
    assert "0004" in found["restore"].why


async def test_nothing_that_destroys_is_recommended_untried() -> None:
    found = await ways(plan(rehearsal=Rehearsal(done=False, why="too big")))
    assert [one.name for one in found.values() if one.recommended] == ["fix forward"]
    assert "copy" in found["fix forward"].why


async def test_a_sample_measures_no_time_and_is_said() -> None:
    found = await ways(plan(rehearsal=Rehearsal(done=True, sampled=500, seconds={"move": 0.1}), expected_seconds=None))
    assert (found["downgrade"].seconds, found["downgrade"].certain) == (None, "tried on sampled rows")
    assert "worked on sampled rows" in found["downgrade"].why


@pytest.mark.parametrize(("loss_class", "said"), [(LossClass.NONE, "loses nothing"), (LossClass.HIGH, "the loss is high")])
async def test_the_reason_says_how_much_is_lost(loss_class: LossClass, said: str) -> None:
    losses = () if loss_class is LossClass.NONE else (Loss(kind="table", name="public.ratings", count=50),)
    found = await ways(plan(loss=losses, loss_class=loss_class))
    assert said in found["downgrade"].why


async def test_going_forward_again_has_no_other_ways_beside_it() -> None:
    assert await ways(plan(strategy="reapply")) == {}
