"""A backup of Railway's put in the place of the whole volume: Railway copies it into a fresh volume and stages the swap; a deploy makes it real.

A deploy takes everything that is staged in the environment, whoever staged it. So what is staged is read to its last key, and what is not known here
to belong to the swap counts as somebody else's: the shape of a patch is not documented.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.keeping import Progress, StagedSwap
from bot.place import Connect
from bot.railway import Api, Json, Railway, RailwayRefused, RailwaySilent

_UP = frozenset({"SUCCESS", "SLEEPING"})
_DOWN = frozenset({"FAILED", "CRASHED", "SKIPPED", "REMOVED", "REMOVING"})
_DOMAIN, _PROXY, _PORT = "RAILWAY_PRIVATE_DOMAIN", "RAILWAY_TCP_PROXY_DOMAIN", "RAILWAY_TCP_PROXY_PORT"
_MOUNT = frozenset({"mountPath", "backupSchedules"})
_FRESH = frozenset({"isCreated", "region", "sizeMB", "allowOnlineResize", "alerts"})
_SHOWN = 4


class RailwayRestoring:
    """Implements keeping.Restoring. `volume` is the id of the volume's instance."""

    def __init__(self, railway: Railway, volume: str, patience: dt.timedelta) -> None:
        self._railway, self._volume, self.patience = railway, volume, patience
        self._environment = railway.account.environment

    async def refuse(self, database: Connect) -> tuple[Refusal, ...]:
        try:
            async with self._railway.open() as api:
                mine = _instance(await api.volumes(), self._volume)
                if mine is None or not mine.get("serviceId"):
                    return (self._unfit("is mounted in no service of the environment, so there is no database on it"),)
                if mine.get("state") not in (None, "READY"):
                    return (self._unfit(f"is busy: Railway says {mine['state']}"),)
                found = await self._another_server(api, str(mine["serviceId"]), database)
                found += await self._waiting(api)
        except RailwaySilent as error:
            return (Refusal("railway_unreachable", error.message, "Then ask again."),)
        except RailwayRefused as error:
            code = "railway_forbidden" if error.forbidden else "railway_missing"
            return (Refusal(code, error.message, "Look at backups.provider in backout.yml, then ask again."),)
        return tuple(found)

    def _unfit(self, what: str) -> Refusal:
        return Refusal(
            "railway_volume", f"The volume {self._volume} {what}.",
            "Write the instance on which the target's database lies as backups.provider.volume, and ask once it is ready.",
        )  # fmt: skip

    async def _another_server(self, api: Api, service: str, database: Connect) -> list[Refusal]:
        """The whole volume is replaced: that the target lies on it is proven by the addresses that Railway gives its service."""
        domain, proxy, port = [await api.variable(service, name) for name in (_DOMAIN, _PROXY, _PORT)]
        if (database.host, str(database.port)) == (proxy, port) or (domain and database.host == domain):
            return []
        known = " and ".join([*([f"{proxy}:{port}"] if proxy else []), *([domain] if domain else [])]) or "no address that Railway tells"
        told = f"The volume {self._volume} is another server's: its service has {known}, and the target is at {database.host}:{database.port}."
        return [Refusal("railway_volume", told, "Write the address that Railway gives the database's service, and its own volume.")]

    async def _waiting(self, api: Api) -> list[Refusal]:
        status, patch = await api.staged()
        if not (named := _named(patch)):
            return []
        what = "is being deployed" if status == "APPLYING" else "waits in the environment, and would be deployed with the backup"
        way = "Let those who staged it deploy or discard it (the project's canvas, Details), then ask again."
        return [Refusal("railway_staged", f"What somebody staged {what}: {_few(named)}.", way)]

    async def look(self) -> Mapping[str, Any]:
        async with self._railway.open() as api:
            volumes, services = await api.volumes(), await api.services()
        mine = _instance(volumes, self._volume)
        service = next((one for one in services if mine is not None and one["serviceId"] == mine["serviceId"]), None)
        if mine is None or service is None:
            raise StepFailed(f"The volume {self._volume} is mounted in no service any more. Nothing was executed.")
        return {
            "service": service["serviceId"], "name": service["serviceName"], "volume": mine["volumeId"], "instance": self._volume,
            "mount": mine["mountPath"], "known": sorted({str(one["volumeId"]) for one in volumes}), "deployments": _deployments(service),
        }  # fmt: skip

    # ------------------------------------------------------------------ staged

    async def stage(self, backup: str) -> str:
        async with self._railway.open() as api:
            with _sent_once():
                return await api.restore(self._volume, backup)

    async def staging(self, noted: Mapping[str, Any], job: str) -> Progress:
        async with self._railway.open() as api:
            status, wrong = await api.workflow(job) if job else ("NotFound", "")
            if status == "Error":
                return Progress("failed", wrong or "it said no more")
            if status == "Running":
                return Progress("under way", "copying the backup into a fresh volume")
            if _read(noted, (await api.staged())[1]).swap or _mounted(noted, await api.volumes()) is not None:
                return Progress("done")
            fresh = [one for one in await api.volumes() if one["volumeId"] not in noted["known"]]
        if status == "Complete" or fresh:
            return Progress("under way", "the copy is there; waiting for the swap to be staged" if status == "Complete" else "a fresh volume is made")
        return Progress("unknown")

    async def staged(self, noted: Mapping[str, Any]) -> StagedSwap:
        async with self._railway.open() as api:
            status, patch = await api.staged()
        return _read(noted, patch if status == "STAGED" else {})

    # ------------------------------------------------------------------ deployed

    async def deploy(self, says: str) -> None:
        async with self._railway.open() as api:
            with _sent_once():
                await api.deploy_staged(says)

    async def deployed(self, noted: Mapping[str, Any]) -> Progress:
        async with self._railway.open() as api:
            status, _ = await api.staged()
            mounted = _mounted(noted, await api.volumes())
            service = next((one for one in await api.services() if one["serviceId"] == noted["service"]), None)
        if mounted is None:
            return Progress("under way", "Railway applies the swap") if status == "APPLYING" else Progress("unknown")
        latest = (service or {}).get("latestDeployment") or {}
        state = str(latest.get("status") or "nothing")
        if latest.get("id") in noted["deployments"] or state not in _UP | _DOWN:
            return Progress("under way", f"{noted['name']} is deployed on the new volume: {state.lower()}")
        return Progress("done" if state in _UP else "failed", mounted if state in _UP else f"the deployment of {noted['name']} ended as {state}")

    def discard(self, noted: Mapping[str, Any]) -> str:
        return (
            f"The swap is still staged in the environment {self._environment}: the next deploy would put the backup in the place of "
            f"the server. Discard it (the project's canvas, Details), then delete the fresh volume that was to be mounted at {noted['mount']}."
        )


