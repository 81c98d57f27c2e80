"""A shop in a cluster: an API of two pods that writes orders without end, one CronJob awake and one suspended; and a bot that stops all of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster, Fault, things
from tests.cluster.server import Request
from tests.harness import Bot, Json
from tests.scenario.parts import execute
from tests.scenario.real import MakeShop

PATIENCE = 120.0  # seconds: each look at the migrations is a pod of its own

WRITER = """
import os, signal, sys, time, psycopg
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="shop-api") as session:
    while True:
        session.execute("insert into orders (name) values (%s)", (os.environ["VERSION"],))
        time.sleep(0.05)
"""
#: as many applications have it in their entrypoint
MIGRATES = "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'alembic', 'upgrade', 'head'], check=True)\n" + WRITER

#: while it is there, the downgrade of 0003 stands still in its transaction
HELD = """import time
open({hold!r} + "-reached", "w").close()
while os.path.exists({hold!r}): time.sleep(0.05)
op.drop_table('ratings')
op.drop_column('orders', 'score')"""

State = dict[str, Any]


class KubeShop:
    def __init__(self, bot: Bot, cluster: Cluster, directory: Path, hold: Path) -> None:
        self.bot, self.cluster, self.directory, self.hold = bot, cluster, directory, hold

    def container(self, version: str, program: str) -> Json:
        """What the application's container is in that version."""
        env = [{"name": "DATABASE_URL", "value": self.bot.target.url()}, {"name": "VERSION", "value": version}]
        return {
            "name": "main", "image": f"shop:{version}", "command": [sys.executable, "-u", "-c", program],
            "workingDir": str(self.directory), "env": env,
        }  # fmt: skip

    async def open(self, replicas: int = 2) -> None:
        execute(self.bot, "select setval(pg_get_serial_sequence('orders', 'id'), 1000)")
        made = things.deployment("api", replicas=replicas)
        made["spec"]["template"]["spec"] |= {"containers": [self.container("1", WRITER)], "terminationGracePeriodSeconds": 10}
        self.cluster.create("deployments", made)
        self.cluster.create("cronjobs", things.cronjob("hourly"))
        self.cluster.create("cronjobs", things.cronjob("daily", suspend=True))
        self.bot.log.touch()
        await self.writes("1")

    async def deploy(self, version: str, program: str) -> None:
        def change(one: Json) -> None:
            one["spec"]["template"]["spec"]["containers"] = [self.container(version, program)]

        self.cluster.change("deployments", "api", change)
        await self.writes(version)

    async def writes(self, version: str) -> None:
        """New orders come from that version, and all its pods are there."""
        newest = f"select count(*) from orders where name = '{version}' and at > now() - interval '1 second'"
        await self.bot.until(lambda: self.ready() and self.bot.query(newest)[0][0] > 2, what=f"writing as {version}")

    def ready(self) -> bool:
        there = self.cluster.get("deployments", "api")
        return (there.get("status") or {}).get("readyReplicas", 0) == there["spec"]["replicas"] > 0

    def state(self) -> State:
        """All that a run may touch."""
        api = self.cluster.get("deployments", "api")
        cronjobs = [one["metadata"]["name"] for one in self.cluster.store.find("cronjobs", "shop")]
        return {
            "replicas": api["spec"]["replicas"],
            "template": api["spec"]["template"],
            "suspended": {name: self.cluster.get("cronjobs", name)["spec"]["suspend"] for name in cronjobs},
            "deployments": [one["metadata"]["name"] for one in self.cluster.store.find("deployments", "shop")],
        }

    def ours(self) -> list[str]:
        """Pods and Secrets that are the runner's."""
        return [
            one["metadata"]["name"]
            for plural in ("pods", "secrets")
            for one in self.cluster.store.find(plural, "shop", lambda one: "backout/run" in (one["metadata"].get("labels") or {}))
        ]

    async def as_before(self, before: State, version: str = "1") -> None:
        """Exactly what there was, at work, and nothing more."""
        await self.writes(version)
        await self.bot.until(lambda: not self.ours(), what="rid of its pods")
        assert self.state() == before
        assert len(self.cluster.pods()) == before["replicas"], self.cluster.pods()
        assert self.cluster.store.find("jobs", "shop") == [], "no job was begun"

    def steps(self) -> dict[str, tuple[str, str]]:
        """Of the last attempts: state and summary."""
        rows = self.bot.journaled("select step, state, summary from backout.attempts order by began")
        return {step: (state, summary) for step, state, summary in rows}

    async def attempted(self, step: str) -> None:
        await self.bot.until(lambda: step in self.steps(), what=f"at {step}", within=PATIENCE)

    def attempt_of(self, pod: str) -> str:
        """The attempt that the pod was made for; '' where it is not the runner's, or gone."""
        found = self.cluster.store.find("pods", "shop", lambda one: one["metadata"]["name"] == pod)
        return str((found[0]["metadata"].get("annotations") or {}).get("backout/attempt", "")) if found else ""

    async def stuck_at(self, fits: Callable[[Request], bool], ask: Awaitable[Any]) -> None:
        """The cluster does what that request asks for, and its answer never comes."""
        self.cluster.faults.append(Fault("hang", fits, after=True))
        await ask
        await self.bot.until(lambda: not self.cluster.faults, what="at that request", within=PATIENCE)


@pytest.fixture
async def kube_shop(make_shop: MakeShop, tmp_path: Path) -> AsyncIterator[KubeShop]:
    """Not started yet, without a rehearsal, its cluster at work."""
    async with Cluster() as cluster:
        place = {"kind": "kubernetes", "namespace": "shop", "kubeconfig": cluster.kubeconfig(tmp_path), "within": "20s"}
        hold = tmp_path / "hold"
        bot = await make_shop(
            start=False, down=HELD.format(hold=str(hold)), admin="${ADMIN_URL}", watch="1s", rehearsal={"server": "none"},
            platform={**place, "deployments": ["api"], "cronjobs": ["hourly", "daily"]},
            runner={**place, "deployment": "api", "rehearsal_host": "127.0.0.1"},
        )  # fmt: skip
        yield KubeShop(bot, cluster, tmp_path / "real0", hold)
        hold.unlink(missing_ok=True)
        if bot.process is not None:
            await bot.kill()
