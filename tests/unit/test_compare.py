"""Changes are compared, not states: what the downgrade did against what the history says (databases.md F17)."""

from __future__ import annotations

import pytest

from bot.evidence import Snapshot
from bot.rollback.compare import along, back_again, change, did_nothing, drift, findings

ORDERS = {
    "table public.orders": "owner app; row security off",
    "column public.orders.id": "integer NOT NULL",
    "column public.orders.score": "numeric(8,3)",
    "constraint public.orders.orders_pkey": "PRIMARY KEY (id) [valid]",
    "index public.orders_pkey": "CREATE UNIQUE INDEX orders_pkey ON public.orders USING btree (id) [valid]",
    "index public.ix_b": "CREATE INDEX ix_b ON public.orders USING btree (score) [valid]",
    "sequence public.orders_id_seq": "integer START 1 owner app OWNED BY public.orders.id",
    "grant table public.orders": "app: SELECT",
    "grant column public.orders.score": "PUBLIC: SELECT",
    "comment column public.orders.score": "how good",
    "statistics public.st": "CREATE STATISTICS public.st ON id, score FROM public.orders",
    "publication pub table public.orders": "member",
}
VERSION = {
    "table public.alembic_version": "owner app",
    "column public.alembic_version.version_num": "character varying(32) NOT NULL",
    "constraint public.alembic_version.alembic_version_pkc": "PRIMARY KEY (version_num) [valid]",
    "index public.alembic_version_pkc": "CREATE UNIQUE INDEX alembic_version_pkc ON public.alembic_version USING btree (version_num) [valid]",
    "comment index public.alembic_version_pkc": "ours",
}
OTHER = {"table public.users": "owner app", "column public.users.id": "integer"}
FULL = OTHER | ORDERS


def snapshot(*parts: dict[str, str], without: tuple[str, ...] = (), **changed: str) -> Snapshot:
    objects = {name: text for part in parts for name, text in part.items() if name not in without}
    return Snapshot(objects=objects | {name.replace("__", " ").replace("_0_", "."): text for name, text in changed.items()})


SCORE = (
    "column public.orders.score",
    "index public.ix_b",
    "grant column public.orders.score",
    "comment column public.orders.score",
    "statistics public.st",
)
EXPECTED = change(snapshot(FULL), snapshot(FULL, without=SCORE))


def test_a_downgrade_that_did_what_the_history_says_has_no_findings() -> None:
    assert findings(EXPECTED, EXPECTED) == ()
    assert not did_nothing(EXPECTED)


def test_a_downgrade_that_did_nothing_is_found_with_what_it_left() -> None:
    idle = change(snapshot(FULL), snapshot(FULL))
    assert did_nothing(idle)
    assert findings(EXPECTED, idle) == ("the downgrade did nothing: 1 change was expected", "column public.orders.score is still there")


def test_half_a_downgrade_names_the_other_half() -> None:
    both = change(snapshot(FULL), snapshot(ORDERS, without=SCORE))
    assert findings(both, EXPECTED) == ("table public.users is still there",)
    assert findings(EXPECTED, both) == ("table public.users is gone, though nothing says so",)


def test_a_dropped_table_takes_all_that_hangs_on_it_along() -> None:
    dropped = change(snapshot(FULL), snapshot(OTHER))
    assert findings(dropped, change(snapshot(FULL), snapshot(FULL)))[1:] == ("table public.orders is still there",)
    assert findings(change(snapshot(FULL), snapshot(FULL)), dropped) == ("table public.orders is gone, though nothing says so",)
    assert findings(change(snapshot(OTHER), snapshot(FULL)), change(snapshot(OTHER), snapshot(OTHER)))[1:] == (
        "table public.orders should have come back, and did not",
    )


def test_an_index_that_went_by_itself_is_named() -> None:
    still = change(snapshot(FULL), snapshot(FULL, without=("index public.ix_b",)))
    assert findings(change(snapshot(FULL), snapshot(FULL)), still) == ("index public.ix_b is gone, though nothing says so",)


