"""What lies packed in a store: gzip, and tar of a directory dump. Both may be bombs, and a tar may want to write elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

from bot.errors import StepFailed

_RATIO = 200  # what SQL is compressed by at most, and then some
_SLACK = 16 << 20  # bytes that may be unpacked whatever the ratio
_STEP = 1 << 20
#: the files of a directory dump
PART = re.compile(r"toc\.dat|(?:\d+\.dat|blob_\d+\.dat|blobs(?:_\d+)?\.toc)(?:\.gz|\.lz4|\.zst)?")
_AT_MOST = 100_000  # members
_ENDING = 1024  # bytes of nothing at a tar's end


async def unpacked(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """gzip, one member or several, as it streams by. Raises StepFailed when it is torn or unpacks to absurdly much."""
    taken, made, gzip = 0, 0, zlib.decompressobj(31)
    fresh = True
    async for block in blocks:
        taken += len(block)
        while block:
            if gzip.eof:
                gzip, fresh = zlib.decompressobj(31), True
            try:
                data = gzip.decompress(block, _STEP)
            except zlib.error as error:
                raise StepFailed(f"It is damaged: gzip says {error}.") from error
            fresh = False
            block = gzip.unused_data if gzip.eof else gzip.unconsumed_tail  # noqa: PLW2901  what is left of it
            made += len(data)
            if made > _SLACK and made > _RATIO * taken:
                raise StepFailed(f"It unpacks to more than {_RATIO} times its size. No dump does, so it was not unpacked further.")
            if data:
                yield data
    if fresh or not gzip.eof:
        raise StepFailed("It is torn: gzip says that its end is missing.")


def prove_whole(tar: Path) -> None:
    """pg_restore takes a tar that is cut short for one that ends there. Blocks. Raises StepFailed."""
    try:
        with tarfile.open(tar, "r:") as packed:
            for seen, _ in enumerate(packed):
                if seen > _AT_MOST:
                    raise StepFailed("The tar has more files in it than any dump.")
        with tar.open("rb") as file:
            file.seek(-_ENDING, os.SEEK_END)
            if file.read() != bytes(_ENDING):
                raise StepFailed("The tar is torn: its end is missing.")
    except (tarfile.TarError, OSError) as error:
        raise StepFailed(f"The tar is torn or damaged: {error}.") from error


def extract(tar: Path, folder: Path, room: int) -> None:
    """The files of a directory dump out of a tar, flat into `folder`; `room` is how many bytes they may have. Blocks. Raises StepFailed."""
    left, seen = room, 0
    try:
        with tarfile.open(tar, "r|") as packed:
            for member in packed:
                seen += 1
                name = member.name.rpartition("/")[2]
                if member.isdir() and seen < _AT_MOST:
                    continue
                if not member.isfile() or not PART.fullmatch(name) or seen > _AT_MOST or (folder / name).exists():
                    raise StepFailed(f"The tar has {member.name[:80]!r} in it, which no directory dump has. Nothing of it is used.")
                if (left := left - member.size) < 0:
                    raise StepFailed(f"The tar's files have more than {room >> 20} MB, and there is no room for them.")
                source = packed.extractfile(member)
                if source is not None:
                    with (folder / name).open("xb") as file:
                        shutil.copyfileobj(source, file, _STEP)
    except tarfile.TarError as error:
        raise StepFailed(f"The tar is damaged: {error}.") from error
    except OSError as error:
        raise StepFailed(f"The tar can't be unpacked to {folder}: {error.strerror or error}.") from error
