"""Migration scripts as they lie where the tool runs: read through the target's runner, so that a container's files are the container's."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bot.errors import ProgramMissing, Refusal
from bot.running import Runner

_LARGEST = 64 * 1024 * 1024  # bytes of all scripts together


async def read_files(
    runner: Runner, directory: Path, names: Sequence[str], *, env: Mapping[str, str], within: dt.timedelta, copy: bool
) -> dict[str, bytes]:
    """Every regular file below `names`, by its path from `directory`; links are followed. Raises Refusal(tool_missing, tool_timeout)."""
    kept = bytearray()
    try:
        async with (
            asyncio.timeout(within.total_seconds()),
            runner.start(
                ["tar", "-chf", "-", "--", *names], env=env, directory=directory, name=f"backout/read/{secrets.token_hex(4)}", copy=copy
            ) as program,
        ):
            await program.close_stdin()
            async for data in program.output():
                kept += data
                if len(kept) > _LARGEST:
                    raise Refusal("tool_failed", f"The scripts in {directory} are larger than 64 MB.", "Name the folder of the migrations alone.")
            code = await program.wait()
    except TimeoutError:
        raise Refusal(
            "tool_timeout", f"Reading the migrations did not end within {within.total_seconds():g} s; it was stopped.", "Raise tool.read_timeout."
        ) from None
    except ProgramMissing as error:
        raise Refusal(
            "tool_missing", f"The migrations can't be read: {error}.", "Set tool.directory to where the migrations are, on the runner."
        ) from error
    if code:
        raise _no_files(directory, names, bytes(kept))
    return _unpacked(directory, names, bytes(kept))


def _unpacked(directory: Path, names: Sequence[str], data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                inside = archive.extractfile(member) if member.isreg() else None
                if inside is not None:
                    found[member.name.removeprefix("./")] = inside.read()
    except tarfile.TarError as error:
        raise _no_files(directory, names, data) from error
    return found


def _no_files(directory: Path, names: Sequence[str], data: bytes) -> Refusal:
    said = " / ".join(line for line in data.decode("utf-8", "replace").replace("\0", "").splitlines() if line.startswith("tar:"))[:300]
    return Refusal(
        "tool_missing",
        f"The migrations can't be read from {', '.join(names)} in {directory}: {said or 'tar did not say why'}.",
        "Set tool.directory to the project's folder where the runner works.",
    )
