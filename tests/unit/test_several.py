"""Several places: stopped in order, started in reverse, written down first; nobody else in the database; a failing one never holds up the way out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from bot.errors import Refusal, StepFailed
from bot.place import Connect, Session
from bot.platforms.none import NoPlatform
from bot.platforms.services import ServicesPlatform, ServicesSettings
from bot.platforms.several import Several
from bot.running import Inside, Platform

STRANGER = Session(pid=7, user="app", application="worker")


@dataclass
class Work:
    """Of the keeping.Work port, what platforms use."""

    stopped: dict[str, Any] = field(default_factory=dict)
    leaving: bool = False
    told: list[str] = field(default_factory=list)

    async def remember(self, **facts: Any) -> None:
        self.stopped |= facts

    async def progress(self, text: str) -> None:
        self.told.append(text)


class Programs:
    """running.Services over programs in memory: `running` is the world, `fails` those that would not start."""

    kind = "programs"

    def __init__(self, log: list[str], **running: bool) -> None:
        self.log, self.running = log, running
        self.fails: set[str] = set()

    async def ready(self, inside: Inside | None = None) -> tuple[Refusal, ...]:
        return ()

    async def look(self) -> Mapping[str, Any]:
        self.log.append(f"look {'+'.join(self.running)}")
        return dict(self.running)

    async def stop(self, noted: Mapping[str, Any], work: Any) -> str:
        self.log.append(f"stop {'+'.join(noted)}")
        self.running = dict.fromkeys(self.running, False)
        return f"stopped {', '.join(noted)}"

    async def prove_stopped(self, noted: Mapping[str, Any]) -> None:
        if there := [name for name in noted if self.running[name]]:
            raise StepFailed(f"{there[0]} runs again.")

    async def start(self, noted: Mapping[str, Any], work: Any) -> str:
        self.log.append(f"start {'+'.join(noted)}")
        for name, ran in noted.items():
            if ran and name in self.fails:
                raise StepFailed(f"{name} would not start.")
            self.running[name] = ran
        return f"started {', '.join(noted)}"

    def by_hand(self, noted: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(f"run {name}" for name, ran in noted.items() if ran)

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        if "gone" in self.fails:
            raise StepFailed("the place does not answer.")
        return dict.fromkeys(self.running, ("a line",))

    async def former(self) -> Mapping[str, Any]:
        return {name: {"says": f"{name} 1.4"} for name in self.running}

    async def roll_back(self, former: Mapping[str, Any], work: Any) -> str:
        return f"{', '.join(former)} rolled back"


@dataclass
class World:
    log: list[str] = field(default_factory=list)
    there: list[tuple[Session, ...]] = field(default_factory=list)
    work: Work = field(default_factory=Work)
    settings: ServicesSettings = field(default_factory=ServicesSettings)

    def __post_init__(self) -> None:
        self.jobs = Programs(self.log, scoring=True, nightly=False)
        self.api = Programs(self.log, api=True)
        members: list[Platform] = [ServicesPlatform(self.jobs, "programs", self.settings), ServicesPlatform(self.api, "programs 2", self.settings)]
        self.several = Several(members, self.strangers, patience=0.0)

    async def strangers(self) -> tuple[Session, ...]:
        return self.there.pop(0) if len(self.there) > 1 else self.there[0] if self.there else ()

    async def stop(self) -> str:
        return str((await self.several.stop_writers(self.work))["says"])  # type: ignore[arg-type]  # of the port, what is used

    async def start(self) -> str:
        return str((await self.several.start_writers(self.work))["says"])  # type: ignore[arg-type]  # as above


async def test_what_is_there_is_written_down_before_each_stop_and_started_in_reverse() -> None:
    world = World()
    await world.stop()
    assert world.log == ["look scoring+nightly", "stop scoring+nightly", "look api", "stop api"]
    assert world.work.stopped == {"programs": {"scoring": True, "nightly": False}, "programs 2": {"api": True}}
    await world.start()
    assert world.log[4:] == ["start api", "start scoring+nightly"]
    assert world.jobs.running == {"scoring": True, "nightly": False}


async def test_a_second_stop_keeps_what_the_first_had_written_down() -> None:
    """The first attempt died after it had stopped them: what it sees now is not what ran."""
    world = World()
    await world.stop()
    await world.stop()
    assert world.work.stopped["programs"] == {"scoring": True, "nightly": False}
    assert world.log.count("look api") == 1


async def test_services_that_were_never_stopped_are_not_started() -> None:
    world = World()
    assert "nothing had been stopped" in await world.start()
    assert world.log == []


async def test_sessions_get_a_moment_to_leave() -> None:
    world = World(there=[(STRANGER,), ()])
    world.several._patience = 30
    assert (await world.stop()).endswith("nobody else is in the database")
    assert "7 (app, worker)" in world.work.told[0]


async def test_who_stays_in_the_database_is_named_and_nothing_is_executed() -> None:
    world = World(there=[(STRANGER, Session(pid=0, state="prepared transaction order-1"))])
    with pytest.raises(StepFailed, match=r"7 \(app, worker\), prepared transaction order-1.*Nothing was executed") as caught:
        await world.stop()
    assert [one["pid"] for one in caught.value.facts["strangers"]] == [7, 0]


async def test_a_service_that_runs_again_or_a_session_that_came_back_is_found_in_the_last_moment() -> None:
    world = World()
    await world.stop()
    await world.several.prove_stopped(world.work)  # type: ignore[arg-type]  # of the port, what is used
    world.there = [(STRANGER,)]
    with pytest.raises(StepFailed, match="sessions of others"):
        await world.several.prove_stopped(world.work)  # type: ignore[arg-type]  # as above
    world.api.running["api"] = True
    with pytest.raises(StepFailed, match="api runs again"):
        await world.several.prove_stopped(world.work)  # type: ignore[arg-type]  # as above


async def test_a_failing_start_stops_the_line_and_says_how_to_do_it_by_hand() -> None:
    world = World()
    await world.stop()
    world.api.fails = {"api"}
    with pytest.raises(StepFailed, match="api would not start") as caught:
        await world.start()
    assert caught.value.facts["by_hand"] == ["run api"]
    assert "start scoring+nightly" not in world.log


async def test_a_run_that_leaves_starts_whatever_can_be_started() -> None:
    world = World()
    await world.stop()
    world.api.fails, world.work.leaving = {"api"}, True
    with pytest.raises(StepFailed, match="api would not start"):
        await world.start()
    assert world.jobs.running["scoring"]


async def test_logs_of_a_place_that_does_not_answer_say_so_and_the_others_are_there() -> None:
    world = World()
    world.jobs.fails = {"gone"}
    assert await world.several.logs(50) == {"programs": ("could not be read: the place does not answer.",), "api": ("a line",)}


async def test_the_former_application_is_known_by_place_and_rolled_back_there() -> None:
    world = World()
    former = await world.several.former()
    assert set(former) == {"programs", "programs 2"}
    told = await world.several.roll_back({"programs 2": former["programs 2"]}, world.work)  # type: ignore[arg-type]  # of the port, what is used
    assert told["says"] == "api rolled back"


async def test_the_door_stands_in_for_the_look_into_the_database() -> None:
    class Door(NoPlatform):
        kind = "database"

        async def entrance(self, work: Any) -> Connect | None:
            return Connect(host="h", port=1, user="u", database="d")

    several = Several([Door(NoPlatform.Settings())], lambda: pytest.fail("the door proves it"))  # type: ignore[arg-type]  # never called
    await several.prove_stopped(SimpleNamespace())  # type: ignore[arg-type]  # not looked at
    entrance = await several.entrance(SimpleNamespace())  # type: ignore[arg-type]  # as above
    assert entrance is not None
