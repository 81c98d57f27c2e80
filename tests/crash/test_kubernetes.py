"""kill -9 at each request to the cluster between stop and start: what ran runs again, what was suspended stays so, and no pod or Secret is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.server import Request
from tests.scenario import real
from tests.scenario.in_cluster import PATIENCE, KubeShop
from tests.scenario.in_cluster import kube_shop as kube_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

pytestmark = pytest.mark.crash


@dataclass(frozen=True)
class Point:
    """The request whose answer the bot never gets; the cluster has carried it out."""

    verb: str
    resource: str
    fits: Callable[[KubeShop, Request], bool] = lambda _shop, _request: True

    def of(self, shop: KubeShop) -> Callable[[Request], bool]:
        return lambda request: (request.verb, request.resource) == (self.verb, self.resource) and self.fits(shop, request)


def _scaled_to(replicas: int) -> Callable[[KubeShop, Request], bool]:
    return lambda _shop, request: (request.body["spec"].get("replicas") or 0) == replicas


def _suspended(suspend: bool) -> Callable[[KubeShop, Request], bool]:
    return lambda _shop, request: bool(request.body["spec"]["suspend"]) is suspend


def _of_the_downgrade(shop: KubeShop, request: Request) -> bool:
    made = request.body["metadata"].get("annotations") if request.verb == "create" else None
    return "/downgrade/" in (made["backout/attempt"] if made else shop.attempt_of(request.name))


POINTS = {
    "a CronJob was suspended": Point("update", "cronjobs", _suspended(True)),
    "the API was scaled to 0": Point("update", "deployments/scale", _scaled_to(0)),
    "the downgrade's pod was made, without its Secret": Point("create", "pods", _of_the_downgrade),
    "the downgrade was done and its pod deleted": Point("delete", "pods", _of_the_downgrade),
    "the API was scaled up again": Point("update", "deployments/scale", _scaled_to(2)),
    "the CronJob was resumed": Point("update", "cronjobs", _suspended(False)),
}


async def _asked(shop: KubeShop) -> None:
    await shop.bot.start()
    await shop.bot.ask(real.BACK)
    card = await shop.bot.card_in("awaiting_approval", within=PATIENCE)
    await shop.bot.slack.click(card, "approve", "U0DBA")


async def _comes_back(shop: KubeShop) -> None:
    await shop.bot.kill()
    shop.hold.unlink(missing_ok=True)
    await shop.bot.start()
    await shop.bot.until(lambda: shop.bot.state() in ("succeeded", "needs_decision"), what="over, or asking", within=PATIENCE)
    if shop.bot.state() == "needs_decision":  # its script waits for a file, so nobody can say for sure that it is one transaction
        card = await shop.bot.card_in("needs_decision")
        await shop.bot.slack.click(card, "retry", "U0DBA")
    await shop.bot.card_in("succeeded", within=PATIENCE)
    await shop.bot.reported()
    assert shop.bot.stands() == "0002"


@pytest.mark.parametrize("point", POINTS)
async def test_a_bot_that_is_killed_between_stop_and_start_brings_back_what_ran_and_nothing_else(kube_shop: KubeShop, point: str) -> None:
    await kube_shop.open()
    before = kube_shop.state()
    await kube_shop.stuck_at(POINTS[point].of(kube_shop), _asked(kube_shop))
    await _comes_back(kube_shop)
    await kube_shop.as_before(before)


async def test_a_bot_that_is_killed_while_the_downgrade_runs_in_its_pod_does_it_once_and_leaves_no_pod(kube_shop: KubeShop) -> None:
    await kube_shop.open()
    before = kube_shop.state()
    kube_shop.hold.touch()
    await _asked(kube_shop)
    await kube_shop.bot.until(Path(f"{kube_shop.hold}-reached").exists, what="inside the downgrade", within=PATIENCE)
    await _comes_back(kube_shop)
    await kube_shop.as_before(before)
