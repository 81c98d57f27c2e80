"""A step that does not say what may be done after a crash can't be written."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot.durable import Evidence, Happened, OnCrash, Probed, World, application, step
from bot.errors import StepFailed
from bot.model import Attempt, AttemptState, State
from bot.steps import STEPS

GOOD: dict[str, Any] = {"on_crash": OnCrash.RERUN, "timeout": dt.timedelta(seconds=1), "destructive": False, "says": "do it"}


async def probe(world: World, attempt: Attempt) -> Probed:
    return Probed(Happened.UNKNOWN, "nobody knows")


async def body(world: World) -> Evidence:
    return Evidence("done")


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_missing_promise_is_a_type_error(missing: str) -> None:
    with pytest.raises(TypeError):
        step(**{key: value for key, value in GOOD.items() if key != missing})


@pytest.mark.parametrize(
    "contradiction",
    [
        {"on_crash": OnCrash.PROBE},
        {"on_crash": OnCrash.RERUN, "probe": probe},
        {"on_crash": OnCrash.ASK, "probe": probe},
        {"on_crash": OnCrash.ASK, "retries": 1},
        {"destructive": True, "retries": 1},
    ],
    ids=["PROBE without a probe", "RERUN with a probe", "ASK with a probe", "ASK with retries", "destructive with retries"],
)
def test_contradictory_promises_are_a_type_error(contradiction: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        step(**{**GOOD, **contradiction})


def test_a_step_is_its_function_bound_to_its_promises() -> None:
    made = step(**{**GOOD, "on_crash": OnCrash.PROBE, "probe": probe})(body)
    assert (made.name, made.on_crash, made.probe, made.retries) == ("body", OnCrash.PROBE, probe, 0)


def test_what_destroys_is_probed_or_asked_about_and_never_simply_done_again() -> None:
    destructive = [made for made in STEPS.values() if made.destructive]
    assert [made.name for made in destructive] == ["swap", "replace", "deploy_backup", "stamp", "downgrade", "upgrade"]
    assert all(made.on_crash is not OnCrash.RERUN and made.retries == 0 for made in destructive)


def test_the_name_of_an_attempts_sessions_fits_into_postgres() -> None:
    assert application("r234567", "check_preconditions", 12) == "backout/r234567/check_preconditions/12"
    assert len(application("r" * 60, "check_preconditions", 12)) == 63


async def test_the_writers_are_looked_for_in_the_last_moment_before_the_tool_is_told_to_begin() -> None:
    class Somebody:
        async def prove_stopped(self, work: object) -> None:
            raise StepFailed("somebody is still in")

    class Journal:
        async def run(self, run: str) -> SimpleNamespace:
            return SimpleNamespace(last_attempt=lambda _: SimpleNamespace(attempt=1, state=AttemptState.INTENDED), digest="d", state=State.RUNNING)

    plan = SimpleNamespace(digest=lambda: "d", stops_writers=True)
    world = SimpleNamespace(
        journal=Journal(), run="r1", step="downgrade", attempt=1, plan=plan, rehearsing=False, target=SimpleNamespace(platform=Somebody())
    )
    with pytest.raises(StepFailed, match="somebody is still in"):
        await World.may_begin(cast("World", world))
    world.plan = SimpleNamespace(digest=lambda: "d", stops_writers=False)  # nobody is stopped
    assert await World.may_begin(cast("World", world)) is True
    world.plan = SimpleNamespace(digest=lambda: "another", stops_writers=False)
    assert await World.may_begin(cast("World", world)) is False
