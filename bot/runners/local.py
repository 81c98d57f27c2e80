"""The target's own programs run beside Backout, on the same machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bot import process
from bot.errors import ProgramMissing, Refusal
from bot.place import Connect
from bot.running import Program


class LocalRunner:
    """Implements ports.Runner."""

    kind = "local"

    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["local"] = "local"

    inherits = True
    inside = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def seen(self, connect: Connect, *, copy: bool) -> Connect:
        return connect

    async def ready(self) -> tuple[Refusal, ...]:
        return ()

    async def clean(self, running: Collection[str]) -> None:
        """Nothing is left: a program ends with its process group, and its sessions are ended by name."""

    @asynccontextmanager
    async def start(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path, name: str, copy: bool) -> AsyncIterator[Program]:
        """Raises ProgramMissing, which tells a missing folder from a missing program."""
        if not directory.is_dir():  # noqa: ASYNC240  one look at the disk before a program is started from it
            raise ProgramMissing(f"the folder {directory} does not exist")
        async with process.start(argv, env=env, directory=directory) as program:
            yield program
