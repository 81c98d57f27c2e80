"""Programs end when they are told to, and nothing they say gives a secret away."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

import pytest

from bot import process
from bot.errors import ProgramFailed, ProgramMissing

ENV = {"PATH": os.environ["PATH"]}  # noqa: TID251  a test starts programs as the product does
LONG = timedelta(seconds=60)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_output_is_merged_redacted_and_capped() -> None:
    code = "import sys; print('password is hunter2'); print('postgresql://app:hunter3@h/d', file=sys.stderr); print('x' * 200000)"
    done = await process.run([sys.executable, "-u", "-c", code], env=ENV, timeout=LONG, secrets=("hunter2",))
    assert "hunter" not in done.output
    assert "password is ***" in done.output
    assert "postgresql://app:***@h/d" in done.output
    assert done.dropped > 0
    assert done.code == 0


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(ProgramMissing, match="no-such-program"):
        await process.run(["no-such-program"], env=ENV, timeout=LONG)


async def test_the_deadline_ends_the_program_and_its_children() -> None:
    code = "import os, sys, time; pid = os.fork(); print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(ProgramFailed, match="did not end within") as failed:
        await process.run([sys.executable, "-c", code], env=ENV, timeout=timedelta(seconds=1))
    pids = [int(line) for line in failed.value.output.split()]
    assert len(pids) == 2
    async with asyncio.timeout(30):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110  a condition of other processes
            await asyncio.sleep(0.02)


async def test_a_child_outside_the_group_that_holds_the_pipe_does_not_hold_us() -> None:
    code = "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(20)\nelse:\n    time.sleep(600)"
    async with asyncio.timeout(15), process.start([sys.executable, "-c", code], env=ENV) as program:
        pid = program.pid
    assert not alive(pid)


async def test_a_program_gets_no_variable_that_it_was_not_given() -> None:
    done = await process.run([sys.executable, "-c", "import os; print(sorted(os.environ))"], env={"ONLY": "this"}, timeout=LONG)
    assert "'ONLY'" in done.output
    assert "HOME" not in done.output
