"""What is judged after a downgrade: each kind of check, each way to be wrong about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.evidence import Loss, Snapshot
from bot.place import Answer
from bot.rollback.verify import counts, health, judge, revision, schema

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def one(value: Any) -> Answer:
    return Answer(columns=("count",), rows=((value,),))


def rows(*values: Any) -> Answer:
    return Answer(columns=("id",), rows=tuple((value,) for value in values))


def verdict(expect: Any, value: Any) -> Any:
    return judge("orders", expect, True, None, one(value), stopped=True)["ok"]


# ------------------------------------------------------------------ the revision


@pytest.mark.parametrize(
    ("wanted", "stands", "ok"),
    [("0004", ("0004",), True), ("0004", ("0005",), False), ("0004", ("0004", "b1"), False), ("base", (), True), ("0004", (), False)],
)
def test_the_revision_must_be_the_planned_one_alone(wanted: str, stands: tuple[str, ...], ok: bool) -> None:
    found = revision(wanted, stands)
    assert (found["ok"], found["blocking"]) == (ok, True)


# ------------------------------------------------------------------ expect


@pytest.mark.parametrize(
    ("expect", "value", "ok"),
    [
        (10, 10, True), (10, 11, False), (10, "10", True), (10, "10.00", True), (10, None, False), (10, "ten", False), (1, True, False),
        (0.5, "0.50", True), ("shipped", "shipped", True), ("shipped", "Shipped", False), ("10", 10, True), ("010", "10", False),
        (True, True, True), (True, False, False), (True, 1, False), (True, "true", False), (False, 0, False), (False, None, False),
        (None, None, True), (None, 0, False), (None, "", False),
        (">= 10", 10, True), (">=10", "9.99", False), ("> 10", 10, False), ("< 10", 9, True), ("<= 10", 10, True), ("= 10", "10.0", True),
        ("!= 10", 10, False), ("!= 10", 11, True), ("= shipped", "shipped", True), ("!= shipped", "open", True), ("!= shipped", None, False),
        ("> 10", None, False), ("> 10", "many", False), ("> shipped", 10, False), ("> 10", True, False),
    ],
)  # fmt: skip
def test_one_value_is_compared_as_the_contract_says(expect: Any, value: Any, ok: bool) -> None:
    assert verdict(expect, value) is ok


@pytest.mark.parametrize("expect", ["> 5", "<= 5", "= 5", "!= 5", 5, "NaN", "> NaN"])
@pytest.mark.parametrize("value", ["NaN", "nan", "sNaN", "Infinity", "-inf", 1e308, "1e999999"])
def test_a_number_that_is_none_is_judged_and_breaks_nothing(expect: Any, value: Any) -> None:
    assert verdict(expect, value) in (True, False)


def test_not_a_number_is_never_more_nor_less() -> None:
    assert [verdict(f"{sign} 5", "NaN") for sign in (">", ">=", "<", "<=", "=")] == [False] * 5


@given(expect=st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False), value=JSON)
def test_whatever_a_query_answers_gets_a_verdict(expect: Any, value: Any) -> None:
    assert verdict(expect, value) in (True, False)


def test_without_expect_it_is_shown_and_not_judged() -> None:
    found = judge("orders", ..., True, one(5), one(4), stopped=True)
    assert (found["ok"], found["blocking"], found["before"], found["after"]) == (None, False, "5", "4")


def test_none_means_no_rows() -> None:
    assert judge("orphans", "none", True, None, rows(), stopped=True)["ok"] is True
    assert judge("orphans", "none", True, None, rows(7), stopped=True)["ok"] is False


def test_several_rows_are_no_value() -> None:
    found = judge("orders", 5, True, None, rows(5, 5), stopped=True)
    assert found["ok"] is False
    assert "2 rows" in found["says"]
    assert judge("orders", 5, True, None, rows(), stopped=True)["ok"] is False
    assert judge("orders", 5, True, None, Answer(columns=("a", "b"), rows=((5, 5),)), stopped=True)["ok"] is False


@pytest.mark.parametrize(
    ("before", "after", "ok"),
    [
        (one(5), one(5), True),
        (one(5), one(4), False),
        (one(5), one("5"), False),
        (rows(1, 2), rows(1, 2), True),
        (rows(1, 2), rows(2, 1), False),
        (rows(1), Answer(columns=("other",), rows=((1,),)), False),
        (None, one(5), False),
    ],
)
def test_same_is_the_same_answer(before: Answer | None, after: Answer, ok: bool) -> None:
    found = judge("orders", "same", True, before, after, stopped=True)
    assert (found["ok"], found["blocking"]) == (ok, True)


def test_with_writers_that_nobody_stopped_a_difference_is_a_warning() -> None:
    found = judge("orders", "same", True, one(5), one(6), stopped=False)
    assert (found["ok"], found["blocking"]) == (False, False)
    assert "writers were not stopped" in found["says"]


def test_a_check_that_does_not_block_is_a_warning() -> None:
    assert judge("orders", 5, False, None, one(6), stopped=True)["blocking"] is False


def test_long_answers_are_cut() -> None:
    found = judge("orders", ..., True, one("x" * 5000), rows(*range(100)), stopped=True)
    assert (len(found["before"]), found["after"]) == (200, "0; 1; 2 (100 rows)")


# ------------------------------------------------------------------ the catalog

BEFORE = Snapshot(
    objects={
        "table public.orders": "owner shop", "column public.orders.id": "integer", "column public.orders.score": "integer",
        "index public.ix_name": "CREATE INDEX ix_name [valid]",
    },
    counts={"public.orders": 100, "public.items": 5},
)  # fmt: skip


def line(name: str, after: Snapshot, *loss: Loss) -> dict[str, Any]:
    return next(found for found in schema(BEFORE, after, loss) if found["name"] == name)


def test_the_schema_is_told_by_kind_with_what_went_and_what_came() -> None:
    after = BEFORE.model_copy(update={"objects": {name: text for name, text in BEFORE.objects.items() if not name.endswith("score")}})
    columns = line("columns", after)
    assert (columns["ok"], columns["before"], columns["after"], columns["says"]) == (True, "2", "1", "gone: public.orders.score")
    assert line("tables", after)["says"] == "as before"


@pytest.mark.parametrize("text", ["CREATE INDEX ix_name [invalid]", "FOREIGN KEY (a) [not valid]"])
def test_what_became_invalid_is_red_and_what_was_so_before_is_not(text: str) -> None:
    after = BEFORE.model_copy(update={"objects": {**BEFORE.objects, "index public.ix_name": text}})
    found = line("indexes", after)
    assert found["ok"] is False
    assert found["says"].startswith("NOT VALID: public.ix_name")
    assert next(one for one in schema(after, after, []) if one["name"] == "indexes")["ok"] is True


def test_a_catalog_that_did_not_change_is_red_when_something_was_to_be_dropped() -> None:
    lost = Loss(kind="column", name="orders.score", revision="0005")
    assert line("schema changed", BEFORE, lost)["ok"] is False
    rows_only = Loss(kind="rows", name="orders", revision="0005")
    assert "schema changed" not in {found["name"] for found in schema(BEFORE, BEFORE, [rows_only])}


def test_many_changes_are_named_by_the_first_few() -> None:
    many = Snapshot(objects={f"table public.t{number}": "" for number in range(9)})
    found = schema(many, Snapshot(objects={}), [])[0]
    assert found["says"] == "gone: public.t0, public.t1, public.t2, public.t3 and 5 more"


def test_rows_that_differ_are_a_warning_and_tables_that_went_are_no_difference() -> None:
    after = BEFORE.model_copy(update={"counts": {"public.orders": 99}})
    (found,) = counts(BEFORE, after)
    assert (found["ok"], found["blocking"], found["before"], found["after"]) == (False, False, "100", "99")
    assert found["says"] == "public.orders 100 -> 99"
    assert counts(BEFORE, BEFORE)[0]["ok"] is True


def test_a_table_that_could_not_be_counted_is_named_and_not_taken_for_equal() -> None:
    after = Snapshot(objects={}, counts={"public.items": 5}, uncounted={"public.orders": "locked"})
    found = counts(BEFORE, after)
    assert [(one["name"], one["ok"]) for one in found] == [("rows", True), ("rows of public.orders", None)]
    assert found[0]["says"] == "equal in 1 tables"


# ------------------------------------------------------------------ health


@pytest.mark.parametrize(
    ("status", "body", "wanted", "ok"),
    [
        (200, b"", None, True),
        (204, b"", None, True),
        (302, b"", None, False),
        (503, b'{"status": "healthy"}', {"status": "healthy"}, False),
        (200, b'{"status": "healthy"}', {"status": "healthy"}, True),
        (200, b'{"db": {"status": "up"}}', {"db.status": "up"}, True),
        (200, b'{"db": "up"}', {"db.status": "up"}, False),
        (200, b'{"ready": 1}', {"ready": True}, False),
        (200, b"[]", {"status": "healthy"}, False),
        (200, b"<html>", {"status": "healthy"}, False),
        (200, b"\xff\xfe\x00", {"status": "healthy"}, False),
        (200, b"[" * 200_000, {"status": "healthy"}, False),
    ],
)
def test_health_is_a_2xx_and_the_values_that_were_asked_for(status: int, body: bytes, wanted: dict[str, Any] | None, ok: bool) -> None:
    found, says = health(status, body, 0.25, wanted)
    assert found is ok
    assert says.startswith(f"HTTP {status} in 250 ms")


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_body_breaks_the_look_at_health(body: bytes) -> None:
    assert health(200, body, 0.1, {"status": "healthy"})[0] in (True, False)
