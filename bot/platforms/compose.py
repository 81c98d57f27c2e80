"""Services of a Compose project, found by the labels that Compose gives their containers; Compose itself is not needed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from bot.containers.api import DEFAULT_HOST, Engine, Host, Image, Name
from bot.containers.services import ContainerServices, gather, missing
from bot.errors import Refusal
from bot.platforms.services import ServicesSettings

_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_NUMBER = "com.docker.compose.container-number"
_ONE_OFF = "com.docker.compose.oneoff"
Named = list[tuple[str, dict[str, Any]]]


class ComposeServices(ContainerServices):
    """Implements running.Services."""

    class Settings(ServicesSettings):
        kind: Literal["compose"] = "compose"
        project: Name = Field(description="the project's name, as docker compose ls shows it")
        services: tuple[Name, ...] = Field(min_length=1, description="services whose containers are stopped, and started again in this order")
        restart: tuple[Name, ...] = Field((), description="services that are restarted once the others are back")
        former: dict[Name, Image] = Field({}, description="service: image, what roll_back makes it, such as {api: 'shop:1.4'}")
        host: Host = Field(DEFAULT_HOST, description="the engine's socket")

    def __init__(self, settings: Settings) -> None:
        super().__init__("compose", settings, _Chosen(settings))


class _Chosen:
    def __init__(self, settings: ComposeServices.Settings) -> None:
        self._settings = settings

    async def stopped(self, engine: Engine) -> Named:
        return await self._of(engine, self._settings.services)

    async def restarted(self, engine: Engine) -> Named:
        return await self._of(engine, self._settings.restart)

    async def _of(self, engine: Engine, services: Sequence[str]) -> Named:
        """In the written order, its containers by their number; jobs by `compose run` are no services."""
        listed = await engine.listed(**{_PROJECT: self._settings.project})
        mine = [one for one in listed if one["Labels"].get(_SERVICE) in services and one["Labels"].get(_ONE_OFF) != "True"]
        mine.sort(key=lambda one: (services.index(one["Labels"][_SERVICE]), _number(one), one["Id"]))
        found = {one["Id"]: one for one in await gather(engine, [one["Id"] for one in mine])}
        return [(one["Labels"][_SERVICE], found[one["Id"]]) for one in mine if one["Id"] in found]

    async def objections(self, engine: Engine) -> list[Refusal]:
        every = await engine.listed(**{_PROJECT: ""})
        projects = sorted({one["Labels"][_PROJECT] for one in every})
        project = self._settings.project
        if project not in projects:
            return [missing("project", [project], difflib.get_close_matches(project, projects, n=2), f"The engine at {self._settings.host}")]
        there = sorted({one["Labels"].get(_SERVICE, "") for one in every if one["Labels"][_PROJECT] == project})
        wanted = [*self._settings.services, *self._settings.restart, *self._settings.former]
        absent = [name for name in dict.fromkeys(wanted) if name not in there]
        near = [match for name in absent for match in difflib.get_close_matches(name, there, n=2)]
        return [missing("service", absent, near, f"The project {project}")] if absent else []

    def images(self) -> Mapping[str, str]:
        return self._settings.former


def _number(one: Mapping[str, Any]) -> int:
    written = str(one["Labels"].get(_NUMBER, "1"))
    return int(written) if written.isdigit() else 1
