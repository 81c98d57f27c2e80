"""The volumes of Railway's environment: a backup is copied into a fresh one, the swap is staged, and a deploy of ALL that is staged makes it real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.railway.server import RailwayStandIn

Json = dict[str, Any]
MOUNT = "/var/lib/postgresql/data"
_TIME = "2026-11-01T00:00:00Z"


async def _nothing(_: str) -> None:
    pass


class Volumes:
    """`there` is what the environment has; `staged` the patch that waits. `gate` holds a copy back; `fails` is what one ends with.

    `on_deploy` and `on_mounted` are called with the new volume's id when the swap is deployed: as the service goes, and before it is up.
    """

    def __init__(self, railway: RailwayStandIn) -> None:
        self._railway = railway
        self.there: list[Json] = []
        self.staged: Json = {}
        self.status = "STAGED"
        self.fails = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_deploy: Callable[[str], Coroutine[Any, Any, None]] = _nothing
        self.restored: list[str] = []
        self.committed: list[Json] = []
        self._workflows: dict[str, Json] = {}

    def add(self, instance: str, service: str | None, *, volume: str = "", mount: str = MOUNT) -> Json:
        made = {
            "id": instance, "volumeId": volume or f"{instance}-volume", "serviceId": service, "environmentId": "2c3d-environment", "mountPath": mount,
            "state": "READY", "sizeMB": 5000, "currentSizeMB": 41.0, "createdAt": _TIME, "deletedAt": None,
        }  # fmt: skip
        self.there.append(made)
        return made

    def told(self) -> Json:
        times = {"createdAt": _TIME, "updatedAt": _TIME, "appliedAt": None}
        known = {"id": f"patch-{len(self.committed)}", "environmentId": "2c3d-environment", "lastAppliedError": None, "message": None}
        return {**known, **times, "status": self.status if self.staged else "STAGED", "patch": self.staged}

    def workflow(self, identity: str) -> Json:
        return self._workflows.get(identity, {"status": "NotFound", "error": None})

    def restore(self, instance: str, backup: str) -> str:
        self.restored.append(backup)
        identity = f"workflow-{len(self.restored)}"
        self._workflows[identity] = {"status": "Running", "error": None}
        self._railway.task(self._copy(identity, instance, f"fresh-{len(self.restored)}"))
        return identity

    async def _copy(self, identity: str, instance: str, fresh: str) -> None:
        await asyncio.sleep(self._railway.build)
        await self.gate.wait()
        if self.fails:
            self._workflows[identity] = {"status": "Error", "error": self.fails}
            return
        old = next(one for one in self.there if one["id"] == instance)
        self.add(f"{fresh}-instance", None, volume=fresh)["state"] = "READY"
        service = self.staged.setdefault("services", {}).setdefault(old["serviceId"], {})
        service["volumeMounts"] = {**service.get("volumeMounts", {}), old["volumeId"]: None, fresh: {"mountPath": old["mountPath"]}}
        self.staged.setdefault("volumes", {})[fresh] = {"region": "europe-west4", "sizeMB": 5000}
        self._workflows[identity] = {"status": "Complete", "error": None}

    def commit(self) -> str:
        if not self.staged:
            raise LookupError("No staged changes to commit")
        if self.status == "APPLYING":
            raise LookupError("A patch is being applied already")
        self.status = "APPLYING"
        self.committed.append(self.staged)
        self._railway.task(self._apply(self.staged))
        return f"commit-{len(self.committed)}"

    async def _apply(self, patch: Json) -> None:
        await asyncio.sleep(self._railway.build)
        for identity, changed in patch.get("services", {}).items():
            for volume, mount in changed.get("volumeMounts", {}).items():
                one = next(each for each in self.there if each["volumeId"] == volume)
                one["serviceId"] = identity if mount else None
                if mount:
                    await self.on_deploy(volume)
            service = next(each for each in self._railway.services.values() if each.id == identity)
            self._railway.deploy(service)
        self.staged, self.status = {}, "STAGED"
