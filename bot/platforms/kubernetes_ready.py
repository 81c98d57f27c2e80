"""What stands in the way in a cluster: a missing right, a service that isn't there; and, as warnings, who might scale it up again."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bot.cluster.api import AUTOSCALERS, EVENTS, JOBS, PODS, REPLICASETS, Api, owner
from bot.cluster.rights import Right, missing, refusal, rights
from bot.errors import Refusal
from bot.platforms.kubernetes_objects import CRONJOB, DEPLOYMENT, KINDS, Kind, Meant, autoscaler, autoscalers, objects

if TYPE_CHECKING:
    from bot.platforms.kubernetes import KubernetesSettings

#: without these a reason or a log is missing, nothing else
_NICE = frozenset({"pods/log", "events"})


async def look(api: Api, meant: Meant, settings: KubernetesSettings) -> tuple[Refusal, ...]:
    """Raises ApiRefused, ApiSilent."""
    lacking = await missing(api, needed(meant, settings))
    vital = [right for right in lacking if right.resource not in _NICE]
    found: list[Refusal] = []
    if vital:
        return (refusal(lacking, api.namespace),)
    if lacking:
        found.append(refusal(lacking, api.namespace, warning=True))
    there, absent = await objects(api, meant)
    found += [await _absent(api, service) for service in absent]
    if not there and not absent:
        found.append(
            Refusal(
                "cluster_object_missing",
                f"Nothing in the namespace {api.namespace} has the labels {meant.selector}. So nobody would be stopped.",
                "Mend platform.selector, or name the services.",
            )
        )
    scalers = await autoscalers(api) if lacking or any(kind is not CRONJOB for kind, _ in there) else {}
    for kind, one in there:
        scaler = scalers.get((kind.title, one["metadata"]["name"]))
        service, held = f"{kind.word}/{one['metadata']['name']}", owner(one)
        if held:
            found.append(_held(service, f"belongs to {held['kind']} {held['name']}", "Pause that operator for it"))
        if scaler and ((told := autoscaler(scaler))["owner"] or told["min"] == 0):
            found.append(_held(service, f"is scaled by {told['owner'] or told['name']}, which can bring it back from 0", "Pause it"))
    return tuple(found)


def _held(service: str, what: str, cure: str) -> Refusal:
    return Refusal(
        "cluster_owned", f"{service} {what}. If that scales it up while it is stopped, nothing is executed, and Backout says so.",
        f"{cure} when a rollback is asked for.", warning=True,
    )  # fmt: skip


async def _absent(api: Api, service: str) -> Refusal:
    word, _, name = service.partition("/")
    kind = next(one for one in KINDS if one.word == word)
    near = difflib.get_close_matches(name, [one["metadata"]["name"] for one in await api.every(kind.resource)], n=1)
    return Refusal(
        "cluster_object_missing",
        f"There is no {service} in the namespace {api.namespace}. It would not be stopped, so nothing could be promised.",
        f"Mend platform in backout.yml.{f' Is {near[0]} meant?' if near else ''}",
    )


def needed(meant: Meant, settings: KubernetesSettings) -> Iterator[Right]:
    """Every verb on every resource that a run would use; a name where a rule for that one object is enough."""
    for kind in KINDS:
        for name in meant.names[kind.word]:
            yield from _of(kind, name)
            if kind is DEPLOYMENT and (settings.roll_back or settings.migrates_on_start):
                yield from rights(kind.resource, "patch", name=name)
        if meant.selector:
            yield from rights(kind.resource, "list")
            yield from _of(kind, "")
            if kind is DEPLOYMENT and (settings.roll_back or settings.migrates_on_start):
                yield from rights(kind.resource, "patch")
    yield from rights(JOBS, "list", *(["delete"] if settings.jobs == "end" else []))
    yield from rights(PODS, "list")
    yield from rights(PODS, "get", sub="log")
    yield from rights(EVENTS, "list")
    yield from rights(AUTOSCALERS, "list")
    if settings.roll_back or settings.migrates_on_start:
        yield from rights(REPLICASETS, "list")


def _of(kind: Kind, name: str) -> Iterator[Right]:
    if kind is CRONJOB:
        yield from rights(kind.resource, "get", "update", name=name)
        return
    yield from rights(kind.resource, "get", name=name)
    yield from rights(kind.resource, "update", sub="scale", name=name)
