"""Files of base backups and WAL archives, plain, .gz or .zst: read as a stream, copied in a thread that ends when its waiter is cancelled."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import tarfile
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import zstandard

from bot.errors import StepFailed

ENDINGS = ("", ".gz", ".zst")
_CHUNK = 1024**2
_TOP = PurePosixPath()
_TORN = (EOFError, OSError, zlib.error, zstandard.ZstdError, tarfile.TarError)
T = TypeVar("T")


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Torn(StepFailed):
    """A file ends too early, or is not what its name says."""


class Going:
    """Between a thread and who waits for it: bytes done so far, and the wish to stop."""

    def __init__(self) -> None:
        self.done = 0
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def on(self, count: int) -> None:
        self.done += count
        if self._stop.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """Ends the thread of a waiter that was cancelled; nobody sees it."""


async def in_thread(work: Callable[[Going], T], say: Callable[[int], Awaitable[None]] | None = None) -> T:
    """`say` hears the bytes done, about once a second. Cancelled, it returns only when the thread has ended: nobody writes any more."""
    going = Going()
    task = asyncio.ensure_future(asyncio.to_thread(work, going))
    try:
        while not (await asyncio.wait({task}, timeout=1))[0]:
            if say is not None:
                await say(going.done)
        return task.result()
    finally:
        going.stop()
        while not task.done():
            await _until_done(task)
        task.exception()  # who was cancelled has no use for it, and asyncio wants it looked at


async def _until_done(task: asyncio.Future[T]) -> None:
    # Cancelled once more, we still wait: the folder is removed next.
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        return


@contextmanager
def opened(path: Path) -> Iterator[Readable]:
    """Its plain content. Raises Torn, also inside."""
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path) as plain:
                yield plain
        elif path.name.endswith(".zst"):
            with path.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as stream:
                yield stream
        else:
            with path.open("rb") as file:
                yield file
    except _TORN as error:
        raise Torn(f"{path} can't be read: {_words(error)}.") from error


def _words(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).rstrip(".") or type(error).__name__


def beginning(path: Path, count: int) -> bytes:
    with opened(path) as file:
        return file.read(count)


def copy_plain(path: Path, to: Path, going: Going) -> int:
    """Bytes written. Raises Torn."""
    size = 0
    with opened(path) as source, to.open("xb") as target:
        while data := source.read(_CHUNK):
            target.write(data)
            size += len(data)
            going.on(len(data))
    return size


def copy_folder(source: Path, to: Path, going: Going, skip: Callable[[PurePosixPath], bool]) -> None:
    """Files and folders. Raises Torn for what is neither: a link leads into somebody else's files."""
    for path in _walk(source, skip):
        there = to / path.relative_to(source)
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise Torn(f"{path} is neither a file nor a folder.")
        if path.is_dir():
            there.mkdir(0o700, exist_ok=True)
        else:
            copy_plain_as_is(path, there, going)


def copy_plain_as_is(path: Path, to: Path, going: Going) -> None:
    """A file of the cluster, whatever its name ends with."""
    try:
        with path.open("rb") as source, to.open("xb") as target:
            while data := source.read(_CHUNK):
                target.write(data)
                going.on(len(data))
    except OSError as error:
        raise Torn(f"{path} can't be copied: {_words(error)}.") from error


def _walk(folder: Path, skip: Callable[[PurePosixPath], bool], below: PurePosixPath = _TOP) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if skip(below / path.name):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, skip, below / path.name)


def unpack(tar: Path, to: Path, going: Going, skip: Callable[[PurePosixPath], bool]) -> None:
    """Files and folders of a tar, plain or compressed, as pg_basebackup writes it. Raises Torn, also for a name that leads out of `to`."""
    with opened(tar) as stream:
        source: Any = stream  # tarfile asks for more than it uses
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise Torn(f"{tar} holds {member.name[:80]!r}, which leads out of it.")
                if not name.parts or skip(name):
                    continue
                _unpack_one(archive, member, to / name, going, tar)


def _unpack_one(archive: tarfile.TarFile, member: tarfile.TarInfo, there: Path, going: Going, tar: Path) -> None:
    if member.isdir():
        there.mkdir(0o700, parents=True, exist_ok=True)
        return
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise Torn(f"{tar} holds {member.name[:80]!r}, which is neither a file nor a folder.")
    there.parent.mkdir(0o700, parents=True, exist_ok=True)
    with content, there.open("xb") as target:
        while data := content.read(_CHUNK):
            target.write(data)
            going.on(len(data))


def free(folder: Path) -> int:
    """Bytes free on the disk where that folder is, or will be."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(place).free
