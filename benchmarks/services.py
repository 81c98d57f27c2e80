"""Stop, proof and start of an application in a cluster: what Backout adds to the same calls, made one after the other by a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from kubernetes_asyncio import client, config

from benchmarks.frame import Bench, Pair, Sample
from benchmarks.ground import Ground
from bot.databases.postgres import PostgresDatabase
from bot.keeping import Work
from bot.platforms.kubernetes import KubernetesServices, KubernetesSettings
from bot.platforms.services import ServicesPlatform
from bot.platforms.several import Several
from tests.cluster import Cluster, things

_SPACE = "shop"
_DEPLOYMENTS = tuple(f"api-{number}" for number in range(5))
_CRONJOBS = tuple(f"nightly-{number}" for number in range(5))
_REPLICAS = 3
_PAUSE = 0.3  # seconds between two looks, on both sides


def benches() -> list[Bench]:
    what = f"{len(_DEPLOYMENTS)} Deployments of {_REPLICAS} pods and {len(_CRONJOBS)} CronJobs: stopped, proven stopped, started"
    return [Bench("services", what, "a script that makes the same calls with the cluster's client library", {"seconds": 1.1}, _opened)]


class _Job:
    """keeping.Work, as far as platforms use it."""

    run, leaving = "measured", False

    def __init__(self) -> None:
        self.stopped: dict[str, Any] = {}

    async def remember(self, **facts: Any) -> None:
        self.stopped |= facts

    async def progress(self, text: str) -> None: ...


@asynccontextmanager
async def _opened(ground: Ground, _: int) -> AsyncIterator[Pair]:
    async with Cluster(namespace=_SPACE) as cluster:
        for name in _DEPLOYMENTS:
            cluster.create("deployments", things.deployment(name, _REPLICAS, command=["sleep", "3600"]))
        for name in _CRONJOBS:
            cluster.create("cronjobs", things.cronjob(name))
        place = cluster.kubeconfig(ground.root)
        database = PostgresDatabase(target="shop", tool=ground.owner(await ground.shop(None)), admin=ground.server)
        settings = KubernetesSettings(namespace=_SPACE, kubeconfig=place, deployments=_DEPLOYMENTS, cronjobs=_CRONJOBS)
        platform = Several([ServicesPlatform(KubernetesServices(settings), "kubernetes", settings)], database.strangers)

        async def ready() -> bool:
            return all((cluster.get("deployments", name).get("status") or {}).get("readyReplicas", 0) == _REPLICAS for name in _DEPLOYMENTS)

        await _until(ready)

        async def ours() -> Sample:
            work = cast("Work", _Job())
            return await _timed(
                stop=lambda: platform.stop_writers(work), prove=lambda: platform.prove_stopped(work), start=lambda: platform.start_writers(work)
            )

        async def theirs() -> Sample:
            hand = _ByHand(place, database)
            return await _timed(stop=hand.stop, prove=hand.prove, start=hand.start)

        yield Pair(ours, theirs)


async def _timed(**parts: Callable[[], Awaitable[Any]]) -> Sample:
    found = {}
    for name, part in parts.items():
        began = time.perf_counter()
        await part()
        found[name] = time.perf_counter() - began
    return {"seconds": sum(found.values()), **found}


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110  a condition of the cluster's
        await asyncio.sleep(_PAUSE)


class _ByHand:
    """What is there is noted; suspended and scaled; seen gone; looked at again; scaled up, one ready before the next; resumed."""

    def __init__(self, place: str, database: PostgresDatabase) -> None:
        self._place, self._database = place, database
        self._noted: dict[str, int] = {}

    @asynccontextmanager
    async def _cluster(self) -> AsyncIterator[tuple[client.AppsV1Api, client.BatchV1Api, client.CoreV1Api]]:
        """As every command of a script opens it."""
        settings = client.Configuration()
        await config.load_kube_config(self._place, client_configuration=settings)
        async with client.ApiClient(settings) as api:
            yield client.AppsV1Api(api), client.BatchV1Api(api), client.CoreV1Api(api)

    async def stop(self) -> None:
        async with self._cluster() as (apps, batch, core):
            for name in _DEPLOYMENTS:
                self._noted[name] = (await apps.read_namespaced_deployment(name, _SPACE)).spec.replicas
            for name in _CRONJOBS:
                await batch.read_namespaced_cron_job(name, _SPACE)
            for name in _CRONJOBS:
                await batch.patch_namespaced_cron_job(name, _SPACE, {"spec": {"suspend": True}})
            for name in _DEPLOYMENTS:
                await apps.patch_namespaced_deployment_scale(name, _SPACE, {"spec": {"replicas": 0}})
            for name in _DEPLOYMENTS:
                await _until(lambda name=name: self._gone(core, name))  # type: ignore[misc]  # mypy takes the default for an argument
            await _until(self._nobody)

    async def prove(self) -> None:
        async with self._cluster() as (apps, batch, core):
            stopped = [(await batch.read_namespaced_cron_job(name, _SPACE)).spec.suspend for name in _CRONJOBS]
            for name in _DEPLOYMENTS:
                stopped += [(await apps.read_namespaced_deployment(name, _SPACE)).spec.replicas == 0, await self._gone(core, name)]
        if not all([*stopped, await self._nobody()]):
            raise RuntimeError("not stopped")

    async def start(self) -> None:
        async with self._cluster() as (apps, batch, _):
            for name in _DEPLOYMENTS:
                await apps.patch_namespaced_deployment_scale(name, _SPACE, {"spec": {"replicas": self._noted[name]}})
                await _until(lambda name=name: self._ready(apps, name))  # type: ignore[misc]  # as above
            for name in _CRONJOBS:
                await batch.patch_namespaced_cron_job(name, _SPACE, {"spec": {"suspend": False}})

    async def _gone(self, core: client.CoreV1Api, name: str) -> bool:
        return not (await core.list_namespaced_pod(_SPACE, label_selector=f"app={name}")).items

    async def _ready(self, apps: client.AppsV1Api, name: str) -> bool:
        there = await apps.read_namespaced_deployment(name, _SPACE)
        seen = (there.status.observed_generation or 0) >= there.metadata.generation
        return bool(seen and (there.status.ready_replicas or 0) >= self._noted[name])

    async def _nobody(self) -> bool:
        return not await self._database.strangers()
