"""Kubernetes: CronJobs are suspended, Deployments and StatefulSets scaled to 0, their pods seen gone; and exactly what was there comes back."""

from __future__ import annotations

import asyncio
import itertools
import shlex
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from bot.cluster.api import DEPLOYMENTS, JOBS, PODS, Api, ApiRefused, ApiSilent, Cluster, Json, changed
from bot.cluster.place import IN_CLUSTER, Name, Place
from bot.cluster.pods import named, running
from bot.errors import Refusal, StepFailed
from bot.keeping import Work
from bot.platforms import kubernetes_former, kubernetes_objects, kubernetes_ready
from bot.platforms.kubernetes_objects import CRONJOB, Kind, Meant, Noted, cronjobs, culprit, replicas, same, workloads
from bot.platforms.kubernetes_starting import not_ready
from bot.platforms.services import ServicesSettings
from bot.process import redact
from bot.running import Inside
from bot.words import many

_PAUSE = 0.3  # seconds between two looks
_SOON = 5  # looks in which nobody asks why it is not ready yet
_LOG_BYTES = "65536"
_SUFFICES = "scaled to 0, its autoscaler rests"


class KubernetesSettings(ServicesSettings, Place):
    kind: Literal["kubernetes"] = "kubernetes"
    deployments: tuple[Name, ...] = Field((), description="Deployments that are scaled to 0")
    statefulsets: tuple[Name, ...] = Field((), description="StatefulSets that are scaled to 0")
    cronjobs: tuple[Name, ...] = Field((), description="CronJobs that are suspended")
    selector: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None, description="a label selector for more of the three kinds, and Jobs"
    )
    jobs: Literal["wait", "end"] = Field("wait", description="Jobs that run already are waited for, or ended for good")
    to_revision: int | None = Field(None, ge=1, description="the revision that a Deployment goes back to; the one before the current one")

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not (self.deployments or self.statefulsets or self.cronjobs or self.selector):
            raise ValueError("names nobody to stop. Write deployments, statefulsets, cronjobs or a selector")
        return self


