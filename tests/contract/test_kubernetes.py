"""The Kubernetes platform against an API server that refuses what the real one refuses (tests/cluster)."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bot.cluster.api import Cluster as Client
from bot.errors import Refusal, StepFailed
from bot.platforms.kubernetes import KubernetesServices, KubernetesSettings
from tests.cluster import Cluster, Fault, things
from tests.contract.jobs import Job

Make = Callable[..., KubernetesServices]
BOTH: dict[str, Any] = {"deployments": ["api"], "cronjobs": ["hourly", "daily"]}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """An API with two replicas, one CronJob awake and one suspended."""
    async with Cluster() as made:
        made.create("deployments", things.deployment("api"))
        made.create("cronjobs", things.cronjob("hourly"))
        made.create("cronjobs", things.cronjob("daily", suspend=True))
        await until(lambda: ready(made, "api") == 2)
        yield made


@pytest.fixture
def make(cluster: Cluster, tmp_path: Path) -> Make:
    def made(*, patience: float = 3.0, request: float = 1.0, token: str | None = None, **settings: Any) -> KubernetesServices:
        path = cluster.kubeconfig(tmp_path, token) if token else cluster.kubeconfig(tmp_path)
        given = {"namespace": "shop", "kubeconfig": path, "within": "5s", **(settings or BOTH)}
        read = KubernetesSettings.model_validate(given)
        return KubernetesServices(read, Client(read, patience=patience, request=request))

    return made


async def until(condition: Callable[[], Any], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  a condition of the cluster's
            await asyncio.sleep(0.02)


def ready(cluster: Cluster, name: str, plural: str = "deployments") -> int:
    return int((cluster.get(plural, name).get("status") or {}).get("readyReplicas", 0))


def suspended(cluster: Cluster, name: str) -> bool:
    return bool(cluster.get("cronjobs", name)["spec"]["suspend"])


def replicas(cluster: Cluster, name: str = "api", plural: str = "deployments") -> int:
    return int(cluster.get(plural, name)["spec"]["replicas"])


def writes(cluster: Cluster) -> list[tuple[str, str, str]]:
    return [(one.verb, one.resource, one.name) for one in cluster.requests if one.verb in {"create", "update", "patch", "delete"}]


# ------------------------------------------------------------------ stop and start


async def test_what_ran_is_stopped_seen_gone_and_exactly_that_comes_back(cluster: Cluster, make: Make) -> None:
    services = make()
    noted = await services.look()
    assert noted["deployment/api"]["replicas"] == 2
    assert noted["cronjob/daily"]["suspend"] is True

    said = await services.stop(noted, Job())
    await services.prove_stopped(noted)

    assert cluster.pods() == []
    assert (replicas(cluster), suspended(cluster, "hourly"), suspended(cluster, "daily")) == (0, True, True)
    assert "deployment/api scaled from 2 to 0" in said
    assert "cronjob/daily was suspended before" in said

    said = await services.start(noted, Job())

    assert (replicas(cluster), ready(cluster, "api")) == (2, 2)
    assert (suspended(cluster, "hourly"), suspended(cluster, "daily")) == (False, True)
    assert "as before, not running: cronjob/daily" in said


async def test_cronjobs_are_suspended_before_anything_is_scaled_and_resumed_after_it(cluster: Cluster, make: Make) -> None:
    services = make()
    noted = await services.look()
    await services.stop(noted, Job())
    await services.start(noted, Job())

    assert writes(cluster) == [
        ("update", "cronjobs", "hourly"), ("update", "deployments/scale", "api"),
        ("update", "deployments/scale", "api"), ("update", "cronjobs", "hourly"),
    ]  # fmt: skip


async def test_stopping_and_starting_twice_come_to_the_same(cluster: Cluster, make: Make) -> None:
    services = make()
    noted = await services.look()
    for _ in range(2):
        await services.stop(noted, Job())
    for _ in range(2):
        await services.start(noted, Job())

    assert (replicas(cluster), suspended(cluster, "hourly"), suspended(cluster, "daily")) == (2, False, True)
    assert len(writes(cluster)) == 4


async def test_what_was_at_zero_before_stays_at_zero(cluster: Cluster, make: Make) -> None:
    cluster.create("deployments", things.deployment("off", replicas=0))
    services = make(deployments=["off", "api"])
    noted = await services.look()

    await services.stop(noted, Job())
    await services.start(noted, Job())

    assert (replicas(cluster, "off"), replicas(cluster)) == (0, 2)


async def test_a_selector_finds_what_has_its_labels_and_nothing_else(cluster: Cluster, make: Make) -> None:
    cluster.create("deployments", things.deployment("other", labels={"app": "blog"}))
    cluster.create("statefulsets", things.statefulset("queue"))

    noted = await make(selector="app=shop").look()

    assert set(noted) == {"cronjob/daily", "cronjob/hourly", "deployment/api", "statefulset/queue"}


async def test_a_statefulset_goes_down_and_comes_up_pod_by_pod(cluster: Cluster, make: Make) -> None:
    cluster.create("statefulsets", things.statefulset("queue", replicas=3))
    await until(lambda: ready(cluster, "queue", "statefulsets") == 3)
    services = make(statefulsets=["queue"])
    noted = await services.look()

    await services.stop(noted, Job())
    assert not [pod for pod in cluster.pods() if pod.startswith("queue")]
    await services.start(noted, Job())

    assert ready(cluster, "queue", "statefulsets") == 3


async def test_lists_longer_than_a_page_are_read_to_their_end(cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.cluster.api._PAGE", 3)
    for number in range(8):
        cluster.create("cronjobs", things.cronjob(f"more-{number}"))

    noted = await make(selector="app=shop").look()

    assert len([service for service in noted if service.startswith("cronjob/")]) == 10


async def test_each_is_ready_before_the_next_is_started(cluster: Cluster, make: Make) -> None:
    cluster.create("deployments", things.deployment("web", image="web:1"))
    await until(lambda: ready(cluster, "web") == 2)
    services = make(deployments=["api", "web"], cronjobs=["hourly"])
    noted = await services.look()
    await services.stop(noted, Job())
    cluster.kubelet.unready.add("shop:1")

    with pytest.raises(StepFailed, match=r"deployment/api: 0 of 2 ready.*after 5 s"):
        await services.start(noted, Job())

    assert (replicas(cluster, "api"), replicas(cluster, "web"), suspended(cluster, "hourly")) == (2, 0, True)


async def test_when_the_run_leaves_the_rest_is_started_all_the_same(cluster: Cluster, make: Make) -> None:
    cluster.create("deployments", things.deployment("web", image="web:1"))
    await until(lambda: ready(cluster, "web") == 2)
    services = make(deployments=["api", "web"], cronjobs=["hourly"], within="2s")
    noted = await services.look()
    await services.stop(noted, Job())
    cluster.kubelet.trouble["shop:1"] = ("ImagePullBackOff", 'Back-off pulling image "shop:1"')

    with pytest.raises(StepFailed, match=r"deployment/api.*ImagePullBackOff.*shop:1"):
        await services.start(noted, Job(leaving=True))

    assert (ready(cluster, "web"), suspended(cluster, "hourly")) == (2, False)


# ------------------------------------------------------------------ jobs


async def test_a_job_that_runs_already_is_waited_for(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)"
    cluster.create("cronjobs", things.cronjob("import", command=[sys.executable, "-c", wait]))
    assert cluster.fire("import", "import-1")
    await until(lambda: "import-1-pod" in cluster.pods())
    services = make(cronjobs=["import"], within="10s")
    noted, job = await services.look(), Job()

    stopping = asyncio.create_task(services.stop(noted, job))
    await until(lambda: any("import-1" in line for line in job.told))
    with pytest.raises(StepFailed, match="the job import-1 runs"):
        await services.prove_stopped(noted)
    go.touch()
    await stopping
    await services.prove_stopped(noted)

    assert not cluster.fire("import", "import-2")


async def test_a_job_that_does_not_end_in_time_is_named(cluster: Cluster, make: Make) -> None:
    cluster.fire("hourly", "hourly-1")
    await until(lambda: "hourly-1-pod" in cluster.pods())
    services = make(cronjobs=["hourly"], within="1s")

    with pytest.raises(StepFailed, match=r"After 1 s there was still 1 job to end: hourly-1\. Wait for it and retry, or write jobs: end"):
        await services.stop(await services.look(), Job())


async def test_jobs_are_ended_where_the_target_says_so(cluster: Cluster, make: Make) -> None:
    cluster.fire("hourly", "hourly-1")
    await until(lambda: "hourly-1-pod" in cluster.pods())
    services = make(cronjobs=["hourly"], jobs="end")
    noted = await services.look()

    said = await services.stop(noted, Job())

    assert "ended for good: hourly-1" in said
    assert "hourly-1-pod" not in cluster.pods()
    await services.prove_stopped(noted)


# ------------------------------------------------------------------ who brings it back


async def test_an_autoscaler_rests_while_its_deployment_is_at_zero(cluster: Cluster, make: Make) -> None:
    cluster.create("horizontalpodautoscalers", things.autoscaler("api-scaler", "api", low=3))
    await until(lambda: ready(cluster, "api") == 3)
    services = make()
    noted = await services.look()
    assert noted["deployment/api"]["autoscaler"] == {"name": "api-scaler", "min": 3, "max": 5, "owner": None}

    said = await services.stop(noted, Job())
    await services.prove_stopped(noted)
    assert "its autoscaler rests (api-scaler)" in said
    await services.start(noted, Job())

    assert replicas(cluster) == 3


async def test_an_operator_that_scales_it_up_again_is_named(cluster: Cluster, make: Make) -> None:
    owner = {"apiVersion": "shop.example/v1", "kind": "Shop", "name": "main", "uid": "fake-uid", "controller": True}
    cluster.change("deployments", "api", lambda one: one["metadata"].update(ownerReferences=[owner]))
    services = make()
    noted = await services.look()
    await services.stop(noted, Job())
    cluster.change("deployments", "api", lambda one: one["spec"].update(replicas=2), manager="shop-operator")

    with pytest.raises(
        StepFailed, match=r"deployment/api was scaled up to 2 \(its replicas were last written by shop-operator\), it belongs to Shop main"
    ):
        await services.prove_stopped(noted)


async def test_a_cronjob_that_was_resumed_meanwhile_is_named(cluster: Cluster, make: Make) -> None:
    services = make()
    noted = await services.look()
    await services.stop(noted, Job())
    cluster.change("cronjobs", "hourly", lambda one: one["spec"].update(suspend=False))

    with pytest.raises(StepFailed, match="cronjob/hourly is not suspended"):
        await services.prove_stopped(noted)


async def test_a_pod_that_ignores_sigterm_is_waited_for_and_named(cluster: Cluster, make: Make) -> None:
    cluster.kubelet.slow_to_end = lambda name: name.startswith("api-")
    services = make(deployments=["api"], within="1s")

    with pytest.raises(StepFailed, match=r"After 1 s there was still 2 pods of deployment/api to go: api-.*ending, up to 30 s for a clean end"):
        await services.stop(await services.look(), Job())


async def test_what_was_made_anew_meanwhile_is_left_as_it_is(cluster: Cluster, make: Make) -> None:
    services = make(deployments=["api"])
    noted = await services.look()
    await services.stop(noted, Job())
    cluster.store.remove("deployments", "shop", "api")
    cluster.create("deployments", things.deployment("api", replicas=1))

    with pytest.raises(StepFailed, match="deployment/api was deleted and made anew"):
        await services.start(noted, Job())

    assert replicas(cluster) == 1


async def test_what_was_deleted_meanwhile_is_said_and_the_rest_comes_back(cluster: Cluster, make: Make) -> None:
    services = make()
    noted = await services.look()
    await services.stop(noted, Job())
    cluster.store.remove("deployments", "shop", "api")

    with pytest.raises(StepFailed, match="deployment/api is gone"):
        await services.start(noted, Job(leaving=True))

    assert not suspended(cluster, "hourly")


# ------------------------------------------------------------------ an API server that has bad days


async def test_an_object_that_somebody_else_changed_is_read_again(cluster: Cluster, make: Make) -> None:
    faster = iter(range(2))

    def somebody(request: Any) -> None:
        if request.resource == "deployments/scale" and next(faster, None) is not None:
            cluster.change("deployments", "api", lambda one: one["metadata"]["labels"].update(touched=str(len(cluster.requests))))

    cluster.before_write = somebody
    services = make(deployments=["api"])

    await services.stop(await services.look(), Job())

    assert replicas(cluster) == 0
    assert len([one for one in writes(cluster) if one[1] == "deployments/scale"]) == 3
    assert "touched" in cluster.get("deployments", "api")["metadata"]["labels"]


@pytest.mark.parametrize("kind", [429, 500, 503, "close", "half", "hang"])
async def test_a_passing_fault_is_waited_out(cluster: Cluster, make: Make, kind: int | str) -> None:
    services = make(request=0.3, patience=6.0)
    noted = await services.look()
    cluster.faults.append(Fault(kind, times=2, retry_after="1" if kind == 429 else None))
    await services.stop(noted, Job())
    cluster.faults.append(Fault(kind, fits=lambda one: one.verb == "update", after=True))

    await services.start(noted, Job())

    assert (replicas(cluster), suspended(cluster, "hourly"), suspended(cluster, "daily")) == (2, False, True)


async def test_retry_after_is_honoured(cluster: Cluster, make: Make) -> None:
    loop = asyncio.get_running_loop()
    services = make()
    cluster.faults.append(Fault(429, retry_after="1"))
    before = loop.time()

    await services.look()

    assert loop.time() - before >= 1


async def test_a_retry_after_beyond_all_patience_is_not_waited_for(cluster: Cluster, make: Make) -> None:
    cluster.faults.append(Fault(429, times=100, retry_after="86400"))

    with pytest.raises(StepFailed, match="with 429"):
        await make(patience=1.0).look()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("hang", "gave no answer to GET"), ("close", "can't be reached"), (500, "with 500"), ("nonsense", "not JSON. Is it an API server?")],
)
async def test_a_lasting_fault_is_a_sentence(cluster: Cluster, make: Make, kind: int | str, words: str) -> None:
    cluster.faults.append(Fault(kind, times=1000))

    with pytest.raises(StepFailed, match=words):
        await make(request=0.2, patience=0.6).look()


async def test_a_server_that_is_not_there_is_a_refusal_beforehand(cluster: Cluster, make: Make) -> None:
    services = make(patience=0.5)
    await cluster._runner.cleanup()

    (refusal,) = await services.ready()

    assert refusal.code == "cluster_unreachable"
    assert "can't be reached" in refusal.message or "gave no answer" in refusal.message, "which of the two depends on when its patience ends"


async def test_wrong_credentials_are_said(make: Make) -> None:
    (refusal,) = await make(token="fake-token-of-nobody", **BOTH).ready()

    assert (refusal.code, "credentials" in refusal.message) == ("cluster_unreachable", True)


@pytest.mark.parametrize("text", [None, "not: [yaml", "apiVersion: v1\nkind: Config\n", "current-context: other\n"])
async def test_a_kubeconfig_that_cannot_be_used_is_said(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "broken"
    if text is not None:
        path.write_text(text)
    settings = KubernetesSettings.model_validate({"namespace": "shop", "kubeconfig": str(path), "deployments": ["api"]})

    (refusal,) = await KubernetesServices(settings).ready()

    assert refusal.code == "cluster_unreachable"
    assert str(path) in refusal.message


async def test_outside_a_cluster_in_cluster_is_said() -> None:
    (refusal,) = await KubernetesServices(KubernetesSettings.model_validate({"namespace": "shop", "deployments": ["api"]})).ready()

    assert "service account" in refusal.message


async def test_one_that_may_not_be_scaled_does_not_keep_the_others_from_being_stopped(cluster: Cluster, make: Make) -> None:
    cluster.create("statefulsets", things.statefulset("queue"))
    await until(lambda: ready(cluster, "queue", "statefulsets") == 2)
    cluster.forbidden.add(("update", "deployments/scale"))
    services = make(deployments=["api"], statefulsets=["queue"], cronjobs=["hourly"])

    with pytest.raises(StepFailed, match=r"deployment/api could not be scaled to 0.*403"):
        await services.stop(await services.look(), Job())

    assert (suspended(cluster, "hourly"), replicas(cluster, "queue", "statefulsets"), replicas(cluster)) == (True, 0, 2)


# ------------------------------------------------------------------ beforehand


async def test_a_cluster_that_lets_us_is_ready_and_asking_changes_nothing(cluster: Cluster, make: Make) -> None:
    before = cluster.store.version

    assert await make(**BOTH, roll_back=True, jobs="end").ready() == ()
    assert cluster.store.version == before


async def test_every_missing_right_is_named_with_the_rule_that_gives_it(cluster: Cluster, make: Make) -> None:
    cluster.forbidden |= {("update", "deployments/scale"), ("list", "pods"), ("update", "cronjobs"), ("get", "cronjobs")}

    (refusal,) = await make(**BOTH).ready()

    assert refusal.code == "cluster_forbidden"
    for words in ("get and update cronjobs", "update deployments/scale", "list pods"):
        assert words in refusal.message
    import yaml

    (given,) = [yaml.safe_load(refusal.next.partition(": ")[2])["rules"]]
    assert {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["update"]} in given
    assert {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]} in given


async def test_every_right_that_a_run_uses_is_asked_for_beforehand(cluster: Cluster, make: Make) -> None:
    cluster.change("deployments", "api", lambda one: one["spec"]["template"]["spec"]["containers"][0].update(image="shop:2"))
    cluster.create("statefulsets", things.statefulset("queue"))
    await until(lambda: ready(cluster, "api") == 2 and len(cluster.store.find("replicasets", "shop")) == 2)
    services = make(deployments=["api"], statefulsets=["queue"], cronjobs=["hourly"], selector="app=shop", jobs="end", roll_back=True)
    await services.ready()
    asked = {
        (one.body["spec"]["resourceAttributes"]["verb"], "/".join(filter(None, [about["resource"], about.get("subresource")])))
        for one in cluster.requests
        if one.verb == "post" and (about := one.body["spec"]["resourceAttributes"])
    }
    cluster.fire("hourly", "hourly-1")
    await until(lambda: "hourly-1-pod" in cluster.pods())
    cluster.requests.clear()

    noted = await services.look()
    former = await services.former()
    await services.logs(5)
    await services.stop(noted, Job())
    await services.prove_stopped(noted)
    await services.roll_back(former, Job())
    await services.start(noted, Job())

    used = {(one.verb, one.resource) for one in cluster.requests}
    assert ("delete", "jobs") in used
    assert used - asked == set()


async def test_a_missing_log_right_is_a_warning(cluster: Cluster, make: Make) -> None:
    cluster.forbidden.add(("get", "pods/log"))
    services = make()

    (refusal,) = await services.ready()

    assert refusal.warning
    assert "could not be read" in (await services.logs(5))["deployment/api"][0]


async def test_a_service_that_is_not_there_is_refused_with_the_nearest_name(make: Make) -> None:
    services = make(deployments=["apii"])

    (refusal,) = await services.ready()

    assert (refusal.code, "Is api meant?" in refusal.next) == ("cluster_object_missing", True)
    with pytest.raises(StepFailed, match="Not in the namespace shop: deployment/apii"):
        await services.look()


async def test_a_selector_that_finds_nobody_is_refused(make: Make) -> None:
    (refusal,) = await make(selector="app=nobody").ready()

    assert refusal.code == "cluster_object_missing"


async def test_what_an_operator_or_keda_owns_is_a_warning_beforehand(cluster: Cluster, make: Make) -> None:
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "api", "uid": "fake-uid", "controller": True}
    cluster.create("horizontalpodautoscalers", things.autoscaler("keda-hpa-api", "api", owner=scaled))

    (refusal,) = await make().ready()

    assert (refusal.code, refusal.warning) == ("cluster_owned", True)
    assert "ScaledObject api" in refusal.message


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"deployments": ["../secrets"]}, {"deployments": ["a"], "kubeconfig": "relative"}, {"deployments": ["a"], "namespace": "a/b"},
        {"deployments": ["a"], "jobs": "kill"}, {"deployments": ["a"], "to_revision": 0}, {"deployments": ["a"], "unknown": 1},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KubernetesSettings.model_validate({"namespace": "shop", **wrong})


# ------------------------------------------------------------------ by hand, logs


async def test_the_commands_by_hand_start_exactly_what_ran(make: Make) -> None:
    services = make()
    lines = services.by_hand(await services.look())

    assert [shlex.split(line)[5:] for line in lines] == [
        ["scale", "deployment/api", "--replicas=2"],
        ["rollout", "status", "deployment/api"],
        ["patch", "cronjob/hourly", "-p", '{"spec":{"suspend":false}}'],
    ]


async def test_logs_are_the_newest_lines_without_secrets(cluster: Cluster, make: Make) -> None:
    cluster.kubelet.logs["shop:1"] = b"first\nsecond\npostgresql://shop:fake-password@db/shop refused\n"
    services = make(deployments=["api"])

    lines = (await services.logs(2))["deployment/api"]

    assert len(lines) == 2
    assert "***@db/shop refused" in lines[-1]
    assert "fake-password" not in "".join(lines)


# ------------------------------------------------------------------ the way back


async def deployed(cluster: Cluster, image: str, name: str = "api") -> None:
    def change(one: Any) -> None:
        one["spec"]["template"]["spec"]["containers"][0]["image"] = image

    before = len(cluster.store.find("replicasets", "shop"))
    cluster.change("deployments", name, change)
    await until(lambda: len(cluster.store.find("replicasets", "shop")) > before and ready(cluster, name) == 2)


def image(cluster: Cluster, name: str = "api") -> str:
    return str(cluster.get("deployments", name)["spec"]["template"]["spec"]["containers"][0]["image"])


async def test_the_application_goes_back_while_it_is_stopped_and_starts_as_it_was(cluster: Cluster, make: Make) -> None:
    await deployed(cluster, "shop:2")
    services = make(**BOTH, roll_back=True)
    former = await services.former()
    assert former["deployment/api"]["says"] == "shop:1 (revision 1; now shop:2)"
    noted = await services.look()
    await services.stop(noted, Job())

    said = await services.roll_back(former, Job())
    assert (image(cluster), replicas(cluster)) == ("shop:1", 0)
    assert "deployment/api is back at shop:1" in said
    await services.start(noted, Job())

    pods = cluster.store.find("pods", "shop")
    assert [pod["spec"]["containers"][0]["image"] for pod in pods] == ["shop:1", "shop:1"]
    assert "pod-template-hash" not in cluster.get("deployments", "api")["spec"]["template"]["metadata"]["labels"]
    assert "already at" in await services.roll_back(former, Job())


async def test_to_a_named_revision(cluster: Cluster, make: Make) -> None:
    await deployed(cluster, "shop:2")
    await deployed(cluster, "shop:3")
    services = make(deployments=["api"], to_revision=1)

    await services.roll_back(await services.former(), Job())

    assert image(cluster) == "shop:1"


async def test_a_deploy_after_the_plan_does_not_change_where_it_goes(cluster: Cluster, make: Make) -> None:
    await deployed(cluster, "shop:2")
    services = make(deployments=["api"])
    former = await services.former()
    await deployed(cluster, "shop:3")

    await services.roll_back(former, Job())

    assert image(cluster) == "shop:1"


async def test_a_first_revision_has_no_former(make: Make) -> None:
    assert await make(**BOTH).former() == {}


async def test_a_paused_deployment_is_not_rolled_back(cluster: Cluster, make: Make) -> None:
    await deployed(cluster, "shop:2")
    services = make(deployments=["api"])
    former = await services.former()
    cluster.change("deployments", "api", lambda one: one["spec"].update(paused=True))

    with pytest.raises(StepFailed, match=r"is paused.*rollout resume deployment/api"):
        await services.roll_back(former, Job())

    assert image(cluster) == "shop:2"


async def test_a_former_that_the_cluster_has_removed_is_said(cluster: Cluster, make: Make) -> None:
    await deployed(cluster, "shop:2")
    services = make(deployments=["api"])
    former = await services.former()
    cluster.store.remove("replicasets", "shop", former["deployment/api"]["replicaset"])

    with pytest.raises(StepFailed, match="the cluster has removed"):
        await services.roll_back(former, Job())


async def test_a_rollback_that_somebody_crosses_is_read_again(cluster: Cluster, make: Make) -> None:
    await deployed(cluster, "shop:2")
    services = make(deployments=["api"])
    former = await services.former()
    faster = iter(range(1))

    def somebody(request: Any) -> None:
        if request.verb == "patch" and next(faster, None) is not None:
            cluster.change("deployments", "api", lambda one: one["metadata"]["annotations"].update(mine="kept"))

    cluster.before_write = somebody

    await services.roll_back(former, Job())

    assert image(cluster) == "shop:1"
    assert len([one for one in writes(cluster) if one[0] == "patch"]) == 2


def test_a_refusal_is_never_shown_a_secret() -> None:
    with pytest.raises(ValidationError) as caught:
        KubernetesSettings.model_validate({"namespace": "fake password", "deployments": ["a"]})
    assert "fake password" not in str(caught.value)


def test_refusals_are_sentences() -> None:
    from bot.cluster.rights import Right, refusal

    made: Refusal = refusal([Right("get", "apps", "deployments/scale")], "shop")
    assert made.message.endswith(".")
