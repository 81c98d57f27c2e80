"""A shop in a cluster: `/rollback` stops it, goes back in a pod of its image, and starts exactly what ran."""

from __future__ import annotations

import pytest

from bot.place import Connect
from bot.steps import STEPS
from tests.harness import Bot
from tests.scenario import parts, real
from tests.scenario.in_cluster import MIGRATES, PATIENCE, KubeShop
from tests.scenario.in_cluster import kube_shop as kube_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_in_place import in_place


async def asked(shop: KubeShop) -> None:
    """Asked for, and approved."""
    await shop.bot.ask(real.BACK)
    card = await shop.bot.card_in("awaiting_approval", within=PATIENCE)
    await shop.bot.slack.click(card, "approve", "U0DBA")


@pytest.mark.parametrize("door", [True, False], ids=["behind the door", "without a door"])
async def test_the_shop_is_stopped_goes_back_in_a_pod_of_its_image_and_exactly_what_ran_comes_back(kube_shop: KubeShop, door: bool) -> None:
    shop, bot = kube_shop, kube_shop.bot
    target = bot.config["targets"]["shop"]
    target["rehearsal"] = {} if door else {"server": "none"}
    target["platform"] = [target["platform"], {"kind": "database"}] if door else target["platform"]
    await shop.open()
    before = shop.state()
    await bot.start()

    await bot.ask(real.BACK)
    card = await bot.card_in("awaiting_approval", within=PATIENCE)
    if door:
        assert real.rehearsed(bot)["done"], real.rehearsed(bot)
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.card_in("succeeded", within=PATIENCE)

    report = await bot.reported()
    assert bot.stands() == "0002"
    steps = shop.steps()
    assert {state for state, _ in steps.values()} == {"done"}, steps
    assert "deployment/api scaled from 2 to 0" in steps["stop_writers"][1]
    assert "cronjob/hourly suspended" in steps["stop_writers"][1]
    assert "cronjob/daily was suspended before" in steps["stop_writers"][1]
    assert "deployment/api runs, 2 replicas" in steps["start_writers"][1]
    for step in ("stop_writers", "downgrade", "start_writers", "watch"):
        assert STEPS[step].says in report, report
    made = [one.body["metadata"]["annotations"]["backout/attempt"] for one in shop.cluster.requests if (one.verb, one.resource) == ("create", "pods")]
    assert len([one for one in made if "/downgrade/" in one]) == 1, made
    assert len([one for one in made if "/rehearse/" in one]) > 0 or not door, made
    await shop.as_before(before)


async def test_an_operator_that_scales_it_up_in_the_middle_is_named_before_anything_is_destroyed(kube_shop: KubeShop) -> None:
    shop, bot = kube_shop, kube_shop.bot
    await shop.open()
    before = shop.state()
    await bot.start()

    def at_the_downgrade(request: object) -> None:
        """In the moment in which its pod is made."""
        if getattr(request, "resource", "") == "pods" and "/downgrade/" in str(getattr(request, "body", "")):
            shop.cluster.before_write = lambda _: None
            shop.cluster.change("deployments", "api", lambda one: one["spec"].update(replicas=1), manager="keda-operator")

    shop.cluster.before_write = at_the_downgrade
    await asked(shop)

    card = await bot.card_in("needs_decision", within=PATIENCE)
    state, why = shop.steps()["downgrade"]
    assert state == "failed"
    assert "deployment/api was scaled up to 1" in why
    assert "keda-operator" in why
    assert "Nothing was executed" in why
    assert bot.stands() == "0003"
    await bot.slack.click(card, "leave", "U0DBA")
    await bot.card_in("failed", within=PATIENCE)
    await shop.as_before(before)


async def test_a_missing_right_is_named_when_it_is_asked_for_and_nothing_is_touched(kube_shop: KubeShop) -> None:
    shop, bot = kube_shop, kube_shop.bot
    shop.cluster.forbidden.add(("update", "deployments/scale"))
    await shop.open()
    before = shop.state()
    await bot.start()

    await bot.ask(real.BACK)

    told = await bot.told("U0DEV", "cluster_forbidden")
    assert "update" in told
    assert "deployments/scale" in told
    code, output = await bot.run("check")
    assert code != 0
    assert "deployments/scale" in output
    await shop.as_before(before)


