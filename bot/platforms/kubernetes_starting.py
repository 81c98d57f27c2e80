"""Whether a workload is ready, and why it is not yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bot.cluster import pods
from bot.cluster.api import PODS, Api, Json
from bot.errors import StepFailed
from bot.platforms.kubernetes_objects import DEPLOYMENT, Kind


async def not_ready(api: Api, service: str, kind: Kind, one: Mapping[str, Any], *, why: bool = True) -> str:
    """'' once the controller has seen the newest generation and all replicas of it are ready. `why`: pods and events are asked for the reason.

    Raises StepFailed where the cluster gave up.
    """
    there = await api.get(kind.resource, one["name"])
    status, wanted = there.get("status") or {}, one["replicas"]
    if int(status.get("observedGeneration", 0)) < int(there["metadata"].get("generation", 0)):
        return f"{service}: its controller has not seen the change"
    ready, updated = int(status.get("readyReplicas", 0)), int(status.get("updatedReplicas", 0))
    counts_updated = kind is DEPLOYMENT and not there["spec"].get("paused")
    if ready >= wanted and (updated >= wanted or not counts_updated):
        return ""
    told = f"{service}: {ready} of {wanted} ready"
    given_up = _given_up(status)
    reason = await _reason(api, one["selector"]) if why or given_up else ""
    if given_up:
        raise StepFailed(
            f"{told}, and the cluster gave up: {given_up}{f' ({reason})' if reason else ''}. Look at its pods, then retry.", {"service": service}
        )
    return f"{told}{f' ({reason})' if reason else ''}"


def _given_up(status: Json) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Progressing" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no reason")
    return ""


async def _reason(api: Api, labels: str) -> str:
    """Of the first pod that is not ready."""
    for pod in await api.every(PODS, labels=labels):
        conditions = (pod.get("status") or {}).get("conditions") or []
        if not any(one["type"] == "Ready" and one["status"] == "True" for one in conditions) and not pod["metadata"].get("deletionTimestamp"):
            return await pods.why(api, pod)
    return ""
