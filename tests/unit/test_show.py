"""What the command line prints of evidence, loss and archives."""

from __future__ import annotations

import json
from typing import Any

from bot import show
from bot.evidence import Rehearsal
from bot.model import Event, State
from tests.unit.cards import CARDS
from tests.unit.slack_parts import NOON, SCORE, archive, plan, proven, reapply, view


def happened(kind: str, **data: Any) -> str:
    return show.event(Event(seq=1, at=NOON, kind=kind, data=data))


def test_a_plan_as_json_has_what_is_foreseen_and_counts_where_there_are_some() -> None:
    told = json.loads(json.dumps(show.plan_json("shop", proven(), None)))
    assert told["loss"][0] == {
        "kind": "column", "name": "public.orders.score", "revision": "0005", "certain": True, "count": 1204, "written": None, "of": 3_000_000,
        "bytes": 9632, "newest": "2026-11-19 22:10:07+00", "why": "",
    }  # fmt: skip
    assert told["foreseen"][0]["count"] is None
    assert told["rehearse"] == ["back_up", "rehearse"]
    assert show.plan_json("shop", None, None)["loss"] == []


def test_a_plan_says_how_its_loss_is_known() -> None:
    untried = show.plan(plan(rehearsal=None))
    assert "lost (class medium), as far as reading the scripts goes; a run tries it on a copy first:\n  drops column orders.score, by 0005" in untried
    assert "(not tried on a copy: it has 40.0 GB" in show.plan(plan())
    assert "lost (class medium), as a copy showed it:\n  drops column public.orders.score: 1,204 values" in show.plan(proven())


def test_a_plan_to_go_forward_reads_forward() -> None:
    assert "shop: 0004 -> 0005, by reapply\n\napplied, oldest first:\n  0005" in show.plan(reapply())


def test_status_shows_the_evidence_once_there_is_a_digest() -> None:
    told = show.status(CARDS["high_loss"]())
    assert "tried on a throwaway server, PostgreSQL 18: 3.1 s, 2 statements" in told
    assert "Up again fails" in told
    assert "reservation: the copy ran on PostgreSQL 18" in told
    assert "locks public.orders (ACCESS EXCLUSIVE) for 1 min 4 s" in told
    assert "12,345,678 rows" in told
    assert "NOT tried on a copy: it has 40.0 GB" in show.status(CARDS["untried"]())
    assert "lost (class" not in show.status(CARDS["rehearsing"]())


def test_status_as_json_has_the_evidence_in_short() -> None:
    told = json.loads(json.dumps(show.status_json(view(plan=proven()))))
    assert told["rehearsal"]["forward"] == "works"
    assert told["rehearsal"]["statements_total"] == 2
    assert (told["loss_class"], told["loss"][0]["count"], told["strategy"]) == ("medium", 1204, "downgrade")
    assert show.status_json(view(State.PLANNING, plan=None))["rehearsal"] is None


def test_others_words_stay_on_their_line() -> None:
    lost = SCORE.model_copy(update={"name": "a\nb\x1b[31m", "why": "c\r\nd"})
    told = show.plan(proven(loss=(lost,), remarks=("e\nf",), rehearsal=Rehearsal(done=False, why="g\nh")))
    assert "a b [31m" in told
    assert "(c d)" in told
    assert "note: e f" in told
    assert "not tried on a copy: g h" in told
    assert "\x1b" not in told


def test_archives_stand_beside_the_backups() -> None:
    told = show.backups([], [(archive(), NOON)])
    assert told == (
        "archive  shop-r7k2.archive  0006 -> 0004  1,204 rows of public.orders  /backups/shop-r7k2.archive  "
        "kept until 2026-11-20 03:00 UTC; put back by: backout reapply shop 0006"
    )
    assert show.backups([], []) == "no backups yet"
    assert show.archive_json(archive(), NOON)["tables"] == [{"table": "public.orders", "what": "column", "rows": 1204, "bytes": 9632}]


def test_progress_tells_a_plan_that_is_tried_from_one_that_is_asked_for() -> None:
    assert happened("planned", **{"from": "0006", "to": "0004"}) == "03:00:00  planned: 0006 -> 0004; it is tried on a copy first"
    assert happened("rehearsed", **{"from": "0006", "to": "0004", "loss_class": "high", "digest": "d"}).endswith(
        "rehearsed: 0006 -> 0004, loss class high"
    )
    assert "earlier approvals are void: the scripts were edited" in happened("voided", what=["the scripts were edited"])