@contextmanager
def _sent_once() -> Iterator[None]:
    """Where Railway knows no such thing, or no such right, nothing began. Whatever else went wrong over there may have come after the beginning."""
    try:
        yield
    except RailwaySilent as error:
        raise OutcomeUnknown(error.message) from error
    except RailwayRefused as error:
        if error.forbidden or error.missing:
            raise
        raise OutcomeUnknown(error.message) from error


def _instance(volumes: list[Json], instance: str) -> Json | None:
    return next((one for one in volumes if one["id"] == instance), None)


def _deployments(service: Json) -> list[str]:
    latest = [service["latestDeployment"]] if service.get("latestDeployment") else []
    return sorted({str(one["id"]) for one in (*service["activeDeployments"], *latest)})


def _mounted(noted: Mapping[str, Any], volumes: list[Json]) -> str | None:
    """The instance of a volume that was not there before, in the place of the one that was."""
    there = [one for one in volumes if one.get("serviceId") == noted["service"] and one.get("mountPath") == noted["mount"]]
    if any(one["volumeId"] == noted["volume"] for one in there):
        return None
    return next((str(one["id"]) for one in there if one["volumeId"] not in noted["known"]), None)


def _read(noted: Mapping[str, Any], patch: Json) -> StagedSwap:
    """Of the patch: the one fresh volume that takes the place of the former one; and whatever else there is."""
    at = f"services.{noted['service']}.volumeMounts"
    mounts = _inside(patch, "services", noted["service"], "volumeMounts")
    fresh = [name for name, mount in mounts.items() if name not in noted["known"] and isinstance(mount, dict)
             and mount.get("mountPath") == noted["mount"] and set(mount) <= _MOUNT]  # fmt: skip
    if len(fresh) != 1:
        return StagedSwap("", tuple(_named(patch)))
    ours = {f"{at}.{fresh[0]}.{key}" for key in _MOUNT} | {f"volumes.{fresh[0]}.{key}" for key in _FRESH}
    ours |= {f"volumes.{fresh[0]}"} if _inside(patch, "volumes").get(fresh[0]) == {} else set()
    if mounts.get(noted["volume"], 0) is None:
        ours.add(f"{at}.{noted['volume']}")
    return StagedSwap(fresh[0], tuple(name for name in _named(patch) if name not in ours))


def _inside(patch: Any, *keys: str) -> Json:
    """What lies there; empty where nothing does, or something else."""
    for key in keys:
        patch = patch.get(key) if isinstance(patch, dict) else None
    return patch if isinstance(patch, dict) else {}


def _named(patch: Any, prefix: str = "", depth: int = 5) -> list[str]:
    """What it changes, by paths, down to what tells whose it is; never a value. `{"services": {}}` changes nothing."""
    if not isinstance(patch, dict) or not depth:
        return [prefix]
    if not patch:
        return [] if prefix.count(".") == 0 else [prefix]
    return [each for key, value in sorted(patch.items()) for each in _named(value, f"{prefix}.{key}" if prefix else str(key), depth - 1)
            if value is not None or prefix]  # fmt: skip


def _few(named: list[str]) -> str:
    return ", ".join(named[:_SHOWN]) + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")
