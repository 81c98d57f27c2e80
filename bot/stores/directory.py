"""Copies in a directory of this machine: 0700, its files 0600. A file is whole and on the disk, or it still ends in `.partial`."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import hashlib
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bot.errors import Refusal, StepFailed
from bot.evidence import Stored
from bot.finishing import both
from bot.stores.names import PARTIAL, is_listed, readable, writable

_BLOCK = 1 << 20  # bytes
_PAGE = 1000  # entries
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK}


class DirectorySettings(BaseModel):
    """What `backups.store` may say."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    kind: Literal["directory"] = "directory"
    path: Path = Field(description="The folder; relative paths begin where backout.yml lies.")


class DirectoryStore:
    """Implements keeping.Store."""

    kind = "directory"
    Settings = DirectorySettings

    @classmethod
    def of(cls, settings: DirectorySettings, base: Path) -> DirectoryStore:
        return cls(base / settings.path)

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    async def ready(self) -> None:
        """Proven by writing. A directory that is missing is made; one that is there keeps its mode."""
        await asyncio.to_thread(self._prove)

    def _prove(self) -> None:
        probe = self._path / f".probe-{secrets.token_hex(4)}"
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            open_to_all = self._path.stat().st_mode & 0o002
            os.close(_create(probe))
            probe.unlink()
        except OSError as error:
            raise Refusal(
                "store_unusable", f"Backups can't be written to {self._path}: {error.strerror}.", "Give Backout a directory that it may write to."
            ) from error
        if open_to_all:
            raise Refusal("store_unusable", f"Everybody may write to {self._path}, so a backup there proves nothing.", f"chmod o-w {self._path}")

    def where(self, name: str) -> str:
        return str(self._path / readable(name))

    def local(self, name: str) -> Path:
        return self._path / readable(name)

    @asynccontextmanager
    async def write(self, name: str, replaces: Stored | None = None) -> AsyncIterator[_Partial]:
        """What an earlier try left of it is gone. Raises Refusal for a name that can't be one, StepFailed."""
        path = self._path / writable(name)
        partial = path.with_name(path.name + PARTIAL)
        with _said(path, "kept"):
            file = await asyncio.to_thread(_begun, partial)
        try:
            writing = _Partial(partial, file)
            yield writing
            with _said(path, "kept"):
                await asyncio.to_thread(writing.end)
                await asyncio.to_thread(_place, partial, path, replaces)
                await asyncio.to_thread(self._sync)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    async def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        path = self._path / readable(name)
        with _said(path, "read"):
            file = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            left = os.fstat(file).st_size - start if length is None else length
            while left > 0:
                with _said(path, "read"):
                    block = await asyncio.to_thread(os.pread, file, min(_BLOCK, left), start)
                if not block:
                    return
                start, left = start + len(block), left - len(block)
                yield block
        finally:
            os.close(file)

    async def stat(self, name: str) -> Stored | None:
        """Symbolic links are not followed."""
        path = self._path / readable(name)
        with _said(path, "read"), suppress(FileNotFoundError, NotADirectoryError):
            return _stored(name, await asyncio.to_thread(os.lstat, path))
        return None

    async def list(self) -> AsyncIterator[Stored]:
        found = self._walk()
        while True:
            with _said(self._path, "listed"):
                page = await asyncio.to_thread(lambda: list(itertools.islice(found, _PAGE)))
            if not page:
                return
            for one in page:
                yield one

    def _walk(self, folder: str = "") -> Iterator[Stored]:
        with suppress(FileNotFoundError), os.scandir(self._path / folder) as entries:
            for entry in entries:
                name = folder + entry.name
                if not is_listed(name):
                    continue
                if entry.is_dir(follow_symlinks=False) and not folder:
                    yield from self._walk(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # removed meanwhile
                        yield _stored(name, entry.stat(follow_symlinks=False))

    async def checksum(self, name: str) -> str | None:
        """None too when it can't be read."""
        return await asyncio.to_thread(_checksum, self._path / readable(name))

    async def remove(self, name: str) -> None:
        """The file, and what an interrupted try left of it. Raises StepFailed."""
        await asyncio.to_thread(self._remove, self._path / writable(name))

    def _remove(self, path: Path) -> None:
        with _said(path, "removed"):
            for each in (path, path.with_name(path.name + PARTIAL)):
                each.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self._sync()

    def _sync(self) -> None:
        """A rename is only durable once its directory is."""
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Partial:
    """Implements keeping.Writing: an empty file of our own, which a program may fill as well as `write`."""

    def __init__(self, path: Path, file: int) -> None:
        self.file = path
        self.sha256 = ""
        self.size = 0
        self._file = file
        self._hash = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        with _said(self.file, "kept"):
            await asyncio.to_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._hash.update(data)
        self.size += len(data)

    async def settle(self) -> None:
        with _said(self.file, "kept"):
            await both(asyncio.to_thread(os.fsync, self._file), asyncio.to_thread(self._hash_file))

    def end(self) -> None:
        """On the disk, and its checksum known: from what was written, or from what a program wrote."""
        os.fsync(self._file)
        if self.size != os.fstat(self._file).st_size:
            self._hash_file()
        elif not self.sha256:
            self.sha256 = self._hash.hexdigest()

    def _hash_file(self) -> None:
        with self.file.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.size = os.fstat(file.fileno()).st_size


def _begun(path: Path) -> int:
    path.unlink(missing_ok=True)
    return _create(path)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _place(partial: Path, path: Path, replaces: Stored | None) -> None:
    """Under its name, in one move. Raises StepFailed when something else is there."""
    there = _stored(path.name, os.lstat(path)) if os.path.lexists(path) else None
    if there is not None and (replaces is None or there.version != replaces.version):
        raise StepFailed(f"{path} is there already, and Backout overwrites no backup. Move it away, then try again.")
    if there is None:
        try:
            os.link(partial, path)  # refuses where a rename would overwrite
        except FileExistsError as error:
            raise StepFailed(f"{path} was written by somebody else in the same moment. Nothing was overwritten.") from error
        except OSError as error:
            if error.errno not in _NO_LINKS:  # a file system without them
                raise
        else:
            partial.unlink()
            return
    partial.replace(path)


def _stored(name: str, found: os.stat_result) -> Stored:
    """The system moves ctime with every write, and nobody can set it back."""
    version = f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
    return Stored(name=name, size=found.st_size, made=dt.datetime.fromtimestamp(found.st_mtime, dt.UTC), version=version)


def _checksum(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return None


@contextmanager
def _said(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StepFailed(f"The backup {path} could not be {done}: {error.strerror}.") from error
