"""What a provider is told: the moment in UTC and on the people's clocks, and never a word that a shell would read."""

from __future__ import annotations

import datetime as dt
import shlex

import pytest

from bot.backups.provider import PROVIDERS, Asked, GuidedProvider, guide, local

MOMENT = dt.datetime(2026, 7, 1, 20, 48, 28, 900_000, tzinfo=dt.UTC)


def asked(instance: str = "shop-production", zone: str = "Europe/Berlin", moment: dt.datetime = MOMENT) -> Asked:
    return Asked(instance, "shop", moment, zone)


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_each_command_names_the_moment_in_utc_rounded_down_and_a_new_instance(provider: str) -> None:
    commands = " ".join(guide(provider, asked()).commands)

    assert "2026-07-01T20:48:28Z" in commands
    assert "shop-production-20260701204828" in commands


def test_a_moment_of_another_offset_is_the_same_moment() -> None:
    berlin = dt.datetime(2026, 7, 1, 22, 48, 28, tzinfo=dt.timezone(dt.timedelta(hours=2)))

    assert asked(moment=berlin).utc == asked().utc


def test_the_ticket_says_the_moment_twice_and_asks_for_a_new_instance() -> None:
    ticket = guide("railway", asked()).ticket

    assert ticket.startswith("To: railway support\nSubject: Point-in-time recovery of shop-production")
    assert "    2026-07-01 20:48:28.900000 UTC\n    2026-07-01 22:48:28 +02:00 (Europe/Berlin)\n" in ticket
    assert "NEW instance" in ticket
    assert "but not before 2026-07-01 20:43:28 UTC" in ticket


def test_a_provider_without_commands_still_gets_a_ticket_and_what_follows() -> None:
    told = guide("railway", asked())

    assert told.commands == ()
    assert any("Enter its address" in line for line in told.then)


def test_a_hostile_name_reaches_no_shell_and_adds_no_line() -> None:
    hostile = "x; rm -rf / $(id)\nSubject: another"
    told = guide("aws-rds", asked(hostile))

    for command in told.commands:
        words = shlex.split(command)
        assert words[0] == "aws"
        assert "rm" not in words
    assert told.ticket.count("\nSubject:") == 1


def test_winter_and_an_unknown_zone() -> None:
    winter = dt.datetime(2026, 1, 1, 12, 0, tzinfo=dt.UTC)

    assert local(winter, "Europe/Berlin") == "2026-01-01 13:00:00 +01:00 (Europe/Berlin)"
    assert local(winter, "Mars/Olympus") == "2026-01-01 12:00:00 UTC"
    assert local(winter, "../etc/passwd") == "2026-01-01 12:00:00 UTC"


@pytest.mark.parametrize("kind", sorted(PROVIDERS))
async def test_a_provider_of_the_configuration_says_what_to_run_and_lists_nothing(kind: str) -> None:
    made = GuidedProvider(GuidedProvider.Settings.model_validate({"kind": kind, "instance": "shop-production", "zone": "Europe/Berlin"}))
    assert await made.backups() == ()
    said = made.recovery("shop", MOMENT)
    assert "2026-07-01T20:48:28Z" in said
    assert "Enter its address on the run's card" in said
    assert made.within == dt.timedelta(hours=12)


@pytest.mark.parametrize(("within", "good"), [("1d", True), ("90s", True), ("25h", False), (3600, False)])
def test_how_long_a_run_waits_is_a_duration_of_a_day_at_most(within: object, good: bool) -> None:
    asked_for = {"kind": "aws-rds", "instance": "shop-production", "within": within}
    if good:
        assert GuidedProvider.Settings.model_validate(asked_for)
    else:
        with pytest.raises(ValueError, match="within"):
            GuidedProvider.Settings.model_validate(asked_for)
