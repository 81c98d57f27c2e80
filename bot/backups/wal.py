"""WAL by its names: segments, timelines, and what lies between two of them. Pure; facts from Postgres' xlog_internal.h and timeline.c."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from dataclasses import dataclass

SEGMENT = re.compile(r"[0-9A-F]{24}")
HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_LONG_HEADER = struct.Struct("<HHIQI4xQII")  # magic, info, timeline, page address, remaining; system identifier, segment size, block size
HEADER = _LONG_HEADER.size
_IS_LONG = 0x0002


@dataclass(frozen=True)
class Header:
    """What a segment says about itself."""

    system: str
    timeline: int


def header(data: bytes) -> Header | None:
    """Of a segment's first bytes; None when they are none."""
    if len(data) < HEADER:
        return None
    _, info, timeline, _, _, system, size, _ = _LONG_HEADER.unpack(data[:HEADER])
    good = info & _IS_LONG and size >= 2**20 and size & (size - 1) == 0
    return Header(str(system), timeline) if good else None


def position(text: str) -> int:
    """An LSN as Postgres writes it, `0/2000028`, in bytes. Raises ValueError."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def name_of(timeline: int, number: int, size: int) -> str:
    """The file name of a segment; segments are counted from the beginning of all WAL."""
    per = 2**32 // size
    return f"{timeline:08X}{number // per:08X}{number % per:08X}"


@dataclass(frozen=True)
class Lineage:
    """The timelines that lead to one, oldest first, each with the LSN where it begins."""

    steps: tuple[tuple[int, int], ...]

    @property
    def timeline(self) -> int:
        return self.steps[-1][0]

    def holds(self, timeline: int, lsn: int) -> bool:
        """Is that place of that timeline on the way?"""
        for (step, _), end in zip(self.steps, [*(begin for _, begin in self.steps[1:]), None], strict=True):
            if step == timeline:
                return end is None or lsn < end
        return False

    def segment(self, number: int, size: int) -> str:
        """The segment's file: the one in which a timeline begins carries the new one's name."""
        return name_of(next(step for step, begin in reversed(self.steps) if begin // size <= number), number, size)


def lineage(timeline: int, history: str | None) -> Lineage:
    """`history` is the text of its .history file: a parent, where it was left, why; None when there is none."""
    steps, begin = [], 0
    for line in (history or "").splitlines():
        if words := line.split("#")[0].split():
            steps.append((int(words[0]), begin))
            begin = position(words[1])
    return Lineage((*steps, (timeline, begin)))


def unbroken(line: Lineage, first: int, size: int, there: Collection[str]) -> int | None:
    """The last segment of the run that begins with `first`; None when even that is missing."""
    if line.segment(first, size) not in there:
        return None
    number = first
    while line.segment(number + 1, size) in there:
        number += 1
    return number
