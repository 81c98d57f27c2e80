"""Recovery that a provider does: the commands or the ticket, with the moment computed. Pure: nothing is sent, nothing is run.

Their names of options are their own documentation's; each command makes a new instance beside the old one.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bot.evidence import Listed
from bot.moment import told
from bot.values import Duration

_EARLIER = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class Guide:
    """What a person does outside of Backout. `commands` are for a shell, without secrets; `ticket` is text to send; `then` is what to do after."""

    commands: tuple[str, ...]
    ticket: str
    then: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """`instance` is what the provider calls it; `zone` is the name of the people's own time zone, such as Europe/Berlin."""

    instance: str
    database: str
    moment: dt.datetime
    zone: str = "UTC"

    @property
    def new(self) -> str:
        """A name for the new instance: a letter first, small letters, digits and dashes."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.instance.lower()).strip("-") or "database"
        return f"{plain[:40].rstrip('-')}-{self.moment.astimezone(dt.UTC):%Y%m%d%H%M%S}"

    @property
    def utc(self) -> str:
        """RFC 3339, to the second, rounded down: never a moment after the one that was meant."""
        return self.moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def guide(provider: str, asked: Asked) -> Guide:
    """`provider` is one of PROVIDERS, or any other name: then there is a ticket and no command."""
    commands = PROVIDERS[provider](asked) if provider in PROVIDERS else ()
    return Guide(tuple(commands), _ticket(provider, asked), _then(asked))


def _zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone of this machine, such as Europe/Berlin") from None
    return value


class Zoned(BaseModel):
    """The people's own clocks, and how long they get."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)
    zone: Annotated[str, AfterValidator(_zone)] = Field("UTC", description="your own time zone, such as Europe/Berlin, for tickets")
    within: Duration = Field("12h", le=dt.timedelta(days=1), description="how long a run waits for the recovered server's address")  # type: ignore[assignment]  # as in the file


class GuidedProvider:
    """Implements keeping.Provider, for those whose backups are not listed from here: an instant is theirs to recover, the words are ours."""

    restoring = None

    class Settings(Zoned):
        kind: Literal["aws-rds", "google-cloud-sql", "azure"]
        instance: str = Field(min_length=1, max_length=200, description="what the provider calls the server")

    def __init__(self, settings: Settings) -> None:
        self.kind: str = settings.kind
        self.within = settings.within
        self._settings = settings

    async def backups(self) -> tuple[Listed, ...]:
        return ()

    def recovery(self, database: str, moment: dt.datetime) -> str:
        return as_text(guide(self.kind, Asked(self._settings.instance, database, moment, self._settings.zone)))


def as_text(found: Guide) -> str:
    """What to do, as one text."""
    ways = ["Run, where the provider's own command line is set up:", *found.commands] if found.commands else ["Send:", found.ticket.rstrip()]
    return "\n".join([*ways, "Then:", *found.then])


def local(moment: dt.datetime, zone: str) -> str:
    """The same moment on the clocks of that zone, with its offset: `2026-11-30 21:48:28 +01:00 (Europe/Berlin)`; in UTC where it is not known."""
    try:
        there = moment.astimezone(zoneinfo.ZoneInfo(zone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return told(moment.replace(microsecond=0))
    return f"{there.replace(tzinfo=None, microsecond=0).isoformat(sep=' ')} {there.isoformat()[-6:]} ({zone})"


def _rds(asked: Asked) -> tuple[str, ...]:
    restore = ["aws", "rds", "restore-db-instance-to-point-in-time", "--source-db-instance-identifier", asked.instance]
    restore += ["--target-db-instance-identifier", asked.new, "--restore-time", asked.utc]
    window = ["aws", "rds", "describe-db-instance-automated-backups", "--db-instance-identifier", asked.instance]
    window += ["--query", "DBInstanceAutomatedBackups[].RestoreWindow"]
    wait = ["aws", "rds", "wait", "db-instance-available", "--db-instance-identifier", asked.new]
    return tuple(map(shlex.join, (window, restore, wait)))


def _cloud_sql(asked: Asked) -> tuple[str, ...]:
    clone = ["gcloud", "sql", "instances", "clone", asked.instance, asked.new, "--point-in-time", asked.utc]
    return (shlex.join(clone), shlex.join(["gcloud", "sql", "instances", "describe", asked.new, "--format", "value(state)"]))


def _azure(asked: Asked) -> tuple[str, ...]:
    restore = ["az", "postgres", "flexible-server", "restore", "--source-server", asked.instance, "--name", asked.new, "--restore-time", asked.utc]
    return (shlex.join(restore) + ' --resource-group "$RESOURCE_GROUP"',)


#: by the name that people write
PROVIDERS: dict[str, Callable[[Asked], tuple[str, ...]]] = {"aws-rds": _rds, "google-cloud-sql": _cloud_sql, "azure": _azure}


def _ticket(provider: str, asked: Asked) -> str:
    lines = [
        f"Subject: Point-in-time recovery of {_line(asked.instance)}, urgent",
        "",
        f"Please recover our Postgres service {_line(asked.instance)} (database {_line(asked.database)}) to",
        "",
        f"    {told(asked.moment)}",
        f"    {local(asked.moment, asked.zone)}",
        "",
        "into a NEW instance beside the present one. Please do not stop, overwrite or delete the present one.",
        f"If that very moment is not possible, the nearest one BEFORE it, but not before {told(asked.moment.replace(microsecond=0) - _EARLIER)};",
        "in that case ask us first.",
        "",
        "Please tell us: from when to when you can recover; how long it will take; the moment that was reached in the end;",
        "and where the new instance is. Send its password by a secret channel, not in this ticket.",
    ]
    named = f"To: {_line(provider)} support\n" if provider else ""
    return named + "\n".join(lines) + "\n"


def _then(asked: Asked) -> tuple[str, ...]:
    return (
        f"Connect to the new instance and look at the newest rows: nothing in it may be after {told(asked.moment)}.",
        "Read the revision there: it must be the one from before the migration.",
        "Enter its address on the run's card, or with backout address, as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        f"Keep {asked.instance} until the post-mortem is written.",
    )


def _line(text: str) -> str:
    """One line: what comes from configuration or people can't add lines to a ticket."""
    return " ".join(text.split())[:200]
