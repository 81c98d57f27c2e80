"""Where the application runs: one file and one registry line each. What has services is a line in SERVICES."""

from __future__ import annotations

from typing import Any

from bot.platforms.compose import ComposeServices
from bot.platforms.database import DatabasePlatform
from bot.platforms.docker import DockerServices
from bot.platforms.kubernetes import KubernetesServices
from bot.platforms.none import NoPlatform
from bot.platforms.railway import RailwayServices

PLATFORMS: dict[str, type[Any]] = {"none": NoPlatform, "database": DatabasePlatform}
SERVICES: dict[str, type[Any]] = {
    "docker": DockerServices, "compose": ComposeServices, "kubernetes": KubernetesServices, "railway": RailwayServices,
}  # fmt: skip
#: these may stand in a list once at most
ONCE = frozenset(PLATFORMS)
