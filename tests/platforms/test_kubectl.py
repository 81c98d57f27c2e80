"""kubectl on the tests' own API server: what it does and sees is what the adapter does and sees."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bot.platforms.kubernetes import KubernetesServices, KubernetesSettings
from tests.cluster import Cluster, things
from tests.contract.test_kubernetes import BOTH, Job, deployed, image, ready, replicas, suspended, until

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl here: apt-get install kubernetes-client")


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        made.create("deployments", things.deployment("api"))
        made.create("cronjobs", things.cronjob("hourly"))
        made.create("cronjobs", things.cronjob("daily", suspend=True))
        await until(lambda: ready(made, "api") == 2)
        yield made


class Kubectl:
    def __init__(self, config: str, home: Path) -> None:
        self._config, self._home = config, home

    async def __call__(self, *words: str) -> str:
        assert KUBECTL is not None
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test runs kubectl as a person would
            KUBECTL, "--kubeconfig", self._config, "-n", "shop", *words, env={"HOME": str(self._home), "PATH": "/usr/bin:/bin"},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def json(self, *words: str) -> Any:
        return json.loads(await self("get", *words, "-o", "json"))


@pytest.fixture
def kubectl(cluster: Cluster, tmp_path: Path) -> Kubectl:
    return Kubectl(cluster.kubeconfig(tmp_path), tmp_path)


@pytest.fixture
def services(cluster: Cluster, tmp_path: Path) -> KubernetesServices:
    return KubernetesServices(
        KubernetesSettings.model_validate({"namespace": "shop", "kubeconfig": cluster.kubeconfig(tmp_path), "within": "60s", **BOTH})
    )


async def test_kubectl_sees_what_the_adapter_stopped_and_started(services: KubernetesServices, kubectl: Kubectl) -> None:
    noted = await services.look()
    await services.stop(noted, Job())

    assert (await kubectl.json("deployment", "api"))["spec"]["replicas"] == 0
    assert [one["spec"]["suspend"] for one in (await kubectl.json("cronjobs"))["items"]] == [True, True]
    assert (await kubectl.json("pods", "-l", "app=api"))["items"] == []

    await services.start(noted, Job())
    await kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=api", "--timeout=60s")
    await kubectl("rollout", "status", "deployment/api", "--timeout=60s")


async def test_the_adapter_sees_what_kubectl_scaled(services: KubernetesServices, kubectl: Kubectl, cluster: Cluster) -> None:
    await kubectl("scale", "deployment/api", "--replicas=3")
    await kubectl("patch", "cronjob", "daily", "-p", '{"spec":{"suspend":false}}')

    noted = await services.look()

    assert (noted["deployment/api"]["replicas"], noted["cronjob/daily"]["suspend"]) == (3, False)
    assert (replicas(cluster), suspended(cluster, "daily")) == (3, False)


async def test_the_commands_by_hand_do_what_start_does(services: KubernetesServices, kubectl: Kubectl, cluster: Cluster) -> None:
    noted = await services.look()
    await services.stop(noted, Job())

    for line in services.by_hand(noted):
        await kubectl(*shlex.split(line)[5:])

    assert (replicas(cluster), suspended(cluster, "hourly"), suspended(cluster, "daily")) == (2, False, True)


async def test_undo_is_kubectls_undo(services: KubernetesServices, kubectl: Kubectl, cluster: Cluster) -> None:
    await deployed(cluster, "shop:2")
    former = await services.former()
    await kubectl("rollout", "undo", "deployment/api")
    await until(lambda: ready(cluster, "api") == 2)
    by_kubectl = cluster.get("deployments", "api")
    assert image(cluster) == "shop:1"
    await kubectl("set", "image", "deployment/api", "main=shop:2")
    await until(lambda: ready(cluster, "api") == 2)

    await services.roll_back(former, Job())

    ours = cluster.get("deployments", "api")
    assert ours["spec"] == by_kubectl["spec"]
    assert "revision" in str(await kubectl("rollout", "history", "deployment/api")).lower()
