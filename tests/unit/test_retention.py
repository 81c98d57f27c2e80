"""Copies go when their time has come; a target's newest dump stays, whatever its time."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from bot.durable import TargetParts
from bot.evidence import Archive, BackupFile
from bot.ports import Clock, Journal
from bot.rollback.retention import retain

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


@dataclass
class World:
    """A journal, a clock, and the places where copies lie: what was removed is in `gone`."""

    kept: list[dict[str, Any]]
    gone: list[str] = field(default_factory=list)
    archived: list[tuple[Archive, dt.datetime]] = field(default_factory=list)
    name: str = "shop"

    pitr = None

    class rehearsal:  # noqa: N801  as TargetParts has it
        where = None

    @property
    def database(self) -> World:
        return self

    @property
    def backup(self) -> World:
        return self

    @property
    def archives(self) -> World:
        return self

    def now(self) -> dt.datetime:
        return NOW

    async def remove(self, file: BackupFile) -> None:
        self.gone.append(file.name)

    async def drop_clone(self, file: BackupFile, note: str) -> None:
        assert note == "Backout: restore point of shop, run r1"
        self.gone.append(file.name)


class Kept:
    def __init__(self, world: World) -> None:
        self._world = world

    async def backups(self, target: str) -> tuple[dict[str, Any], ...]:
        return tuple(self._world.kept)

    async def archives(self, target: str) -> tuple[tuple[Archive, dt.datetime], ...]:
        return tuple(self._world.archived)

    async def forget_backup(self, target: str, name: str) -> None:
        assert name in self._world.gone, "first the copy, then its line"

    async def forget_archive(self, target: str, name: str) -> None:
        assert name in self._world.gone, "first the copy, then its line"


def copy(name: str, hours: int, kind: str = "custom", **other: Any) -> dict[str, Any]:
    file = BackupFile(name=name, path=name, sha256="", size=1, format=kind)
    ended = NOW - dt.timedelta(days=2)
    return {"name": name, "run": "r1", "file": file, "keep_until": NOW + dt.timedelta(hours=hours), "proven": None, "ended": ended, **other}


async def after(world: World) -> list[str]:
    await retain(cast("TargetParts", world), cast("Journal", Kept(world)), cast("Clock", world))
    return world.gone


async def test_the_newest_dump_stays_though_its_time_has_come() -> None:
    assert await after(World([copy("new", -1), copy("old", -2), copy("older", 5)])) == ["old"]


async def test_the_last_one_that_was_proven_by_restoring_stays() -> None:
    kept = [copy("new", -1), copy("proven", -2, proven=NOW), copy("proven before", -3, proven=NOW), copy("old", -4)]
    assert await after(World(kept)) == ["proven before", "old"]


@pytest.mark.parametrize("ended", [None, NOW - dt.timedelta(hours=23)])
async def test_nothing_goes_within_a_day_of_its_run(ended: dt.datetime | None) -> None:
    assert await after(World([copy("new", -1), copy("old", -2, ended=ended), copy("clone", -2, "clone", ended=ended)])) == []


async def test_a_clone_goes_at_its_time_also_when_it_is_the_newest_copy() -> None:
    assert await after(World([copy("clone", -1, "clone"), copy("dump", -2), copy("old", -3)])) == ["clone", "old"]


async def test_an_archive_goes_at_its_time() -> None:
    file = copy("a.archive", 0)["file"]
    made = Archive(run="r1", target="shop", lower="1", upper="2", file=file)
    assert await after(World([], archived=[(made, NOW + dt.timedelta(hours=1))])) == []
    assert await after(World([], archived=[(made, NOW - dt.timedelta(hours=1))])) == ["a.archive"]
