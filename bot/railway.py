"""Railway's public GraphQL API: questions with a deadline, asked again where that is safe and wanted, and errors that say what happened.

Operations and fields as in the schema that its own command line publishes. What Backout changes here comes to the same when it is done twice, so
it may be asked again after a lost answer; a backup's restore and the deploy of what is staged do not, and are sent once. A variable's value other
than the one that is asked for is never kept, and no error shows one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from bot.errors import StepFailed
from bot.process import redact

Json = dict[str, Any]
API = "https://backboard.railway.com/graphql/v2"
_REQUEST = 15.0  # seconds that one request may take
_PATIENCE = 45.0  # seconds in all, with everything that is tried again
_PAUSE = 0.3
_PAGE = 100
_AGAIN = frozenset({429, 500, 502, 503, 504})
_LOOK = "Look at status.railway.com and at the network, then try again."


def _encrypted(value: str) -> str:
    """A token is only sent over TLS, or to this very machine."""
    parts = urlsplit(value)
    try:
        here = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = parts.hostname == "localhost"
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        raise ValueError("must be a web address that begins with https://: the token goes there")
    return value


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")]
#: the name of a service, or its id
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]


class Account(BaseModel):
    """Who asks, and about which environment of which project."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)
    token: SecretStr = Field(min_length=1, description="a token of Railway; write a variable, such as ${RAILWAY_TOKEN}")
    token_of: Literal["project", "workspace", "account"] = Field("project", description="what kind of token that is; a project's can do the least")
    project: Id = Field(description="the project's id")
    environment: Id = Field(description="the environment's id; Backout asks about nothing outside it")
    api: Annotated[str, AfterValidator(_encrypted)] = Field(API, description="the API's address")


class RailwayRefused(StepFailed):
    """Railway understood, and would not. `missing`: it knows no such thing."""

    def __init__(self, message: str, *, forbidden: bool = False, missing: bool = False) -> None:
        super().__init__(message)
        self.forbidden, self.missing = forbidden, missing


class RailwaySilent(StepFailed):
    """Railway could not be asked, gave no answer in time, or half of one; or its limit for this token is reached."""


class RailwayBackup(NamedTuple):
    """A backup of a volume. `expires` None: it stays; `schedule` '': made by hand."""

    id: str
    made: dt.datetime
    expires: dt.datetime | None
    schedule: str
    megabytes: int | None

    @classmethod
    def of(cls, told: Json) -> RailwayBackup:
        expires, used = told.get("expiresAt"), told.get("usedMB")
        return cls(
            str(told["id"]), _time(told["createdAt"]), _time(expires) if expires else None, str(told.get("scheduleId") or ""),
            int(used) if used is not None else None,
        )  # fmt: skip


def _time(written: Any) -> dt.datetime:
    """RFC 3339; what has no zone is UTC. Raises ValueError."""
    found = dt.datetime.fromisoformat(str(written))
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


class Railway:
    """Seconds: `patience` for a question with all its tries, `request` for one try, `pause` before the second one."""

    def __init__(self, account: Account, *, patience: float = _PATIENCE, request: float = _REQUEST, pause: float = _PAUSE) -> None:
        self.account = account
        self._patience, self._request, self._pause = patience, request, pause

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Api]:
        token = self.account.token.get_secret_value()
        of_a_project = self.account.token_of == "project"  # noqa: S105  a kind, no token
        sent = {"Project-Access-Token": token} if of_a_project else {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers={**sent, "User-Agent": "backout"}) as session:
            yield Api(session, self.account, patience=self._patience, request=self._request, pause=self._pause)


