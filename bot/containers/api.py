"""One conversation with a container engine over its socket: what is asked of it, and its errors in sentences.

The Engine API's reference says what each call answers: https://docs.docker.com/reference/api/engine/version/v1.41/. Podman answers the same calls.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Any

import aiodocker
import aiohttp
from aiodocker.containers import DockerContainer
from aiodocker.stream import Stream
from pydantic import AfterValidator

from bot.errors import Refusal, StepFailed

Json = Mapping[str, Any]

DEFAULT_HOST = "unix:///var/run/docker.sock"
PATIENCE = 30.0  # seconds for what an engine answers at once
_PULL = 600.0  # seconds
STATUS = "status"  #: in the facts of a StepFailed: what the engine answered, as an HTTP status
_MISSING = 404
_LOST = 900  # aiodocker's own number for an engine that can't be reached
_UNASKED = "auto"
#: by address, the version of the API that was agreed there: Podman needs a second to tell its own. Forgotten with the first error.
_agreed: dict[str, str] = {}


def _host(value: str) -> str:
    if not re.fullmatch(r"unix:///\S+", value):
        raise ValueError("must be the engine's socket on this machine, such as unix:///var/run/docker.sock")
    return value


def _name(value: str) -> str:
    """As the engine's own rule; so no name can lead a request elsewhere."""
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}", value):
        raise ValueError("is no container's name: letters, digits, _ . and -, as docker ps shows it")
    return value


def _image(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9][\w./:@-]{0,300}", value) or ".." in value:
        raise ValueError("is no image, such as shop:1.4")
    return value


Host = Annotated[str, AfterValidator(_host)]
Name = Annotated[str, AfterValidator(_name)]
Image = Annotated[str, AfterValidator(_image)]


