"""What the tests of archives share: a database that is archived, a store, and a database that gets everything back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.backups.archives import StoredArchives
from bot.databases.archive import archive, prove_archive
from bot.databases.pieces import PINNED
from bot.databases.put_back import put_back
from bot.evidence import Archive, Loss, LossKind, PutBack
from bot.place import Connect
from bot.stores.directory import DirectoryStore
from tests.contract.servers import execute, session


async def quiet(text: str) -> None:
    """Nobody listens to the progress."""


def lost(kind: LossKind, *names: str) -> list[Loss]:
    return [Loss(kind=kind, name=name) for name in names]


@dataclass
class Shelf:
    """A store, and what one run archives into it."""

    connect: Connect
    path: Path

    def __post_init__(self) -> None:
        self.archives = StoredArchives(DirectoryStore(self.path))

    async def keep(self, losses: Sequence[Loss], *, name: str = "run.archive", connect: Connect | None = None) -> Archive:
        """Archived and proven."""
        where = connect or self.connect
        async with self.archives.create(name) as sink:
            parts, left_out = await archive(where, losses, sink, quiet)
        file = await self.archives.kept(name)
        async with self.archives.open(file) as source:
            await prove_archive(where, parts, source, quiet)
        return Archive(run="r", target="shop", lower="1", upper="2", file=file, parts=parts, left_out=dict(left_out))

    async def put(self, kept: Archive, *, triggers: bool = True, connect: Connect | None = None) -> PutBack:
        async with self.archives.open(kept.file) as source:
            return await put_back(connect or self.connect, kept, source, quiet, triggers=triggers)

    async def run(self, *statements: str) -> None:
        await execute(self.connect, *statements)

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        async with session(self.connect, **{**PINNED, "search_path": "public"}) as open_:
            return [tuple(row) for row in await open_.fetch(sql)]

    async def value(self, sql: str) -> Any:
        return (await self.rows(sql))[0][0]
