"""The target's own programs run in a container: in one that runs already, or in a one-off beside one, of the same image.

A one-off is a container of its own: labelled, never restarted, removed afterwards; what a crash leaves of them is found by the label.
In a container that others need, the program begins behind a shell of its image that says its process id, so that it can be ended there.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bot.containers import likeness
from bot.containers.api import DEFAULT_HOST, Engine, Host, Image, Name, names, running
from bot.containers.programs import ContainerProgram, Executed, OneOff, environment, first_line
from bot.errors import BackoutError, ProgramMissing, Refusal, StepFailed
from bot.place import Connect
from bot.running import Inside, Program

log = logging.getLogger(__name__)

_RUN, _NAME, _BESIDE = "backout.run", "backout.name", "backout.beside"
_READING = "read"  #: in place of a run, in the names of those that only read
_ABSENT = ("no such file", "not found", "not a directory", "permission denied", "chdir")
# Says its process id, then becomes the program. The folder and the program are looked for first, so that their absence is a sentence.
_SHELL = (
    'cd "$1" 2>/dev/null || { echo "no folder $1"; exit 126; }; shift; '
    'command -v "$1" >/dev/null || { echo "no program $1"; exit 127; }; echo $$; exec "$@"'
)


class Address(BaseModel):
    """How the database is reached from there."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    host: str | None = Field(None, min_length=1, description="its host, as seen from there")
    port: int | None = Field(None, ge=1, le=65535, description="its port, as seen from there")