class Engine:
    """Open while a context lasts. Raises Refusal(engine_unreachable) when the engine can't be asked or went away, StepFailed when it says no."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._docker: aiodocker.Docker | None = None

    async def __aenter__(self) -> Engine:
        version = _agreed.get(self.host, _UNASKED)
        self._docker = aiodocker.Docker(url=self.host, timeout=aiohttp.ClientTimeout(total=PATIENCE), api_version=version)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            _agreed.pop(self.host, None)
        elif self.docker.api_version != _UNASKED:
            _agreed[self.host] = self.docker.api_version
        await self.docker.close()

    @property
    def docker(self) -> aiodocker.Docker:
        if self._docker is None:
            raise RuntimeError("the conversation with the engine is not open")
        return self._docker

    def container(self, identity: str) -> DockerContainer:
        return self.docker.containers.container(identity)

    @contextmanager
    def _spoken(self, what: str) -> Iterator[None]:
        """`what` was to be done, for the sentence."""
        try:
            yield
        except TimeoutError:
            raise self._unreachable(f"did not answer when it was asked to {what}") from None
        except aiodocker.DockerError as error:
            if error.status == _LOST:
                raise self._unreachable(f"can't be reached: {_why(error.message)}") from None
            raise StepFailed(f"The engine would not {what}: {_why(error.message)}", {STATUS: error.status}) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(f"went away when it was asked to {what}: {_why(str(error))}") from None
        except (ValueError, KeyError) as error:
            raise self._unreachable(f"gave no sensible answer when it was asked to {what} ({type(error).__name__})") from None

    def _unreachable(self, told: str) -> Refusal:
        return Refusal(
            "engine_unreachable",
            f"The container engine at {self.host} {told.rstrip('.')}.",
            "Look whether it runs, and whether Backout's user may use its socket; then retry.",
        )

    # ------------------------------------------------------------------ what only reads

    async def found(self, identity: str) -> dict[str, Any] | None:
        """All that the engine knows of a container, by name or id; None: there is none."""
        try:
            with self._spoken(f"describe {identity}"):
                return dict(await self.container(identity).show())
        except StepFailed as error:
            if error.facts[STATUS] == _MISSING:
                return None
            raise

    async def listed(self, **labels: str) -> list[dict[str, Any]]:
        """Short descriptions of every container with these labels, stopped ones included."""
        params: dict[str, Any] = {"all": "true"}
        if labels:
            wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
            params["filters"] = json.dumps({"label": wanted})
        with self._spoken("list its containers"):
            return [dict(one._container) for one in await self.docker.containers.list(**params)]

    async def image(self, name: str) -> dict[str, Any] | None:
        try:
            with self._spoken(f"describe the image {name}"):
                return dict(await self.docker.images.inspect(name))
        except StepFailed as error:
            if error.facts[STATUS] == _MISSING:
                return None
            raise

    async def lines(self, identity: str, count: int) -> list[str]:
        """The newest lines of both its streams, in the order in which the engine had them."""
        with self._spoken(f"show the log of {identity}"):
            async with asyncio.timeout(PATIENCE):
                pieces = await self.container(identity).log(stdout=True, stderr=True, tail=count)
        return "".join(pieces).splitlines()[-count:]

    # ------------------------------------------------------------------ what changes something

    async def start(self, identity: str, name: str) -> None:
        with self._spoken(f"start {name}"):
            await self.container(identity).start()

    async def stop(self, identity: str, name: str, grace: int) -> None:
        """SIGTERM (or its own signal), and SIGKILL after `grace` seconds."""
        with self._spoken(f"stop {name}"):
            await self.container(identity).stop(t=grace, timeout=aiohttp.ClientTimeout(total=grace + PATIENCE))

    async def pause(self, identity: str, name: str) -> None:
        with self._spoken(f"pause {name}"):
            await self.container(identity).pause()

    async def unpause(self, identity: str, name: str) -> None:
        with self._spoken(f"unpause {name}"):
            await self.container(identity).unpause()

    async def restart(self, identity: str, name: str, grace: int) -> None:
        with self._spoken(f"restart {name}"):
            await self.container(identity).restart(t=grace, timeout=aiohttp.ClientTimeout(total=grace + PATIENCE))

    async def set_policy(self, identity: str, name: str, policy: Json) -> bool:
        """Its restart policy. False: this engine can't change one (Podman before 5: it has no such call)."""
        path, data = f"containers/{identity}/update", {"RestartPolicy": dict(policy)}
        try:
            with self._spoken(f"change the restart policy of {name}"):
                await self.docker._query_json(path, "POST", data=data)  # aiodocker has no public call for this one
        except StepFailed as error:
            if error.facts[STATUS] in (_MISSING, 405, 501) and await self.found(identity) is not None:
                return False
            raise
        return True

    async def create(self, name: str, config: Json) -> str:
        """Its id. Nothing runs yet."""
        with self._spoken(f"create {name}"):
            return (await self.docker.containers.create(dict(config), name=name)).id

    async def connect(self, network: str, identity: str, endpoint: Json) -> None:
        with self._spoken(f"connect it to the network {network}"):
            await (await self.docker.networks.get(network)).connect({"Container": identity, "EndpointConfig": dict(endpoint)})

    async def rename(self, identity: str, name: str) -> None:
        with self._spoken(f"rename {identity} to {name}"):
            await self.container(identity).rename(name)

    async def remove(self, identity: str, *, force: bool = False) -> None:
        """Its volumes stay. One that is gone is no error."""
        try:
            with self._spoken(f"remove {identity}"):
                await self.container(identity).delete(force=force)
        except StepFailed as error:
            if error.facts[STATUS] not in (_MISSING, 409) or await self.found(identity) is not None:
                raise

    async def attached(self, identity: str) -> Stream:
        """Its streams, to be entered before it starts."""
        stream = self.container(identity).attach(stdin=True, stdout=True, stderr=True)
        with self._spoken("attach to it"):
            await stream.__aenter__()
        return stream

    async def executed(self, name: str, argv: Sequence[str], env: Sequence[str]) -> tuple[str, Stream]:
        """Its id and streams; it runs."""
        with self._spoken(f"execute a program in {name}"):
            one = await self.container(name).exec(argv, stdin=True, environment=env)
            stream = one.start()
            await stream.__aenter__()
        return one.id, stream

    async def exec_quietly(self, name: str, argv: Sequence[str]) -> None:
        with self._spoken(f"execute a program in {name}"):
            one = await self.container(name).exec(argv, stdout=False, stderr=False, user="0")
            await one.start(detach=True)

    async def exec_ended(self, identity: str) -> int | None:
        """The exit code of an executed program, None while it runs."""
        with self._spoken("tell how a program ended"):
            found = await self.docker.containers.exec(identity).inspect()
        return None if found.get("Running") else int(found.get("ExitCode") or 0)

    async def pull(self, image: str) -> None:
        with self._spoken(f"pull the image {image}"):
            async with asyncio.timeout(_PULL):
                await self.docker.images.pull(image)


def running(found: Json) -> bool:
    """A paused one, and one that waits for its next restart, run too."""
    state = found["State"]
    return bool(state.get("Running") or state.get("Restarting") or state.get("Paused"))


def names(found: Sequence[Json]) -> list[str]:
    """Of short descriptions."""
    return [name.removeprefix("/") for one in found for name in one.get("Names") or ()]


def _why(message: str) -> str:
    """The engine's own words, on one line, with an end."""
    words = " ".join(message.split()) or "it gave no reason"
    return words[:400].rstrip(".") + "."
