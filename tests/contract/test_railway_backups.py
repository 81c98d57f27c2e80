"""Railway's own backups in the list, and what a person is told to do with them."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.backups.railway import RailwayBackups
from bot.errors import StepFailed
from bot.railway import Railway
from tests.railway.server import ENVIRONMENT, PROJECT, PROJECT_TOKEN, VOLUME, Fault, RailwayStandIn


@pytest.fixture
async def railway() -> AsyncIterator[RailwayStandIn]:
    async with RailwayStandIn() as made:
        yield made


def provider(railway: RailwayStandIn, **settings: Any) -> RailwayBackups:
    given = {"token": PROJECT_TOKEN, "project": PROJECT, "environment": ENVIRONMENT, "volume": VOLUME, "zone": "Europe/Berlin", "api": railway.api}
    read = RailwayBackups.Settings.model_validate({**given, **settings})
    return RailwayBackups(read, Railway(read, patience=0.6, request=0.3))


def backup(name: str, made: str, **more: Any) -> dict[str, Any]:
    known = {"name": None, "expiresAt": None, "scheduleId": None, "usedMB": None, "externalId": "x", "referencedMB": 1, "volumeInstanceSizeMB": 1}
    return {"id": name, "createdAt": made, "creatorId": None, **known, **more}


async def test_each_has_its_time_its_schedule_and_until_when_it_is_kept(railway: RailwayStandIn) -> None:
    railway.schedules = [{"id": "s1", "kind": "WEEKLY", "cron": "0 3 * * 0", "name": "weekly", "retentionSeconds": 27 * 86400, "createdAt": "x"}]
    railway.backups = [
        backup("old", "2026-11-01T03:00:00Z", scheduleId="s1", expiresAt="2026-11-28T03:00:00Z", usedMB=12),
        backup("hand", "2026-11-20T12:30:00.123Z"),
        backup("left", "2026-11-10T03:00:00Z", scheduleId="s9"),
    ]
    listed = await provider(railway).backups()
    assert [one.name for one in listed] == ["hand", "left", "old"]
    assert [one.keep_until for one in listed] == [None, None, dt.datetime(2026, 11, 28, 3, tzinfo=dt.UTC)]
    assert "(made by hand), kept without end." in listed[0].refused
    assert "(of a schedule that is gone)" in listed[1].refused
    assert "(weekly, kept for 27 days), kept until 2026-11-28 03:00:00 UTC, 12.6 MB." in listed[2].refused
    assert all(one.file is None for one in listed), "none of them is taken for one that Backout could restore"


async def test_a_volume_without_a_schedule_is_said(railway: RailwayStandIn) -> None:
    (one,) = await provider(railway).backups()
    assert "makes no backups of this volume by schedule" in one.refused


@pytest.mark.parametrize(
    ("settings", "says"), [({"volume": "another"}, "Volume instance not found"), ({"token": "fake-wrong"}, "does not let this token")]
)
async def test_what_can_not_be_asked_says_why(railway: RailwayStandIn, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(StepFailed, match=says):
        await provider(railway, **settings).backups()


async def test_a_backup_without_its_time_is_half_an_answer(railway: RailwayStandIn) -> None:
    railway.backups = [backup("odd", "yesterday")]
    with pytest.raises(StepFailed, match="lacks what was asked for"):
        await provider(railway).backups()
    railway.backups = []
    railway.faults.append(Fault("half", "volumeInstanceBackupList"))
    with pytest.raises(StepFailed, match="is not GraphQL's"):
        await provider(railway).backups()


async def test_an_instant_is_told_for_the_dashboard_and_as_a_ticket(railway: RailwayStandIn) -> None:
    said = provider(railway).recovery("escrow", dt.datetime(2026, 11, 28, 20, 48, 28, tzinfo=dt.UTC))
    assert "Restore to this moment, 2026-11-28T20:48:28Z" in said
    assert "To: railway support" in said
    assert "2026-11-28 21:48:28 +01:00 (Europe/Berlin)" in said


def test_a_zone_that_nobody_knows_is_no_setting(railway: RailwayStandIn) -> None:
    with pytest.raises(ValueError, match="is no time zone"):
        provider(railway, zone="Mars/Olympus")
