"""The kubelet: pods become ready, or wait for a reason; a container with a command is a real process, and can be attached to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.schema import Json
from tests.cluster.store import Store, Wrong, now


@dataclass
class Running:
    """A container's process, its log so far, and who listens."""

    process: asyncio.subprocess.Process
    log: bytearray = field(default_factory=bytearray)
    listeners: list[asyncio.Queue[bytes | None]] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None
    over: bool = False


class Kubelet:
    """`trouble`: image -> why it can't run; `tainted`: no node takes a pod; `slow_to_end`: names of pods whose program ignores SIGTERM."""

    def __init__(self, store: Store, namespace: str) -> None:
        self.store, self.namespace = store, namespace
        self.trouble: dict[str, tuple[str, str]] = {}
        self.unready: set[str] = set()  #: images whose containers run and are never ready
        self.nodes: list[dict[str, str]] = [{"kubernetes.io/os": "linux"}]  #: labels of each node
        self.slow_to_end: Callable[[str], bool] = lambda _: False
        self.never_ends = False  #: its node is lost: nothing is removed
        self.running: dict[str, Running] = {}  #: by the pod's uid
        self.logs: dict[str, bytes] = {}  #: what a pod without a process has said, by image
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> None:
        pods = self.store.find("pods", self.namespace)
        for pod in pods:
            try:
                if pod["metadata"].get("deletionTimestamp"):
                    self._end(pod)
                elif pod["status"].get("phase") == "Pending":
                    await self._start(pod)
                elif pod["status"].get("phase") == "Running":
                    self._over(pod)
            except Wrong as error:
                if error.status not in {404, 409}:
                    raise
        there = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self.running if uid not in there]:
            await self.kill(uid)

    async def _start(self, pod: Json) -> None:
        spec = pod["spec"]
        wanted = (spec.get("nodeSelector") or {}).items()
        if not any(wanted <= node.items() for node in self.nodes):
            message = f"0/{len(self.nodes)} nodes are available: {len(self.nodes)} node(s) didn't match Pod's node affinity/selector."
            self._status(pod, {"phase": "Pending", "conditions": [_condition("PodScheduled", "False", "Unschedulable", message)]})
            return
        container = spec["containers"][0]
        if container["image"] in self.trouble:
            self._wait(pod, *self.trouble[container["image"]])
            return
        if container.get("command"):
            try:
                env = self._environment(container)
            except Wrong as error:
                self._wait(pod, "CreateContainerConfigError", str(error))
                return
            try:
                await self._run(pod, container, env)
            except OSError as error:
                self._dead(pod, {"exitCode": 128, "reason": "StartError", "message": f"failed to create containerd task: {error}"})
                return
        ready = "False" if container["image"] in self.unready else "True"
        states = [{**_container(pod, one), "ready": ready == "True", "state": {"running": {"startedAt": now()}}} for one in spec["containers"]]
        conditions = [_condition("PodScheduled", "True"), _condition("Ready", ready), _condition("ContainersReady", ready)]
        self._status(pod, {"phase": "Running", "conditions": conditions, "containerStatuses": states})

    def _wait(self, pod: Json, reason: str, message: str) -> None:
        states = [{**_container(pod, pod["spec"]["containers"][0]), "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}]
        conditions = [_condition("PodScheduled", "True"), _condition("Ready", "False", "ContainersNotReady", "")]
        self._status(pod, {"phase": "Pending", "conditions": conditions, "containerStatuses": states})

    def _environment(self, container: Json) -> dict[str, str]:
        """Later ones win, and `env` wins over `envFrom`, as the real one has it. Raises Wrong where a Secret or key is missing."""
        found: dict[str, str] = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}  # noqa: TID251  the image's
        for source in container.get("envFrom") or []:
            secret = self._secret(source["secretRef"]["name"])
            found |= {source.get("prefix", "") + key: value for key, value in secret.items()}
        for one in container.get("env") or []:
            if "valueFrom" in one:
                asked = one["valueFrom"]["secretKeyRef"]
                secret = self._secret(asked["name"])
                if asked["key"] not in secret:
                    raise Wrong(404, "NotFound", f"couldn't find key {asked['key']} in Secret {self.namespace}/{asked['name']}")
                found[one["name"]] = secret[asked["key"]]
            else:
                found[one["name"]] = one.get("value", "")
        return found

    def _secret(self, name: str) -> dict[str, str]:
        try:
            found = self.store.get("secrets", self.namespace, name)
        except Wrong:
            raise Wrong(404, "NotFound", f'secret "{name}" not found') from None
        return {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}

    async def _run(self, pod: Json, container: Json, env: dict[str, str]) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self.running:
            return
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  the kubelet runs containers
            *container["command"], *(container.get("args") or []), env=env, cwd=container.get("workingDir"), start_new_session=True,
            stdin=asyncio.subprocess.PIPE if container.get("stdin") else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        made = self.running[uid] = Running(process)
        made.reader = asyncio.create_task(self._read(made))

    async def _read(self, one: Running) -> None:
        assert one.process.stdout is not None
        while data := await one.process.stdout.read(65536):
            one.log += data
            for queue in one.listeners:
                queue.put_nowait(data)
        await one.process.wait()
        one.over = True
        for queue in one.listeners:
            queue.put_nowait(None)
        self.store.wake()

    def _over(self, pod: Json) -> None:
        one = self.running.get(pod["metadata"]["uid"])
        if one is None or not one.over:
            return
        code = one.process.returncode or 0
        self._dead(pod, {"exitCode": code if code >= 0 else 128 - code, "reason": "Completed" if code == 0 else "Error"})

    def _dead(self, pod: Json, ended: Json) -> None:
        states = [{**_container(pod, pod["spec"]["containers"][0]), "ready": False, "state": {"terminated": ended}}]
        conditions = [_condition("PodScheduled", "True"), _condition("Ready", "False", "PodCompleted", "")]
        self._status(pod, {"phase": "Failed" if ended["exitCode"] else "Succeeded", "conditions": conditions, "containerStatuses": states})

    def _end(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._ending and not self.never_ends:
            self._ending[uid] = asyncio.create_task(self._ended(pod))

    async def _ended(self, pod: Json) -> None:
        """SIGTERM, the pod's grace, SIGKILL; then the object goes."""
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        one = self.running.get(uid)
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds", 30))
        if one is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await one.process.wait()
            await self.kill(uid)
        elif self.slow_to_end(name):
            await asyncio.sleep(grace)
        self.store.remove("pods", self.namespace, name)

    async def kill(self, uid: str) -> None:
        one = self.running.get(uid)
        if one is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        await one.process.wait()
        if one.reader is not None:
            await one.reader
        self.running.pop(uid, None)  # only now: whoever is cancelled in here leaves it to `stop`

    async def stop(self) -> None:
        for task in self._ending.values():
            task.cancel()
        await asyncio.gather(*self._ending.values(), return_exceptions=True)
        for uid in list(self.running):
            await self.kill(uid)
        await asyncio.sleep(0)  # lets the transports say goodbye, so that none warns when it is collected

    def _status(self, pod: Json, status: Json) -> None:
        there = self.store.get("pods", self.namespace, pod["metadata"]["name"])
        if there.get("status") != status and there["metadata"]["uid"] == pod["metadata"]["uid"]:
            there["status"] = status
            self.store.update("pods", self.namespace, there, sub="status")

    def log(self, pod: Json) -> bytes:
        one = self.running.get(pod["metadata"]["uid"])
        return bytes(one.log) if one is not None else self.logs.get(pod["spec"]["containers"][0]["image"], b"")


def _condition(kind: str, status: str, reason: str = "", message: str = "") -> Json:
    found: dict[str, Any] = {"type": kind, "status": status}
    return {**found, **({"reason": reason} if reason else {}), **({"message": message} if message else {})}


def _container(pod: Json, container: Json) -> Json:
    return {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
