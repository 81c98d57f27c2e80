"""Hypertables in words, as checks, and as statements that make them again; the real ones are in tests/platforms."""

from __future__ import annotations

from typing import Any

import pytest

from bot.databases import hypertables
from bot.evidence import Hypertable, Snapshot
from bot.rollback import verify

BARS: dict[str, Any] = {
    "dimensions": [
        {"column": "time", "interval": "7 days", "integer": None, "parts": None},
        {"column": "symbol", "interval": None, "integer": None, "parts": 4},
    ],
    "compression": {"segment": ["symbol"], "order": ['"time" DESC NULLS FIRST']}, "retention": "365 days", "compress_after": "30 days",
    "indexes": ["CREATE INDEX idx ON public.bars USING btree (symbol, \"time\" DESC)"],
}  # fmt: skip
PLAIN: dict[str, Any] = {**BARS, "compression": None, "retention": None, "compress_after": None, "indexes": []}


def seen(chunks: int = 3, *broken: str) -> Snapshot:
    one = Hypertable(said=("cut by time every 7 days", "not compressed", "kept for ever"), chunks=chunks, rows="12 rows", broken=broken)
    return Snapshot(objects={}, hypertables={"public.bars": one})


def test_how_it_is_cut_compressed_and_kept_is_said_in_three_parts() -> None:
    assert hypertables.described(BARS) == ("cut by time every 7 days, symbol into 4", "compressed by symbol after 30 days", "kept for 365 days")
    assert hypertables.described(PLAIN)[1:] == ("not compressed", "kept for ever")


def test_chunks_that_are_not_whole_are_named_before_anything_else_the_first_three_of_them() -> None:
    broken = [f"_hyper_1_{n}_chunk: the index i is missing" for n in range(5)]
    said = hypertables.told("public.bars", seen(5, *broken).hypertables["public.bars"])

    assert said.startswith("public.bars is a hypertable, cut by time every 7 days: 5 chunks, NOT WHOLE: _hyper_1_0_chunk: the index i is missing; ")
    assert "and 2 more; 12 rows; not compressed; kept for ever" in said


def test_only_what_was_whole_before_and_is_not_now_turns_the_verification_red() -> None:
    whole, broken = seen(), seen(3, "c1: the index i is missing")

    (fine,), (red,), (old,), (mended,) = (verify.hypertables(*pair) for pair in ((whole, whole), (whole, broken), (broken, broken), (broken, whole)))

    assert (fine["ok"], red["ok"], red["blocking"], old["ok"], old["blocking"], mended["ok"]) == (True, False, True, None, False, True)
    assert red["says"] == "NOT WHOLE: c1: the index i is missing"
    assert (red["before"], red["after"]) == ("3 chunks, 12 rows", "3 chunks, 12 rows, 1 not whole")


def test_one_that_is_gone_has_no_line_of_its_own_since_the_catalog_names_it() -> None:
    assert verify.hypertables(seen(), Snapshot(objects={})) == []


def test_it_is_made_again_with_both_dimensions_and_the_rows_that_are_there() -> None:
    sql = hypertables._create('"public"', "public.bars", BARS)

    assert "create_hypertable('public.bars'::regclass, 'time'::name, partitioning_column => 'symbol', number_partitions => 4" in sql
    assert "chunk_time_interval => INTERVAL '7 days'" in sql
    assert "migrate_data => true" in sql
    assert "chunk_time_interval => 1000::bigint" in hypertables._create(
        '"public"', "t", {"dimensions": [{"column": "at", "interval": None, "integer": 1000, "parts": None}]}
    )


def test_policies_that_are_missing_are_added_as_they_were_and_those_that_are_there_stay() -> None:
    missing = dict(hypertables._differences('"public"', "public.bars", BARS, PLAIN))

    assert list(missing) == [
        "public.bars is compressed by symbol after 30 days again", "chunks of public.bars are compressed after 30 days again",
        "public.bars is kept for 365 days again",
    ]  # fmt: skip
    (compress,), (_,), (retain,) = missing.values()
    assert compress == (
        "ALTER TABLE public.bars SET (timescaledb.compress, timescaledb.compress_segmentby = '\"symbol\"', "
        "timescaledb.compress_orderby = '\"time\" DESC NULLS FIRST')"
    )
    assert retain == "SELECT \"public\".add_retention_policy('public.bars'::regclass, INTERVAL '365 days')"
    assert dict(hypertables._differences('"public"', "public.bars", BARS, BARS)) == {}
    assert dict(hypertables._differences('"public"', "public.bars", PLAIN, BARS)) == {}, "what came in addition is not taken away"


@pytest.mark.parametrize("name", ["o'clock", 'a"b'])
def test_hostile_names_stay_constants(name: str) -> None:
    one = {**PLAIN, "dimensions": [{"column": name, "interval": "1 day'; DROP TABLE x; --", "integer": None, "parts": None}]}
    sql = hypertables._create('"public"', "public.t", one)

    assert f"'{name.replace(chr(39), chr(39) * 2)}'::name" in sql
    assert "INTERVAL '1 day''; DROP TABLE x; --'" in sql


def test_an_index_counts_by_what_it_does_and_not_by_its_name() -> None:
    same, unique = BARS["indexes"][0].replace("idx", "other"), BARS["indexes"][0].replace("CREATE INDEX", "CREATE UNIQUE INDEX")

    assert hypertables._absent(BARS["indexes"], [same]) == []
    assert hypertables._absent(BARS["indexes"], [unique]) == BARS["indexes"]
