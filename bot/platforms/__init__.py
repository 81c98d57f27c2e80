"""Where the application runs."""

from __future__ import annotations

from bot.platforms.none import NoPlatform

PLATFORMS = {"none": NoPlatform}
