"""The target's own programs run beside Backout, on the same machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from bot import process
from bot.errors import ProgramMissing, Refusal
from bot.place import Connect
from bot.running import Program

_Words: TypeAlias = tuple[tuple[str, ...], frozenset[tuple[str, str]], Path]


@dataclass
class _Ahead:
    """A program that waits for its first word; `stack` ends it. `place`: the folder that it was started in."""

    program: process.Running
    stack: AsyncExitStack
    place: tuple[int, int]


class LocalRunner:
    """Implements running.Runner."""

    kind = "local"

    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["local"] = "local"

    inherits = True
    inside = None

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._ahead: dict[_Words, _Ahead] = {}
        self._starting = asyncio.Lock()

    def seen(self, connect: Connect, *, copy: bool) -> Connect:
        return connect

    async def ready(self) -> tuple[Refusal, ...]:
        return ()

    async def prepare(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path) -> None:
        """Raises ProgramMissing."""
        words = _words(argv, env, directory)
        async with self._starting:
            if self._waits(words):
                return
            await self._drop(words)
            stack, place = AsyncExitStack(), _place(directory)
            program = await stack.enter_async_context(_started(argv, env, directory))
            self._ahead[words] = _Ahead(program, stack, place)

    async def clean(self, running: Collection[str]) -> None:
        """What was started ahead. Nothing else is left: a program ends with its process group, and its sessions are ended by name."""
        for words in list(self._ahead):
            await self._drop(words)

    def _waits(self, words: _Words) -> bool:
        """Not in a release that another one has taken the place of."""
        return words in self._ahead and not self._ahead[words].program.ended and self._ahead[words].place == _place(words[2])

    async def _drop(self, words: _Words) -> None:
        if one := self._ahead.pop(words, None):
            await one.stack.aclose()

    @asynccontextmanager
    async def start(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path, name: str, copy: bool) -> AsyncIterator[Program]:
        """Raises ProgramMissing, which tells a missing folder from a missing program."""
        words = _words(argv, env, directory)
        if self._waits(words):
            one = self._ahead.pop(words)
            async with one.stack:
                yield one.program
        else:
            await self._drop(words)
            async with _started(argv, env, directory) as program:
                yield program


@asynccontextmanager
async def _started(argv: Sequence[str], env: Mapping[str, str], directory: Path) -> AsyncIterator[process.Running]:
    if not directory.is_dir():  # noqa: ASYNC240  one look at the disk before a program is started from it
        raise ProgramMissing(f"the folder {directory} does not exist")
    async with process.start(argv, env=env, directory=directory) as program:
        yield program


def _place(directory: Path) -> tuple[int, int]:
    """Which folder lies there, wherever a link leads."""
    try:
        there = directory.stat()
    except OSError:
        return 0, 0
    return there.st_dev, there.st_ino


def _words(argv: Sequence[str], env: Mapping[str, str], directory: Path) -> _Words:
    return tuple(argv), frozenset(env.items()), directory
