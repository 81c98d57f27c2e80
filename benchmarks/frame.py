"""Two ways to the same end, in turn, several times: A B A B, the ratio of each pair, medians, a limit.

A round counts when the others on this machine left it alone; one that doesn't is repeated, a bounded number of times.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from benchmarks.ground import Ground
from benchmarks.load import Others

QUIET = 0.05  # of the machine: what others may take while a round counts
_AGAIN = 2  # times the rounds asked for, at most

#: name of a measure -> seconds, or bytes where the name says so
Sample = Mapping[str, float]
Side = Callable[[], Awaitable[Sample]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """Each side prepares what it needs and times only what is compared."""

    ours: Side
    theirs: Side


@dataclass(frozen=True)
class Bench:
    """`limits`: what the ratio ours/theirs of a measure may be at most; None: shown, not judged. `size`: bytes of the database, if it has one."""

    name: str
    says: str
    theirs: str
    limits: Mapping[str, float | None]
    open: Callable[[Ground, int], AbstractAsyncContextManager[Pair]]
    size: int | None = None


@dataclass(frozen=True)
class Round:
    """`others`: the part of the machine that was not ours meanwhile; None: unknown."""

    ours: Sample
    theirs: Sample
    others: float | None

    @property
    def clean(self) -> bool:
        return self.others is not None and self.others <= QUIET


@dataclass(frozen=True)
class Ratio:
    """Medians of the rounds; `ratio` is the median of each pair's own."""

    measure: str
    ours: float
    theirs: float
    ratio: float
    limit: float | None

    @property
    def held(self) -> bool:
        return self.limit is None or self.ratio <= self.limit


@dataclass(frozen=True)
class Result:
    bench: Bench
    size: int
    rounds: tuple[Round, ...]
    repeated: int = 0
    ratios: tuple[Ratio, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self._ratio(*each) for each in self.bench.limits.items()))

    @property
    def clean(self) -> int:
        return sum(each.clean for each in self.rounds)

    @property
    def held(self) -> bool:
        return all(each.held for each in self.ratios)

    def details(self) -> tuple[Sample, Sample]:
        """Medians of everything that either side measured besides."""
        return self._medians([each.ours for each in self.rounds]), self._medians([each.theirs for each in self.rounds])

    def _medians(self, samples: list[Sample]) -> Sample:
        names = dict.fromkeys(name for sample in samples for name in sample if name not in self.bench.limits)
        return {name: statistics.median(sample[name] for sample in samples if name in sample) for name in names}

    def _ratio(self, measure: str, limit: float | None) -> Ratio:
        ours = [each.ours[measure] for each in self.rounds]
        theirs = [each.theirs[measure] for each in self.rounds]
        ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
        return Ratio(measure, statistics.median(ours), statistics.median(theirs), ratio, limit)


async def measured(bench: Bench, ground: Ground, *, size: int, rounds: int, say: Say) -> Result:
    """One round to warm up, then `rounds` clean ones; the quietest, where they could not be had."""
    others = Others(ground.root)
    found: list[Round] = []
    async with bench.open(ground, size) as pair:
        await _round(pair, others)
        while sum(each.clean for each in found) < rounds and len(found) < rounds * _AGAIN:
            found.append(await _round(pair, others))
            say(_line(bench, len(found), found[-1]))
            if found[-1].others is None and len(found) == rounds:
                break  # nobody can tell here
    quietest = sorted(range(len(found)), key=lambda number: (found[number].others or 0.0, number))[:rounds]
    return Result(bench, size, tuple(found[number] for number in sorted(quietest)), repeated=len(found) - rounds)


async def _round(pair: Pair, others: Others) -> Round:
    before = others.look()
    ours = await pair.ours()
    theirs = await pair.theirs()
    return Round(ours, theirs, others.share(before))


def _line(bench: Bench, number: int, done: Round) -> str:
    shown = ", ".join(f"{name} {show(name, done.ours[name])} : {show(name, done.theirs[name])}" for name in bench.limits)
    load = "load unknown" if done.others is None else f"others {done.others:.0%}" + ("" if done.clean else ", NOT CLEAN")
    return f"  round {number}: {shown} ({load})"


def show(measure: str, value: float) -> str:
    """In the unit that its name asks for."""
    if "bytes" in measure:
        return f"{value / 1e6:.1f} MB"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
