"""Archives in a store: one file each, its members compressed one after another, an index at the end.

The file is a valid zstd stream (`zstd -dc FILE` prints every member): what is ours in it lies in skippable frames. A member is one frame, whose end
and checksum zstd knows, and a mark of ours; the index says where each begins and how many bytes it has. Memory is the same whatever the size.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from bot.backups.spool import Spool
from bot.errors import StepFailed
from bot.evidence import BackupFile
from bot.keeping import ArchiveSink, ArchiveSource, Store, Writing

FORMAT = "archive"
_BLOCK = 1 << 19  # bytes, uncompressed
_LEVEL = 1
_SKIPPABLE = struct.Struct("<II")
_MAGIC = 0x184D2A5B  # of a skippable frame; zstd leaves the last digit to us
_HEAD = b"backout archive 1"
_MARK = b"end of "
_LENGTH = struct.Struct("<I")


class _Member(BaseModel):
    """Where it begins, how long it is in the file, and uncompressed. Bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    offset: int
    length: int
    bytes: int


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    members: dict[str, _Member]


class StoredArchives:
    """Implements keeping.Archives."""

    def __init__(self, store: Store, spool: Path | None = None) -> None:
        self._store = store
        self._spool = Spool(store, spool)
        self._kept: dict[str, BackupFile] = {}

    @asynccontextmanager
    async def create(self, name: str) -> AsyncIterator[ArchiveSink]:
        """Raises Refusal(store_unusable), StepFailed when it can't be written; then nothing of it is left."""
        await self._store.ready()
        earlier = await self._store.stat(name)  # of an attempt that died: it is replaced once this one is whole
        async with self._store.write(name, earlier) as writing:
            sink = _Sink(name, writing)
            await sink.begin()
            yield sink
            await sink.end()
        path = self._store.where(name)
        self._kept[name] = BackupFile(name=name, path=path, sha256=writing.sha256, size=writing.size, format=FORMAT, objects=len(sink.members))

    async def kept(self, name: str) -> BackupFile:
        """Known to whoever created it, since a file's own checksum proves nothing about it."""
        try:
            return self._kept[name]
        except KeyError as error:
            raise StepFailed(f"The archive {name} was not finished here, so nobody knows its checksum. Write it again.") from error

    @asynccontextmanager
    async def open(self, file: BackupFile) -> AsyncIterator[ArchiveSource]:
        """The bytes that are proven are the bytes that are read: through one handle."""
        async with self._spool.fetched(file.name) as (path, _):
            with _said(file.name, "read"):
                handle = await asyncio.to_thread(_open, file, path)
            try:
                yield await asyncio.to_thread(_Source, file, handle)
            finally:
                await asyncio.to_thread(handle.close)

    async def remove(self, file: BackupFile) -> None:
        await self._store.remove(file.name)
        self._kept.pop(file.name, None)


class _Sink:
    """Implements keeping.ArchiveSink. One member at a time."""

    def __init__(self, name: str, writing: Writing) -> None:
        self._name = name
        self._writing = writing
        self._open = False
        self.members: dict[str, _Member] = {}

    async def begin(self) -> None:
        await self._write(_frame(_HEAD))

    async def end(self) -> None:
        index = _Index(members=self.members).model_dump_json().encode()
        await self._write(_frame(index + _LENGTH.pack(len(index))))

    @asynccontextmanager
    async def member(self, name: str) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        if self._open or name in self.members:
            raise StepFailed(f"The archive {self._name} can't take {name} now: members are written one after another, each once.")
        self._open = True
        offset, seen = self._writing.size, 0
        squeezed = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()

        async def write(data: bytes) -> None:
            nonlocal seen
            seen += len(data)
            await self._write(data, squeezed.compress)

        yield write
        await self._write(b"", lambda _: squeezed.flush())
        self.members[name] = _Member(offset=offset, length=self._writing.size - offset, bytes=seen)
        await self._write(_frame(_MARK + name.encode()))
        self._open = False

    async def _write(self, data: bytes, through: Callable[[bytes], bytes] = bytes) -> None:
        """In a thread: zstd lets the event loop go on meanwhile."""
        for start in range(0, max(len(data), 1), _BLOCK):
            block = data[start : start + _BLOCK]
            with _said(self._name, "written"):
                made = await asyncio.to_thread(through, block)
            if made:
                await self._writing.write(made)


class _Source:
    """Implements keeping.ArchiveSource, on a file that was proven."""

    def __init__(self, file: BackupFile, handle: BinaryIO) -> None:
        self._name = file.name
        self._handle = handle
        with _said(file.name, "read"):
            self._members = _read_index(handle, file)

    async def member(self, name: str) -> AsyncIterator[bytes]:
        try:
            entry = self._members[name]
        except KeyError as error:
            raise StepFailed(f"The archive {self._name} has no member {name}.") from error
        seen = 0
        # A handle of its own position, so that two members can be read at the same time.
        with _said(self._name, "read"):
            part = await asyncio.to_thread(_Window, self._handle, entry.offset, entry.length)
            reader = zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", part), read_size=_BLOCK)
            while block := await asyncio.to_thread(reader.read, _BLOCK):
                seen += len(block)
                yield block
            mark = await asyncio.to_thread(_frame_at, self._handle, entry.offset + entry.length)
        if seen != entry.bytes or mark != _MARK + name.encode():
            raise StepFailed(f"The member {name} of the archive {self._name} is torn: {seen} of {entry.bytes} bytes can be read.")


class _Window:
    """A stretch of a file, read without moving the file's own position."""

    def __init__(self, handle: BinaryIO, offset: int, length: int) -> None:
        self._file = handle.fileno()
        self._at = offset
        self._end = offset + length

    def read(self, size: int) -> bytes:
        data = os.pread(self._file, min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data


def _open(file: BackupFile, path: Path) -> BinaryIO:
    handle = path.open("rb")
    size = os.fstat(handle.fileno()).st_size
    found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found == file.sha256:
        return handle
    handle.close()
    if size < file.size:
        raise StepFailed(f"The archive {file.path} is truncated: it has {size} of {file.size} bytes. Nothing was read from it.")
    raise StepFailed(f"The archive {file.path} was changed since it was written: its checksum is another one. Nothing was read from it.")


def _read_index(handle: BinaryIO, file: BackupFile) -> dict[str, _Member]:
    try:
        (length,) = _LENGTH.unpack(os.pread(handle.fileno(), _LENGTH.size, file.size - _LENGTH.size))
        frame = _frame_at(handle, file.size - _LENGTH.size - length - _SKIPPABLE.size)
        return _Index.model_validate_json(frame[:length]).members
    except (struct.error, ValidationError, json.JSONDecodeError, OSError) as error:
        raise StepFailed(f"{file.path} is no archive of Backout's: it has no index.") from error


def _frame(content: bytes) -> bytes:
    return _SKIPPABLE.pack(_MAGIC, len(content)) + content


def _frame_at(handle: BinaryIO, offset: int) -> bytes:
    magic, length = _SKIPPABLE.unpack(os.pread(handle.fileno(), _SKIPPABLE.size, offset))
    return os.pread(handle.fileno(), length, offset + _SKIPPABLE.size) if magic == _MAGIC else b""


@contextmanager
def _said(name: str, done: str) -> Iterator[None]:
    """What a disk or zstd says, in our words."""
    try:
        yield
    except OSError as error:
        raise StepFailed(f"The archive {name} can't be {done}: {error.strerror or error}.") from error
    except (zstandard.ZstdError, struct.error) as error:
        raise StepFailed(f"The archive {name} is damaged: {error}.") from error
