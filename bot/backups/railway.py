"""Railway's own backups of the volume that the database lies on: listed with their retention. How one comes back is in railway_restore.py."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field

from bot.backups.provider import Asked, Zoned, as_text, guide
from bot.backups.railway_restore import RailwayRestoring
from bot.evidence import Listed, size
from bot.moment import told
from bot.railway import Account, Id, Json, Railway, RailwayBackup
from bot.values import Duration
from bot.words import many

_WAY = "`restore` asks Railway to put it in the place of the WHOLE server, all databases on it; it can't be tried on a copy."


class RailwayBackups:
    """Implements keeping.Provider."""

    kind = "railway"

    class Settings(Account, Zoned):
        kind: Literal["railway"] = "railway"
        volume: Id = Field(description="the id of the volume's instance in that environment")
        patience: Duration = Field(  # type: ignore[assignment]  # as in the file
            "1h", ge=dt.timedelta(seconds=1), le=dt.timedelta(hours=6),
            description="how long Railway may take to copy a backup, and then until the database answers from it",
        )  # fmt: skip

    def __init__(self, settings: Settings, railway: Railway | None = None) -> None:
        self._settings, self._railway = settings, railway or Railway(settings)
        self.within = settings.within
        self.restoring = RailwayRestoring(self._railway, settings.volume, settings.patience)

    async def backups(self) -> tuple[Listed, ...]:
        async with self._railway.open() as api:
            found, schedules = await api.backups(self._settings.volume), await api.schedules(self._settings.volume)
        kinds = {str(one["id"]): _schedule(one) for one in schedules}
        listed = [_listed(one, kinds) for one in sorted(found, key=lambda one: one.made, reverse=True)]
        if not schedules:
            listed.append(Listed(name="railway", refused="Railway makes no backups of this volume by schedule. Set one: the service's tab Backups."))
        return tuple(listed)

    def recovery(self, database: str, moment: dt.datetime) -> str:
        asked = Asked(self._settings.volume, database, moment, self._settings.zone)
        own = f"Where point-in-time recovery is on: the database's service, Backups, Restore to this moment, {asked.utc}. It makes a new service."
        return f"{own} Where it is off, for a plan that has it:\n{as_text(guide('railway', asked))}"


def _schedule(one: Json) -> str:
    seconds = one.get("retentionSeconds")
    kept = f", kept for {many(round(seconds / 86400), 'day')}" if isinstance(seconds, int) and seconds > 0 else ""
    return f"{str(one.get('kind') or 'scheduled').lower()}{kept}"


def _listed(one: RailwayBackup, kinds: dict[str, str]) -> Listed:
    until = f"until {told(one.expires.replace(microsecond=0))}" if one.expires else "without end"
    big = f", {size(one.megabytes * 1024 * 1024)}" if one.megabytes is not None else ""
    what = kinds.get(one.schedule, "made by hand" if not one.schedule else "of a schedule that is gone")
    return Listed(
        name=one.id, made=one.made, keep_until=one.expires,
        refused=f"Railway's own of {told(one.made.replace(microsecond=0))} ({what}), kept {until}{big}. {_WAY}",
    )  # fmt: skip
