"""What an archive covers: a stretch for each base backup, their union, and the sentences for moments outside of it. Pure."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bot.backups.wal import Lineage
from bot.errors import Refusal
from bot.keeping import Covered
from bot.moment import told


@dataclass(frozen=True)
class Live:
    """What the live server says of itself. `segment` in bytes; `superusers` may log in; `limits` are settings that a recovery must not go below."""

    system: str
    version: int
    timeline: int
    segment: int
    superusers: tuple[str, ...]
    limits: tuple[tuple[str, int], ...]

    @property
    def major(self) -> int:
        return self.version // 10000


@dataclass(frozen=True)
class Base:
    """A base backup. `start` and `end` are LSNs; `size` in bytes, unpacked."""

    name: str
    timeline: int
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class Stretch:
    """A base backup and the WAL after it without a gap: each moment with since <= moment < until. `last` is the number of the last segment."""

    base: Base
    line: Lineage
    segment: int
    since: dt.datetime
    until: dt.datetime
    last: int


def covered(stretches: Sequence[Stretch], why: Sequence[str]) -> Covered:
    """Raises Refusal(pitr_nothing_archived), with `why` each base backup is of no use."""
    merged: list[list[dt.datetime]] = []
    for one in sorted(stretches, key=lambda each: (each.since, each.until)):
        if one.since >= one.until:
            continue
        if merged and one.since <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], one.until)
        else:
            merged.append([one.since, one.until])
    if not merged:
        raise Refusal(
            "pitr_nothing_archived",
            " ".join(("There is no moment that could be recovered to.", *why[:3])),
            "See docs/point-in-time.md for what has to be archived, or take another way back.",
        )
    holes = tuple((before[1], after[0]) for before, after in itertools.pairwise(merged))
    return Covered(merged[0][0], merged[-1][1], holes)


def chosen(stretches: Sequence[Stretch], time: dt.datetime, now: dt.datetime, why: Sequence[str]) -> Stretch:
    """The newest base backup from which that moment is reached. Raises Refusal with the covered window."""
    window = covered(stretches, why)
    if time > now:
        raise Refusal("pitr_in_the_future", f"{told(time)} is in the future; it is {told(now.replace(microsecond=0))}. {says(window)}", _WAY_OUT)
    if found := [one for one in stretches if one.since <= time < one.until]:
        return max(found, key=lambda one: one.since)
    hole = next((hole for hole in window.holes if hole[0] <= time < hole[1]), None)
    if hole is not None:
        message = f"WAL is missing from {told(hole[0])} on, so {told(time)} can't be reached before {told(hole[1])}. {says(window)}"
        raise Refusal("pitr_hole", message, _WAY_OUT)
    if time < window.since:
        raise Refusal("pitr_outside_window", f"{told(time)} is before the first base backup was complete. {says(window)}", _WAY_OUT)
    raise not_archived(time, says(window))


def not_archived(time: dt.datetime, window: str = "") -> Refusal:
    """Postgres takes a time as reached only when it sees a later transaction (xlogrecovery.c: else it does not start)."""
    return Refusal(
        "pitr_outside_window",
        f"{told(time)} is not archived yet: the archive must hold a transaction after that moment. {window}".strip(),
        "Let the server archive what it has: SELECT pg_switch_wal(). Then ask again.",
    )


_WAY_OUT = "Choose a moment inside of it, or take another way back."


def says(window: Covered) -> str:
    """The covered window, for people."""
    holes = "".join(f", but not from {told(begin)} to {told(end)}" for begin, end in window.holes)
    return f"The archive covers {told(window.since)} until {told(window.until)}{holes}."
