"""Services as a platform: what was there is written down before it is stopped, under a name of its own, and exactly that is started again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bot.errors import BackoutError, Refusal, StepFailed
from bot.keeping import Work
from bot.place import Connect
from bot.running import Inside, Services
from bot.values import Duration

BY_HAND = "by_hand"
_LINE = 500  # characters of a log line that are kept


class ServicesSettings(BaseModel):
    """What every place with services may be told; its own settings come to these."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)
    within: Duration = Field("2m", description="how long one service may take to stop, and to become ready")  # type: ignore[assignment]  # as in the file
    migrates_on_start: bool = Field(False, description="it upgrades the database when it starts: its own rollback is part of the plan")
    roll_back: bool = Field(False, description="take the application back to what it was before its last change, before it is started again")


class ServicesPlatform:
    """Implements running.Platform. `place` tells several of one kind apart, e.g. 'docker' and 'docker 2'; `inside` is where the tool is executed."""

    stops = True
    has_services = True

    def __init__(self, services: Services, place: str, settings: ServicesSettings, inside: Inside | None = None) -> None:
        self.kind = services.kind
        self.migrates_on_start = settings.migrates_on_start
        self.rolls_back = settings.roll_back or settings.migrates_on_start
        self.place, self._inside = place, inside
        self._services = services

    async def ready(self) -> tuple[Refusal, ...]:
        return await self._services.ready(self._inside)

    async def stop_writers(self, work: Work) -> Mapping[str, Any]:
        noted = self._noted(work)
        if noted is None:
            noted = await self._services.look()
        await work.remember(**{self.place: noted})
        return {"says": await self._services.stop(noted, work)}

    async def prove_stopped(self, work: Work) -> None:
        noted = self._noted(work)
        if noted is None:
            raise StepFailed(f"{self.place} was never stopped in this run. Nothing was executed.")
        await self._services.prove_stopped(noted)

    async def start_writers(self, work: Work) -> Mapping[str, Any]:
        noted = self._noted(work)
        if noted is None:
            return {"says": f"nothing had been stopped ({self.place})"}
        try:
            return {"says": await self._services.start(noted, work)}
        except StepFailed as error:
            error.facts.setdefault(BY_HAND, list(self._services.by_hand(noted)))
            raise

    async def entrance(self, work: Work) -> Connect | None:
        return None

    async def former(self) -> Mapping[str, Any]:
        found = await self._services.former()
        return {self.place: dict(found)} if found else {}

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> Mapping[str, Any]:
        return {"says": await self._services.roll_back(former[self.place], work)} if self.place in former else {"says": ""}

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        try:
            found = await self._services.logs(lines)
        except BackoutError as error:
            return {self.place: (f"could not be read: {error}",)}
        return {name: tuple(line[:_LINE] for line in told[-lines:]) for name, told in found.items()}

    def _noted(self, work: Work) -> Mapping[str, Any] | None:
        """What an earlier attempt of this run wrote down; None: it had not come so far."""
        noted: Mapping[str, Any] | None = work.stopped.get(self.place)
        return noted
