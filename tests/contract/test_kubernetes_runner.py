"""A one-off pod: the emulated kubelet really runs its command, and speaks the channel protocol."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bot.cluster.api import Cluster as Client
from bot.databases.postgres import PostgresDatabase
from bot.durable import application
from bot.errors import OutcomeUnknown, ProgramMissing, Refusal, StepFailed
from bot.place import Connect
from bot.runners.kubernetes import KubernetesRunner, KubernetesRunnerSettings
from bot.running import Program
from bot.tools.alembic import AlembicTool
from bot.tools.alembic_settings import AlembicSettings
from tests.cluster import Cluster, Fault, things
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.contract.test_kubernetes import until
from tests.contract.test_migration_tool import Doing

Make = Callable[..., KubernetesRunner]
SECRET = "fake-password-of-the-shop"
ECHO = "import sys, os\nfor line in sys.stdin: print(os.environ.get('GREETING'), line.strip(), flush=True)\nprint('end'); sys.exit(3)"
SLEEP = "import sys, time\nsys.stdin.readline()\nprint('here', flush=True)\ntime.sleep(600)"  # what it said before we came would not be heard
NAME = application("r1", "downgrade", 1)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as made:
        made.create(
            "deployments",
            things.deployment("api", replicas=0, env=[{"name": "GREETING", "value": "hello"}, {"name": "DATABASE_URL", "value": "theirs"}]),
        )
        yield made


@pytest.fixture
def make(cluster: Cluster, tmp_path: Path) -> Make:
    def made(*, leaves: float = 10.0, **settings: Any) -> KubernetesRunner:
        given = {"namespace": "shop", "kubeconfig": cluster.kubeconfig(tmp_path), "deployment": "api", "within": "5s", **settings}
        read = KubernetesRunnerSettings.model_validate(given)
        return KubernetesRunner(read, Client(read, patience=3.0, request=1.0), leaves=leaves)

    return made


async def said(program: Program) -> str:
    return b"".join([data async for data in program.output()]).decode()


def pod(cluster: Cluster) -> dict[str, Any]:
    (found,) = cluster.store.find("pods", "shop")
    return found


def nothing_left(cluster: Cluster) -> bool:
    return cluster.store.find("pods", "shop") == [] == cluster.store.find("secrets", "shop") and not cluster.kubelet.running


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_a_program_hears_its_input_and_says_its_output_and_its_end(cluster: Cluster, make: Make, tmp_path: Path, protocol: str) -> None:
    cluster.protocols = (protocol,)
    program_text = (
        ECHO if protocol.startswith("v5") else ECHO.replace("for line in sys.stdin:", "for line in iter(lambda: sys.stdin.readline().strip(), ''):")
    )

    async with make().start([sys.executable, "-c", program_text], env={}, directory=tmp_path, name=NAME, copy=False) as program:
        await program.send(b"one\n")
        await program.send(b"two\n")
        await program.close_stdin()
        output = await said(program)
        code = await program.wait()

    assert (output.split("\n"), code) == (["hello one", "hello two", "end", ""], 3)
    assert nothing_left(cluster)


async def test_what_is_long_arrives_whole(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    text = "import sys; n = int(sys.stdin.readline()); sys.stdout.write('x' * n)"
    async with make().start([sys.executable, "-c", text], env={}, directory=tmp_path, name=NAME, copy=False) as program:
        await program.send(b"3000000\n")
        output = await said(program)

    assert len(output) == 3_000_000


async def test_our_variables_win_and_stand_in_a_secret_of_the_pods_own(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    text = "import os, sys; sys.stdin.readline(); print(os.environ['DATABASE_URL'], os.environ['GREETING'])"
    async with make().start([sys.executable, "-c", text], env={"DATABASE_URL": SECRET}, directory=tmp_path, name=NAME, copy=False) as program:
        made = pod(cluster)
        (secret,) = cluster.store.find("secrets", "shop")
        await program.send(b"\n")
        output = await said(program)

    assert output == f"{SECRET} hello\n"
    assert SECRET not in json.dumps(made)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert made["metadata"]["annotations"]["backout/attempt"] == NAME
    assert made["metadata"]["labels"]["backout/run"] == "r1"
    assert "app" not in made["metadata"]["labels"], "else the application's Service would send it customers"
    assert nothing_left(cluster)


async def test_on_a_copy_nothing_of_the_application_is_there_but_its_image(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    def more(one: Any) -> None:
        spec = one["spec"]["template"]["spec"]
        spec["volumes"] = [{"name": "config", "secret": {"secretName": "production"}}]
        spec["containers"][0]["volumeMounts"] = [{"name": "config", "mountPath": "/config"}]

    cluster.change("deployments", "api", more)
    text = "import os, sys; sys.stdin.readline(); print(sorted(os.environ))"
    async with make().start([sys.executable, "-c", text], env={"BACKOUT_REHEARSAL": "1"}, directory=tmp_path, name=NAME, copy=True) as program:
        made = pod(cluster)["spec"]
        await program.send(b"\n")
        output = await said(program)

    assert "GREETING" not in output
    assert "BACKOUT_REHEARSAL" in output
    assert (made["volumes"], made["containers"][0].get("volumeMounts", [])) == ([], [])


async def test_account_nodes_and_resources_are_the_applications_or_the_settings(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    cluster.kubelet.nodes = [{"pool": "a"}, {"pool": "b"}]

    def more(one: Any) -> None:
        spec = one["spec"]["template"]["spec"]
        spec |= {"serviceAccountName": "shop", "nodeSelector": {"pool": "a"}, "tolerations": [{"key": "pool", "operator": "Exists"}]}
        spec["containers"][0]["resources"] = {"limits": {"memory": "1Gi"}}

    cluster.change("deployments", "api", more)
    found = []
    for settings in (
        {},
        {"service_account": "tools", "node_selector": {"pool": "b"}, "resources": {"limits": {"memory": "2Gi"}}, "image": "tools:1"},
    ):
        async with make(**settings).start([sys.executable, "-c", SLEEP], env={}, directory=tmp_path, name=NAME, copy=False):
            spec = pod(cluster)["spec"]
            one = spec["containers"][0]
            found.append((spec["serviceAccountName"], spec["nodeSelector"]["pool"], one["resources"]["limits"]["memory"], one["image"]))
            assert spec["tolerations"] == [{"key": "pool", "operator": "Exists"}]

    assert found == [("shop", "a", "1Gi", "shop:1"), ("tools", "b", "2Gi", "tools:1")]


async def test_leaving_early_ends_the_program_over_there(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    async with make().start([sys.executable, "-c", SLEEP], env={}, directory=tmp_path, name=NAME, copy=False) as program:
        (running,) = cluster.kubelet.running.values()
        await program.send(b"\n")
        assert await anext(aiter(program.output())) == b"here\n"

    assert running.process.returncode is not None
    assert nothing_left(cluster)


async def test_a_program_that_ignores_sigterm_is_killed(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    text = "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsys.stdin.readline()\nprint('here', flush=True)\ntime.sleep(600)"
    async with make().start([sys.executable, "-c", text], env={}, directory=tmp_path, name=NAME, copy=False) as program:
        (running,) = cluster.kubelet.running.values()
        await program.send(b"\n")
        await anext(aiter(program.output()))

    assert running.process.returncode == -9
    assert nothing_left(cluster)


async def test_a_node_that_gives_no_answer_makes_the_end_unknown(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    with pytest.raises(OutcomeUnknown, match="its node gives no answer"):
        async with make(leaves=0.5).start([sys.executable, "-c", SLEEP], env={}, directory=tmp_path, name=NAME, copy=False):
            cluster.kubelet.never_ends = True


async def test_a_connection_that_breaks_while_it_runs_makes_the_end_unknown(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    async def heard() -> None:
        async with make().start([sys.executable, "-c", SLEEP], env={}, directory=tmp_path, name=NAME, copy=False) as program:
            await program.send(b"\n")
            async for _ in program.output():
                cluster.drop_connections()

    with pytest.raises(OutcomeUnknown, match="broke while its program ran"):
        await heard()

    assert nothing_left(cluster)


async def test_a_program_that_ended_before_anybody_listened_is_read_from_its_log(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    async with make().start([sys.executable, "-c", "print('quick'); exit(4)"], env={}, directory=tmp_path, name=NAME, copy=False) as program:
        output, code = await said(program), await program.wait()

    assert (output, code) == ("quick\n", 4)


# ------------------------------------------------------------------ what never starts


async def test_a_pod_that_is_never_scheduled_says_why(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    with pytest.raises(ProgramMissing, match=r"did not start within 1 s: not scheduled, Unschedulable: 0/1 nodes are available"):
        async with make(node_selector={"pool": "gpu"}, within="1s").start(["true"], env={}, directory=tmp_path, name=NAME, copy=False):
            raise AssertionError("it cannot have started")

    assert nothing_left(cluster)


async def test_an_image_that_cannot_be_pulled_is_said_at_once(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    cluster.kubelet.trouble["shop:1"] = ("ImagePullBackOff", 'Back-off pulling image "shop:1": manifest unknown')

    with pytest.raises(ProgramMissing, match=r"did not start: tool waits, ImagePullBackOff.*manifest unknown"):
        async with make(within="60s").start(["true"], env={}, directory=tmp_path, name=NAME, copy=False):
            raise AssertionError("it cannot have started")

    assert nothing_left(cluster)


async def test_a_pod_without_a_reason_of_its_own_is_explained_by_its_events(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    cluster.kubelet.trouble["shop:1"] = ("ContainerCreating", "")

    async def event() -> None:
        await until(cluster.pods)
        about = {"kind": "Pod", "name": cluster.pods()[0], "uid": pod(cluster)["metadata"]["uid"]}
        body = {"metadata": {"name": "e1"}, "involvedObject": about, "type": "Warning", "reason": "FailedMount", "message": "no such volume"}
        cluster.create("events", body)

    task = asyncio.create_task(event())
    with pytest.raises(ProgramMissing, match="FailedMount: no such volume"):
        async with make(within="2s").start(["true"], env={}, directory=tmp_path, name=NAME, copy=False):
            raise AssertionError("it cannot have started")
    await task


async def test_a_program_that_is_not_in_the_image_is_missing(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    with pytest.raises(ProgramMissing, match="can't be started in the pod"):
        async with make().start(["/nowhere/python"], env={}, directory=tmp_path, name=NAME, copy=False):
            raise AssertionError("it cannot have started")


async def test_a_pod_that_may_not_be_made_is_a_sentence(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    cluster.forbidden.add(("create", "pods"))

    with pytest.raises(StepFailed, match=r"403.*cannot create resource .pods"):
        async with make().start(["true"], env={}, directory=tmp_path, name=NAME, copy=False):
            raise AssertionError("it cannot have started")


async def test_a_secret_that_may_not_be_made_leaves_no_pod(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    cluster.forbidden.add(("create", "secrets"))

    with pytest.raises(StepFailed, match="403"):
        async with make().start(["true"], env={"A": "b"}, directory=tmp_path, name=NAME, copy=False):
            raise AssertionError("it cannot have started")

    assert nothing_left(cluster)


async def test_an_answer_that_is_lost_makes_no_second_pod(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    cluster.faults.append(Fault("close", fits=lambda one: (one.verb, one.resource) == ("create", "pods"), after=True))
    cluster.faults.append(Fault("close", fits=lambda one: (one.verb, one.resource) == ("create", "secrets"), after=True))

    async with make().start([sys.executable, "-c", SLEEP], env={"A": "b"}, directory=tmp_path, name=NAME, copy=False):
        assert len(cluster.pods()) == 1

    assert nothing_left(cluster)


# ------------------------------------------------------------------ what a crash leaves


async def left(cluster: Cluster, runner: KubernetesRunner, name: str, text: str = SLEEP) -> str:
    """As after kill -9: the pod is there, and nobody belongs to it."""
    async with runner._cluster.open() as api:
        made = await runner._pod(api, [sys.executable, "-c", text], {}, Path("/"), name, False)
        await api.create(_pods(), made)
    found = str(made["metadata"]["name"])
    await until(lambda: cluster.get("pods", found)["status"].get("phase") in {"Running", "Succeeded"})
    return found


def _pods() -> Any:
    from bot.cluster.api import PODS

    return PODS


async def test_what_dead_runs_left_is_removed_and_what_lives_is_not(cluster: Cluster, make: Make) -> None:
    runner, other = make(), make(image="other:1")
    dead, alive = await left(cluster, runner, NAME), await left(cluster, runner, application("r2", "downgrade", 1))
    reading, read = await left(cluster, runner, "backout/read/ab"), await left(cluster, runner, "backout/read/cd", "pass")
    foreign = await left(cluster, other, NAME)
    await until(lambda: cluster.get("pods", read)["status"]["phase"] == "Succeeded")

    await runner.clean(["r2"])

    assert set(cluster.pods()) == {alive, reading, foreign}
    assert dead not in cluster.pods()
    await runner.clean(["r2"])
    assert len(cluster.kubelet.running) == 3


# ------------------------------------------------------------------ beforehand


async def test_a_cluster_that_lets_us_is_ready(make: Make) -> None:
    assert await make().ready() == ()


async def test_missing_rights_are_named(cluster: Cluster, make: Make) -> None:
    cluster.forbidden |= {("create", "secrets"), ("get", "pods/attach")}

    (refusal,) = await make().ready()

    assert refusal.code == "cluster_forbidden"
    assert "create secrets" in refusal.message
    assert "get pods/attach" in refusal.message


@pytest.mark.parametrize("settings", [{"deployment": "nobody"}, {"container": "nobody"}])
async def test_a_deployment_or_container_that_is_not_there_is_refused(make: Make, settings: dict[str, Any]) -> None:
    (refusal,) = await make(**settings).ready()

    assert refusal.code == "cluster_object_missing"


def test_the_database_is_seen_from_a_pod_as_the_settings_say(make: Make) -> None:
    here = Connect(host="10.0.0.1", port=5432, user="shop", database="shop")

    assert make().seen(here, copy=False) == here
    assert make(address={"host": "db", "port": 6432}).seen(here, copy=False) == here.model_copy(update={"host": "db", "port": 6432})
    assert make(rehearsal_host="backout.tools").seen(here, copy=True).host == "backout.tools"
    with pytest.raises(Refusal) as caught:
        make().seen(here, copy=True)
    assert caught.value.code == "rehearsal_impossible"


@pytest.mark.parametrize("wrong", [{"deployment": None}, {"deployment": "../x"}, {"resources": {"limit": {}}}, {"address": {"port": 0}}])
def test_settings_that_cannot_be_meant_are_errors(make: Make, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**wrong)


# ------------------------------------------------------------------ the tool itself


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_alembic_goes_back_in_a_pod(
    cluster: Cluster, make: Make, server: Connect, make_database: MakeDatabase, tmp_path: Path, protocol: str
) -> None:
    cluster.protocols = (protocol,)
    own = projects.seed(make_database("shop"))
    project = projects.make(tmp_path / "project", projects.by_environment())
    database = PostgresDatabase(target="shop", tool=own, admin=server)
    tool = AlembicTool(AlembicSettings(directory=project.directory, python=sys.executable), make(), database, inherited={})

    history = await tool.read()
    facts = await tool.downgrade("0004", Doing(project.plan()))

    assert history.current == ("0005",)
    assert facts["revisions"] == ["0004"] or facts["one_transaction"]
    assert projects.stands(own)[0] == "0004"
    assert nothing_left(cluster)
    assert own.password not in json.dumps([one.body for one in cluster.requests if one.resource == "pods"])


async def test_alembic_in_a_pod_that_may_not_begin_changes_nothing(
    cluster: Cluster, make: Make, server: Connect, make_database: MakeDatabase, tmp_path: Path
) -> None:
    cluster.protocols = ("v4.channel.k8s.io",)
    own = projects.seed(make_database("shop"))
    project = projects.make(tmp_path / "project", projects.by_environment())
    database = PostgresDatabase(target="shop", tool=own, admin=server)
    tool = AlembicTool(AlembicSettings(directory=project.directory, python=sys.executable), make(), database, inherited={})

    with pytest.raises(StepFailed):
        await tool.downgrade("0004", Doing(project.plan(), current=False))

    assert projects.stands(own)[0] == "0005"
    assert nothing_left(cluster)
