"""What the API server keeps: objects with versions, and the history that watches read."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

from tests.cluster import schema
from tests.cluster.schema import Json

Key = tuple[str, str, str]  # plural, namespace, name

KIND = {
    "deployments": ("Deployment", "apps/v1"), "statefulsets": ("StatefulSet", "apps/v1"), "replicasets": ("ReplicaSet", "apps/v1"),
    "cronjobs": ("CronJob", "batch/v1"), "jobs": ("Job", "batch/v1"), "pods": ("Pod", "v1"), "secrets": ("Secret", "v1"), "events": ("Event", "v1"),
    "horizontalpodautoscalers": ("HorizontalPodAutoscaler", "autoscaling/v2"),
}  # fmt: skip
#: their generation grows when their spec changes
_GENERATIONS = {"deployments", "statefulsets", "replicasets", "cronjobs", "jobs"}


class Wrong(Exception):
    """An answer that is an error, as a Status has it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: TID251  a cluster has a clock of its own


class Store:
    def __init__(self) -> None:
        self.objects: dict[Key, Json] = {}
        self.version = 100
        self.history: list[tuple[int, str, Key, Json]] = []
        self.forgotten = 0  #: versions up to this one can't be watched from
        self.changed = asyncio.Event()

    def _record(self, what: str, key: Key, found: Json) -> None:
        self.history.append((self.version, what, key, copy.deepcopy(found)))
        self.wake()

    def wake(self) -> None:
        """Whoever waits for a change looks again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def get(self, plural: str, namespace: str, name: str) -> Json:
        try:
            return copy.deepcopy(self.objects[plural, namespace, name])
        except KeyError:
            raise Wrong(404, "NotFound", f'{plural} "{name}" not found') from None

    def find(self, plural: str, namespace: str, where: Callable[[Json], bool] = lambda _: True) -> list[Json]:
        found = [one for (kind, space, _), one in sorted(self.objects.items()) if kind == plural and space == namespace]
        return [copy.deepcopy(one) for one in found if where(one)]

    def create(self, plural: str, namespace: str, found: Json, manager: str = "") -> Json:
        made = _normal(copy.deepcopy(found))
        meta = made.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        if not meta.get("name"):
            raise Wrong(422, "Invalid", "metadata.name: Required value")
        key = (plural, namespace, meta["name"])
        if key in self.objects:
            raise Wrong(409, "AlreadyExists", f'{plural} "{meta["name"]}" already exists')
        made["kind"], made["apiVersion"] = KIND[plural]
        _defaults(plural, made)
        self.version += 1
        meta |= {"namespace": namespace, "uid": str(uuid.uuid4()), "resourceVersion": str(self.version), "creationTimestamp": now()}
        if plural in _GENERATIONS:
            meta["generation"] = 1
        self._valid(plural, made)
        _managed({}, made, manager, "")
        self.objects[key] = made
        self._record("ADDED", key, made)
        return copy.deepcopy(made)

    def update(self, plural: str, namespace: str, found: Json, *, manager: str = "", sub: str = "") -> Json:
        """Refuses another version than the newest, and changes of what can't be changed. Nothing changed: no new version."""
        name = found["metadata"]["name"]
        key = (plural, namespace, name)
        there = self.get(plural, namespace, name)
        meta = there["metadata"]
        asked = found["metadata"].get("resourceVersion")
        if asked and asked != meta["resourceVersion"]:
            message = "the object has been modified; please apply your changes to the latest version and try again"
            raise Wrong(409, "Conflict", f'Operation cannot be fulfilled on {plural} "{name}": {message}')
        if found["metadata"].get("uid", meta["uid"]) != meta["uid"]:
            raise Wrong(409, "Conflict", f"Precondition failed: UID in precondition: {found['metadata']['uid']}, UID in object meta: {meta['uid']}")
        made = _normal(copy.deepcopy(found))
        made["metadata"] |= {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "creationTimestamp": meta["creationTimestamp"]}
        if sub != "status" and "status" in there:
            made["status"] = there["status"]
        if "generation" in meta:
            made["metadata"]["generation"] = meta["generation"]
        if made == there:
            return there
        if plural in {"deployments", "statefulsets", "replicasets"} and made["spec"].get("selector") != there["spec"].get("selector"):
            raise Wrong(422, "Invalid", f'{plural} "{name}" is invalid: spec.selector: field is immutable')
        if plural in _GENERATIONS and made.get("spec") != there.get("spec"):
            made["metadata"]["generation"] = meta["generation"] + 1
        _defaults(plural, made)
        self._valid(plural, made)
        _managed(there, made, manager, sub)
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = made
        self._record("MODIFIED", key, made)
        return copy.deepcopy(made)

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """At once; what it owns goes too, as the garbage collector does it."""
        gone = self.objects.pop((plural, namespace, name), None)
        if gone is None:
            return
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._record("DELETED", (plural, namespace, name), gone)
        for kind, space, owned in list(self.objects):
            one = self.objects.get((kind, space, owned))
            if one and any(each["uid"] == gone["metadata"]["uid"] for each in one["metadata"].get("ownerReferences") or []):
                self.end(kind, space, owned, None)

    def end(self, plural: str, namespace: str, name: str, grace: int | None) -> Json:
        """Pods get their time; the kubelet removes them."""
        there = self.get(plural, namespace, name)
        if plural != "pods":
            self.remove(plural, namespace, name)
            return there
        given = grace if grace is not None else int(there["spec"].get("terminationGracePeriodSeconds", 30))
        earlier = there["metadata"].get("deletionGracePeriodSeconds")
        if given == 0:
            self.remove(plural, namespace, name)
        elif earlier is None or given < earlier:
            there["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": given}
            self.update(plural, namespace, there)
        return there

    def _valid(self, plural: str, found: Json) -> None:
        wrong = schema.faults(KIND[plural][0], found)
        if plural in {"deployments", "statefulsets"} and found["spec"].get("replicas", 0) < 0:
            wrong.append("spec.replicas: must be greater than or equal to 0")
        if plural in {"deployments", "statefulsets"}:
            labels = (found["spec"]["template"].get("metadata") or {}).get("labels") or {}
            wanted = (found["spec"].get("selector") or {}).get("matchLabels") or {}
            if any(labels.get(key) != value for key, value in wanted.items()):
                wrong.append("spec.template.metadata.labels: `selector` does not match template `labels`")
        if wrong:
            raise Wrong(422, "Invalid", f'{KIND[plural][0]} "{found["metadata"]["name"]}" is invalid: {"; ".join(wrong[:3])}')


