"""Deployments, StatefulSets and CronJobs: which are meant, and what of them is written down before they are stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bot.cluster.api import AUTOSCALERS, CRONJOBS, DEPLOYMENTS, JOBS, STATEFULSETS, Api, Json, Resource, owner, selector
from bot.errors import StepFailed

Noted = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """`word` is kubectl's, `title` the API's."""

    word: str
    title: str
    resource: Resource


CRONJOB = Kind("cronjob", "CronJob", CRONJOBS)
DEPLOYMENT = Kind("deployment", "Deployment", DEPLOYMENTS)
STATEFULSET = Kind("statefulset", "StatefulSet", STATEFULSETS)
#: in the order in which they are stopped: nothing new begins first
KINDS = (CRONJOB, DEPLOYMENT, STATEFULSET)
BY_WORD = {kind.word: kind for kind in KINDS}


@dataclass(frozen=True)
class Meant:
    """What the settings name: names by kind, and a selector for more of each kind."""

    names: Mapping[str, tuple[str, ...]]
    selector: str | None


async def objects(api: Api, meant: Meant) -> tuple[list[tuple[Kind, Json]], list[str]]:
    """What is meant and there, and the services ('deployment/api') that are named and not there."""
    found: list[tuple[Kind, Json]] = []
    absent: list[str] = []
    for kind in KINDS:
        there: dict[str, Json] = {}
        for name in meant.names[kind.word]:
            one = await api.find(kind.resource, name)
            if one is None:
                absent.append(f"{kind.word}/{name}")
            else:
                there[name] = one
        if meant.selector:
            for one in await api.every(kind.resource, labels=meant.selector):
                there.setdefault(one["metadata"]["name"], one)
        found += [(kind, one) for one in there.values()]
    return found, absent


async def autoscalers(api: Api) -> dict[tuple[str, str], Json]:
    """By what they scale: ('Deployment', 'api')."""
    return {(one["spec"]["scaleTargetRef"]["kind"], one["spec"]["scaleTargetRef"]["name"]): one for one in await api.every(AUTOSCALERS)}


async def look(api: Api, meant: Meant) -> dict[str, Any]:
    """Raises StepFailed for a service that isn't there."""
    found, absent = await objects(api, meant)
    if absent:
        raise StepFailed(f"Not in the namespace {api.namespace}: {', '.join(absent)}. Nothing was stopped. Mend platform in backout.yml, then retry.")
    scalers = await autoscalers(api) if any(kind is not CRONJOB for kind, _ in found) else {}
    return {f"{kind.word}/{one['metadata']['name']}": _noted(kind, one, scalers) for kind, one in found}


def _noted(kind: Kind, one: Json, scalers: Mapping[tuple[str, str], Json]) -> dict[str, Any]:
    meta, spec = one["metadata"], one["spec"]
    common = {"kind": kind.word, "name": meta["name"], "uid": meta["uid"], "version": meta["resourceVersion"], "generation": meta.get("generation")}
    held = owner(one)
    common["owner"] = f"{held['kind']} {held['name']}" if held else None
    if kind is CRONJOB:
        return {**common, "suspend": bool(spec.get("suspend")), "images": images(spec["jobTemplate"]["spec"]["template"])}
    scaler = scalers.get((kind.title, meta["name"]))
    return {
        **common, "replicas": replicas(one), "images": images(spec["template"]), "selector": selector(spec["selector"]),
        "autoscaler": autoscaler(scaler) if scaler else None,
    }  # fmt: skip


def autoscaler(scaler: Json) -> dict[str, Any]:
    held = owner(scaler)
    spec = scaler["spec"]
    return {
        "name": scaler["metadata"]["name"], "min": spec.get("minReplicas", 1), "max": spec["maxReplicas"],
        "owner": f"{held['kind']} {held['name']}" if held else None,
    }  # fmt: skip


def replicas(one: Mapping[str, Any]) -> int:
    """None written means 1 to the API server."""
    return int(one["spec"].get("replicas", 1))


def images(template: Json) -> list[str]:
    return [container["image"] for container in template["spec"]["containers"]]


def workloads(noted: Noted) -> Iterator[tuple[str, Kind, Mapping[str, Any]]]:
    """Deployments and StatefulSets of what was written down."""
    for service, one in noted.items():
        if one["kind"] != CRONJOB.word:
            yield service, BY_WORD[one["kind"]], one


def cronjobs(noted: Noted) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for service, one in noted.items():
        if one["kind"] == CRONJOB.word:
            yield service, one


def same(there: Json, noted: Mapping[str, Any], service: str) -> Json:
    """Raises StepFailed where somebody made it anew meanwhile: what was written down is another's."""
    if there["metadata"]["uid"] != noted["uid"]:
        raise StepFailed(f"{service} was deleted and made anew since it was looked at, so it is left as it is. Look at it, and set it by hand.")
    return there


async def jobs(api: Api, noted: Noted, labels: str | None) -> list[Json]:
    """Jobs under way that a written-down CronJob started, or that the selector means."""
    mine = {one["uid"] for _, one in cronjobs(noted)}
    chosen = {one["metadata"]["uid"] for one in await api.every(JOBS, labels=labels)} if labels else set()
    found = await api.every(JOBS) if mine or chosen else []
    return [one for one in found if _under_way(one) and (one["metadata"]["uid"] in chosen or (owner(one) or {}).get("uid") in mine)]


def _under_way(job: Json) -> bool:
    """Neither complete nor failed, nor suspended without a pod."""
    status = job.get("status") or {}
    over = any(one["type"] in {"Complete", "Failed"} and one["status"] == "True" for one in status.get("conditions") or [])
    return not over and not (job["spec"].get("suspend") and not status.get("active"))


def culprit(there: Json) -> str:
    """Who wrote its replicas last, as the server remembers it: ' (its replicas were last written by keda-operator)'."""
    wrote = [one for one in there["metadata"].get("managedFields") or [] if "f:replicas" in ((one.get("fieldsV1") or {}).get("f:spec") or {})]
    return f" (its replicas were last written by {max(wrote, key=lambda one: str(one.get('time', '')))['manager']})" if wrote else ""
