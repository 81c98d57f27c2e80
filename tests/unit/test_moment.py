"""A moment says its zone, or it is refused."""

from __future__ import annotations

import datetime as dt

import pytest

from bot.errors import Refusal
from bot.moment import parse_moment, told

MEANT = dt.datetime(2026, 11, 30, 20, 48, 28, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-30T20:48:28Z",
        "2026-11-30 20:48:28 UTC",
        " 2026-11-30T20:48:28+00:00 ",
        "2026-11-30 21:48:28+01:00",
        "2026-11-30 21:48:28 +01",
        "2026-11-30 18:18:28-0230",
        "2026-11-30 21:48:28 Europe/Berlin",
        "2026-11-30T12:48:28 America/Los_Angeles",
        "2026-11-30T20:48:28.000000z",
    ],
)
def test_one_moment_in_many_spellings(text: str) -> None:
    assert parse_moment(text) == MEANT


@pytest.mark.parametrize("text", ["2026-11-30 20:48:28", "2026-11-30T20:48", "2026-11-30 20:48:28 CET", "10:00 UTC", "yesterday", "", "2026-11-30"])
def test_a_time_that_could_mean_two_moments_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_moment(text)

    assert caught.value.code == "pitr_time_unclear"
    assert "2026-11-30T20:48:28Z" in caught.value.next


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-30T10:00Z",
        "2026-11-30T25:00Z",
        "2026-11-30T10:00+99:00",
        "2026-11-30 10:00 Mars/Olympus",
        "2026-11-30 10:00 Europe/../../etc/passwd",
        "0001-01-01T00:00+14:00",
    ],
)
def test_no_such_day_hour_or_zone(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_moment(text)

    assert caught.value.code == "pitr_time_unclear"


@pytest.mark.parametrize("text", ["2026-10-25 02:30:00 Europe/Berlin", "2026-03-29 02:30:00 Europe/Berlin"])
def test_an_hour_that_the_clocks_have_twice_or_not_at_all_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="write it in UTC"):
        parse_moment(text)


def test_it_is_told_in_utc_with_its_fraction() -> None:
    assert told(MEANT.astimezone(dt.timezone(dt.timedelta(hours=5)))) == "2026-11-30 20:48:28 UTC"
    assert told(MEANT.replace(microsecond=5)) == "2026-11-30 20:48:28.000005 UTC"