def _normal(found: Any) -> Any:
    """As the server's own types write it: nothing is null, and a container always has resources."""
    if isinstance(found, list):
        return [_normal(one) for one in found]
    if not isinstance(found, dict):
        return found
    made = {key: _normal(value) for key, value in found.items() if value is not None}
    for container in made.get("containers") or []:
        container.setdefault("resources", {})
    return made


def _defaults(plural: str, made: Json) -> None:
    """Those that callers can see."""
    spec = made.get("spec") or {}
    if plural in {"deployments", "statefulsets", "replicasets"}:
        spec.setdefault("replicas", 1)
    if plural == "cronjobs":
        spec.setdefault("suspend", False)
    if plural == "pods":
        spec.setdefault("restartPolicy", "Always")
        spec.setdefault("terminationGracePeriodSeconds", 30)
        made.setdefault("status", {"phase": "Pending"})


def _managed(there: Json, made: Json, manager: str, sub: str) -> None:
    """Only what is asked for: who wrote spec.replicas last."""
    if "replicas" not in (made.get("spec") or {}) or (there.get("spec") or {}).get("replicas") == made["spec"]["replicas"]:
        return
    kept = [one for one in made["metadata"].get("managedFields") or [] if "f:replicas" not in ((one.get("fieldsV1") or {}).get("f:spec") or {})]
    entry: Json = {"manager": manager or "test", "operation": "Update", "apiVersion": made["apiVersion"], "time": now(), "fieldsType": "FieldsV1"}
    entry["fieldsV1"] = {"f:spec": {"f:replicas": {}}}
    made["metadata"]["managedFields"] = [*kept, {**entry, **({"subresource": sub} if sub else {})}]


def selects(selector: Json, labels: Json | None) -> bool:
    labels = labels or {}
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())


def owned(one: Json, uid: str) -> bool:
    return any(each["uid"] == uid for each in one["metadata"].get("ownerReferences") or [])


def reference(found: Json) -> list[Any]:
    meta = found["metadata"]
    return [
        {
            "apiVersion": found["apiVersion"],
            "kind": found["kind"],
            "name": meta["name"],
            "uid": meta["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
