"""Nobody is stopped, so nobody is started; what is written during a run can't be promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bot.ports import Work


class NoPlatform:
    kind = "none"
    stops = False

    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["none"] = "none"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def start_writers(self, work: Work) -> Mapping[str, Any]:
        return {"says": "nobody had been stopped (platform: none)", "started": []}
