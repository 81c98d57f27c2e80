"""The small controllers: deployments -> replicasets -> pods, statefulsets, jobs, autoscalers. One look at everything after each change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from tests.cluster.schema import Json
from tests.cluster.store import Store, Wrong, owned, reference

_REVISION = "deployment.kubernetes.io/revision"


class Controllers:
    """`gone`: a controller that is switched off does nothing, as one that hangs."""

    def __init__(self, store: Store, namespace: str) -> None:
        self.store, self.namespace = store, namespace
        self.gone: set[str] = set()
        #: called after each look: what a test adds, e.g. an operator
        self.more: list[Callable[[Store], None]] = []

    def look(self) -> None:
        for plural, of in (
            ("horizontalpodautoscalers", self._autoscaler), ("deployments", self._deployment), ("replicasets", self._replicaset),
            ("statefulsets", self._statefulset), ("jobs", self._job),
        ):  # fmt: skip
            if plural not in self.gone:
                for one in self.store.find(plural, self.namespace):
                    try:
                        of(one)
                    except Wrong as error:
                        if error.status not in {404, 409}:
                            raise
        for more in self.more:
            more(self.store)

    # ------------------------------------------------------------------ what scales

    def _autoscaler(self, one: Json) -> None:
        """0 replicas switch it off, as in the real one; else it keeps between min and max."""
        target = one["spec"]["scaleTargetRef"]
        plural = {"Deployment": "deployments", "StatefulSet": "statefulsets"}[target["kind"]]
        there = self.store.get(plural, self.namespace, target["name"])
        now = there["spec"]["replicas"]
        wanted = min(max(now, one["spec"].get("minReplicas", 1)), one["spec"]["maxReplicas"])
        if now and wanted != now:
            there["spec"]["replicas"] = wanted
            self.store.update(plural, self.namespace, there, manager="kube-controller-manager", sub="scale")

    def _deployment(self, one: Json) -> None:
        mine = [each for each in self.store.find("replicasets", self.namespace) if owned(each, one["metadata"]["uid"])]
        digest = hashlib.sha256(json.dumps(one["spec"]["template"], sort_keys=True).encode()).hexdigest()[:10]
        current = next((each for each in mine if each["metadata"]["labels"]["pod-template-hash"] == digest), None)
        newest = max((_revision(each) for each in mine), default=0)
        if not one["spec"].get("paused"):
            if current is None:
                current = self._new_set(one, digest, newest + 1)
            elif _revision(current) < newest:
                current["metadata"]["annotations"][_REVISION] = str(newest + 1)
                current = self.store.update("replicasets", self.namespace, current)
            one["metadata"].setdefault("annotations", {})[_REVISION] = current["metadata"]["annotations"][_REVISION]
            one = self.store.update("deployments", self.namespace, one)
        active = current or max(mine, key=_revision)
        self._prune(one, [each for each in mine if each["metadata"]["name"] != active["metadata"]["name"]])
        self._resize("replicasets", active, one["spec"]["replicas"])
        self._deployment_status(one, active)

    def _new_set(self, one: Json, digest: str, revision: int) -> Json:
        template = json.loads(json.dumps(one["spec"]["template"]))
        template["metadata"].setdefault("labels", {})["pod-template-hash"] = digest
        annotations = {key: value for key, value in (one["metadata"].get("annotations") or {}).items() if not key.startswith("kubectl.")}
        made = {
            "metadata": {
                "name": f"{one['metadata']['name']}-{digest}", "labels": template["metadata"]["labels"], "ownerReferences": reference(one),
                "annotations": {**annotations, _REVISION: str(revision)},
            },
            "spec": {
                "replicas": one["spec"]["replicas"], "template": template,
                "selector": {"matchLabels": {**one["spec"]["selector"]["matchLabels"], "pod-template-hash": digest}},
            },
        }  # fmt: skip
        return self.store.create("replicasets", self.namespace, made)

    def _prune(self, one: Json, old: list[Json]) -> None:
        for each in old:
            self._resize("replicasets", each, 0)
        limit = one["spec"].get("revisionHistoryLimit", 10)
        for each in sorted(old, key=_revision)[: max(0, len(old) - limit)]:
            self.store.remove("replicasets", self.namespace, each["metadata"]["name"])

    def _resize(self, plural: str, one: Json, wanted: int) -> None:
        if one["spec"]["replicas"] != wanted:
            one["spec"]["replicas"] = wanted
            self.store.update(plural, self.namespace, one, manager="kube-controller-manager")

    def _deployment_status(self, one: Json, active: Json) -> None:
        pods = self._pods(active)
        everything = [pod for pod in self.store.find("pods", self.namespace) if _matches(one, pod)]
        ready = sum(_ready(pod) for pod in pods)
        stuck = [pod for pod in pods if pod["metadata"].get("annotations", {}).get("test/stuck")]
        progressing = {
            "type": "Progressing",
            "status": "False" if stuck else "True",
            "reason": "ProgressDeadlineExceeded" if stuck else "NewReplicaSetAvailable",
        }
        progressing["message"] = f'ReplicaSet "{active["metadata"]["name"]}" has {"timed out progressing." if stuck else "successfully progressed."}'
        available = {"type": "Available", "status": "True" if ready >= one["spec"]["replicas"] else "False", "reason": "MinimumReplicasAvailable"}
        self._status("deployments", one, {
            "observedGeneration": one["metadata"]["generation"], "replicas": len(everything), "updatedReplicas": len(pods), "readyReplicas": ready,
            "availableReplicas": ready, "unavailableReplicas": max(0, one["spec"]["replicas"] - ready), "conditions": [progressing, available],
        })  # fmt: skip

    def _replicaset(self, one: Json) -> None:
        pods = self._pods(one)
        for _ in range(one["spec"]["replicas"] - len(pods)):
            self._pod(one, {"generateName": f"{one['metadata']['name']}-"})
        for pod in pods[: max(0, len(pods) - one["spec"]["replicas"])]:
            self.store.end("pods", self.namespace, pod["metadata"]["name"], None)
        pods = self._pods(one)
        ready = sum(_ready(pod) for pod in pods)
        status = {"observedGeneration": one["metadata"]["generation"], "replicas": len(pods), "readyReplicas": ready, "availableReplicas": ready}
        self._status("replicasets", one, status)

    def _statefulset(self, one: Json) -> None:
        """One after the other, as OrderedReady: up from 0, down from the last."""
        pods = {pod["metadata"]["name"]: pod for pod in self.store.find("pods", self.namespace) if owned(pod, one["metadata"]["uid"])}
        name, wanted = one["metadata"]["name"], one["spec"]["replicas"]
        for number in range(wanted):
            pod = pods.get(f"{name}-{number}")
            if pod is None:
                self._pod(one, {"name": f"{name}-{number}"})
            if pod is None or not _ready(pod):
                break
        surplus = [pod for pod_name, pod in sorted(pods.items()) if int(pod_name.rpartition("-")[2]) >= wanted]
        if surplus and not any(pod["metadata"].get("deletionTimestamp") for pod in surplus):
            self.store.end("pods", self.namespace, surplus[-1]["metadata"]["name"], None)
        ready = sum(_ready(pod) for pod in pods.values())
        status = {"observedGeneration": one["metadata"]["generation"], "replicas": len(pods), "readyReplicas": ready, "updatedReplicas": len(pods)}
        self._status("statefulsets", one, status)

    def _job(self, one: Json) -> None:
        pods = [pod for pod in self.store.find("pods", self.namespace) if owned(pod, one["metadata"]["uid"])]
        if not pods:
            self._pod(one, {"name": f"{one['metadata']['name']}-pod"}, {"job-name": one["metadata"]["name"]})
            return
        phases = {pod["status"].get("phase") for pod in pods}
        if phases & {"Pending", "Running"}:
            self._status("jobs", one, {"active": len(pods)})
        else:
            self._status("jobs", one, {"succeeded": 1, "conditions": [{"type": "Complete" if "Succeeded" in phases else "Failed", "status": "True"}]})

    # ------------------------------------------------------------------ what they share

    def _pods(self, one: Json) -> list[Json]:
        """Those that count: not over and not ending."""
        mine = [pod for pod in self.store.find("pods", self.namespace) if owned(pod, one["metadata"]["uid"])]
        return [pod for pod in mine if pod["status"].get("phase") not in {"Succeeded", "Failed"} and not pod["metadata"].get("deletionTimestamp")]

    def _pod(self, one: Json, name: Json, labels: Json | None = None) -> None:
        template = one["spec"]["template"]
        meta = template.get("metadata") or {}
        both = {**(meta.get("labels") or {}), **(labels or {})}
        made = {
            "metadata": {**name, "labels": both, "annotations": meta.get("annotations") or {}, "ownerReferences": reference(one)},
            "spec": template["spec"],
        }
        self.store.create("pods", self.namespace, made)

    def _status(self, plural: str, one: Json, status: Json) -> None:
        there = self.store.get(plural, self.namespace, one["metadata"]["name"])
        if there.get("status") != status:
            there["status"] = status
            self.store.update(plural, self.namespace, there, sub="status")


def _revision(one: Json) -> int:
    return int((one["metadata"].get("annotations") or {}).get(_REVISION, 0))


def _ready(pod: Json) -> bool:
    conditions: list[dict[str, Any]] = pod["status"].get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _matches(one: Json, pod: Json) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in one["spec"]["selector"]["matchLabels"].items())