class KubernetesServices:
    """Implements running.Services. Where it can't be done for one service, it is still done for the others, and all is told."""

    kind = "kubernetes"
    Settings = KubernetesSettings

    def __init__(self, settings: KubernetesSettings, cluster: Cluster | None = None) -> None:
        self.settings = settings
        self._cluster = cluster or Cluster(settings)
        self._within = settings.within.total_seconds()
        names = {"cronjob": settings.cronjobs, "deployment": settings.deployments, "statefulset": settings.statefulsets}
        self._meant = Meant(names, settings.selector)

    async def ready(self, inside: Inside | None = None) -> tuple[Refusal, ...]:
        try:
            async with self._cluster.open() as api:
                return await kubernetes_ready.look(api, self._meant, self.settings)
        except StepFailed as error:
            return (Refusal("cluster_unreachable", error.message, "Mend what the message names, then run: backout check"),)

    async def look(self) -> Mapping[str, Any]:
        async with self._cluster.open() as api:
            return await kubernetes_objects.look(api, self._meant)

    # ------------------------------------------------------------------ stop

    async def stop(self, noted: Noted, work: Work) -> str:
        async with self._cluster.open() as api:
            told = await each(
                [
                    *((service, _suspend(api, service, one, True)) for service, one in cronjobs(noted)),
                    *((service, _scale_down(api, service, kind, one)) for service, kind, one in workloads(noted)),
                ]
            )
            for what in (self._end_jobs(api, noted, work), *(self._gone(api, service, one, work) for service, _, one in workloads(noted))):
                if said := await what:
                    told.append(said)
        return "; ".join(filter(None, told)) or "nothing ran"

    async def _end_jobs(self, api: Api, noted: Noted, work: Work) -> str:
        ended: list[str] = []

        async def left() -> str:
            there = await kubernetes_objects.jobs(api, noted, self.settings.selector)
            names = [job["metadata"]["name"] for job in there]
            if self.settings.jobs == "end":
                for name in names:
                    await api.delete(JOBS, name)
                    ended.extend([name] if name not in ended else [])
            pods = [pod for name in {*names, *ended} for pod in await running(api, f"job-name={name}")]
            return f"{many(len(names or pods), 'job')} to end: {', '.join(names) or named(pods)}" if names or pods else ""

        problem = await self._until(left, work)
        if problem:
            way = "Wait for it and retry, or write jobs: end." if self.settings.jobs == "wait" else "Look at its pods, then retry."
            raise StepFailed(f"After {self._within:g} s there was still {problem}. {way}")
        return f"ended for good: {', '.join(sorted(ended))}" if ended else ""

    async def _gone(self, api: Api, service: str, one: Mapping[str, Any], work: Work) -> str:
        async def left() -> str:
            pods = await running(api, one["selector"])
            return f"{many(len(pods), 'pod')} of {service} to go: {named(pods)}" if pods else ""

        if problem := await self._until(left, work):
            raise StepFailed(
                f"After {self._within:g} s there was still {problem}. Nothing was executed. Look at them, or raise platform.within, then retry."
            )
        return ""

    async def _until(self, left: Callable[[], Awaitable[str]], work: Work) -> str:
        """Until nothing is left, or its time has passed: then what is left. What it waits for is told when it changes."""
        loop = asyncio.get_running_loop()
        until, told = loop.time() + self._within, ""
        while problem := await left():
            if loop.time() >= until:
                return problem
            if problem != told:
                await work.progress(f"waiting for {problem}")
                told = problem
            await asyncio.sleep(_PAUSE)
        return ""

    async def prove_stopped(self, noted: Noted) -> None:
        async with self._cluster.open() as api:
            found = [await _awake(api, service, one) for service, one in cronjobs(noted)]
            found += [await _scaled_up(api, service, kind, one) for service, kind, one in workloads(noted)]
            found += [f"the job {job['metadata']['name']} runs" for job in await kubernetes_objects.jobs(api, noted, self.settings.selector)]
        if there := [one for one in found if one]:
            raise StepFailed(f"Not stopped any more: {'; '.join(there)}. Nothing was executed. Stop what brings it back, then retry.")

    # ------------------------------------------------------------------ start

    async def start(self, noted: Noted, work: Work) -> str:
        told: list[str] = []
        failed: list[StepFailed] = []
        async with self._cluster.open() as api:
            lines = [(service, self._bring_back(api, service, kind, one, work)) for service, kind, one in workloads(noted) if one["replicas"]]
            lines += [(service, _suspend(api, service, one, False)) for service, one in cronjobs(noted) if not one["suspend"]]
            for _, line in lines:
                if failed and not work.leaving:
                    line.close()
                    continue
                try:
                    told.append(await line)
                except StepFailed as error:
                    failed.append(error)
        if failed:
            raise StepFailed(" ".join(error.message for error in failed), {**failed[0].facts, "started": told})
        stayed = [service for service, one in noted.items() if not one.get("replicas") and one.get("suspend", True)]
        return "; ".join([*told, *([f"as before, not running: {', '.join(stayed)}"] if stayed else [])]) or "nothing had run"

    async def _bring_back(self, api: Api, service: str, kind: Kind, one: Mapping[str, Any], work: Work) -> str:
        # once it runs, its autoscaler may have given it more
        await _scale(api, service, kind, one, one["replicas"], unless_up=bool(one["autoscaler"]))

        looks = itertools.count()

        async def left() -> str:
            return await not_ready(api, service, kind, one, why=next(looks) >= _SOON)

        if problem := await self._until(left, work):
            raise StepFailed(f"{problem} after {self._within:g} s. Look at its pods and its log, then retry.", {"service": service})
        return f"{service} runs, {many(one['replicas'], 'replica')}"

    def by_hand(self, noted: Noted) -> tuple[str, ...]:
        base = f"kubectl -n {shlex.quote(self.settings.namespace)}"
        if self.settings.context:
            base = f"kubectl --context {shlex.quote(self.settings.context)} -n {shlex.quote(self.settings.namespace)}"
        elif self.settings.kubeconfig != IN_CLUSTER:
            base = f"kubectl --kubeconfig {shlex.quote(self.settings.kubeconfig)} -n {shlex.quote(self.settings.namespace)}"
        lines: list[str] = []
        for service, _, one in workloads(noted):
            if one["replicas"]:
                lines += [f"{base} scale {shlex.quote(service)} --replicas={one['replicas']}", f"{base} rollout status {shlex.quote(service)}"]
        for service, one in cronjobs(noted):
            if not one["suspend"]:
                lines.append(f'{base} patch {shlex.quote(service)} -p \'{{"spec":{{"suspend":false}}}}\'')
        return tuple(lines)

    # ------------------------------------------------------------------ logs and the way back

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        async with self._cluster.open() as api:
            noted = await kubernetes_objects.look(api, self._meant)
            return {service: await _log(api, one["selector"], lines) for service, _, one in workloads(noted)}

    async def former(self) -> Mapping[str, Any]:
        async with self._cluster.open() as api:
            found, _ = await kubernetes_objects.objects(api, self._meant)
            mine = [one for kind, one in found if kind.resource == DEPLOYMENTS]
            return await kubernetes_former.former(api, mine, self.settings.to_revision)

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> str:
        async with self._cluster.open() as api:
            return "; ".join(await each([(service, kubernetes_former.undo(api, service, one)) for service, one in former.items()]))


