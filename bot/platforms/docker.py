"""Named containers of one engine, Docker's or Podman's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from bot.containers.api import DEFAULT_HOST, Engine, Host, Image, Name, names
from bot.containers.services import ContainerServices, gather, missing
from bot.errors import Refusal
from bot.platforms.services import ServicesSettings

Named = list[tuple[str, dict[str, Any]]]


class DockerServices(ContainerServices):
    """Implements running.Services."""

    class Settings(ServicesSettings):
        kind: Literal["docker"] = "docker"
        containers: tuple[Name, ...] = Field(min_length=1, description="names of the containers that are stopped, and started again in this order")
        restart: tuple[Name, ...] = Field((), description="names of those that are restarted once the others are back")
        former: dict[Name, Image] = Field({}, description="container: image, what roll_back makes it, such as {shop-api: 'shop:1.4'}")
        host: Host = Field(DEFAULT_HOST, description="the engine's socket")

    def __init__(self, settings: Settings) -> None:
        super().__init__("docker", settings, _Chosen(settings))


class _Chosen:
    def __init__(self, settings: DockerServices.Settings) -> None:
        self._settings = settings

    async def stopped(self, engine: Engine) -> Named:
        return await self._named(engine, self._settings.containers)

    async def restarted(self, engine: Engine) -> Named:
        return await self._named(engine, self._settings.restart)

    async def _named(self, engine: Engine, wanted: Sequence[str]) -> Named:
        """By its whole name: the engine would also take the beginning of an id."""
        found = [(found["Name"].removeprefix("/"), found) for found in await gather(engine, wanted)]
        return [(name, one) for name, one in found if name in wanted]

    async def objections(self, engine: Engine) -> list[Refusal]:
        wanted = [*self._settings.containers, *self._settings.restart, *self._settings.former]
        there = names(await engine.listed())
        absent = [name for name in dict.fromkeys(wanted) if name not in there]
        near = [match for name in absent for match in difflib.get_close_matches(name, there, n=2)]
        return [missing("container", absent, near, f"The engine at {self._settings.host}")] if absent else []

    def images(self) -> Mapping[str, str]:
        return self._settings.former
