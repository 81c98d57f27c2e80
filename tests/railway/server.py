"""Railway as its public API shows it: one project, one environment, services whose deployments are built, come up and replace each other.

Strict: an operation, field, argument or type that its schema does not have, a token of another kind, and more requests than allowed are refused
in its own way. A deployment may run a real program, with the variables of the moment in which it was made.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from tests.railway.graphql import Chosen, Document, Invalid, parse
from tests.railway.schema import TYPES, bare
from tests.railway.validity import proven
from tests.railway.volumes import Volumes

Json = dict[str, Any]
PROJECT, ENVIRONMENT, VOLUME = "0a1b-project", "2c3d-environment", "4e5f-volume-instance"
PROJECT_TOKEN, ACCOUNT_TOKEN = "fake-project-token-0123", "fake-account-token-4567"
_EPOCH = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
UNDER_WAY = ("INITIALIZING", "BUILDING", "DEPLOYING")


@dataclass
class Deployment:
    id: str
    variables: dict[str, str]
    meta: Json
    status: str = "INITIALIZING"
    instances: list[str] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None


@dataclass
class Service:
    """`program` is what a deployment runs. `fails`: how the next deployments end instead of coming up."""

    name: str
    id: str
    variables: dict[str, str]
    program: Sequence[str] = ()
    fails: str = ""
    sealed: set[str] = field(default_factory=set)
    deployments: list[Deployment] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def active(self) -> list[Deployment]:
        return [one for one in self.deployments if one.status in {"SUCCESS", "SLEEPING"}]


@dataclass
class Fault:
    """What happens to the next request of that field, once or `times`. `after`: it is carried out, and only its answer is lost."""

    kind: Literal["hang", "cut", "half", "html", "null", "error", 429, 500, 502, 503]
    field: str
    after: bool = False
    times: int = 1
    message: str = "Problem processing request"
    retry_after: int | None = None


class RailwayStandIn:
    """`async with RailwayStandIn() as railway`: `railway.api` is its address."""

    def __init__(self, *, build: float = 0.02) -> None:
        self.build = build
        self.services: dict[str, Service] = {}
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, Json]] = []
        #: requests that are still allowed in this window; None: without end
        self.remaining: int | None = None
        self.retry_after = 1
        self.forbidden: set[str] = set()
        self.backups: list[Json] = []
        self.schedules: list[Json] = []
        self.project = PROJECT
        self.volumes = Volumes(self)
        self.on_deploy: Callable[[Service, Deployment], None] = lambda _, __: None
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    async def __aenter__(self) -> RailwayStandIn:
        app = web.Application()
        app.router.add_post("/graphql/v2", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.api = f"http://127.0.0.1:{self._runner.addresses[0][1]}/graphql/v2"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for service in self.services.values():
            for one in service.deployments:
                await self._end(one)
        await self._runner.cleanup()

    # ------------------------------------------------------------------ the world

    async def add(self, name: str, variables: Mapping[str, str] | None = None, *, program: Sequence[str] = (), runs: bool = True) -> Service:
        service = Service(name, f"service-{name}", dict(variables or {}), program)
        self.services[name] = service
        if runs:
            self.deploy(service, {"commitHash": "a" * 40, "commitMessage": f"first of {name}"})
            await self.quiet()
        return service

    def deploy(self, service: Service, meta: Json | None = None) -> Deployment:
        """As a push does, or a variable that was changed."""
        code = meta or (service.deployments[-1].meta if service.deployments else {})
        made = Deployment(f"deployment-{next(self._numbers)}", dict(service.variables), code)
        service.deployments.append(made)
        self.on_deploy(service, made)
        self.task(self._bring_up(service, made))
        return made

    async def quiet(self) -> None:
        """Nothing is being deployed any more."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _bring_up(self, service: Service, made: Deployment) -> None:
        fails = service.fails
        for status in UNDER_WAY:
            made.status = status
            await asyncio.sleep(self.build)
        if fails:
            made.status = fails
            return
        await self._run(service, made)
        made.status = "SUCCESS"
        before = [one for one in service.deployments[: service.deployments.index(made)] if one.status in {"SUCCESS", "SLEEPING"}]
        for one in before:  # the former one runs beside the new one for a moment, as it does there
            await asyncio.sleep(self.build)
            one.status = "REMOVING"
            await self._end(one)
            one.status = "REMOVED"

    async def _run(self, service: Service, made: Deployment) -> None:
        made.instances = [f"instance-{next(self._numbers)}"]
        if service.program:
            made.process = await asyncio.create_subprocess_exec(  # noqa: TID251  the service's own program
                *service.program, env={"PATH": os.environ["PATH"], **made.variables}, stdin=asyncio.subprocess.DEVNULL,  # noqa: TID251
            )  # fmt: skip

    async def _end(self, one: Deployment) -> None:
        if one.process is not None and one.process.returncode is None:
            with suppress(ProcessLookupError):
                one.process.terminate()
            await one.process.wait()

    # ------------------------------------------------------------------ one request

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.remaining is not None:
            if self.remaining <= 0:
                return self._too_many(self.retry_after)
            self.remaining -= 1
        body = await request.json()
        if not self._may(request.headers):
            return _errors("Not Authorized")
        try:
            document = parse(body["query"])
            proven(document, body.get("variables") or {})
        except Invalid as error:
            return _errors(str(error), status=400, code="GRAPHQL_VALIDATION_FAILED")
        name = document.fields[0].name
        self.asked.append((name, body.get("variables") or {}))
        fault = next((one for one in self.faults if one.field == name), None)
        if fault is not None:
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
            if not fault.after:
                return await self._faulty(fault, request, b"")
        answer = await self._answered(document, body.get("variables") or {})
        return await self._faulty(fault, request, answer.body or b"") if fault is not None and isinstance(answer.body, bytes) else answer  # type: ignore[redundant-expr,unused-ignore]

    def _may(self, headers: Mapping[str, str]) -> bool:
        """A project's token has a header of its own."""
        return headers.get("Project-Access-Token") == PROJECT_TOKEN or headers.get("Authorization") == f"Bearer {ACCOUNT_TOKEN}"

    def _too_many(self, seconds: int | None) -> web.Response:
        headers = {"X-RateLimit-Remaining": "0", **({"Retry-After": str(seconds)} if seconds is not None else {})}
        return web.json_response({"errors": [{"message": "Too many requests"}]}, status=429, headers=headers)

    async def _faulty(self, fault: Fault, request: web.Request, answer: bytes) -> web.StreamResponse:
        match fault.kind:
            case "hang":
                await asyncio.Event().wait()
            case "cut":
                assert request.transport is not None
                request.transport.abort()
            case "half":
                return web.Response(body=(answer or b'{"data": {"environment": {"projectId')[:20], content_type="application/json")
            case "html":
                return web.Response(text="<title>Access denied</title>", content_type="text/html", status=403)
            case "null":
                return web.json_response({"data": None})
            case "error":
                return _errors(fault.message)
            case 429:
                return self._too_many(fault.retry_after)
            case status:
                return web.Response(text="upstream connect error", status=status)
        return web.Response()

    async def _answered(self, document: Document, given: Json) -> web.Response:
        data: Json = {}
        for one in document.fields:
            arguments = {name: given.get(value[1]) if isinstance(value, tuple) else value for name, value in one.arguments.items()}
            if one.name in self.forbidden:
                return _errors("Not Authorized", path=[one.name])
            try:
                found = getattr(self, f"_{document.operation}_{one.name}")(**{name: value for name, value in arguments.items() if value is not None})
            except LookupError as error:
                return _errors(str(error.args[0]), path=[one.name])
            data[one.name] = _shown(found, one, TYPES[document.operation][one.name][0], given)
        return web.json_response({"data": data})

    # ------------------------------------------------------------------ what it serves

    def _of(self, **by: Any) -> Service:
        for one in self.services.values():
            if by.get("id") == one.id:
                return one
        raise LookupError("Service not found")

    def _deployment(self, identity: str) -> tuple[Service, Deployment]:
        for service in self.services.values():
            for one in service.deployments:
                if one.id == identity:
                    return service, one
        raise LookupError("Deployment not found")

    def _environment(self, identity: Any) -> None:
        if identity != ENVIRONMENT:
            raise LookupError("Environment not found")

    def _query_environment(self, id: str, projectId: str | None = None) -> Json:  # noqa: A002, N803  its own names
        self._environment(id)
        instances = [self._instance(one) for one in self.services.values()]
        variables = [
            {"id": f"{one.id}-{name}", "name": name, "serviceId": one.id, "environmentId": ENVIRONMENT, "isSealed": name in one.sealed}
            for one in self.services.values() for name in sorted({*one.variables, *one.sealed})
        ]  # fmt: skip
        return {
            "id": id, "name": "production", "projectId": self.project, "serviceInstances": instances, "variables": variables,
            "volumeInstances": self.volumes.there,
        }  # fmt: skip

    def _instance(self, one: Service) -> Json:
        latest = one.deployments[-1] if one.deployments else None
        return {
            "id": f"instance-of-{one.name}", "serviceId": one.id, "serviceName": one.name, "environmentId": ENVIRONMENT, "deletedAt": None,
            "activeDeployments": [self._told(one, each) for each in one.active], "latestDeployment": self._told(one, latest) if latest else None,
        }  # fmt: skip

    def _told(self, service: Service, one: Deployment) -> Json:
        number = int(one.id.rpartition("-")[2])
        return {
            "id": one.id, "status": one.status, "canRedeploy": True, "canRollback": one.status == "REMOVED", "meta": one.meta,
            "createdAt": (_EPOCH + dt.timedelta(minutes=number)).isoformat(), "serviceId": service.id, "environmentId": ENVIRONMENT,
            "projectId": self.project, "instances": [{"id": each, "status": "RUNNING"} for each in one.instances],
        }  # fmt: skip

    def _query_variables(self, projectId: str, environmentId: str, serviceId: str | None = None, unrendered: bool = False) -> Json:  # noqa: N803
        self._environment(environmentId)
        return dict(self._of(id=serviceId).variables)

    def _query_deployment(self, id: str) -> Json:  # noqa: A002
        return self._told(*self._deployment(id))

    def _query_deployments(self, input: Json, first: int = 20) -> list[Json]:  # noqa: A002
        service = self._of(id=input.get("serviceId"))
        wanted = (input.get("status") or {}).get("in")
        found = [self._told(service, one) for one in reversed(service.deployments) if not wanted or one.status in wanted]
        return found[:first]

    def _query_deploymentLogs(self, deploymentId: str, limit: int = 100) -> list[Json]:  # noqa: N802, N803
        service, _ = self._deployment(deploymentId)
        lines = list(enumerate(service.lines))[-limit:]
        return [{"timestamp": (_EPOCH + dt.timedelta(seconds=at)).isoformat(), "message": text, "severity": "info"} for at, text in reversed(lines)]

    def _query_volumeInstanceBackupList(self, volumeInstanceId: str) -> list[Json]:  # noqa: N802, N803
        if volumeInstanceId != VOLUME:
            raise LookupError("Volume instance not found")
        return self.backups

    def _query_volumeInstanceBackupScheduleList(self, volumeInstanceId: str) -> list[Json]:  # noqa: N802, N803
        return self.schedules

    def _query_environmentStagedChanges(self, environmentId: str) -> Json:  # noqa: N802, N803
        self._environment(environmentId)
        return self.volumes.told()

    def _query_workflowStatus(self, workflowId: str) -> Json:  # noqa: N802, N803
        return self.volumes.workflow(workflowId)

    def _mutation_volumeInstanceBackupRestore(self, volumeInstanceId: str, volumeInstanceBackupId: str) -> Json:  # noqa: N802, N803
        if volumeInstanceId not in {one["id"] for one in self.volumes.there}:
            raise LookupError("Not Authorized")
        if volumeInstanceBackupId not in {one["id"] for one in self.backups}:
            raise LookupError("Backup not found")
        return {"workflowId": self.volumes.restore(volumeInstanceId, volumeInstanceBackupId)}

    def _mutation_environmentPatchCommitStaged(self, environmentId: str, commitMessage: str = "") -> str:  # noqa: N802, N803
        self._environment(environmentId)
        return self.volumes.commit()

    def task(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that Railway does by itself meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _mutation_variableUpsert(self, input: Json) -> bool:  # noqa: A002, N802
        self._environment(input["environmentId"])
        service = self._of(id=input["serviceId"])
        service.variables[input["name"]] = input["value"]
        if not input.get("skipDeploys") and service.deployments:
            self.deploy(service)
        return True

    def _mutation_variableDelete(self, input: Json) -> bool:  # noqa: A002, N802
        """It can't be told to leave the deploy out."""
        self._environment(input["environmentId"])
        service = self._of(id=input["serviceId"])
        service.variables.pop(input["name"], None)
        if service.deployments:
            self.deploy(service)
        return True

    def _mutation_deploymentRedeploy(self, id: str, usePreviousImageTag: bool = False) -> Json:  # noqa: A002, N802, N803
        service, one = self._deployment(id)
        return self._told(service, self.deploy(service, one.meta))

    def _mutation_deploymentRestart(self, id: str) -> bool:  # noqa: A002, N802
        _, one = self._deployment(id)
        one.instances = [f"instance-{next(self._numbers)}"]
        return True


def _shown(found: Any, chosen: Chosen, written: str, given: Json) -> Any:
    """What was chosen of it; connections are paged."""
    inner = bare(written)
    if found is None or inner not in TYPES:
        return found
    if written.startswith("["):
        return [_shown(one, chosen, written.strip("!")[1:-1], given) for one in found]
    if isinstance(found, list):
        found = _page(found, {name: given.get(value[1]) if isinstance(value, tuple) else value for name, value in chosen.arguments.items()})
    return {one.name: _shown(found[one.name], one, TYPES[inner][one.name][0], given) for one in chosen.inner}


def _page(found: Sequence[Json], arguments: Json) -> Json:
    begin = int(arguments["after"]) if arguments.get("after") else 0
    end = begin + int(arguments.get("first") or len(found) or 1)
    edges = [{"cursor": str(begin + place), "node": node} for place, node in enumerate(found[begin:end], 1)]
    more = end < len(found)
    return {
        "edges": edges,
        "pageInfo": {"endCursor": str(end) if more else None, "hasNextPage": more, "hasPreviousPage": begin > 0, "startCursor": None},
    }


def _errors(message: str, *, status: int = 200, code: str = "INTERNAL_SERVER_ERROR", path: Sequence[str] = ()) -> web.Response:
    told = {"message": message, "locations": [{"line": 1, "column": 3}], "path": list(path), "extensions": {"code": code}}
    return web.Response(text=json.dumps({"errors": [told], "data": None}), status=status, content_type="application/json")