async def each(doing: list[tuple[str, Any]]) -> list[str]:
    """All of them, whatever becomes of one; then those that failed are told together. A server that gives no answer ends it at once."""
    told: list[str] = []
    failed: list[StepFailed] = []
    for _, one in doing:
        if failed and isinstance(failed[-1], ApiSilent):
            one.close()
            continue
        try:
            told.append(await one)
        except StepFailed as error:
            failed.append(error)
    if failed:
        raise StepFailed(" ".join(error.message for error in failed), {"done": told})
    return told


async def _suspend(api: Api, service: str, one: Mapping[str, Any], suspend: bool) -> str:
    """Only what was awake is touched, in both directions."""

    def change(there: Json) -> Json | None:
        same(there, one, service)
        if bool(there["spec"].get("suspend")) is suspend:
            return None
        return {**there, "spec": {**there["spec"], "suspend": suspend}}

    if one["suspend"]:
        return f"{service} was suspended before"
    try:
        there = await changed(api, CRONJOB.resource, one["name"], change)
    except ApiRefused as error:
        raise StepFailed(f"{service} could not be {'suspended' if suspend else 'resumed'}. {error.message}") from error
    if bool(there["spec"].get("suspend")) is not suspend:
        raise StepFailed(
            f"{service} could not be {'suspended' if suspend else 'resumed'}: the cluster took it and kept it as it was. Look what changes it."
        )
    return f"{service} {'suspended' if suspend else 'resumed'}"


async def _scale(api: Api, service: str, kind: Kind, one: Mapping[str, Any], wanted: int, *, unless_up: bool = False) -> None:
    """Its scale alone is written, so nothing else of it can be undone by us. `unless_up`: left as it is where it runs already."""

    def change(there: Json) -> Json | None:
        now = replicas(same(there, one, service))
        if now == wanted or (unless_up and now):
            return None
        meta = {key: there["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
        return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": {"replicas": wanted}}

    try:
        await changed(api, kind.resource, one["name"], change, sub="scale")
    except ApiRefused as error:
        if error.missing:
            raise StepFailed(f"{service} is gone: somebody deleted it since it was looked at. Deploy it again.") from error
        raise StepFailed(f"{service} could not be scaled to {wanted}. {error.message}") from error


async def _scale_down(api: Api, service: str, kind: Kind, one: Mapping[str, Any]) -> str:
    await _scale(api, service, kind, one, 0)
    if not one["replicas"]:
        return f"{service} was at 0 before"
    return f"{service} {_SUFFICES} ({one['autoscaler']['name']})" if one["autoscaler"] else f"{service} scaled from {one['replicas']} to 0"


async def _awake(api: Api, service: str, one: Mapping[str, Any]) -> str:
    there = await api.find(CRONJOB.resource, one["name"])
    return f"{service} is not suspended" if there is not None and not there["spec"].get("suspend") else ""


async def _scaled_up(api: Api, service: str, kind: Kind, one: Mapping[str, Any]) -> str:
    """Names who brings it back: what owns it, its autoscaler, who wrote its replicas."""
    there = await api.find(kind.resource, one["name"])
    if there is not None and (now := replicas(there)):
        suspects = [
            f"it belongs to {one['owner']}" if one["owner"] else "",
            f"the autoscaler {one['autoscaler']['name']}" if one["autoscaler"] else "",
        ]
        hint = "".join(f", {suspect}" for suspect in suspects if suspect)
        return f"{service} was scaled up to {now}{culprit(there)}{hint}"
    pods = await running(api, one["selector"])
    return f"{service} has {many(len(pods), 'pod')}: {named(pods)}" if pods else ""


async def _log(api: Api, labels: str, lines: int) -> tuple[str, ...]:
    pods = await api.every(PODS, labels=labels)
    if not pods:
        return ("no pod, so no log",)
    told: list[str] = []
    for pod in pods:
        for container in pod["spec"]["containers"]:
            query = {"tailLines": str(lines), "limitBytes": _LOG_BYTES, "container": container["name"]}
            try:
                text = await api.text(PODS, pod["metadata"]["name"], "log", query)
            except ApiRefused as error:
                text = f"could not be read: {error.message}"
            told += [f"{pod['metadata']['name']}: {line}" for line in redact(text).splitlines()]
    return tuple(told[-lines:])
