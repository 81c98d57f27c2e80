"""The published schemas: what an object must look like, and how its lists are merged."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

Json = dict[str, Any]

KINDS = {
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
    "ReplicaSet": "io.k8s.api.apps.v1.ReplicaSet",
    "CronJob": "io.k8s.api.batch.v1.CronJob",
    "Job": "io.k8s.api.batch.v1.Job",
    "Pod": "io.k8s.api.core.v1.Pod",
    "Secret": "io.k8s.api.core.v1.Secret",
    "Event": "io.k8s.api.core.v1.Event",
    "HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "Scale": "io.k8s.api.autoscaling.v1.Scale",
    "SelfSubjectAccessReview": "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    "DeleteOptions": "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
}


@functools.cache
def definitions() -> Json:
    found: Json = json.loads((Path(__file__).parent / "openapi-v1.36.json").read_text())["$defs"]
    return found


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{KINDS[kind]}", "$defs": definitions()})


def faults(kind: str, found: Json) -> list[str]:
    """What is wrong with it: 'spec.replicas: 'two' is not of type 'integer'."""
    errors = _validator(kind).iter_errors(found)
    return [f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:200]}" for error in errors]


def followed(node: Json) -> Json:
    """Behind a $ref; merge keys that stand beside it are kept."""
    while "$ref" in node:
        node = {**definitions()[node["$ref"].rpartition("/")[2]], **{key: value for key, value in node.items() if key.startswith("x-")}}
    return node


def root(kind: str) -> Json:
    found: Json = definitions()[KINDS[kind]]
    return found
