"""Names of WAL, timelines, and what a set of base backups and segments covers."""

from __future__ import annotations

import datetime as dt

import pytest

from bot.backups.covering import Base, Stretch, chosen, covered
from bot.backups.wal import Lineage, header, lineage, name_of, position, unbroken
from bot.errors import Refusal

MB16 = 16 * 1024**2


def at(minute: int) -> dt.datetime:
    return dt.datetime(2026, 1, 1, 12, minute, tzinfo=dt.UTC)


def stretch(name: str, since: int, until: int) -> Stretch:
    return Stretch(Base(name, 1, 0, 0, 0), Lineage(((1, 0),)), 0, at(since), at(until), 0)


def test_segments_are_named_as_postgres_names_them() -> None:
    assert name_of(1, 2, MB16) == "000000010000000000000002"
    assert name_of(10, 256, MB16) == "0000000A0000000100000000"
    assert name_of(1, 4, 1024**3) == "000000010000000100000000"
    assert position("1/2000028") == 2**32 + 0x2000028


def test_the_segment_in_which_a_timeline_begins_carries_its_name() -> None:
    line = lineage(3, "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tafter failover\n")

    assert line.steps == ((1, 0), (2, 0x3000148), (3, 0x5000000))
    assert [line.segment(number, MB16)[:8] for number in (2, 3, 4, 5)] == ["00000001", "00000002", "00000002", "00000003"]


def test_a_base_backup_beyond_the_fork_is_not_on_the_way() -> None:
    line = lineage(2, "1\t0/3000148\tx")

    assert line.holds(1, 0x2000000)
    assert not line.holds(1, 0x4000000)
    assert line.holds(2, 0x4000000)
    assert not line.holds(3, 0x4000000)


def test_a_run_ends_before_the_first_segment_that_is_missing() -> None:
    line = lineage(1, None)
    there = {name_of(1, number, MB16) for number in (2, 3, 5, 6)}

    assert unbroken(line, 2, MB16, there) == 3
    assert unbroken(line, 5, MB16, there) == 6
    assert unbroken(line, 4, MB16, there) is None


def test_a_header_that_is_none() -> None:
    assert header(b"") is None
    assert header(bytes(40)) is None


def test_stretches_that_touch_are_one_window() -> None:
    window = covered([stretch("b", 5, 20), stretch("a", 0, 10), stretch("useless", 30, 30)], ())

    assert (window.since, window.until, window.holes) == (at(0), at(20), ())


def test_between_two_windows_is_a_hole() -> None:
    stretches = [stretch("a", 0, 10), stretch("b", 20, 30)]

    assert covered(stretches, ()).holes == ((at(10), at(20)),)
    assert [chosen(stretches, at(minute), at(59), ()).base.name for minute in (0, 9, 20, 29)] == ["a", "a", "b", "b"]
    for minute, code in ((10, "pitr_hole"), (19, "pitr_hole"), (30, "pitr_outside_window"), (59, "pitr_outside_window")):
        with pytest.raises(Refusal) as caught:
            chosen(stretches, at(minute), at(59), ())
        assert caught.value.code == code
        assert "The archive covers 2026-01-01 12:00:00 UTC until 2026-01-01 12:30:00 UTC, but not from" in caught.value.message


def test_the_newest_base_backup_is_used() -> None:
    assert chosen([stretch("old", 0, 30), stretch("new", 10, 30), stretch("newer", 25, 30)], at(20), at(59), ()).base.name == "new"


def test_nothing_archived_says_why() -> None:
    with pytest.raises(Refusal) as caught:
        covered([], ("Base backup x: no.",))

    assert caught.value.code == "pitr_nothing_archived"
    assert "Base backup x: no." in caught.value.message
