"""What pg_dump, pg_restore and psql are asked, from a file or from a stream."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bot.errors import StepFailed
from bot.keeping import Writing
from bot.process import CAP, Finished, Running, redact, start
from bot.settings import inherited

Source = Path | AsyncIterator[bytes]


async def piped(argv: Sequence[str], env: Mapping[str, str], out: Writing, secrets: Sequence[str]) -> Finished:
    """What the program puts out goes to the store; what it says is judged."""
    async with start(argv, env=env, apart=True) as program:
        await program.close_stdin()
        said = asyncio.create_task(heard(program.errors()))
        try:
            async for data in program.output():
                await out.write(data)
            return Finished(await program.wait(), redact(await said, secrets))
        finally:
            said.cancel()


async def fed(program: Running, blocks: AsyncIterator[bytes]) -> None:
    """Everything into its standard input, then its end."""
    async for block in blocks:
        await program.send(block)
    await program.close_stdin()


async def contents(restore: str, source: Source) -> AsyncGenerator[str, None]:
    """The lines of a dump's table of contents. Of a stream only as much is read as that takes. Raises StepFailed with pg_restore's words."""
    argv = [restore, "--list", *([str(source)] if isinstance(source, Path) else [])]
    async with start(argv, env={**inherited(), "LC_ALL": "C", "TZ": "UTC"}, apart=True) as program:
        said = asyncio.create_task(heard(program.errors()))
        feeding = asyncio.create_task(program.close_stdin() if isinstance(source, Path) else fed(program, source))
        rest = b""
        try:
            async for data in program.output():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if await program.wait() != 0:
                raise StepFailed(f"The dump's table of contents can't be read: {why(await said)}")
        finally:
            for task in (feeding, said):
                task.cancel()
            await asyncio.wait({feeding, said})
            with suppress(asyncio.CancelledError):  # it may have wanted to give more than was asked for
                feeding.result()


async def proven(restore: str, blocks: AsyncIterator[bytes]) -> str:
    """Every byte read by pg_restore; their sha256. Raises StepFailed."""
    found = hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for block in blocks:
            found.update(block)
            yield block

    async with start([restore, "--file", "/dev/null"], env={**inherited(), "LC_ALL": "C"}) as program:
        said = asyncio.create_task(heard(program.output()))
        try:
            await fed(program, hashed())
            judge(await program.wait(), await said)
        finally:
            said.cancel()
    return found.hexdigest()


def judge(code: int, output: str) -> None:
    """Raises StepFailed."""
    if code != 0 or "error:" in output:
        raise StepFailed(f"The dump can't be read back: {why(output)}", {"output": output[-2000:]})


async def heard(stream: AsyncIterator[bytes]) -> str:
    """To its end; what is beyond the cap is drained and lost."""
    kept = bytearray()
    async for data in stream:
        kept += data[: CAP - len(kept)]
    return kept.decode(errors="replace")


def is_entry(line: str) -> bool:
    """Is this line of a table of contents an entry?"""
    return line[:1].isdigit()


def why(output: str) -> str:
    """The line that says why: the first error, else the last line."""
    lines = output.strip().splitlines() or ["it said nothing"]
    if found := re.search(r"unsupported version \((.+?)\) in file header", output):
        return f"it was written by a newer pg_dump (archive version {found[1]}) than the pg_restore here can read"
    return next((line for line in lines if "error:" in line.lower()), lines[-1])