class Api:
    """An open session."""

    def __init__(self, session: aiohttp.ClientSession, account: Account, *, patience: float, request: float, pause: float) -> None:
        self._session, self.account = session, account
        self._patience, self._request, self._pause = patience, request, pause
        self._secrets = (account.token.get_secret_value(),)

    async def services(self) -> list[Json]:
        """All services of the environment, each with what of it runs and what was deployed last. Raises RailwayRefused, RailwaySilent."""
        found = [one async for one in self._pages(_SERVICES, "serviceInstances")]
        return [one for one in found if one.get("deletedAt") is None]

    async def sealed(self, service: str, name: str) -> bool:
        """There is one of that name, and nobody can read it."""
        return any([one["name"] == name and one["serviceId"] == service and one["isSealed"] async for one in self._pages(_SEALED, "variables")])

    async def _pages(self, query: str, what: str) -> AsyncIterator[Json]:
        """All of the environment's. Raises RailwayRefused where it is another project's."""
        account, after = self.account, None
        while True:
            told = await self.ask(query, {"environment": account.environment, "first": _PAGE, "after": after}, "environment")
            try:
                if told["projectId"] != account.project:
                    raise RailwayRefused(
                        f"The environment {account.environment} belongs to another project than {account.project}. Mend project and environment.",
                        missing=True,
                    )
                nodes = [edge["node"] for edge in told[what]["edges"]]
                after = told[what]["pageInfo"]["endCursor"] if told[what]["pageInfo"]["hasNextPage"] else None
            except (KeyError, TypeError) as error:
                raise self._half("environment") from error
            for node in nodes:
                yield node
            if after is None:
                return

    async def variable(self, service: str, name: str) -> str | None:
        """As it was written, references intact; None where the service has none of that name."""
        told = await self.ask(_VARIABLES, {**self._place(service)}, "variables")
        value = told.get(name)
        return None if value is None else str(value)

    async def set_variable(self, service: str, name: str, value: str | None) -> None:
        """Without a deploy of its own. None takes it away."""
        place = {**self._place(service), "name": name}
        if value is None:
            await self.ask(_UNSET, {"input": place}, "variableDelete")
        else:
            await self.ask(_SET, {"input": {**place, "value": value, "skipDeploys": True}}, "variableUpsert")

    async def redeploy(self, deployment: str) -> str:
        """The same code and configuration again, with the variables as they are now: the new deployment's id."""
        told = await self.ask(_REDEPLOY, {"id": deployment}, "deploymentRedeploy")
        return str(self._of(told, "id", "deploymentRedeploy"))

    async def restart(self, deployment: str) -> None:
        await self.ask(_RESTART, {"id": deployment}, "deploymentRestart")

    async def deployment(self, deployment: str) -> Json:
        """Its id, status and instances."""
        told = await self.ask(_DEPLOYMENT, {"id": deployment}, "deployment")
        self._of(told, "status", "deployment")
        return dict(told)

    async def deployments(self, service: str, first: int = 20) -> list[Json]:
        """What ran once or runs, newest first."""
        place = {**self._place(service), "status": {"in": ["SUCCESS", "REMOVED", "SLEEPING"]}}
        told = await self.ask(_DEPLOYMENTS, {"input": place, "first": first}, "deployments")
        try:
            return [edge["node"] for edge in told["edges"]]
        except (KeyError, TypeError) as error:
            raise self._half("deployments") from error

    async def logs(self, deployment: str, lines: int) -> list[str]:
        """Oldest first, without this token and without passwords of addresses."""
        told = await self.ask(_LOGS, {"deployment": deployment, "limit": lines}, "deploymentLogs")
        try:
            found = sorted(told, key=lambda one: str(one["timestamp"]))
            return [self.clean(f"{one['timestamp']} {one['message']}") for one in found]
        except (KeyError, TypeError) as error:
            raise self._half("deploymentLogs") from error

    async def backups(self, volume: str) -> list[RailwayBackup]:
        told = await self.ask(_BACKUPS, {"volume": volume}, "volumeInstanceBackupList")
        try:
            return [RailwayBackup.of(one) for one in told]
        except (KeyError, TypeError, ValueError) as error:
            raise self._half("volumeInstanceBackupList") from error

    async def schedules(self, volume: str) -> list[Json]:
        return list(await self.ask(_SCHEDULES, {"volume": volume}, "volumeInstanceBackupScheduleList"))

    async def restore(self, volume: str, backup: str) -> str:
        """Sent once: each begins another copy. The workflow's id. Raises RailwaySilent: it may have begun."""
        told = await self.ask(_RESTORE, {"volume": volume, "backup": backup}, "volumeInstanceBackupRestore", once=True)
        return str(self._of(told, "workflowId", "volumeInstanceBackupRestore"))

    async def workflow(self, workflow: str) -> tuple[str, str]:
        """'Running', 'Complete', 'Error' or 'NotFound', and what went wrong."""
        told = await self.ask(_WORKFLOW, {"workflow": workflow}, "workflowStatus")
        return str(self._of(told, "status", "workflowStatus")), self.clean(" ".join(str(told.get("error") or "").split())[:300])

    async def volumes(self) -> list[Json]:
        """All volumes of the environment: `id` of the instance, `volumeId`, the service that it is mounted in (None: in none), where, its state."""
        return [one async for one in self._pages(_VOLUMES, "volumeInstances")]

    async def staged(self) -> tuple[str, Json]:
        """What waits in the environment for the next deploy of staged changes: its status, and the patch; empty where nothing does."""
        told = await self.ask(_STAGED, {"environment": self.account.environment}, "environmentStagedChanges")
        status, patch = str(self._of(told, "status", "environmentStagedChanges")), told.get("patch") or {}
        if not isinstance(patch, dict):
            raise self._half("environmentStagedChanges")
        return status, patch if status != "COMMITTED" else {}

    async def deploy_staged(self, says: str) -> None:
        """ALL that is staged in the environment, whoever staged it. Sent once. Raises RailwaySilent: it may be under way."""
        await self.ask(_COMMIT, {"environment": self.account.environment, "says": says}, "environmentPatchCommitStaged", once=True)

    def clean(self, text: str) -> str:
        return redact(text, self._secrets)

    def _place(self, service: str) -> Json:
        return {"projectId": self.account.project, "environmentId": self.account.environment, "serviceId": service}

    # ------------------------------------------------------------------ one question

    async def ask(self, query: str, variables: Mapping[str, Any], field: str, *, once: bool = False) -> Any:
        """What that one field of the answer holds. `once`: not again where it may have been done. Raises RailwayRefused, RailwaySilent."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._patience, self._pause
        while True:
            problem: StepFailed
            wait, turned_away = pause, False
            try:
                status, headers, data = await self._once(query, variables)
            except TimeoutError:
                problem = RailwaySilent(f"Railway gave no answer to {field} in time. {_LOOK}")
            except (aiohttp.ClientError, OSError) as error:
                problem = RailwaySilent(f"Railway can't be reached ({type(error).__name__}). {_LOOK}")
            else:
                if status not in _AGAIN:
                    return self._read(status, data, field)
                wait, turned_away = max(pause, _retry_after(headers.get("Retry-After"))), status == 429
                problem = self._busy(status, wait, field)
            if loop.time() + wait >= until or (once and not turned_away):
                raise problem
            await asyncio.sleep(wait)
            pause = min(pause * 2, 5.0)

    async def _once(self, query: str, variables: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        body = {"query": query, "variables": {name: value for name, value in variables.items() if value is not None}}
        async with asyncio.timeout(self._request), self._session.post(self.account.api, json=body, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.read()

    def _read(self, status: int, data: bytes, field: str) -> Any:
        try:
            told = json.loads(data)
            errors, found = told.get("errors"), told.get("data")
        except (ValueError, AttributeError) as error:
            if status in {401, 403}:
                raise self._forbidden("", field) from error
            raise RailwaySilent(
                f"Railway's answer to {field} is not GraphQL's (HTTP {status}). Look at platform.api, and at what stands in between."
            ) from error
        if errors:
            raise self._refused(errors, field)
        value = found.get(field) if isinstance(found, dict) else None
        if status >= 400 or value is None:
            raise self._half(field)
        return value

    def _refused(self, errors: Sequence[Any], field: str) -> RailwayRefused:
        first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
        said = " ".join(self.clean(str(first.get("message") or "no words")).split())[:300].rstrip(". ")
        lowered = said.lower()
        if "not authorized" in lowered or "token not found" in lowered or "access to this resource" in lowered:
            return self._forbidden(said, field)
        return RailwayRefused(f"Railway would not do {field}: {said}.", missing="not found" in lowered)

    def _forbidden(self, said: str, field: str) -> RailwayRefused:
        told = f" ({said})" if said else ""
        kind = self.account.token_of
        return RailwayRefused(
            f"Railway does not let this token do {field}{told}. Is it a {kind} token (token_of), of this very environment, and not revoked?",
            forbidden=True,
        )

    def _busy(self, status: int, wait: float, field: str) -> RailwaySilent:
        if status == 429:
            return RailwaySilent(
                f"Railway's limit of requests for this token is reached; it takes {field} again in {wait:.0f} s."
                " Wait so long, then retry; another token has its own limit."
            )
        return RailwaySilent(f"Railway answered {field} with HTTP {status}, again and again. {_LOOK}")

    def _half(self, field: str) -> RailwaySilent:
        return RailwaySilent(f"Railway's answer to {field} lacks what was asked for. Nothing can be said about it. {_LOOK}")

    def _of(self, told: Any, key: str, field: str) -> Any:
        if not isinstance(told, dict) or told.get(key) is None:
            raise self._half(field)
        return told[key]


def _retry_after(value: str | None) -> float:
    """Seconds; a date counts as nothing, since it would be another clock's."""
    return float(value) if value is not None and value.isdigit() else 0.0


