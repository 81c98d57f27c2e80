"""A Deployment's way back, as `kubectl rollout undo` goes it: the pod template of a former ReplicaSet becomes the Deployment's again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot.cluster.api import DEPLOYMENTS, JSON_PATCH, REPLICASETS, Api, ApiRefused, Json, owner, selector
from bot.errors import StepFailed
from bot.platforms.kubernetes_objects import images

_REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"
#: kubectl leaves these of the Deployment as they are (kubectl/pkg/polymorphichelpers/rollback.go)
_KEPT = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration", _REVISION, "deployment.kubernetes.io/revision-history",
        "deployment.kubernetes.io/desired-replicas", "deployment.kubernetes.io/max-replicas", "deprecated.deployment.rollback.to",
    }
)  # fmt: skip
_TRIES = 5


async def former(api: Api, deployments: Sequence[Json], to_revision: int | None) -> dict[str, Any]:
    """By service; a Deployment without a former ReplicaSet is left out."""
    found: dict[str, Any] = {}
    for one in deployments:
        now = int((one["metadata"].get("annotations") or {}).get(_REVISION, 0))
        sets = {revision(each): each for each in await _sets(api, one)}
        wanted = to_revision if to_revision is not None else max((number for number in sets if number < now), default=0)
        if wanted in sets and wanted != now and wanted:
            was = sets[wanted]
            name = one["metadata"]["name"]
            found[f"deployment/{name}"] = {
                "name": name, "uid": one["metadata"]["uid"], "replicaset": was["metadata"]["name"], "replicaset_uid": was["metadata"]["uid"],
                "revision": wanted, "now": now,
                "says": f"{', '.join(images(was['spec']['template']))} (revision {wanted}; now {', '.join(images(one['spec']['template']))})",
            }  # fmt: skip
    return found


async def _sets(api: Api, deployment: Json) -> list[Json]:
    all_of_them = await api.every(REPLICASETS, labels=selector(deployment["spec"]["selector"]))
    return [one for one in all_of_them if (owner(one) or {}).get("uid") == deployment["metadata"]["uid"]]


def revision(replicaset: Json) -> int:
    return int((replicaset["metadata"].get("annotations") or {}).get(_REVISION, 0))


async def undo(api: Api, service: str, one: Mapping[str, Any]) -> str:
    """To exactly the ReplicaSet that was named. Twice is harmless. Raises StepFailed."""
    for left in reversed(range(_TRIES)):
        there = await api.find(DEPLOYMENTS, one["name"])
        if there is None or there["metadata"]["uid"] != one["uid"]:
            raise StepFailed(f"{service} is not the Deployment any more that the plan was made for, so it is left as it is. Ask again.")
        was = next((each for each in await _sets(api, there) if each["metadata"]["uid"] == one["replicaset_uid"]), None)
        if was is None:
            raise StepFailed(
                f"{service} can't go back: the cluster has removed {one['replicaset']} (revision {one['revision']}). Deploy that version, then retry."
            )
        template = _template(was)
        if there["spec"]["template"] == template:
            return f"{service} is already at {one['says']}"
        if there["spec"].get("paused"):
            raise StepFailed(
                f"{service} is paused, so it can't be rolled back. Run: kubectl -n {api.namespace} rollout resume {service}, then retry."
            )
        try:
            await api.patch(DEPLOYMENTS, one["name"], _patch(there, was, template), kind=JSON_PATCH)
        except ApiRefused as error:
            if error.status == 409 and left:
                continue
            raise StepFailed(f"{service} could not be rolled back. {error.message}") from error
        return f"{service} is back at {one['says']}"
    raise AssertionError("the last try returns or raises")


def _template(replicaset: Json) -> Json:
    """Without the label that the controller adds to tell ReplicaSets apart."""
    template: Json = replicaset["spec"]["template"]
    labels = {key: value for key, value in (template["metadata"].get("labels") or {}).items() if key != _HASH}
    return {**template, "metadata": {**template["metadata"], "labels": labels}}


def _patch(there: Json, was: Json, template: Json) -> list[Json]:
    """Writing the version that was read makes the server answer 409 where somebody else was faster."""
    mine = there["metadata"].get("annotations") or {}
    theirs = was["metadata"].get("annotations") or {}
    annotations = {**{key: mine[key] for key in mine if key in _KEPT}, **{key: theirs[key] for key in theirs if key not in _KEPT}}
    return [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": there["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/spec/template", "value": template},
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ]