BY_HAND = {
    "index public.by_hand": "CREATE INDEX by_hand ON public.orders USING btree (lower((score)::text)) [valid]",
    "constraint public.orders.positive": "CHECK ((score > (0)::numeric)) [valid]",
    "grant column public.orders.id": "etl: SELECT",
    "view public.report": "owner dba; SELECT orders.score FROM public.orders",
}


def test_what_only_production_has_and_goes_with_its_column_is_named_and_no_finding() -> None:
    before = snapshot(FULL, BY_HAND)
    actual = change(before, snapshot(FULL, BY_HAND, without=(*SCORE, "index public.by_hand", "constraint public.orders.positive")))
    assert findings(EXPECTED, actual) == ()
    assert along(EXPECTED, actual) == (
        "constraint public.orders.positive goes along with column public.orders.score",
        "index public.by_hand goes along with column public.orders.score",
    )
    assert drift(snapshot(FULL), before) == tuple(f"{name} is only in this database" for name in sorted(BY_HAND))


def test_an_index_on_another_column_that_only_production_has_is_a_finding() -> None:
    mine = {"index public.by_hand": 'CREATE INDEX by_hand ON public.orders USING btree (score_2, "score""") [valid]'}
    actual = change(snapshot(FULL, mine), snapshot(FULL, without=SCORE))
    assert findings(EXPECTED, actual) == ("index public.by_hand is gone, though nothing says so",)


def test_a_view_that_a_cascade_took_is_a_finding() -> None:
    actual = change(snapshot(FULL, BY_HAND), snapshot(FULL, without=SCORE))
    assert "view public.report is gone, though nothing says so" in findings(EXPECTED, actual)


def test_what_production_never_had_can_not_be_left_there() -> None:
    lacking = change(snapshot(FULL, without=("index public.ix_b",)), snapshot(FULL, without=SCORE))
    assert findings(EXPECTED, lacking) == ()
    assert drift(snapshot(FULL), snapshot(FULL, without=("index public.ix_b",))) == ("index public.ix_b is missing in this database",)


def test_what_is_there_already_does_not_have_to_come() -> None:
    expected = change(snapshot(FULL, without=SCORE), snapshot(FULL))
    assert findings(expected, change(snapshot(FULL, {"x y": ""}), snapshot(FULL))) == ("x y is gone, though nothing says so",)


def test_a_definition_must_end_where_the_history_ends() -> None:
    expected = change(snapshot(FULL), snapshot(FULL, {"column public.orders.score": "numeric(8,2)"}))
    same = change(snapshot(FULL, {"column public.orders.score": "numeric(10,3)"}), snapshot(FULL, {"column public.orders.score": "numeric(8,2)"}))
    other = change(snapshot(FULL), snapshot(FULL, {"column public.orders.score": "integer"}))
    already = change(snapshot(FULL, {"column public.orders.score": "numeric(8,2)"}), snapshot(FULL, {"column public.orders.score": "numeric(8,2)"}))
    assert findings(expected, same) == ()
    assert findings(expected, already) == ()
    assert findings(expected, other) == ("column public.orders.score is 'integer' now, and should be 'numeric(8,2)'",)
    assert findings(expected, change(snapshot(FULL), snapshot(FULL)))[1:] == (
        "column public.orders.score did not change: it is 'numeric(8,3)', and should be 'numeric(8,2)'",
    )
    assert findings(change(snapshot(FULL), snapshot(FULL)), other) == (
        "column public.orders.score changed, though nothing says so: it was 'numeric(8,3)' and is 'integer'",
    )


def test_the_same_step_from_a_drifted_state_is_the_same_change() -> None:
    table = "table public.orders"
    expected = change(snapshot({table: "owner app; row security on"}), snapshot({table: "owner app; row security off"}))
    drifted = change(
        snapshot({table: "owner dba; row security on; options fillfactor=70"}),
        snapshot({table: "owner dba; row security off; options fillfactor=70"}),
    )
    assert findings(expected, drifted) == ()


