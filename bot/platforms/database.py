"""The door of the database is the platform: writers are whoever connects, and nobody but Backout can."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from bot.errors import Refusal
from bot.keeping import Work
from bot.place import Connect


class Door(Protocol):
    """Of the target's database. What is remembered and returned is JSON, with `says` for people. Raises Refusal, StepFailed, OutcomeUnknown."""

    async def ready(self, roles: Sequence[str]) -> tuple[Refusal, ...]: ...
    async def close(
        self, run: str, stopped: Mapping[str, Any], remember: Callable[..., Awaitable[None]], roles: Sequence[str]
    ) -> Mapping[str, Any]: ...
    async def prove(self, run: str) -> None: ...
    async def entrance(self, run: str) -> Connect | None: ...
    async def open(self, run: str, stopped: Mapping[str, Any]) -> Mapping[str, Any]: ...


class DatabasePlatform:
    kind = "database"
    stops = True
    has_services = False
    migrates_on_start = False
    rolls_back = False

    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["database"] = "database"
        roles: tuple[str, ...] = Field((), description="roles that lose their login meanwhile, everywhere on the server; needed by few")

    def __init__(self, settings: Settings, door: Door) -> None:
        self.settings = settings
        self._door = door

    async def ready(self) -> tuple[Refusal, ...]:
        return await self._door.ready(self.settings.roles)

    async def stop_writers(self, work: Work) -> Mapping[str, Any]:
        async def remember(**door: Any) -> None:
            await work.remember(door=door)

        return await self._door.close(work.run, _of(work), remember, self.settings.roles)

    async def prove_stopped(self, work: Work) -> None:
        await self._door.prove(work.run)

    async def start_writers(self, work: Work) -> Mapping[str, Any]:
        return await self._door.open(work.run, _of(work))

    async def entrance(self, work: Work) -> Connect | None:
        return await self._door.entrance(work.run)

    async def former(self) -> Mapping[str, Any]:
        return {}

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> Mapping[str, Any]:
        return {"says": ""}

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        return {}


def _of(work: Work) -> Mapping[str, Any]:
    """What was remembered of the door: under one name, so that other platforms of the same run have theirs."""
    door: Mapping[str, Any] = work.stopped.get("door", {})
    return door