async def test_a_right_that_is_taken_away_in_the_middle_is_named_and_what_was_stopped_runs_again(kube_shop: KubeShop) -> None:
    shop, bot = kube_shop, kube_shop.bot
    await shop.open()
    before = shop.state()
    await bot.start()
    await bot.ask(real.BACK)
    card = await bot.card_in("awaiting_approval", within=PATIENCE)

    def after_suspending(request: object) -> None:
        if getattr(request, "resource", "") == "cronjobs":
            shop.cluster.forbidden.add(("update", "deployments/scale"))

    shop.cluster.before_write = after_suspending
    await bot.slack.click(card, "approve", "U0DBA")

    card = await bot.card_in("needs_decision", within=PATIENCE)
    state, why = shop.steps()["stop_writers"]
    assert state == "failed"
    assert 'cannot update resource "deployments/scale"' in why
    assert bot.stands() == "0003"
    await bot.slack.click(card, "leave", "U0DBA")
    await bot.card_in("failed", within=PATIENCE)
    await shop.as_before(before)


async def test_an_application_that_migrates_itself_at_its_start_is_found_out_and_a_person_is_asked(kube_shop: KubeShop) -> None:
    shop, bot = kube_shop, kube_shop.bot
    bot.config["targets"]["shop"]["watch"] = "90s"  # left as soon as the revision has moved
    await shop.open(replicas=1)
    await shop.deploy("2", MIGRATES)
    before = shop.state()
    await bot.start()
    await asked(shop)
    assert "roll_back_application" not in planned(bot)

    card = await bot.card_in("needs_decision", within=PATIENCE)

    state, why = shop.steps()["watch"]
    assert state == "failed"
    assert "The database was at 0002 and is at 0003 again: something migrates it when it starts" in why
    await bot.slack.click(card, "leave", "U0DBA")
    await bot.card_in("failed", within=PATIENCE)
    await shop.as_before(before, "2")

    # the next time it is known
    await bot.ask(real.BACK)
    await bot.until(lambda: len(bot.cards()) == 2 and bot.state() == "awaiting_approval", what="asked for approval again", within=PATIENCE)
    assert "roll_back_application" in planned(bot)


def planned(bot: Bot) -> list[str]:
    """Steps of the newest run's plan."""
    (found,) = bot.journaled("select plan->'steps' from backout.runs order by created desc limit 1")
    return [one["name"] for one in found[0]]


async def test_an_application_that_is_known_to_migrate_itself_is_rolled_back_with_the_database(kube_shop: KubeShop) -> None:
    shop, bot = kube_shop, kube_shop.bot
    bot.config["targets"]["shop"]["platform"]["migrates_on_start"] = True
    await shop.open(replicas=1)
    first = shop.state()
    await shop.deploy("2", MIGRATES)
    await bot.start()
    await bot.ask(real.BACK)
    card = await bot.card_in("awaiting_approval", within=PATIENCE)
    names = planned(bot)
    assert names.index("roll_back_application") == names.index("start_writers") - 1, names
    assert "Freeze deploys until this is over" in str(bot.journaled("select plan->'remarks' from backout.runs")[0][0])

    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")

    assert bot.stands() == "0002"
    assert "shop:1" in shop.steps()["roll_back_application"][1]
    await shop.as_before(first)


async def test_for_a_restore_in_place_the_shop_is_stopped_and_exactly_what_ran_comes_back_to_the_new_database(
    kube_shop: KubeShop, server: Connect
) -> None:
    shop, bot = kube_shop, kube_shop.bot
    bot.config["targets"]["shop"]["rehearsal"] = {}
    await shop.open()
    before = shop.state()
    await bot.start()
    await in_place(bot, server)
    assert "deployment/api scaled from 2 to 0" in shop.steps()["stop_writers"][1]
    assert "deployment/api runs, 2 replicas" in shop.steps()["start_writers"][1]
    await shop.as_before(before)
