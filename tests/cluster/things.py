"""Objects as people deploy them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_OF_THE_POD = ("nodeSelector", "terminationGracePeriodSeconds", "serviceAccountName", "restartPolicy")


def template(name: str, image: str = "shop:1", **container: Any) -> Json:
    pod = {key: container.pop(key) for key in _OF_THE_POD if key in container}
    return {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": image, **container}], **pod}}


def deployment(name: str, replicas: int = 2, image: str = "shop:1", *, labels: Json | None = None, **container: Any) -> Json:
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, image, **container)}
    return {"metadata": {"name": name, "labels": labels or {"app": "shop"}}, "spec": spec}


def statefulset(name: str, replicas: int = 2, image: str = "shop:1", **container: Any) -> Json:
    spec = {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": {"app": name}}, "template": template(name, image, **container)}
    return {"metadata": {"name": name, "labels": {"app": "shop"}}, "spec": spec}


def cronjob(name: str, *, suspend: bool = False, image: str = "shop:1", **container: Any) -> Json:
    job = {"spec": {"template": template(name, image, restartPolicy="Never", **container)}}
    return {"metadata": {"name": name, "labels": {"app": "shop"}}, "spec": {"schedule": "0 * * * *", "suspend": suspend, "jobTemplate": job}}


def autoscaler(name: str, of: str, low: int = 2, high: int = 5, *, owner: Json | None = None) -> Json:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": of}
    meta: Json = {"name": name, **({"ownerReferences": [owner]} if owner else {})}
    return {"metadata": meta, "spec": {"scaleTargetRef": target, "minReplicas": low, "maxReplicas": high}}
