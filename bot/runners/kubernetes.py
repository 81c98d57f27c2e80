"""The target's own programs run in a pod of their own: the application's image, place and variables; deleted afterwards and seen gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from bot.cluster.api import DEPLOYMENTS, EVENTS, PODS, SECRETS, Api, Cluster, Json
from bot.cluster.place import Name, Place
from bot.cluster.pods import trouble, why
from bot.cluster.rights import Right, missing, refusal, rights
from bot.errors import OutcomeUnknown, ProgramMissing, Refusal, StepFailed
from bot.place import Connect
from bot.runners.kubernetes_attach import attached, could_not_start, ended
from bot.runners.kubernetes_pod import FOR, OURS, READING, RUN, mark, pod, run_of, secret
from bot.running import Program
from bot.values import Duration

_PAUSE = 0.2
_LEAVES = 30.0  # seconds that a node gets to end a program and say so


class Address(BaseModel):
    """How the database is reached from a pod."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    host: str | None = Field(None, min_length=1, description="its host, as pods see it")
    port: int | None = Field(None, ge=1, le=65535, description="its port, as pods see it")


class KubernetesRunnerSettings(Place):
    kind: Literal["kubernetes"] = "kubernetes"
    deployment: Name | None = Field(None, description="the Deployment whose image, account, node selection, variables and files the pod gets")
    container: Name | None = Field(None, description="which of its containers; its first")
    image: Annotated[str, StringConstraints(min_length=1)] | None = Field(None, description="the image, where it is not the Deployment's")
    service_account: Name | None = Field(None, description="the service account, where it is not the Deployment's")
    node_selector: dict[str, str] = Field({}, description="labels of the nodes, where they are not the Deployment's")
    resources: dict[Literal["requests", "limits"], dict[str, str]] = Field({}, description="requests and limits, where they are not the Deployment's")
    address: Address = Field(Address(), description="how the database is reached from a pod: {host: db, port: 5432}")
    rehearsal_host: str | None = Field(None, min_length=1, description="where pods reach Backout's own machine, on which a copy is")
    within: Duration = Field("2m", description="how long a pod may take to start")  # type: ignore[assignment]  # as in the file
    deadline: Duration = Field("1h", description="the cluster ends a pod that is older, should Backout never come back")  # type: ignore[assignment]  # as in the file

    @model_validator(mode="after")
    def _an_image(self) -> Self:
        if self.deployment is None and self.image is None:
            raise ValueError("has no image. Write deployment, or image")
        return self