_SERVICES = """query ($environment: String!, $first: Int, $after: String) {
  environment(id: $environment) { projectId serviceInstances(first: $first, after: $after) {
    edges { node { serviceId serviceName deletedAt
      activeDeployments { id status canRedeploy meta instances { id status } }
      latestDeployment { id status } } }
    pageInfo { hasNextPage endCursor } } } }"""
_SEALED = """query ($environment: String!, $first: Int, $after: String) {
  environment(id: $environment) { projectId variables(first: $first, after: $after) {
    edges { node { name serviceId isSealed } } pageInfo { hasNextPage endCursor } } } }"""
_VARIABLES = """query ($projectId: String!, $environmentId: String!, $serviceId: String) {
  variables(projectId: $projectId, environmentId: $environmentId, serviceId: $serviceId, unrendered: true) }"""
_SET = "mutation ($input: VariableUpsertInput!) { variableUpsert(input: $input) }"
_UNSET = "mutation ($input: VariableDeleteInput!) { variableDelete(input: $input) }"
_REDEPLOY = "mutation ($id: String!) { deploymentRedeploy(id: $id, usePreviousImageTag: true) { id } }"
_RESTART = "mutation ($id: String!) { deploymentRestart(id: $id) }"
_DEPLOYMENT = "query ($id: String!) { deployment(id: $id) { id status instances { id status } } }"
_DEPLOYMENTS = """query ($input: DeploymentListInput!, $first: Int) {
  deployments(input: $input, first: $first) { edges { node { id status canRedeploy meta } } } }"""