def test_another_owner_and_rights_by_default_privileges_are_no_findings_when_a_thing_comes() -> None:
    expected = change(snapshot(OTHER), snapshot(FULL))
    mine = {name: text.replace("owner app", "owner dba") for name, text in ORDERS.items()} | {"grant table public.orders": "etl: SELECT"}
    assert findings(expected, change(snapshot(OTHER), snapshot(OTHER, mine))) == ()
    extra = {"grant sequence public.orders_id_seq": "etl: USAGE"}
    assert findings(expected, change(snapshot(OTHER), snapshot(FULL, extra))) == ()


def test_a_right_or_an_owner_that_only_here_changed_is_a_finding() -> None:
    still = change(snapshot(FULL), snapshot(FULL))
    for name, text in (("grant table public.orders", "nobody"), ("table public.orders", "owner dba; row security off")):
        assert len(findings(still, change(snapshot(FULL), snapshot(FULL, {name: text})))) == 1


def test_drift_says_what_differs_but_not_who_owns_it() -> None:
    mine = snapshot(FULL, {"table public.users": "owner dba", "column public.users.id": "bigint"})
    assert drift(snapshot(FULL), mine) == ("column public.users.id is 'bigint' in this database, and 'integer' in one built from nothing",)


def test_the_version_table_is_left_out_with_all_that_hangs_on_it() -> None:
    before, after = snapshot(FULL, VERSION), snapshot(FULL)
    assert did_nothing(change(before, after, leave_out="public.alembic_version"))
    assert len(change(before, after).gone) == len(VERSION)
    assert drift(before, after, leave_out="public.alembic_version") == ()
    assert back_again(before, after, leave_out="public.alembic_version") == ()


def test_up_again_names_what_did_not_come_back_and_nothing_else() -> None:
    assert back_again(snapshot(FULL), snapshot(dict(reversed(FULL.items())))) == ()
    after = snapshot(OTHER, {"index public.new": "CREATE INDEX new ON public.users USING btree (id) [invalid]", "column public.users.id": "bigint"})
    assert back_again(snapshot(FULL), after) == (
        "table public.orders did not come back",
        "index public.new is new",
        "column public.users.id was 'integer' and is 'bigint'",
    )


def test_quoted_names_hang_on_the_right_table() -> None:
    odd = {
        'table public."a.b"': "",
        'column public."a.b"."c ""d"': "text",
        'index public."i x"': 'CREATE INDEX "i x" ON public."a.b" USING btree ("c ""d") [valid]',
        'comment index public."i x"': "so",
    }
    empty = change(snapshot(), snapshot())
    assert findings(empty, change(snapshot(odd), snapshot())) == ('table public."a.b" is gone, though nothing says so',)
    only = change(snapshot(odd), snapshot({'table public."a.b"': ""}))
    assert findings(empty, only) == ('column public."a.b"."c ""d" is gone, though nothing says so',)


def test_of_many_findings_the_first_are_said_and_the_rest_counted() -> None:
    many = {f"table public.t{n:03}": "" for n in range(80)}
    said = findings(change(snapshot(), snapshot()), change(snapshot(many), snapshot()))
    assert (len(said), said[-1]) == (51, "and 30 more")


@pytest.mark.parametrize("count", [3000])
def test_thousands_of_tables_are_grouped_at_once(count: int) -> None:
    many = {f"{kind} public.t{n}{rest}": f"CREATE INDEX x ON public.t{n} USING btree (id)" for n in range(count) for kind, rest in
            (("table", ""), ("column", ".id"), ("index", "_pkey"), ("comment index", "_pkey"))}  # fmt: skip
    assert len(drift(snapshot(), snapshot(many))) == 51
