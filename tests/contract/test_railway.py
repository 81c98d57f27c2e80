"""The Railway platform against an API that refuses what the real one refuses (tests/railway)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from bot.errors import StepFailed
from bot.platforms.railway import RailwayServices, RailwaySettings
from bot.railway import Railway
from tests.contract.jobs import Job
from tests.railway.server import ACCOUNT_TOKEN, ENVIRONMENT, PROJECT, PROJECT_TOKEN, Deployment, Fault, RailwayStandIn

Make = Callable[..., RailwayServices]
MODE = "MAINTENANCE_MODE"


@pytest.fixture
async def railway() -> AsyncIterator[RailwayStandIn]:
    """An api that has the variable, and a worker that has it not."""
    async with RailwayStandIn() as made:
        await made.add("api", {MODE: "false", "DATABASE_URL": "postgresql://app:hidden@db/escrow"})
        await made.add("worker", {"QUEUE": "mail"})
        yield made


@pytest.fixture
def make(railway: RailwayStandIn) -> Make:
    def made(*, patience: float = 2.0, request: float = 0.5, **settings: Any) -> RailwayServices:
        given = {"token": PROJECT_TOKEN, "project": PROJECT, "environment": ENVIRONMENT, "services": ["api", "worker"], "within": "5s"}
        read = RailwaySettings.model_validate({**given, "api": railway.api, **settings})
        return RailwayServices(read, Railway(read, patience=patience, request=request, pause=0.02), pause=0.02)

    return made


def runs_with(railway: RailwayStandIn, name: str) -> list[str | None]:
    """The variable, of each deployment that is active."""
    return [one.variables.get(MODE) for one in railway.services[name].active]


def changes(railway: RailwayStandIn) -> list[str]:
    return [name for name, _ in railway.asked if name in {"variableUpsert", "variableDelete", "deploymentRedeploy", "deploymentRestart"}]


# ------------------------------------------------------------------ stop and start


async def test_services_go_into_maintenance_and_exactly_what_was_there_comes_back(railway: RailwayStandIn, make: Make) -> None:
    services, job = make(), Job()
    before = {name: dict(one.variables) for name, one in railway.services.items()}
    noted = await services.look()
    said = await services.stop(noted, job)
    assert "api in maintenance (MAINTENANCE_MODE=true)" in said
    assert [runs_with(railway, name) for name in ("api", "worker")] == [["true"], ["true"]]
    await services.prove_stopped(noted)
    assert any("the former deployment still runs" in one or "api: " in one for one in job.told)

    said = await services.start(noted, job)
    assert said == "api runs; worker runs"
    assert {name: one.variables for name, one in railway.services.items()} == before
    assert [runs_with(railway, name) for name in ("api", "worker")] == [["false"], [None]]
    assert {str(one.active[0].meta["commitHash"]) for one in railway.services.values()} == {"a" * 40}, "the same code"


async def test_only_that_variable_is_kept_of_all_that_railway_shows(make: Make) -> None:
    noted = await make().look()
    assert "hidden" not in str(noted)
    assert [(one["name"], one["variable"], one["had"]) for one in noted["services"]] == [("api", "false", True), ("worker", None, False)]


async def test_a_reference_comes_back_as_a_reference(railway: RailwayStandIn, make: Make) -> None:
    railway.services["api"].variables[MODE] = "${{shared.MAINTENANCE_MODE}}"
    services = make(services=["api"])
    noted = await services.look()
    await services.stop(noted, Job())
    await services.start(noted, Job())
    assert railway.services["api"].variables[MODE] == "${{shared.MAINTENANCE_MODE}}"


async def test_stopping_and_starting_twice_come_to_the_same(railway: RailwayStandIn, make: Make) -> None:
    services = make()
    noted = await services.look()
    for _ in range(2):
        await services.stop(noted, Job())
    for _ in range(2):
        await services.start(noted, Job())
    assert [runs_with(railway, name) for name in ("api", "worker")] == [["false"], [None]]
    assert changes(railway).count("deploymentRedeploy") <= 4, "what this process has seen come up is not deployed again"


async def test_another_process_that_takes_over_brings_it_to_the_same_end(railway: RailwayStandIn, make: Make) -> None:
    noted = await make().look()
    await make().stop(noted, Job())
    await make().stop(noted, Job())
    await make().prove_stopped(noted)
    await make().start(noted, Job())
    assert [runs_with(railway, name) for name in ("api", "worker")] == [["false"], [None]]


async def test_what_did_not_run_before_is_left_alone(railway: RailwayStandIn, make: Make) -> None:
    await railway.add("off", {MODE: "false"}, runs=False)
    services = make(services=["off", "api"])
    noted = await services.look()
    assert "off did not run" in await services.stop(noted, Job())
    assert "off did not run before" in await services.start(noted, Job())
    assert railway.services["off"].deployments == []


async def test_what_was_in_maintenance_before_stays_in_maintenance(railway: RailwayStandIn, make: Make) -> None:
    railway.services["api"].variables[MODE] = "true"
    services = make(services=["api"])
    noted = await services.look()
    await services.stop(noted, Job())
    assert await services.start(noted, Job()) == "api runs as before"
    assert await make(services=["api"]).start(noted, Job()) == "api runs (in maintenance, as before)"
    assert (railway.services["api"].variables[MODE], runs_with(railway, "api")) == ("true", ["true"])


async def test_a_run_that_ends_before_anything_was_stopped_deploys_nothing(railway: RailwayStandIn, make: Make) -> None:
    services = make()
    noted = await services.look()
    assert await services.start(noted, Job()) == "api runs as before; worker runs as before"
    assert changes(railway) == []


async def test_a_deploy_that_is_under_way_is_waited_for_and_replaced(railway: RailwayStandIn, make: Make) -> None:
    """It was begun before the variable was set, so it would come up without it."""
    services = make(services=["api"])
    noted = await services.look()
    railway.build = 0.2
    railway.deploy(railway.services["api"], {"commitHash": "b" * 40})
    await services.stop(noted, Job())
    await railway.quiet()
    assert runs_with(railway, "api") == ["true"]


@pytest.mark.parametrize("ended", ["SKIPPED", "FAILED"])
async def test_a_deploy_of_somebody_else_that_came_to_nothing_is_not_taken_for_ours(railway: RailwayStandIn, make: Make, ended: str) -> None:
    """A push that no watch pattern concerns is skipped, and is the latest deployment from then on."""
    api, services = railway.services["api"], make(services=["api"])
    noted = await services.look()

    made: list[str] = []

    def skip_the_next(service: Any, deployment: Any) -> None:
        """Right behind ours."""
        made.append(deployment.id)
        if len(made) == 1:
            service.deployments.append(Deployment("deployment-999", {}, {}, status=ended))

    railway.on_deploy = skip_the_next
    await services.stop(noted, Job())
    assert (api.deployments[-1].status, [one.id for one in api.active]) == (ended, made)
    await services.start(noted, Job())
    assert runs_with(railway, "api") == ["false"]


async def test_somebody_who_ends_the_maintenance_is_noticed_in_the_last_moment(railway: RailwayStandIn, make: Make) -> None:
    services = make()
    noted = await services.look()
    await services.stop(noted, Job())
    railway.services["api"].variables[MODE] = "false"
    with pytest.raises(StepFailed, match=r"api runs without MAINTENANCE_MODE=true.*Nothing was executed"):
        await services.prove_stopped(noted)


async def test_a_service_that_does_not_come_up_is_named_and_the_others_are_left_alone(railway: RailwayStandIn, make: Make) -> None:
    services = make()
    noted = await services.look()
    await services.stop(noted, Job())
    railway.services["api"].fails = "CRASHED"
    with pytest.raises(StepFailed, match="The new deployment of api ended as CRASHED"):
        await services.start(noted, Job())
    assert runs_with(railway, "worker") == ["true"]
    with pytest.raises(StepFailed, match="api ended as CRASHED"):
        await services.start(noted, Job(leaving=True))
    assert runs_with(railway, "worker") == [None], "a run that leaves starts whatever can be started"
    railway.services["api"].fails = ""
    await services.start(noted, Job())
    assert runs_with(railway, "api") == ["false"]


async def test_a_deployment_that_takes_too_long_is_said_with_its_state(railway: RailwayStandIn, make: Make) -> None:
    services = make(services=["api"], within="1s")
    noted = await services.look()
    railway.build = 5
    with pytest.raises(StepFailed, match=r"api: (initializing|building) after 1 s"):
        await services.stop(noted, Job())


async def test_a_service_is_restarted_once_after_the_others_are_back(railway: RailwayStandIn, make: Make) -> None:
    await railway.add("cache")
    services = make(services=["api"], restart=["cache"])
    noted = await services.look()
    await services.stop(noted, Job())
    for _ in range(2):
        assert "cache restarted" in await services.start(noted, Job())
    assert changes(railway)[-1] == "deploymentRestart"
    assert changes(railway).count("deploymentRestart") == 1


def test_the_commands_for_a_person_give_back_what_was_there(make: Make) -> None:
    noted = {
        "services": [
            {"name": "api", "id": "service-api", "active": ["d1"], "had": True, "variable": "no; rm"},
            {"name": "worker", "id": "service-worker", "active": ["d2"], "had": False, "variable": None},
        ],
        "restart": [{"name": "web", "id": "service-web", "instances": []}],
    }
    assert make().by_hand(noted) == (
        f"railway variable set 'MAINTENANCE_MODE=no; rm' --service api --environment {ENVIRONMENT}", "railway redeploy --service api --yes",
        f"railway variable delete MAINTENANCE_MODE --service worker --environment {ENVIRONMENT}", "railway redeploy --service worker --yes",
        "railway restart --service web --yes",
    )  # fmt: skip


# ------------------------------------------------------------------ logs, and the way back


async def test_logs_are_the_newest_lines_oldest_first_without_secrets(railway: RailwayStandIn, make: Make) -> None:
    railway.services["api"].lines = ["old", "connects to postgresql://app:hidden@db/escrow", f"token {PROJECT_TOKEN}"]
    found = await make(services=["api"]).logs(2)
    assert [line.partition(" ")[2] for line in found["api"]] == ["connects to postgresql://app:***@db/escrow", "token ***"]


async def test_the_application_goes_back_in_maintenance_and_comes_up_as_it_was(railway: RailwayStandIn, make: Make) -> None:
    api = railway.services["api"]
    railway.deploy(api, {"commitHash": "b" * 40, "commitMessage": "adds the status"})
    await railway.quiet()
    services = make()
    former = await services.former()
    assert former["api"]["says"] == f"{'a' * 12} first of api (now {'b' * 12} adds the status)"
    assert "worker" not in former
    noted = await services.look()
    with pytest.raises(StepFailed, match="not in maintenance any more"):
        await services.roll_back(former, Job())
    await services.stop(noted, Job())
    await services.roll_back(former, Job())
    assert (runs_with(railway, "api"), api.active[0].meta["commitHash"]) == (["true"], "a" * 40)
    await services.prove_stopped(noted)
    await services.start(noted, Job())
    assert (runs_with(railway, "api"), api.active[0].meta["commitHash"]) == (["false"], "a" * 40)


# ------------------------------------------------------------------ what stands in the way


async def test_everything_in_its_place_is_ready(make: Make) -> None:
    assert await make().ready() == ()
    assert await make(token=ACCOUNT_TOKEN, token_of="workspace").ready() == ()


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"token": "fake-other-token-89"}, "railway_forbidden", "Is it a project token"),
        ({"token": ACCOUNT_TOKEN}, "railway_forbidden", "Is it a project token"),
        ({"environment": "another"}, "railway_missing", "Environment not found"),
        ({"project": "another"}, "railway_missing", "belongs to another project"),
        ({"services": ["apl"]}, "railway_missing", "has no service apl"),
        ({"restart": ["cash"]}, "railway_missing", "has no service cash"),
    ],
)
async def test_a_wrong_token_and_a_wrong_id_are_told_apart(make: Make, settings: dict[str, Any], code: str, says: str) -> None:
    (refusal,) = await make(**settings).ready()
    assert refusal.code == code
    assert says in refusal.message
    assert "fake-" not in refusal.message


async def test_a_name_that_is_nearly_right_is_suggested(make: Make) -> None:
    (refusal,) = await make(services=["workers"]).ready()
    assert "Is worker meant?" in refusal.next


async def test_a_missing_right_is_named(railway: RailwayStandIn, make: Make) -> None:
    railway.forbidden.add("variables")
    (refusal,) = await make().ready()
    assert (refusal.code, "do variables (Not Authorized)" in refusal.message) == ("railway_forbidden", True)


async def test_a_sealed_variable_could_not_be_given_back_so_it_is_refused(railway: RailwayStandIn, make: Make) -> None:
    railway.services["worker"].sealed.add(MODE)
    (refusal,) = await make().ready()
    assert refusal.code == "railway_unfit"
    assert "MAINTENANCE_MODE of worker is sealed" in refusal.message


async def test_lists_longer_than_a_page_are_read_to_their_end(railway: RailwayStandIn, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.railway._PAGE", 1)
    await railway.add("last")
    assert await make(services=["last"]).ready() == ()


@pytest.mark.parametrize(
    "settings", [{"api": "http://backboard.example.com/graphql"}, {"services": []}, {"services": ["a;b"]}, {"environment": "x y"}, {"token": ""}]
)
def test_a_setting_that_could_lead_elsewhere_is_none(make: Make, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        make(**settings)
    assert PROJECT_TOKEN not in str(refused.value)


def test_the_token_is_not_in_what_is_printed_of_the_settings(make: Make) -> None:
    assert PROJECT_TOKEN not in repr(make().settings)


# ------------------------------------------------------------------ bad answers

FAULTS = pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("hang", "gave no answer to"), ("cut", "can't be reached"), ("half", "is not GraphQL's"), ("html", "does not let this token"),
        ("null", "lacks what was asked for"), ("error", "Problem processing request"), (503, "HTTP 503, again and again"),
    ],
)  # fmt: skip


@FAULTS
@pytest.mark.parametrize("field", ["variableUpsert", "deploymentRedeploy", "environment"])
async def test_a_stop_that_fails_is_said_and_everything_can_be_started_again(
    railway: RailwayStandIn, make: Make, kind: Any, says: str, field: str
) -> None:
    services = make(patience=0.3, request=0.15)
    noted = await services.look()
    fault = Fault(kind, field, times=1000)
    railway.faults.append(fault)
    with pytest.raises(StepFailed, match=says):
        await services.stop(noted, Job())
    railway.faults.clear()
    await services.start(noted, Job())
    assert [runs_with(railway, name) for name in ("api", "worker")] == [["false"], [None]]
    assert railway.services["api"].variables[MODE] == "false"
    assert MODE not in railway.services["worker"].variables


@pytest.mark.parametrize("field", ["variableUpsert", "variableDelete", "deploymentRedeploy", "deploymentRestart", "environment"])
async def test_an_answer_that_was_lost_is_asked_for_again(railway: RailwayStandIn, make: Make, field: str) -> None:
    await railway.add("cache")
    services = make(restart=["cache"], patience=20)
    noted = await services.look()
    for kind in ("cut", 502, "hang"):
        railway.faults.append(Fault(kind, field, after=True))  # type: ignore[arg-type]  # they are its kinds
    await services.stop(noted, Job())
    await services.start(noted, Job())
    await railway.quiet()
    assert [runs_with(railway, name) for name in ("api", "worker")] == [["false"], [None]]


async def test_a_limit_that_is_over_soon_is_waited_for(railway: RailwayStandIn, make: Make) -> None:
    railway.faults.append(Fault(429, "environment", retry_after=1))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await make().ready() == ()
    assert loop.time() - began >= 1


async def test_a_limit_that_lasts_is_said_with_its_time(railway: RailwayStandIn, make: Make) -> None:
    railway.remaining, railway.retry_after = 0, 1800
    (refusal,) = await make().ready()
    assert refusal.code == "railway_unreachable"
    assert "limit of requests for this token is reached; it takes environment again in 1800 s" in refusal.message


# ------------------------------------------------------------------ the stand-in itself


@pytest.mark.parametrize(
    ("query", "variables", "says"),
    [
        ("query { me { name } }", {}, 'Cannot query field "me"'),
        ("query ($id: String!) { deployment(id: $id) { id secret } }", {"id": "d"}, 'Cannot query field "secret"'),
        ("query ($id: String!) { deployment(id: $id, full: true) { id } }", {"id": "d"}, 'Unknown argument "full"'),
        ("query { deployment { id } }", {}, "is required, but it was not provided"),
        ("query ($id: Int!) { deployment(id: $id) { id } }", {"id": 1}, 'of type "Int!" used in position expecting'),
        ("query ($id: String!) { deployment(id: $id) { id } }", {}, "was not provided"),
        ("query ($id: String!) { deployment(id: $id) { id } }", {"id": "d", "more": 1}, '"$more" is not defined'),
        ("query ($id: String!) { deployment(id: $id) }", {"id": "d"}, "must have a selection"),
        ("mutation ($input: VariableUpsertInput!) { variableUpsert(input: $input) }", {"input": {"name": "a"}}, "was not provided"),
        ("subscription { deployment { id } }", {}, "Syntax Error"),
        ("query { deployment(id: ", {}, "Syntax Error"),
    ],
)
async def test_what_the_schema_does_not_have_is_refused(railway: RailwayStandIn, query: str, variables: dict[str, Any], says: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"Project-Access-Token": PROJECT_TOKEN}) as session,
        session.post(railway.api, json={"query": query, "variables": variables}) as answer,
    ):
        told = await answer.json()
    assert (answer.status, told["data"], says in told["errors"][0]["message"]) == (400, None, True), told
