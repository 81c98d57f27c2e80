"""What a program has to read as a file: where the store is no folder of this machine, a copy under BACKOUT_HOME, removed afterwards."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bot.errors import StepFailed
from bot.evidence import size
from bot.keeping import Store

_SPARE = 256 << 20  # bytes that stay free


class Spool:
    """`folder` None: the system's own place for temporary files."""

    def __init__(self, store: Store, folder: Path | None) -> None:
        self._store = store
        self._folder = folder

    @asynccontextmanager
    async def room(self, needs: int) -> AsyncIterator[Path]:
        """A folder of our own, gone afterwards; what dead processes left goes first. Raises StepFailed when there is no room for `needs` bytes."""
        try:
            folder, lock = await asyncio.to_thread(self._begin, needs)
        except OSError as error:
            raise StepFailed(f"Nothing can be put down at {self._folder or 'the temporary folder'}: {error.strerror}.") from error
        try:
            yield folder
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
            os.close(lock)

    def _begin(self, needs: int) -> tuple[Path, int]:
        base = self._folder or Path(tempfile.gettempdir())
        if self._folder is not None:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in base.glob("backout-spool-*"):
            _remove_if_dead(old)
        free = shutil.disk_usage(base).free
        if free < needs + _SPARE:
            raise StepFailed(f"It needs {size(needs)} at {base} for a while, and {size(free)} are free there. Make room, then try again.")
        folder = Path(tempfile.mkdtemp(prefix="backout-spool-", dir=base))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes when we go, however that is
        return folder, lock

    def free(self, folder: Path) -> int:
        """Bytes that may still be put down there."""
        return max(0, shutil.disk_usage(folder).free - _SPARE)

    @asynccontextmanager
    async def fetched(self, name: str) -> AsyncIterator[tuple[Path, str | None]]:
        """The file, and its checksum where it was copied (None: it lies in the store itself). Raises StepFailed when it is gone."""
        there = await self._store.stat(name)
        if there is None:
            raise StepFailed(f"{self._store.where(name)} is gone. Nothing can be restored or put back from it.")
        if (local := self._store.local(name)) is not None:
            yield local, None
            return
        async with self.room(there.size) as folder:
            path = folder / "copy"
            yield path, await self.copy(name, path)

    async def copy(self, name: str, path: Path) -> str:
        """Into a file; its sha256. Raises StepFailed."""
        found = hashlib.sha256()
        with await asyncio.to_thread(_create, path) as file:
            async for block in self._store.read(name):
                try:
                    await asyncio.gather(asyncio.to_thread(file.write, block), asyncio.to_thread(found.update, block))
                except OSError as error:
                    raise StepFailed(f"{self._store.where(name)} can't be copied to {path}: {error.strerror}.") from error
        return found.hexdigest()


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _remove_if_dead(folder: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)
