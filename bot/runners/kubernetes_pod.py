"""What a one-off pod is made of: the application's image and place, our program, and variables that only a Secret of its own holds."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bot.cluster.api import Json

CONTAINER = "tool"
MANAGED = "app.kubernetes.io/managed-by"
RUN = "backout/run"
ATTEMPT = "backout/attempt"
OURS = f"{MANAGED}=backout"
FOR = "backout/for"  #: whose tool it is: two targets may share a namespace
READING = "read"  #: in place of a run, in the names of those that only read
#: of the application's pod: where it runs and as whom. Not its affinity, which may keep it from standing beside the others.
_PLACE = (
    "serviceAccountName", "automountServiceAccountToken", "nodeSelector", "tolerations", "imagePullSecrets", "securityContext", "runtimeClassName",
    "dnsPolicy", "dnsConfig", "hostAliases", "hostNetwork", "enableServiceLinks",
)  # fmt: skip
_CONTAINER = ("imagePullPolicy", "securityContext", "resources")
#: volumes that a second pod may mount as well; a claim may be bound to one node
_SHARED = ("configMap", "secret", "projected", "emptyDir", "downwardAPI")


def run_of(name: str) -> str:
    """'backout/r12/downgrade/1' -> 'r12', as a label may say it."""
    parts = name.split("/")
    return re.sub(r"[^A-Za-z0-9_.-]", "-", parts[1] if len(parts) > 1 else name)[:63].strip("-_.")


def mark(*words: str | None) -> str:
    """A label's value for words of any length."""
    return hashlib.sha256("\n".join(word or "" for word in words).encode()).hexdigest()[:16]


def pod(
    like: Mapping[str, Any] | None, container: Mapping[str, Any], own: Mapping[str, Any], argv: Sequence[str], env: Mapping[str, str], *,
    directory: Path, name: str, whose: str, copy: bool, deadline: int,
) -> Json:  # fmt: skip
    """`like`: the application's pod spec and `container` the one in it that is meant; `own`: what the settings say instead of theirs.

    For a copy neither the application's variables nor its files are taken: they hold production's address.
    """
    made_name = f"backout-{run_of(name).lower().replace('_', '-').replace('.', '-')[:40]}-{secrets.token_hex(4)}"
    place = {key: (like or {})[key] for key in _PLACE if key in (like or {})}
    mine: list[Json] = [{"name": key, "valueFrom": {"secretKeyRef": {"name": made_name, "key": key}}} for key in sorted(env)]
    tool: Json = {
        **{key: container[key] for key in _CONTAINER if key in container},
        **{key: own[key] for key in ("image", "resources") if own.get(key)},
        "name": CONTAINER, "command": list(argv), "workingDir": str(directory), "stdin": True, "stdinOnce": True, "env": mine,
    }  # fmt: skip
    tool.setdefault("image", container.get("image"))
    volumes: list[Json] = []
    if not copy:
        tool["env"] = [one for one in container.get("env") or [] if one["name"] not in env] + mine
        tool["envFrom"] = list(container.get("envFrom") or [])
        volumes = [one for one in (like or {}).get("volumes") or [] if any(kind in one for kind in _SHARED)]
        shared = {one["name"] for one in volumes}
        tool["volumeMounts"] = [one for one in container.get("volumeMounts") or [] if one["name"] in shared]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": made_name, "labels": {MANAGED: "backout", RUN: run_of(name), FOR: whose}, "annotations": {ATTEMPT: name}},
        "spec": {
            **place,
            **{key: own[key] for key in ("serviceAccountName", "nodeSelector") if own.get(key)},
            "containers": [tool],
            "volumes": volumes,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": deadline,  # should Backout never come back, it ends by itself
            "terminationGracePeriodSeconds": 5,
        },
    }


def secret(made: Json, env: Mapping[str, str]) -> Json:
    """The pod owns it, so the cluster removes it with the pod."""
    meta = made["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": meta["name"],
            "labels": meta["labels"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}],
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in env.items()},
    }