class KubernetesRunner:
    """Implements running.Runner."""

    kind = "kubernetes"
    inherits = False
    inside = None
    Settings = KubernetesRunnerSettings

    def __init__(self, settings: KubernetesRunnerSettings, cluster: Cluster | None = None, *, leaves: float = _LEAVES) -> None:
        self.settings = settings
        self._cluster = cluster or Cluster(settings)
        self._leaves = leaves
        self._whose = mark(settings.deployment, settings.container, settings.image)

    def seen(self, connect: Connect, *, copy: bool) -> Connect:
        if not copy:
            return connect.model_copy(update={key: value for key, value in self.settings.address.model_dump().items() if value is not None})
        if self.settings.rehearsal_host is None:
            raise Refusal(
                "rehearsal_impossible",
                "The tool runs in a pod, and a copy is on Backout's own machine, where pods can't reach it.",
                "Run Backout in the cluster and write runner.rehearsal_host: where pods reach it.",
            )
        return connect.model_copy(update={"host": self.settings.rehearsal_host})

    async def ready(self) -> tuple[Refusal, ...]:
        try:
            async with self._cluster.open() as api:
                return await self._missing(api)
        except StepFailed as error:
            return (Refusal("cluster_unreachable", error.message, "Mend what the message names, then run: backout check"),)

    async def _missing(self, api: Api) -> tuple[Refusal, ...]:
        if lacking := await missing(api, self._needed()):
            only_reasons = all(right.resource == EVENTS.plural for right in lacking)
            told = refusal(lacking, api.namespace, warning=only_reasons)
            if not only_reasons:
                return (told,)
        name = self.settings.deployment
        if name is not None:
            found = await api.find(DEPLOYMENTS, name)
            there = [one["name"] for one in found["spec"]["template"]["spec"]["containers"]] if found else []
            if found is None or (self.settings.container is not None and self.settings.container not in there):
                what = f"Deployment {name}" if found is None else f"container {self.settings.container} in the Deployment {name}"
                hint = f" It has {', '.join(there)}." if there else ""
                message = f"There is no {what} in the namespace {api.namespace}. So the tool has no image."
                return (Refusal("cluster_object_missing", message, f"Mend runner in backout.yml.{hint}"),)
        return (told,) if lacking else ()

    def _needed(self) -> list[Right]:
        found = [*rights(PODS, "create", "get", "list", "delete"), *rights(PODS, "get", "create", sub="attach"), *rights(PODS, "get", sub="log")]
        found += [*rights(SECRETS, "create"), *rights(EVENTS, "list")]
        return [*found, *rights(DEPLOYMENTS, "get", name=self.settings.deployment)] if self.settings.deployment else found

    @asynccontextmanager
    async def start(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path, name: str, copy: bool) -> AsyncIterator[Program]:
        """Raises ProgramMissing where it can't begin, with the cluster's reason; StepFailed; OutcomeUnknown when it could not be ended over there."""
        async with self._cluster.open() as api:
            made = await self._pod(api, argv, env, directory, name, copy)
            there = str(made["metadata"]["name"])

            async def gone() -> None:
                await self._removed(api, there)

            try:
                await api.create(PODS, made)
                await api.create(SECRETS, secret(await api.get(PODS, there), env))
                await self._begun(api, there)
                async with attached(api, there, gone) as program:
                    yield program
            finally:
                await asyncio.shield(gone())

    async def _pod(self, api: Api, argv: Sequence[str], env: Mapping[str, str], directory: Path, name: str, copy: bool) -> Json:
        settings = self.settings
        like: Json | None = None
        container: Json = {}
        if settings.deployment is not None:
            like = (await api.get(DEPLOYMENTS, settings.deployment))["spec"]["template"]["spec"]
            wanted = settings.container or like["containers"][0]["name"]
            found = next((one for one in like["containers"] if one["name"] == wanted), None)
            if found is None:
                raise ProgramMissing(f"the Deployment {settings.deployment} has no container {wanted}")
            container = found
        own: dict[str, Any] = {
            "image": settings.image, "resources": settings.resources, "serviceAccountName": settings.service_account,
            "nodeSelector": settings.node_selector,
        }  # fmt: skip
        seconds = int(settings.deadline.total_seconds())
        return pod(like, container, own, argv, env, directory=directory, name=name, whose=self._whose, copy=copy, deadline=seconds)

    async def _begun(self, api: Api, name: str) -> None:
        """Its container runs, or has run. Raises ProgramMissing with the cluster's reason."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.within.total_seconds()
        while True:
            found = await api.get(PODS, name)
            if told := could_not_start(found):
                raise ProgramMissing(f"the program can't be started in the pod: {told}")
            if ended(found) is not None or _runs(found):
                return
            told, final = trouble(found)
            if final or loop.time() >= until:
                late = "" if final else f" within {self.settings.within.total_seconds():g} s"
                raise ProgramMissing(f"the pod {name} did not start{late}: {await why(api, found)}")
            await asyncio.sleep(_PAUSE)

    async def _removed(self, api: Api, name: str) -> None:
        """The node is asked to end it and to say so; one that gives no answer is left behind, and that is said.

        With a grace of 0 the object would go at once, whether its program still ran or not.
        """
        await api.delete(PODS, name, grace=1)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._leaves
        while await api.find(PODS, name) is not None:
            if loop.time() >= until:
                await api.delete(PODS, name, grace=0)
                raise OutcomeUnknown(
                    f"The pod {name} could not be seen ended within {self._leaves:g} s: its node gives no answer. It was taken from the list; "
                    "its program may still run. Look at the node, then at the database's sessions."
                )
            await asyncio.sleep(_PAUSE)

    async def prepare(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path) -> None:
        """Nothing is started ahead: it would stay there if Backout died."""

    async def clean(self, running: Collection[str]) -> None:
        """Their Secrets go with them. What only reads may be another process' of ours, alive: it goes when it is over."""
        alive = {run_of(f"backout/{run}") for run in running}
        async with self._cluster.open() as api:
            for found in await api.every(PODS, labels=f"{OURS},{FOR}={self._whose}"):
                run = (found["metadata"].get("labels") or {}).get(RUN)
                if run not in alive and (run != READING or ended(found) is not None):
                    await self._removed(api, found["metadata"]["name"])


def _runs(found: Json) -> bool:
    states = (found.get("status") or {}).get("containerStatuses") or []
    return any((one.get("state") or {}).get("running") is not None for one in states)
