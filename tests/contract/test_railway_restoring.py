"""A backup of Railway's that takes the place of its volume: what is refused, what is asked once, what counts as staged, deployed, another's."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.backups.railway import RailwayBackups
from bot.backups.railway_restore import RailwayRestoring
from bot.errors import OutcomeUnknown, StepFailed
from bot.place import Connect
from bot.railway import Railway
from tests.railway.server import ENVIRONMENT, PROJECT, PROJECT_TOKEN, VOLUME, Fault, RailwayStandIn
from tests.railway.volumes import MOUNT

Json = dict[str, Any]
DATABASE = Connect(host="somewhere.proxy.rlwy.net", port=40123, user="app", password="fake", database="escrow")
SERVICE = "service-postgres"


@pytest.fixture
async def railway() -> AsyncIterator[RailwayStandIn]:
    async with RailwayStandIn() as made:
        address = {
            "RAILWAY_TCP_PROXY_DOMAIN": DATABASE.host,
            "RAILWAY_TCP_PROXY_PORT": "40123",
            "RAILWAY_PRIVATE_DOMAIN": "postgres.railway.internal",
        }
        await made.add("postgres", address)
        await made.add("api")
        made.volumes.add(VOLUME, SERVICE, volume="volume-1")
        made.volumes.add("another-instance", "service-api", volume="volume-2", mount="/data")
        made.backups = [{"id": "b28"}]
        yield made


def restoring(railway: RailwayStandIn, **settings: Any) -> RailwayRestoring:
    given = {"token": PROJECT_TOKEN, "project": PROJECT, "environment": ENVIRONMENT, "volume": VOLUME, "api": railway.api, **settings}
    read = RailwayBackups.Settings.model_validate(given)
    return RailwayBackups(read, Railway(read, patience=0.6, request=0.3, pause=0.02)).restoring


def swap(*, old: Any = None, fresh: str = "fresh", mount: Any = None, **more: Any) -> Json:
    mounts = {"volume-1": old, fresh: mount or {"mountPath": MOUNT}}
    return {"services": {SERVICE: {"volumeMounts": mounts, **more.pop("service", {})}}, "volumes": {fresh: {"sizeMB": 5000}}, **more}


async def staged(railway: RailwayStandIn) -> Json:
    """Asked for, copied, and staged. What there was before."""
    here = restoring(railway)
    noted = dict(await here.look())
    job = await here.stage("b28")
    await railway.quiet()
    assert (await here.staging(noted, job)).state == "done"
    return noted


# ------------------------------------------------------------------ refused before anybody is asked


async def test_nothing_stands_in_the_way_of_the_volume_of_the_targets_own_server(railway: RailwayStandIn) -> None:
    assert await restoring(railway).refuse(DATABASE) == ()
    private = DATABASE.model_copy(update={"host": "postgres.railway.internal", "port": 5432})
    assert await restoring(railway).refuse(private) == ()


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"volume": "nobody-knows"}, "railway_volume", "is mounted in no service"),
        ({"volume": "another-instance"}, "railway_volume", "no address that Railway tells"),
        ({"token": "fake-wrong"}, "railway_forbidden", "does not let this token"),
        ({"environment": "another-environment"}, "railway_missing", "Environment not found"),
    ],
)
async def test_a_volume_or_a_token_that_is_not_the_targets_is_refused(railway: RailwayStandIn, settings: Json, code: str, says: str) -> None:
    (refusal,) = await restoring(railway, **settings).refuse(DATABASE)
    assert refusal.code == code
    assert says in refusal.message


async def test_a_volume_whose_service_has_other_addresses_is_another_servers(railway: RailwayStandIn) -> None:
    for other in ({"host": "10.0.0.1"}, {"port": 40124}):
        (refusal,) = await restoring(railway).refuse(DATABASE.model_copy(update=other))
        assert refusal.code == "railway_volume"
        assert "somewhere.proxy.rlwy.net:40123 and postgres.railway.internal" in refusal.message


async def test_a_volume_that_is_busy_is_refused(railway: RailwayStandIn) -> None:
    railway.volumes.there[0]["state"] = "RESTORING"
    (refusal,) = await restoring(railway).refuse(DATABASE)
    assert (refusal.code, "RESTORING" in refusal.message) == ("railway_volume", True)


async def test_changes_of_others_that_wait_are_named_and_no_value_of_theirs_is(railway: RailwayStandIn) -> None:
    railway.volumes.staged = {"services": {"service-api": {"variables": {"SECRET": {"value": "hunter2"}}}}, "sharedVariables": {}}
    (refusal,) = await restoring(railway).refuse(DATABASE)
    assert refusal.code == "railway_staged"
    assert "services.service-api.variables.SECRET" in refusal.message
    assert "hunter2" not in refusal.message


@pytest.mark.parametrize("nothing", [{}, {"services": {}}, {"services": None, "volumes": {}}])
async def test_a_patch_that_changes_nothing_is_nothing(railway: RailwayStandIn, nothing: Json) -> None:
    railway.volumes.staged = nothing
    assert await restoring(railway).refuse(DATABASE) == ()


async def test_a_right_that_is_missing_is_told_before(railway: RailwayStandIn) -> None:
    railway.forbidden.add("environmentStagedChanges")
    (refusal,) = await restoring(railway).refuse(DATABASE)
    assert refusal.code == "railway_forbidden"


# ------------------------------------------------------------------ asked once


@pytest.mark.parametrize("kind", ["hang", "cut", "half", "error", 502, 503])
async def test_a_restore_whose_answer_is_lost_is_not_asked_for_again_and_its_trace_is_found(railway: RailwayStandIn, kind: Any) -> None:
    here = restoring(railway)
    noted = await here.look()
    railway.faults.append(Fault(kind, "volumeInstanceBackupRestore", after=True))
    with pytest.raises(OutcomeUnknown):
        await here.stage("b28")
    assert railway.volumes.restored == ["b28"]
    await railway.quiet()
    assert (await here.staging(noted, "")).state == "done"


async def test_a_request_that_was_turned_away_for_its_number_is_asked_again(railway: RailwayStandIn) -> None:
    railway.faults.append(Fault(429, "volumeInstanceBackupRestore"))
    await restoring(railway).stage("b28")
    assert railway.volumes.restored == ["b28"]


async def test_what_railway_would_not_do_has_not_begun(railway: RailwayStandIn) -> None:
    with pytest.raises(StepFailed, match="Backup not found") as caught:
        await restoring(railway).stage("gone")
    assert not isinstance(caught.value, OutcomeUnknown)
    railway.forbidden.add("volumeInstanceBackupRestore")
    with pytest.raises(StepFailed, match="does not let this token"):
        await restoring(railway).stage("b28")
    assert railway.volumes.restored == []


@pytest.mark.parametrize("kind", ["hang", "cut", "error", 502])
async def test_a_deploy_whose_answer_is_lost_is_not_sent_again_and_is_found(railway: RailwayStandIn, kind: Any) -> None:
    noted, here = await staged(railway), restoring(railway)
    railway.faults.append(Fault(kind, "environmentPatchCommitStaged", after=True))
    with pytest.raises(OutcomeUnknown):
        await here.deploy("because")
    await railway.quiet()
    assert len(railway.volumes.committed) == 1
    assert await here.deployed(noted) == ("done", "fresh-1-instance")


# ------------------------------------------------------------------ how far it is


async def test_a_copy_is_under_way_until_its_swap_is_staged(railway: RailwayStandIn) -> None:
    here = restoring(railway)
    noted = await here.look()
    railway.volumes.gate.clear()
    job = await here.stage("b28")
    assert await here.staging(noted, job) == ("under way", "copying the backup into a fresh volume")
    assert (await here.staging(noted, "")).state == "unknown", "nothing of it is to be seen yet"
    railway.volumes.gate.set()
    await railway.quiet()
    assert (await here.staging(noted, job)).state == "done"
    assert await here.staged(noted) == ("fresh-1", ())
    assert (await here.deployed(noted)).state == "unknown", "staged is not deployed"


async def test_a_copy_that_failed_says_what_railway_said(railway: RailwayStandIn) -> None:
    here = restoring(railway)
    noted = await here.look()
    railway.volumes.fails = "the snapshot is gone"
    job = await here.stage("b28")
    await railway.quiet()
    assert await here.staging(noted, job) == ("failed", "the snapshot is gone")


async def test_it_is_deployed_when_the_service_runs_on_the_new_volume_and_not_before(railway: RailwayStandIn) -> None:
    noted, here = await staged(railway), restoring(railway)
    railway.build = 0.5
    await here.deploy("because")
    assert (await here.staged(noted)).swap == "", "being applied, it waits no more"
    assert (await here.deployed(noted)).state == "under way"
    await railway.quiet()
    assert await here.deployed(noted) == ("done", "fresh-1-instance")
    assert (await here.staging(noted, "")).state == "done", "deployed is staged"


async def test_a_deployment_that_crashes_on_the_new_volume_has_failed(railway: RailwayStandIn) -> None:
    noted, here = await staged(railway), restoring(railway)
    railway.services["postgres"].fails = "CRASHED"
    await here.deploy("because")
    await railway.quiet()
    assert await here.deployed(noted) == ("failed", "the deployment of postgres ended as CRASHED")


# ------------------------------------------------------------------ nothing but the swap


@pytest.mark.parametrize(
    ("patch", "others"),
    [
        (swap(), ()),
        (swap(mount={"mountPath": MOUNT, "backupSchedules": ["DAILY"]}), ()),
        ({"services": {SERVICE: {"volumeMounts": {"fresh": {"mountPath": MOUNT}}}}}, ()),
        (swap(sharedVariables={"A": {"value": "x"}}), ("sharedVariables.A.value",)),
        (swap(service={"variables": {"PGDATA": None}}), (f"services.{SERVICE}.variables.PGDATA",)),
        (swap(service={"isDeleted": True}), (f"services.{SERVICE}.isDeleted",)),
        (swap(old={"mountPath": "/other"}), (f"services.{SERVICE}.volumeMounts.volume-1.mountPath",)),
        (swap(volumes={"fresh": {"isDeleted": True}}), ("volumes.fresh.isDeleted",)),
        (swap(volumes={"fresh": {}}), ()),
        (swap(volumes={"fresh": None}), ("volumes.fresh",)),
        (swap(volumes={"fresh": {}, "volume-1": {"isDeleted": True}}), ("volumes.volume-1.isDeleted",)),
        (swap(privateNetworkDisabled=True), ("privateNetworkDisabled",)),
    ],
)
async def test_whatever_is_not_the_swap_is_somebody_elses(railway: RailwayStandIn, patch: Json, others: tuple[str, ...]) -> None:
    here = restoring(railway)
    noted = await here.look()
    railway.volumes.staged = patch
    found = await here.staged(noted)
    assert (found.swap, set(found.others)) == ("fresh", set(others))


@pytest.mark.parametrize(
    "patch",
    [
        swap(mount={"mountPath": "/elsewhere"}),
        swap(mount={"mountPath": MOUNT, "isDeleted": True}),
        swap(fresh="volume-2"),
        {"services": {SERVICE: {"volumeMounts": {"a": {"mountPath": MOUNT}, "b": {"mountPath": MOUNT}}}}},
        {"services": [SERVICE]},
        {"services": {SERVICE: {"volumeMounts": ["fresh"]}}},
        {"services": {"service-api": {"volumeMounts": {"fresh": {"mountPath": MOUNT}}}}},
    ],
)
async def test_what_is_no_swap_of_that_volume_is_none(railway: RailwayStandIn, patch: Json) -> None:
    here = restoring(railway)
    noted = await here.look()
    railway.volumes.staged = patch
    found = await here.staged(noted)
    assert found.swap == ""
    assert found.others


async def test_what_to_do_with_a_swap_that_is_left_is_said(railway: RailwayStandIn) -> None:
    here = restoring(railway)
    said = here.discard(await here.look())
    assert ENVIRONMENT in said
    assert "Discard it" in said
    assert here.patience == dt.timedelta(hours=1)