_LOGS = """query ($deployment: String!, $limit: Int) {
  deploymentLogs(deploymentId: $deployment, limit: $limit) { timestamp message } }"""
_VOLUMES = """query ($environment: String!, $first: Int, $after: String) {
  environment(id: $environment) { projectId volumeInstances(first: $first, after: $after) {
    edges { node { id volumeId serviceId mountPath state } } pageInfo { hasNextPage endCursor } } } }"""
_STAGED = "query ($environment: String!) { environmentStagedChanges(environmentId: $environment) { id status patch } }"
_COMMIT = """mutation ($environment: String!, $says: String) {
  environmentPatchCommitStaged(environmentId: $environment, commitMessage: $says) }"""
_RESTORE = """mutation ($volume: String!, $backup: String!) {
  volumeInstanceBackupRestore(volumeInstanceId: $volume, volumeInstanceBackupId: $backup) { workflowId } }"""
_WORKFLOW = "query ($workflow: String!) { workflowStatus(workflowId: $workflow) { status error } }"
_BACKUPS = """query ($volume: String!) {
  volumeInstanceBackupList(volumeInstanceId: $volume) { id createdAt expiresAt scheduleId usedMB } }"""
_SCHEDULES = """query ($volume: String!) {
  volumeInstanceBackupScheduleList(volumeInstanceId: $volume) { id kind retentionSeconds } }"""
