"""The only place a program is started: an argv list, an environment of its own, a deadline, redaction, a cap on its output."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bot.errors import ProgramFailed, ProgramMissing

CAP = 64 * 1024  # bytes of output kept; the rest is drained and counted
# Bounded everywhere: a long line without a URL must not be searched from each of its letters to its end.
_URL_SECRET = re.compile(r"(?<![\w+.-])(?P<head>[a-zA-Z][\w+.-]{0,30}://[^\s:/@]{0,128}:)[^\s@]{1,512}(?=@)")


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Replace known secrets, and the password of every URL, by ***."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _URL_SECRET.sub(r"\g<head>***", text)


@dataclass(frozen=True)
class Finished:
    """How a program ended. `dropped` bytes of output were beyond the cap."""

    code: int
    output: str
    dropped: int = 0


class Running:
    """A program in a process group of its own; implements ports.Program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def output(self) -> AsyncIterator[bytes]:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65536):
            yield data

    async def errors(self) -> AsyncIterator[bytes]:
        """What it says beside its output, when it was started with `apart`."""
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(65536):
            yield data

    async def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    async def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def wait(self) -> int:
        return await self._process.wait()

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        # wait() waits for the pipes too, and somebody outside the group may hold one: ours are closed first.
        self._process._transport.close()  # type: ignore[attr-defined]  # asyncio has no public way to drop them
        await self._process.wait()


@asynccontextmanager
async def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    directory: Path | None = None,
    user: int | None = None,
    group: int | None = None,
    apart: bool = False,
) -> AsyncIterator[Running]:
    """Start a program; leaving the context kills its whole group. `apart`: its output is data, what it says is not in it. Raises ProgramMissing."""
    try:
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  this is the one place
            *argv, env=dict(env), cwd=directory, start_new_session=True, user=user, group=group, extra_groups=[] if user is not None else None,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if apart else asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise ProgramMissing(f"{argv[0]} can't be started: {error.strerror}") from error
    running = Running(process)
    try:
        yield running
    finally:
        await asyncio.shield(_end(running, process))


async def _end(running: Running, process: asyncio.subprocess.Process) -> None:
    # The group may outlive its leader: kill it in any case.
    await running.kill()
    if process.stdin is not None:
        process.stdin.close()
    await asyncio.sleep(0)  # lets the transports say goodbye, so that none warns when it is collected


async def run(
    argv: Sequence[str], *, env: Mapping[str, str], timeout: timedelta, directory: Path | None = None, secrets: Sequence[str] = (),
    user: int | None = None, group: int | None = None,
) -> Finished:  # fmt: skip
    """Run a program to its end; its output is redacted and capped.

    Raises ProgramMissing, and ProgramFailed when the deadline passed (its group is killed then). A non-zero exit is the caller's to judge.
    """
    kept, dropped = bytearray(), 0
    async with start(argv, env=env, directory=directory, user=user, group=group) as program:
        await program.close_stdin()
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                async for data in program.output():
                    room = CAP - len(kept)
                    kept += data[:room]
                    dropped += max(0, len(data) - room)
                code = await program.wait()
        except TimeoutError as error:
            output = redact(kept.decode("utf-8", "replace"), secrets)
            raise ProgramFailed(f"{Path(argv[0]).name} did not end within {timeout.total_seconds():.0f} s", output=output) from error
    return Finished(code, redact(kept.decode("utf-8", "replace"), secrets), dropped)
