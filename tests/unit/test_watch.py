"""The watch: a revision that moves by itself is found, health is looked at, and a Cancel leaves it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.durable import World
from bot.errors import StepFailed
from bot.steps.watch import watch


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """A world whose clock moves by what is slept; `revisions` and `healths` are what each look finds."""

    def make(revisions: list[str] | None = None, healths: list[bool] | None = None, cancel_after: int | None = None, seconds: int = 60) -> World:
        now, looks = [0.0], [0]

        async def sleep(pause: float) -> None:
            now[0] += pause

        monkeypatch.setattr("asyncio.sleep", sleep)

        async def heads(*_version: str | None) -> tuple[str, ...]:
            looks[0] += 1
            left = revisions or ["0004"]
            return (left.pop(0) if len(left) > 1 else left[0],)

        async def health_now(_world: World) -> dict[str, Any]:
            left = healths or [True]
            ok = left.pop(0) if len(left) > 1 else left[0]
            return {"ok": ok, "says": "HTTP 200 in 8 ms" if ok else "HTTP 500 in 9 ms", "seconds": 0.008}

        async def ending() -> bool:
            return cancel_after is not None and looks[0] >= cancel_after

        async def nothing(*_: Any) -> None: ...

        async def logs(_lines: int) -> dict[str, tuple[str, ...]]:
            return {"api": ("started",)}

        target = SimpleNamespace(
            watch=dt.timedelta(seconds=seconds), health=object() if healths else None, database=SimpleNamespace(heads=heads),
            platform=SimpleNamespace(logs=logs),
        )  # fmt: skip
        plan = SimpleNamespace(to="0004", version=("alembic_version", None, None))
        clock = SimpleNamespace(monotonic=lambda: now[0])
        return cast("World", SimpleNamespace(target=target, plan=plan, clock=clock, health_now=health_now, ending=ending, progress=nothing))

    return make


async def test_it_looks_until_its_time_is_over_and_says_how_fast_it_answered(make_world: Callable[..., World]) -> None:
    found = await watch.body(make_world(healths=[True]))
    assert found.summary == "13 looks, the revision stayed at 0004, answers in 8 ms"
    assert found.facts["logs"] == {"api": ["started"]}


async def test_a_revision_that_moves_by_itself_is_red_and_remembered(make_world: Callable[..., World]) -> None:
    with pytest.raises(StepFailed, match="is at 0005 again: something migrates it") as caught:
        await watch.body(make_world(revisions=["0004", "0004", "0005"]))
    assert caught.value.facts == {"moved_by_itself": "0005"}


async def test_health_that_is_red_once_is_passed_over_and_three_times_in_a_row_is_not(make_world: Callable[..., World]) -> None:
    await watch.body(make_world(healths=[True, False, False, True]))
    with pytest.raises(StepFailed, match="not well, 3 looks in a row: HTTP 500"):
        await watch.body(make_world(healths=[True, False]))


async def test_a_cancel_leaves_the_watch_and_is_no_failure(make_world: Callable[..., World]) -> None:
    found = await watch.body(make_world(cancel_after=2))
    assert found.summary == "2 looks, the revision stayed at 0004, left by a Cancel 55 s early"
