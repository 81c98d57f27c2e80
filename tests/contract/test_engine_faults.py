"""An engine that says no, hangs, or goes away half-way: each is a sentence, and what was stopped can still be started again."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.containers import api
from bot.errors import BackoutError, Refusal, StepFailed
from bot.platforms.docker import DockerServices
from bot.runners.docker import DockerRunner
from tests.contract.engine_standin import StandIn, standing_in

Fault = tuple[int, str] | str


class Doing:
    """The little of a step's work that services use."""

    run, step, attempt, leaving = "r1", "stop_writers", 1, False

    async def progress(self, text: str) -> None:
        assert text


@pytest.fixture
async def engine() -> AsyncIterator[StandIn]:
    with tempfile.TemporaryDirectory(prefix="backout-") as folder:
        async with standing_in(Path(folder) / "engine.sock") as one:
            yield one


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.5)


def services(engine: StandIn) -> DockerServices:
    return DockerServices(DockerServices.Settings(containers=("shop",), host=engine.host, within="1s"))


FAULTS = pytest.mark.parametrize(
    ("fault", "says"),
    [
        ((409, "is being changed by somebody"), "is being changed by somebody"),
        ((500, "driver failed"), "driver failed"),
        ("hang", "did not answer when it was asked to"),
        ("cut", "can't be reached"),
    ],
    ids=["409", "500", "hangs", "goes away"],
)


@FAULTS
@pytest.mark.parametrize("call", ["POST update", "POST stop"])
async def test_a_stop_that_fails_is_said_and_everything_can_be_started_again(engine: StandIn, fault: Fault, says: str, call: str) -> None:
    work: Any = Doing()
    one = services(engine)
    noted = await one.look()
    engine.faults[call] = fault

    with pytest.raises(BackoutError, match=says) as failed:
        await one.stop(noted, work)

    assert isinstance(failed.value, Refusal | StepFailed)
    assert await one.start(noted, work) == "shop runs"
    assert (engine.running, engine.policy) == (True, "always")


@FAULTS
async def test_a_start_that_fails_is_said_with_its_name_and_can_be_tried_again(engine: StandIn, fault: Fault, says: str) -> None:
    work: Any = Doing()
    one = services(engine)
    noted = await one.look()
    await one.stop(noted, work)
    engine.faults["POST start"] = fault

    with pytest.raises(StepFailed, match=says) as failed:
        await one.start(noted, work)

    assert "shop" in failed.value.message
    assert await one.start(noted, work) == "shop runs"


@FAULTS
async def test_a_proof_that_cannot_be_had_is_no_proof(engine: StandIn, fault: Fault, says: str) -> None:
    work: Any = Doing()
    one = services(engine)
    noted = await one.look()
    await one.stop(noted, work)
    engine.faults["GET json"] = fault
    engine.always = True

    with pytest.raises(BackoutError, match=says):
        await one.prove_stopped(noted)


@FAULTS
async def test_a_check_says_what_is_in_the_way(engine: StandIn, fault: Fault, says: str) -> None:
    engine.faults["GET containers/json"] = fault
    engine.always = True  # a question is asked once more by itself when its connection was cut

    (refusal,) = await services(engine).ready()

    assert refusal.code == "engine_unreachable"
    assert says in refusal.message


async def test_a_socket_that_is_not_there_is_refused_with_its_address(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/gone.sock"

    (refusal,) = await DockerServices(DockerServices.Settings(containers=("shop",), host=host)).ready()
    (same,) = await DockerRunner(DockerRunner.Settings(like="shop", host=host)).ready()

    assert refusal.code == same.code == "engine_unreachable"
    assert host in refusal.message


@pytest.mark.parametrize(
    "settings",
    [
        {"containers": ("a/../b",)},
        {"containers": ()},
        {"containers": ("a",), "host": "tcp://10.0.0.1:2375"},
        {"containers": ("a",), "former": {"a": "../../x"}},
    ],
)
def test_a_name_that_could_lead_elsewhere_is_no_setting(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        DockerServices.Settings(**settings)


@pytest.mark.parametrize(
    "settings", [{}, {"container": "a", "like": "b"}, {"container": "a", "image": "b:1"}, {"like": "a", "rehearsal_network": "bridge"}]
)
def test_a_runner_has_one_place(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        DockerRunner.Settings(**settings)
