"""Programs beside Backout: one that was started ahead is taken by whoever asks for the same words, and nobody else; none is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from bot.errors import ProgramMissing
from bot.runners.local import LocalRunner
from bot.running import Program
from bot.settings import inherited

CAT = ["cat"]


@asynccontextmanager
async def kept() -> AsyncIterator[LocalRunner]:
    runner = LocalRunner(LocalRunner.Settings())
    try:
        yield runner
    finally:
        await runner.clean(())


def started(runner: LocalRunner, place: Path, *, word: str = "") -> AbstractAsyncContextManager[Program]:
    return runner.start(CAT, env={**inherited(), "WORD": word}, directory=place, name="backout/r1/downgrade/1", copy=False)


async def ahead(runner: LocalRunner, place: Path, *, word: str = "") -> None:
    await runner.prepare(CAT, env={**inherited(), "WORD": word}, directory=place)


def there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def pid_of(runner: LocalRunner, place: Path, *, word: str = "") -> int:
    async with started(runner, place, word=word) as program:
        assert await said(program, b"here\n") == b"here\n"
        return int(program.pid)


async def said(program: Program, data: bytes) -> bytes:
    await program.send(data)
    async for answer in program.output():
        return answer
    return b""


def waiting() -> set[int]:
    """Our children."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


async def test_a_program_that_was_started_ahead_is_taken_once(tmp_path: Path) -> None:
    async with kept() as runner:
        before = waiting()
        await ahead(runner, tmp_path)
        (prepared,) = waiting() - before
        assert await pid_of(runner, tmp_path) == prepared
        assert not there(prepared), "it ends with the one who took it"
        assert await pid_of(runner, tmp_path) != prepared


async def test_asked_twice_only_one_waits(tmp_path: Path) -> None:
    async with kept() as runner:
        before = waiting()
        await asyncio.gather(ahead(runner, tmp_path), ahead(runner, tmp_path))
        await ahead(runner, tmp_path)
        assert len(waiting() - before) == 1


@pytest.mark.parametrize("other", ["another environment", "another folder"])
async def test_whoever_asks_for_other_words_gets_a_program_of_their_own(tmp_path: Path, other: str) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    async with kept() as runner:
        before = waiting()
        await ahead(runner, tmp_path)
        (prepared,) = waiting() - before
        found = await (pid_of(runner, tmp_path, word="x") if other == "another environment" else pid_of(runner, elsewhere))
        assert found != prepared
        assert there(prepared), "it waits for its own words"


async def test_one_that_ended_meanwhile_is_not_taken(tmp_path: Path) -> None:
    async with kept() as runner:
        before = waiting()
        await ahead(runner, tmp_path)
        (prepared,) = waiting() - before
        os.kill(prepared, 9)
        async with asyncio.timeout(60):
            while not all(one.program.ended for one in runner._ahead.values()):  # noqa: ASYNC110  another process's end
                await asyncio.sleep(0.01)
        async with started(runner, tmp_path) as program:
            assert await said(program, b"here\n") == b"here\n"


async def test_one_that_waits_in_a_release_that_was_replaced_is_not_taken(tmp_path: Path) -> None:
    (first := tmp_path / "1").mkdir()
    (second := tmp_path / "2").mkdir()
    (current := tmp_path / "current").symlink_to(first)
    async with kept() as runner:
        before = waiting()
        await ahead(runner, current)
        (prepared,) = waiting() - before
        current.unlink()
        current.symlink_to(second)
        async with started(runner, current) as program:
            assert await said(program, b"here\n") == b"here\n"
            assert os.readlink(f"/proc/{program.pid}/cwd") == str(second)
        assert not there(prepared)


async def test_what_was_started_ahead_and_not_taken_ends_with_the_run(tmp_path: Path) -> None:
    async with kept() as runner:
        before = waiting()
        await ahead(runner, tmp_path)
        (prepared,) = waiting() - before
        await runner.clean(["another run"])
        assert not there(prepared)


async def test_a_folder_that_is_not_there_is_told_from_a_program_that_is_missing(tmp_path: Path) -> None:
    async with kept() as runner:
        with pytest.raises(ProgramMissing, match="folder"):
            await ahead(runner, tmp_path / "nowhere")
        with pytest.raises(ProgramMissing, match="nothing-such"):
            await runner.prepare(["nothing-such"], env=inherited(), directory=tmp_path)
