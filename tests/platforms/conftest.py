"""Both engines, started once for all tests; containers are each test's own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import pytest

from tests.platforms import engines
from tests.platforms.engines import IMAGE, Engine
from tests.scenario.conftest import make_bot as make_bot  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

STAYS = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"
DEAF = "trap '' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="session", params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with engines.running(request.param) as one:
        asyncio.run(engines.load(one))
        yield one


@dataclass
class Lab:
    """Containers of one test, made by another client than Backout's own code."""

    engine: Engine
    docker: aiodocker.Docker
    mark: str = field(default_factory=lambda: secrets.token_hex(3))
    networks: list[str] = field(default_factory=list)

    def name(self, short: str) -> str:
        return f"{short}-{self.mark}"

    async def run(self, short: str, script: str = STAYS, *, image: str = f"{IMAGE}:1.5", start: bool = True, **config: Any) -> str:
        """Its name. Keys of the API's own configuration; of `HostConfig` what differs."""
        host = {"NetworkMode": "host", **config.pop("HostConfig", {})}
        made = {"Image": image, "Cmd": ["sh", "-c", script], "Labels": {"test": self.mark}, **config, "HostConfig": host}
        made["Labels"] = {"test": self.mark, **made["Labels"]}
        container = await self.docker.containers.create(made, name=self.name(short))
        if start:
            await container.start()
            if made["Cmd"][-1] is STAYS:  # before its trap stands, the first process of a container ignores the signal
                async with asyncio.timeout(120):
                    while "up" not in "".join(await container.log(stdout=True)):  # noqa: ASYNC110  a condition of another process
                        await asyncio.sleep(0.02)
        return self.name(short)

    async def network(self) -> str:
        """A bridge of its own."""
        name = self.name("net")
        await self.docker.networks.create({"Name": name, "Driver": "bridge"})
        self.networks.append(name)
        return name

    async def show(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(await self.docker.containers.container(name).show())
        except aiodocker.DockerError as error:
            if error.status != 404:
                raise
            return None

    async def runs(self, name: str) -> bool:
        found = await self.show(name)
        return found is not None and bool(found["State"]["Running"])

    async def start(self, name: str) -> None:
        await self.docker.containers.container(name).start()

    async def all(self) -> list[dict[str, Any]]:
        return [dict(one._container) for one in await self.docker.containers.list(all="true")]

    async def one_offs(self) -> list[str]:
        return [name for one in await self.all() if "backout.run" in (one["Labels"] or {}) for name in one["Names"]]


@pytest.fixture
async def lab(engine: Engine) -> AsyncIterator[Lab]:
    docker = aiodocker.Docker(url=engine.host, timeout=aiohttp.ClientTimeout(total=120), api_version=engine.api_version)
    made = Lab(engine, docker)
    try:
        yield made
    finally:
        for one in await docker.containers.list(all="true"):
            await one.delete(force=True)
        for network in made.networks:
            await (await docker.networks.get(network)).delete()
        await docker.close()


@dataclass
class Doing:
    """The work of a step, as a service sees it."""

    run: str = "r1"
    step: str = "stop_writers"
    attempt: int = 1
    plan: Any = None
    rehearsing: bool = False
    leaving: bool = False
    stopped: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @property
    def application(self) -> str:
        return f"backout/{self.run}/{self.step}/{self.attempt}"

    async def may_begin(self) -> bool:
        return True

    async def remember(self, **facts: Any) -> None:
        self.stopped |= facts

    async def progress(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def work() -> Doing:
    return Doing()


def mounts(directory: Path | None = None) -> list[str]:
    """For a container whose program is Python."""
    return [*[f"{one}:{one}:ro" for one in engines.MOUNTS], *([f"{directory}:/app:ro"] if directory else [])]
