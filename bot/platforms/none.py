"""Nobody is stopped, so nobody is started; what is written during a run can't be promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bot.errors import Refusal
from bot.keeping import Work
from bot.place import Connect


class NoPlatform:
    """`door` is what every platform is given; this one leaves it as it is."""

    kind = "none"
    stops = False
    has_services = False
    migrates_on_start = False
    rolls_back = False

    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["none"] = "none"

    def __init__(self, settings: Settings, door: object = None) -> None:
        self.settings = settings

    async def ready(self) -> tuple[Refusal, ...]:
        return ()

    async def stop_writers(self, work: Work) -> Mapping[str, Any]:
        return {"says": "nobody was stopped (platform: none): what is written meanwhile may be lost and can't be counted", "stopped": []}

    async def prove_stopped(self, work: Work) -> None:
        """There is nothing to prove: nobody was stopped, and `stops` says so."""

    async def start_writers(self, work: Work) -> Mapping[str, Any]:
        return {"says": "nobody had been stopped (platform: none)", "started": []}

    async def entrance(self, work: Work) -> Connect | None:
        return None

    async def former(self) -> Mapping[str, Any]:
        return {}

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> Mapping[str, Any]:
        return {"says": ""}

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        return {}
