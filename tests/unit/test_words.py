"""Evidence in words: numbers that read well, and nothing said that is not known."""

from __future__ import annotations

from typing import Any

import pytest

from bot.evidence import Locked, Loss, LossKind
from bot.words import destroyed, does, line, lock, locked, many, span, worst_first
from tests.unit.slack_parts import SCORE


def said(text: object) -> str:
    return str(text)


def loss(kind: LossKind = "column", **known: Any) -> Loss:
    return Loss(kind=kind, name="public.t", **known)


def test_numbers_have_their_thousands_apart() -> None:
    assert [many(0, "row"), many(1, "row"), many(3_000_000, "row")] == ["0 rows", "1 row", "3,000,000 rows"]


def test_time_is_told_as_exactly_as_it_matters() -> None:
    assert [span(each) for each in (0, 0.0004, 0.012, 0.44, 3.1, 12.2, 185, 7440)] == [
        "0 s", "1 ms", "12 ms", "0.4 s", "3.1 s", "12 s", "3 min 5 s", "2 h 4 min",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", LossKind.__args__)  # type: ignore[attr-defined]  # a Literal's own
@pytest.mark.parametrize(
    "known", [{}, {"certain": False}, {"count": 0}, {"count": 3, "of": 9, "written": 1, "bytes": 5, "newest": "x", "keys": ("k",), "why": "w"}]
)
def test_every_kind_of_loss_has_its_words_whatever_is_known_of_it(kind: LossKind, known: dict[str, Any]) -> None:
    one = loss(kind, **known)
    for told in (does(one, said), destroyed(one, said, said), line(one, said, said)):
        assert "public.t" in told
        assert "None" not in told


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (SCORE, "drops column public.orders.score: 1,204 values, 9.6 kB, the newest of 2026-11-19 22:10, e.g. id=17, id=18, id=19"),
        (loss("rows", count=12, of=3000), "deletes rows of public.t: 12 rows of 3,000"),
        (loss("table", count=0), "drops table public.t: empty"),
        (loss("table"), "drops table public.t"),
        (loss("table", certain=False), "may drop table public.t"),
        (loss("column", why="permission denied"), "drops column public.t (permission denied)"),
        (loss("policy", why="it is still there, and says something else"), "changes policy public.t (it is still there, and says something else)"),
        (loss("unique", why="the primary key"), "drops unique key public.t (the primary key)"),
    ],
)
def test_a_line_says_all_that_is_known_and_no_more(one: Loss, told: str) -> None:
    assert line(one, said, said) == told


def test_the_worst_comes_first_and_what_is_empty_last() -> None:
    empty, index, few = loss("table", count=0), loss("index"), loss("column", count=2)
    lots, unreadable, table = loss("column", count=9), loss("unreadable"), loss("table", count=1)
    assert worst_first([empty, index, few, lots, unreadable, table]) == [unreadable, table, lots, few, index, empty]


def test_a_lock_is_told_as_the_manual_has_it_and_nothing_else_gets_through() -> None:
    assert lock("AccessExclusiveLock") == "ACCESS EXCLUSIVE"
    assert lock("ShareRowExclusiveLock") == "SHARE ROW EXCLUSIVE"
    assert lock("<!channel>`") == "CHANNEL"


def test_rows_that_were_never_counted_are_not_made_up() -> None:
    assert {locked(Locked(table="t", mode="ShareLock", rows=estimate), said) for estimate in (-1, 0, None)} == {"locks t (SHARE)"}
    assert locked(Locked(table="t", mode="ShareLock", held=200.0, bytes=1_200_000_000, rows=9), said) == "locks t (SHARE) for 0.2 s, 1.2 GB, 9 rows"
