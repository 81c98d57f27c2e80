"""What a rehearsal does before its dump is there is done again, and told, when its time has come; and it never outlives the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.durable import World
from bot.errors import Refusal, StepFailed
from bot.model import Attempt, AttemptState, State
from bot.ports import Scratch, Scratches
from bot.rollback.ahead import Ahead, opened
from tests.unit.test_hold import plan


class Tool:
    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def upgrade(self, to: str, work: World, **_: Any) -> None:
        assert await work.may_begin()
        if self._error is not None:
            raise self._error

    async def prepare(self) -> None: ...


class Server:
    """Counts itself; `refuses` the early one; what is built there `fails`."""

    early = True

    def __init__(self, refuses: Exception | None = None, fails: Exception | None = None) -> None:
        self.open_now, self.opened = 0, []
        self._refuses, self._fails = refuses, fails

    @asynccontextmanager
    async def open(self, work: World, *, sampled: bool = False, early: bool = False) -> AsyncIterator[Scratch]:
        if early and self._refuses is not None:
            raise self._refuses
        self.opened.append("early" if early else "late")
        self.open_now += 1
        try:
            yield cast(Scratch, self)
        finally:
            self.open_now -= 1

    async def create(self, name: str) -> None: ...
    async def drop(self, name: str) -> None: ...
    def at(self, name: str) -> tuple[Any, Tool]:
        return self, Tool(self._fails)

    async def snapshot(self, *, count: bool) -> str:
        return "a schema"


class Journal:
    def __init__(self) -> None:
        self.state = State.REHEARSING

    async def run(self, run: str) -> SimpleNamespace:
        return SimpleNamespace(state=self.state, last_attempt=lambda _: Attempt.model_construct(attempt=0, state=AttemptState.INTENDED))

    async def progress(self, *_: object) -> None: ...


def work(**more: Any) -> World:
    known: dict[str, Any] = (
        dict.fromkeys(World.__dataclass_fields__)
        | {"changed": Journal().progress, "rehearsing": True}
        | {"plan": plan(strategy="downgrade"), "run": "r1", "step": "rehearse", "attempt": 0}
    )
    return World(**cast(Any, known | {"journal": Journal()} | more))


async def tried(server: Server, ahead: Ahead | None) -> object:
    async with opened(work(), cast(Scratches, server), ahead, sampled=False) as (_, built):
        assert server.open_now == 1
        return await built()


def begun(server: Server) -> Ahead:
    return Ahead(work(), cast(Scratches, server))


async def test_what_was_opened_ahead_is_what_is_used_and_it_goes_with_the_rehearsal() -> None:
    server = Server()
    assert await tried(server, begun(server)) == ("a schema", "a schema")
    assert (server.opened, server.open_now) == (["early"], 0)


async def test_what_can_not_be_opened_ahead_is_opened_when_it_is_needed() -> None:
    server = Server(refuses=Refusal("rehearsal_impossible", "no room", "make some"))
    assert await tried(server, begun(server)) == ("a schema", "a schema")
    assert (server.opened, server.open_now) == (["late"], 0)


async def test_a_history_that_can_not_be_built_ahead_is_told_to_whoever_asks_for_it() -> None:
    server = Server(fails=StepFailed("there is no table orders"))
    with pytest.raises(StepFailed, match="no table orders"):
        await tried(server, begun(server))
    assert server.open_now == 0


async def test_nothing_is_built_for_a_run_that_is_not_rehearsed_any_more() -> None:
    server, journal = Server(), Journal()
    journal.state = State.ABORTED
    ahead = Ahead(work(journal=journal), cast(Scratches, server))
    async with opened(work(), cast(Scratches, server), ahead, sampled=False) as (_, built):
        with pytest.raises(AssertionError):
            await built()


async def test_what_nobody_comes_for_is_closed() -> None:
    server = Server()
    ahead = begun(server)
    await ahead.found()
    await ahead.close()
    assert (server.opened, server.open_now) == (["early"], 0)


async def test_what_is_still_opening_is_closed_too() -> None:
    server = Server()
    await begun(server).close()
    assert server.open_now == 0


async def test_whoever_is_cancelled_in_the_middle_leaves_no_server() -> None:
    server = Server()
    inside = asyncio.Event()

    async def rehearsing() -> None:
        async with opened(work(), cast(Scratches, server), begun(server), sampled=False):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(rehearsing())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.open_now == 0
