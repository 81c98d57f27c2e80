"""Where the application runs."""

from __future__ import annotations

from typing import Any

from bot.platforms.database import DatabasePlatform
from bot.platforms.none import NoPlatform

PLATFORMS: dict[str, type[Any]] = {"none": NoPlatform, "database": DatabasePlatform}
