"""Dumps in a directory of this machine: 0700, its files 0600. A file is whole and on the disk, or it still ends in `.partial`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from bot.errors import Refusal, StepFailed

_NAME = re.compile(r"[^\W.-][\w.-]{0,199}")
_PARTIAL = ".partial"


class DirectoryStore:
    """Implements ports.Store."""

    kind = "directory"

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

    def partial(self, name: str) -> Path:
        """An empty file of our own to write to; what an earlier try left there is gone. Raises StepFailed."""
        path = self._at(name, _PARTIAL)
        try:
            path.unlink(missing_ok=True)
            os.close(_create(path))
        except OSError as error:
            raise _failed(path, error) from error
        return path

    async def keep(self, name: str) -> tuple[Path, str, int]:
        """Raises StepFailed."""
        return await asyncio.to_thread(self._keep, self._at(name, _PARTIAL), self._at(name))

    def _keep(self, partial: Path, path: Path) -> tuple[Path, str, int]:
        try:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
                size = os.fstat(file.fileno()).st_size
            partial.replace(path)
            self._sync()
        except OSError as error:
            raise _failed(partial, error) from error
        return path, checksum, size

    async def checksum(self, name: str) -> str | None:
        """None when it isn't there, or can't be read."""
        return await asyncio.to_thread(_checksum, self._at(name))

    async def remove(self, name: str) -> None:
        """The file, and what an interrupted try left of it. Raises StepFailed."""
        await asyncio.to_thread(self._remove, name)

    def _remove(self, name: str) -> None:
        try:
            for path in (self._at(name), self._at(name, _PARTIAL)):
                path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self._sync()
        except OSError as error:
            raise _failed(self._at(name), error) from error

    def _at(self, name: str, suffix: str = "") -> Path:
        if not _NAME.fullmatch(name) or name.endswith(_PARTIAL):
            raise Refusal(
                "store_unusable", f"A backup can't be called {name!r}.", "Use letters, digits, dots, - and _ only, in the target's name too."
            )
        return self._path / f"{name}{suffix}"

    def _sync(self) -> None:
        """A rename is only durable once its directory is."""
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _checksum(path: Path) -> str | None:
    with suppress(OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def _failed(path: Path, error: OSError) -> StepFailed:
    return StepFailed(f"The backup {path} could not be kept: {error.strerror}.")
