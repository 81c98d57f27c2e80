"""Named containers and Compose services: written down, stopped, proven, started again, on real engines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bot.containers.services import ContainerServices
from bot.errors import Refusal, StepFailed
from bot.platforms.compose import ComposeServices
from bot.platforms.docker import DockerServices
from bot.running import Inside
from tests.platforms.conftest import DEAF, Doing, Lab
from tests.platforms.engines import IMAGE, Engine


def docker(lab: Lab, *containers: str, **settings: Any) -> DockerServices:
    return DockerServices(DockerServices.Settings(containers=containers, host=lab.engine.host, **{"within": "20s", **settings}))


def labelled(project: str, service: str, number: int = 1, **more: str) -> dict[str, Any]:
    compose = {"project": project, "service": service, "container-number": str(number), "oneoff": "False", **more}
    return {"Labels": {f"com.docker.compose.{key}": value for key, value in compose.items()}}


async def stopped(services: ContainerServices, work: Doing) -> dict[str, Any]:
    noted = dict(await services.look())
    await services.stop(noted, work)
    return noted


# ------------------------------------------------------------------ stop and start


async def test_what_ran_runs_again_in_the_written_order_and_what_had_been_stopped_stays_stopped(lab: Lab, work: Doing) -> None:
    second, first = await lab.run("b"), await lab.run("a")
    off = await lab.run("off", start=False)
    services = docker(lab, second, off, first)
    assert await services.ready() == ()

    noted = await services.look()
    said = await services.stop(noted, work)

    assert said == f"{second} stopped; {first} stopped; {off} had been stopped before"
    assert [await lab.runs(name) for name in (first, second, off)] == [False, False, False]
    await services.prove_stopped(noted)
    assert await services.start(noted, work) == f"{second} runs; {first} runs"
    assert [await lab.runs(name) for name in (first, second, off)] == [True, True, False]
    began = [(await lab.show(name) or {})["State"]["StartedAt"] for name in (second, first)]
    assert began == sorted(began)


async def test_stopping_and_starting_twice_comes_to_the_same(lab: Lab, work: Doing) -> None:
    name = await lab.run("a")
    services = docker(lab, name)
    noted = await stopped(services, work)
    await services.stop(noted, work)
    await services.start(noted, work)
    before = await lab.show(name)

    await services.start(noted, work)

    assert (await lab.show(name) or {})["State"]["StartedAt"] == (before or {})["State"]["StartedAt"]


async def test_a_container_that_ignores_sigterm_is_killed_and_said(lab: Lab, work: Doing) -> None:
    name = await lab.run("deaf", DEAF, StopTimeout=1)
    services = docker(lab, name)

    said = await services.stop(await services.look(), work)

    assert said == f"{name} stopped (it did not end within 1 s and was killed)"
    assert not await lab.runs(name)


async def test_no_restart_policy_brings_a_writer_back_not_even_with_the_engine_and_it_is_given_back(lab: Lab, work: Doing) -> None:
    policies = ("always", "unless-stopped", "on-failure")
    kept = [await lab.run(f"kept-{policy}", DEAF, StopTimeout=1, HostConfig={"RestartPolicy": {"Name": policy}}) for policy in policies]
    services = docker(lab, *kept)
    noted = await stopped(services, work)

    await asyncio.to_thread(lab.engine.stop)
    await asyncio.to_thread(lab.engine.start)

    await services.prove_stopped(noted)
    await services.start(noted, work)
    found = [(await lab.show(name)) or {} for name in kept]
    assert [(one["State"]["Running"], one["HostConfig"]["RestartPolicy"]["Name"]) for one in found] == [(True, policy) for policy in policies]


async def test_a_paused_container_is_stopped_and_paused_again(lab: Lab, work: Doing) -> None:
    name = await lab.run("frozen")
    await lab.docker.containers.container(name).pause()
    services = docker(lab, name)
    noted = await stopped(services, work)
    assert not await lab.runs(name)

    said = await services.start(noted, work)

    assert said == f"{name} runs, and paused as before"
    assert ((await lab.show(name)) or {})["State"]["Paused"] is True


async def test_a_container_that_somebody_starts_is_noticed_by_name_and_time(lab: Lab, work: Doing) -> None:
    name = await lab.run("a")
    services = docker(lab, name)
    noted = await stopped(services, work)

    await lab.start(name)

    with pytest.raises(StepFailed, match=rf"^Not stopped: {name} \(running since 20..-..-..T\S+ UTC\)\. Nothing was executed\."):
        await services.prove_stopped(noted)


async def test_a_container_that_was_created_anew_is_noticed(lab: Lab, work: Doing) -> None:
    name = await lab.run("a")
    services = docker(lab, name)
    noted = await stopped(services, work)
    await lab.docker.containers.container(name).delete()

    await lab.run("a")

    with pytest.raises(StepFailed, match=f"{name} \\(created anew as [0-9a-f]{{12}}, running\\)"):
        await services.prove_stopped(noted)


async def test_a_container_that_ends_at_once_stops_the_line_and_is_quoted(lab: Lab, work: Doing, tmp_path: Path) -> None:
    script = "test -e /flag/on || { echo postgres://u:secret@h/d; exit 3; }; " + DEAF
    broken = await lab.run("a", script, HostConfig={"Binds": [f"{tmp_path}:/flag"]}, StopTimeout=1, start=False)
    after = await lab.run("b")
    (tmp_path / "on").touch()
    await lab.start(broken)
    services = docker(lab, broken, after)
    noted = await stopped(services, work)
    (tmp_path / "on").unlink()

    with pytest.raises(StepFailed, match=rf"^{broken} was started and ended with 3\. It said: postgres://u:\*\*\*@h/d$") as failed:
        await services.start(noted, work)

    assert failed.value.facts == {"started": [], "failed": [failed.value.message]}
    assert not await lab.runs(after)
    work.leaving = True
    with pytest.raises(StepFailed, match=f"Started: {after} runs"):
        await services.start(noted, work)
    assert await lab.runs(after)


async def test_a_container_with_a_health_check_is_waited_for_until_it_is_healthy(lab: Lab, work: Doing, tmp_path: Path) -> None:
    if lab.engine.kind == "podman":
        pytest.skip("Podman runs health checks by systemd's timers, which are not here")
    second = 1_000_000_000
    check = {"Test": ["CMD", "test", "-e", "/flag/well"], "Interval": second // 5, "Timeout": second, "Retries": 3}
    name = await lab.run("a", HostConfig={"Binds": [f"{tmp_path}:/flag"]}, Healthcheck=check)
    services = docker(lab, name, within="3s")
    noted = await stopped(services, work)

    with pytest.raises(StepFailed, match=f"^{name} is not ready after 3 s: running, (starting|unhealthy)"):
        await services.start(noted, work)

    (tmp_path / "well").touch()
    assert await services.start(noted, work) == f"{name} runs and is healthy"


async def test_named_others_are_restarted_once(lab: Lab, work: Doing) -> None:
    name, web = await lab.run("a"), await lab.run("web")
    services = docker(lab, name, restart=(web,))
    noted = await stopped(services, work)
    before = await lab.show(web)

    assert await services.start(noted, work) == f"{name} runs; {web} restarted"

    after = await lab.show(web)
    assert before
    assert after
    assert before["State"]["StartedAt"] != after["State"]["StartedAt"]
    assert await services.start(noted, work) == f"{name} runs"


async def test_the_commands_by_hand_bring_everything_back(lab: Lab, work: Doing) -> None:
    name = await lab.run("a", HostConfig={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}})
    off = await lab.run("off", start=False)
    services = docker(lab, name, off)

    told = services.by_hand(await services.look())

    docker_ = f"docker -H {lab.engine.host}"
    assert told == (f"{docker_} update --restart on-failure:3 {name}", f"{docker_} start {name}")


async def test_logs_are_both_streams_in_order_without_secrets(lab: Lab) -> None:
    name = await lab.run("a", "echo one; sleep 0.3; echo postgres://u:secret@h/d >&2; sleep 0.3; echo three; sleep 60")
    services = docker(lab, name)

    async with asyncio.timeout(120):
        while len(found := (await services.logs(3))[name]) < 3:  # noqa: ASYNC110  a condition of another process
            await asyncio.sleep(0.05)

    assert found == ("one", "postgres://u:***@h/d", "three")
    assert (await services.logs(1))[name] == ("three",)


# ------------------------------------------------------------------ what stands in the way


async def test_a_container_that_is_not_there_is_refused_and_a_near_one_named(lab: Lab) -> None:
    name = await lab.run("shop-api")

    (refusal,) = await docker(lab, name.replace("api", "apo")).ready()

    assert refusal.code == "container_missing"
    assert refusal.next == f"Did you mean {name}?"
    with pytest.raises(Refusal, match="has no container"):
        await docker(lab, "nothing-like-it").look()


async def test_a_container_that_would_be_gone_is_refused(lab: Lab) -> None:
    name = await lab.run("a", HostConfig={"AutoRemove": True})

    (refusal,) = await docker(lab, name).ready()

    assert (refusal.code, "--rm" in refusal.message) == ("container_unfit", True)


async def test_the_container_in_which_the_tool_is_executed_cannot_be_one_that_is_stopped_for_it(lab: Lab) -> None:
    project = f"shop{lab.mark}"
    name, beside = await lab.run("api-1", **labelled(project, "api")), await lab.run("tool")
    compose = ComposeServices(ComposeServices.Settings(project=project, services=("api",), host=lab.engine.host))

    for services in (docker(lab, name), compose):
        (refusal,) = await services.ready(Inside(lab.engine.host, name))
        assert (refusal.code, refusal.warning) == ("container_unfit", False)
        assert refusal.message.startswith(f"The tool is to be executed in {name} (runner.container), which is among the containers that are stopped")
        assert refusal.next.startswith(f"Write like: {name} in place of container: {name}")
        assert await services.ready(Inside(lab.engine.host, beside)) == ()
        assert await services.ready(Inside("unix:///run/another.sock", name)) == (), "another engine has another one of that name"


async def test_an_engine_that_is_not_there_is_said_and_what_was_stopped_starts_once_it_is_back(lab: Lab, work: Doing) -> None:
    name = await lab.run("a")
    services = docker(lab, name)
    noted = await stopped(services, work)
    await asyncio.to_thread(lab.engine.stop)
    try:
        (refusal,) = await services.ready()
        assert refusal.code == "engine_unreachable"
        assert f"The container engine at {lab.engine.host} can't be reached:" in refusal.message
        with pytest.raises(StepFailed, match=f"{name}: The container engine"):
            await services.start(noted, work)
    finally:
        await asyncio.to_thread(lab.engine.start)

    assert await services.start(noted, work) == f"{name} runs"


# ------------------------------------------------------------------ Compose


async def test_compose_services_are_found_by_their_labels_each_container_of_them(lab: Lab, work: Doing) -> None:
    project = f"shop{lab.mark}"
    two, one = await lab.run("api-2", **labelled(project, "api", 2)), await lab.run("api-1", **labelled(project, "api"))
    worker = await lab.run("worker-1", **labelled(project, "worker"))
    others = [await lab.run("web-1", **labelled(project, "web")), await lab.run("x-api-1", **labelled("another", "api"))]
    others.append(await lab.run("job", **labelled(project, "api", oneoff="True")))
    services = ComposeServices(ComposeServices.Settings(project=project, services=("worker", "api"), host=lab.engine.host))
    assert await services.ready() == ()

    noted = await services.look()
    assert await services.stop(noted, work) == f"{worker} stopped; {one} stopped; {two} stopped"

    assert [await lab.runs(name) for name in others] == [True, True, True]
    await services.prove_stopped(noted)
    three = await lab.run("api-3", **labelled(project, "api", 3))
    with pytest.raises(StepFailed, match=rf"{three} \(created anew"):
        await services.prove_stopped(noted)
    assert await services.start(noted, work) == f"{worker} runs; {one} runs; {two} runs"


async def test_a_compose_project_or_service_that_is_not_there_is_refused_by_name(lab: Lab) -> None:
    project = f"shop{lab.mark}"
    await lab.run("api-1", **labelled(project, "api"))

    (refusal,) = await ComposeServices(ComposeServices.Settings(project=project, services=("apu",), host=lab.engine.host)).ready()
    assert (refusal.code, refusal.next) == ("container_missing", "Did you mean api?")
    assert refusal.message == f"The project {project} has no service apu."
    (refusal,) = await ComposeServices(ComposeServices.Settings(project=f"{project}x", services=("api",), host=lab.engine.host)).ready()
    assert (refusal.code, refusal.next) == ("container_missing", f"Did you mean {project}?")


# ------------------------------------------------------------------ the application's own way back


async def rolled(lab: Lab, work: Doing, **config: Any) -> tuple[str, DockerServices, dict[str, Any], dict[str, Any]]:
    """Stopped, with what it was known."""
    name = await lab.run("a", **config)
    services = docker(lab, name, former={name: f"{IMAGE}:1.4"})
    noted = await stopped(services, work)
    return name, services, noted, dict(await services.former())


async def test_a_container_is_created_again_on_its_former_image_with_all_else_as_it_was(lab: Lab, work: Doing, tmp_path: Path) -> None:
    mine = {"Env": ["COLOUR=red"], "WorkingDir": "/app", "User": "1000:1000", "Labels": {"team": "shop"}}
    host = {"Binds": [f"{tmp_path}:/data"], "RestartPolicy": {"Name": "always"}, "ExtraHosts": ["db:127.0.0.1"], "CapDrop": ["NET_RAW"]}
    name, services, noted, former = await rolled(lab, work, HostConfig=host, **mine)
    before = (await lab.show(name)) or {}
    assert former[name]["says"] == f"{name}: {IMAGE}:1.5 -> {IMAGE}:1.4"

    assert await services.roll_back(former, work) == f"{name} is on {IMAGE}:1.4 again (was on {IMAGE}:1.5)"
    assert not await lab.runs(name), "what is stopped stays stopped"
    assert await lab.show(f"{name}.before-{work.run}") is not None, "kept until the new one runs"

    assert await services.start(noted, work) == f"{name} runs, on {IMAGE}:1.4"
    after = (await lab.show(name)) or {}
    assert "VERSION=1.4" in after["Config"]["Env"]
    assert "COLOUR=red" in after["Config"]["Env"]
    assert "VERSION=1.5" not in after["Config"]["Env"]
    for key in ("WorkingDir", "User", "Cmd"):
        assert after["Config"][key] == before["Config"][key], key
    for key in ("Binds", "NetworkMode", "ExtraHosts"):
        assert after["HostConfig"][key] == before["HostConfig"][key], key
    assert after["HostConfig"]["RestartPolicy"]["Name"] == "always"
    assert after["Config"]["Labels"]["team"] == "shop"
    assert await lab.show(f"{name}.before-{work.run}") is None
    assert await services.former() == {}, "it is what it was"


@pytest.mark.parametrize(
    ("point", "on"), [("created", True), ("created", False), ("old aside", True), ("old aside", False), ("renamed", True)],
    ids=lambda one: {True: "and goes on", False: "and leaves"}.get(one, one),
)  # fmt: skip
async def test_a_way_back_that_dies_half_way_goes_on_or_leaves_the_service_as_it_was(
    lab: Lab, work: Doing, monkeypatch: pytest.MonkeyPatch, point: str, on: bool
) -> None:
    from bot.containers.api import Engine as Client

    name, services, noted, former = await rolled(lab, work)
    left = {"created": 0, "old aside": 1, "renamed": 2}[point]
    rename = Client.rename

    async def dies(self: Client, identity: str, to: str) -> None:
        nonlocal left
        if left == 0:
            raise ZeroDivisionError
        left -= 1
        await rename(self, identity, to)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "rename", dies)
        if point == "renamed":
            await services.roll_back(former, work)
        else:
            with pytest.raises(ZeroDivisionError):
                await services.roll_back(former, work)

    if on:
        await services.roll_back(former, work)
    await services.start(noted, work)

    found = (await lab.show(name)) or {}
    image = "1.4" if on or point == "renamed" else "1.5"
    assert (found["State"]["Running"], f"VERSION={image}" in found["Config"]["Env"]) == (True, True)
    assert [one["Names"] for one in await lab.all()] == [[f"/{name}"]], "nothing is left beside it"


async def test_an_image_that_cannot_be_pulled_is_said_and_the_service_starts_as_it_was(lab: Lab, work: Doing) -> None:
    name = await lab.run("a")
    services = docker(lab, name, former={name: "127.0.0.1:1/nobody/shop:0.9"})
    (warning,) = await services.ready()
    assert (warning.code, warning.warning) == ("former_image_not_here", True)
    noted = await stopped(services, work)

    with pytest.raises(StepFailed, match=f"^{name} can't go back to 127.0.0.1:1/nobody/shop:0.9: it is not on the engine, and it can't be pulled"):
        await services.roll_back(await services.former(), work)

    assert await services.start(noted, work) == f"{name} runs"


async def test_aliases_on_a_network_of_its_own_are_kept(lab: Lab, work: Doing) -> None:
    network = await lab.network()
    joined = {"EndpointsConfig": {network: {"Aliases": ["api"]}}}
    name, services, noted, former = await rolled(lab, work, HostConfig={"NetworkMode": network}, NetworkingConfig=joined)

    await services.roll_back(former, work)
    await services.start(noted, work)

    found = (await lab.show(name)) or {}
    assert list(found["NetworkSettings"]["Networks"]) == [network]
    assert "api" in found["NetworkSettings"]["Networks"][network]["Aliases"]


def test_the_engines_are_two(engine: Engine) -> None:
    assert engine.kind in ("docker", "podman")