class DockerRunner:
    """Implements running.Runner."""

    kind = "docker"
    inherits = False

    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
        kind: Literal["docker"] = "docker"
        container: Name | None = Field(None, description="a container that runs, in which the tool is executed; or `like`")
        like: Name | None = Field(None, description="a container beside which a one-off is made, of its image, network, environment, mounts and user")
        image: Image | None = Field(None, description="another image for the one-off")
        address: Address = Field(Address(), description="how the database is reached from there: {host: db, port: 5432}")
        rehearsal_network: str | None = Field(
            None,
            pattern=r"^(host|container:[a-zA-Z0-9][\w.-]*)$",
            description="whose network a rehearsal uses: host, or container:NAME of Backout's own",
        )
        host: Host = Field(DEFAULT_HOST, description="the engine's socket")

        @model_validator(mode="after")
        def _one_place(self) -> Self:
            if (self.container is None) == (self.like is None):
                raise ValueError("names either container (one that runs) or like (one beside which a one-off is made)")
            if self.container is not None and self.image is not None:
                raise ValueError("takes image only with like: a container that runs has its image")
            return self

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._place = settings.container or settings.like or ""
        self.inside = Inside(settings.host, settings.container) if settings.container else None

    def seen(self, connect: Connect, *, copy: bool) -> Connect:
        """A copy is on this machine's 127.0.0.1: whoever shares Backout's network reaches it there."""
        if not copy:
            address = self.settings.address
            return connect.model_copy(update={key: value for key, value in address.model_dump().items() if value is not None})
        if self.settings.container is not None and self.settings.rehearsal_network != "host":
            raise Refusal(
                "rehearsal_impossible",
                f"The tool runs inside {self._place}, from where a copy on Backout's machine is not known to be reached.",
                "Write like: in place of container:, or rehearsal_network: host if that container shares the host's network.",
            )
        return connect

    async def ready(self) -> tuple[Refusal, ...]:
        try:
            async with Engine(self.settings.host) as engine:
                found = await engine.found(self._place)
                if found is None:
                    near = difflib.get_close_matches(self._place, names(await engine.listed()), n=2)
                    hint = f"Did you mean {' or '.join(near)}?" if near else "docker ps -a shows what there is."
                    return (
                        Refusal("container_missing", f"The engine at {self.settings.host} has no container {self._place} to run the tool in.", hint),
                    )
                if self.settings.container is not None and not running(found):
                    following = f"docker start {self._place}, or write like: in place of container:."
                    return (Refusal("container_unfit", f"{self._place} does not run, so the tool can't be executed in it.", following),)
        except Refusal as refusal:
            return (refusal,)
        except StepFailed as error:
            return (Refusal("engine_unreachable", error.message, "Look at the engine's own log."),)
        return ()

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path, name: str, copy: bool) -> AbstractAsyncContextManager[Program]:
        """Raises ProgramMissing, StepFailed, Refusal(engine_unreachable); OutcomeUnknown when it could not be ended over there."""
        return (
            self._one_off(argv, env, directory, name, copy) if self.settings.container is None else self._executed(argv, env, directory, name, copy)
        )

    # ------------------------------------------------------------------ a one-off

    @asynccontextmanager
    async def _one_off(self, argv: Sequence[str], env: Mapping[str, str], directory: Path, name: str, copy: bool) -> AsyncIterator[Program]:
        async with Engine(self.settings.host) as engine:
            identity = await self._created(engine, argv, env, directory, name, copy)
            program: ContainerProgram | None = None
            try:
                with self._present(argv[0]):
                    stream = await engine.attached(identity)
                async with stream:
                    program = ContainerProgram(stream, OneOff(engine, identity), pid=0)
                    with self._present(argv[0]):
                        await engine.start(identity, f"a one-off of {self._place}")
                    yield program
            finally:
                await asyncio.shield(_removed(engine, identity, program))

    async def _created(self, engine: Engine, argv: Sequence[str], env: Mapping[str, str], directory: Path, name: str, copy: bool) -> str:
        old = await engine.found(self._place)
        if old is None:
            raise StepFailed(f"{self._place} is gone, so nothing can be run beside it. Create it again, then retry.")
        if self.settings.image is not None and await engine.image(self.settings.image) is None:
            await engine.pull(self.settings.image)
        network = (self.settings.rehearsal_network or "host") if copy else None
        made, others = await likeness.beside(engine, old, self.settings.image, network=network, copy=copy)
        made |= {
            "Entrypoint": [argv[0]], "Cmd": list(argv[1:]), "WorkingDir": str(directory), "Env": environment(made["Env"], dict(env)), "Tty": False,
            "OpenStdin": True, "StdinOnce": True, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True,
            "Healthcheck": {"Test": ["NONE"]}, "Labels": {_RUN: _run_of(name), _NAME: name, _BESIDE: self._place},
        }  # fmt: skip
        return await likeness.create(engine, f"{name.replace('/', '-')}-{secrets.token_hex(3)}", made, others)

    @contextmanager
    def _present(self, program: str) -> Iterator[None]:
        """Docker says at the start that it isn't there, Podman as soon as somebody attaches."""
        try:
            yield
        except StepFailed as error:
            if any(word in error.message.lower() for word in _ABSENT):
                raise ProgramMissing(f"{program} can't be started in a one-off of {self._place}: {error.message}") from error
            raise

    # ------------------------------------------------------------------ in a container that runs

    @asynccontextmanager
    async def _executed(self, argv: Sequence[str], env: Mapping[str, str], directory: Path, name: str, copy: bool) -> AsyncIterator[Program]:
        async with Engine(self.settings.host) as engine:
            await self._fit(engine, copy)
            words = ["sh", "-c", _SHELL, name, str(directory), *argv]
            identity, stream = await engine.executed(self._place, words, environment((), dict(env)))
            async with stream:
                line, rest = await first_line(stream)
                if not line.isdigit():
                    raise ProgramMissing(f"{argv[0]} can't be started in {self._place}: {line or 'it has no sh'}")
                program = ContainerProgram(stream, Executed(engine, self._place, identity, int(line)), pid=int(line), first=rest)
                try:
                    yield program
                finally:
                    await asyncio.shield(program.kill())

    async def _fit(self, engine: Engine, copy: bool) -> None:
        found = await engine.found(self._place)
        if found is None or not running(found):
            raise StepFailed(
                f"{self._place} does not run, so nothing can be executed in it. Start it, or write like: in place of container: "
                "when it is among those that are stopped."
            )
        if copy and found["HostConfig"].get("NetworkMode") != "host":
            raise Refusal(
                "rehearsal_impossible",
                f"{self._place} does not share the host's network, as rehearsal_network: host says.",
                "Write like: in place of container:.",
            )

    # ------------------------------------------------------------------ what is left

    async def prepare(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path) -> None:
        """Nothing is started ahead: it would stay there if Backout died."""

    async def clean(self, running: Collection[str]) -> None:
        """One-offs beside this container whose run is over, and those that read and have ended. What was executed ended with its sessions."""
        if self.settings.like is None:
            return
        async with Engine(self.settings.host) as engine:
            for one in await engine.listed(**{_BESIDE: self._place}):
                run = one["Labels"].get(_RUN, "")
                over = one.get("State") in ("exited", "dead", "stopped") if run == _READING else run not in running
                if over:
                    await engine.remove(one["Id"], force=True)


async def _removed(engine: Engine, identity: str, program: ContainerProgram | None) -> None:
    """First its end, which somebody has to know of; what remains of it is removed at the next start of Backout, if not now."""
    if program is not None:
        await program.kill()
    try:
        await engine.remove(identity, force=True)
    except BackoutError as error:
        log.warning("a one-off container is left (%s): %s", identity[:12], error)


def _run_of(name: str) -> str:
    """`backout/<run>/<step>/<attempt>`, or `backout/read/<hex>`."""
    parts = name.split("/")
    return parts[1] if len(parts) > 1 else name
