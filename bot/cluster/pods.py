"""Pods: which of them run, and why one does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot.cluster.api import EVENTS, PODS, Api, ApiRefused, Json
from bot.process import redact

#: these keep their object, but nothing of them runs
_OVER = frozenset({"Succeeded", "Failed"})
#: a container that waits for one of these will not come by itself
FATAL = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CrashLoopBackOff", "RunContainerError", "CreateContainerError"})


async def running(api: Api, labels: str) -> list[Json]:
    """What runs, or still ends, behind that selector."""
    return [pod for pod in await api.every(PODS, labels=labels) if (pod.get("status") or {}).get("phase") not in _OVER]


def named(pods: Sequence[Mapping[str, Any]], most: int = 3) -> str:
    """'api-7d-x2 (ending, up to 600 s for a clean end), api-7d-x3 and 2 more'."""
    told = [f"{pod['metadata']['name']}{_ending(pod)}" for pod in pods[:most]]
    return ", ".join(told) + (f" and {len(pods) - most} more" if len(pods) > most else "")


def _ending(pod: Mapping[str, Any]) -> str:
    if not pod["metadata"].get("deletionTimestamp"):
        return ""
    grace = pod["metadata"].get("deletionGracePeriodSeconds")
    return f" (ending, up to {grace} s for a clean end)" if grace is not None else " (ending)"


def trouble(pod: Mapping[str, Any]) -> tuple[str, bool]:
    """Why it does not run, in the cluster's words, and whether that is final; '' where nothing is wrong."""
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason") or ""
        if reason and reason not in {"ContainerCreating", "PodInitializing"}:
            words = f": {waiting['message']}" if waiting.get("message") else ""
            return _clean(f"{container['name']} waits, {reason}{words}"), reason in FATAL
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _clean(f"not scheduled, {condition.get('reason', '')}: {condition.get('message', '')}"), False
    if status.get("phase") == "Failed":
        return _clean(f"failed, {status.get('reason') or 'no reason'}: {status.get('message') or 'no message'}"), True
    return "", False


async def why(api: Api, pod: Mapping[str, Any]) -> str:
    """Conditions first, then the newest warning among its events; events are a help, so a missing right costs only them."""
    found, _ = trouble(pod)
    if found:
        return found
    try:
        events = await api.every(EVENTS, fields=f"involvedObject.uid={pod['metadata']['uid']}")
    except ApiRefused as error:
        return f"no reason is known; its events can't be read: {error.message}"
    warned = [one for one in events if one.get("type") == "Warning"]
    if not warned:
        return "no reason is known: neither its conditions nor its events say one"
    newest = max(warned, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
    return _clean(f"{newest.get('reason', '')}: {newest.get('message', '')}")


def _clean(text: str) -> str:
    return redact(text).replace("\n", " ")[:300].rstrip(" .")
