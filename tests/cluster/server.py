"""HTTP: paths, verbs, selectors, pages, watches, reviews, attach; every request is recorded, and faults come on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import WSMsgType, web

from tests.cluster import patching, schema
from tests.cluster.controllers import Controllers
from tests.cluster.kubelet import Kubelet
from tests.cluster.schema import Json
from tests.cluster.store import KIND, Store, Wrong

TOKEN = "fake-token-of-the-cluster"
_GROUPS = {
    "apps/v1": ["deployments", "statefulsets", "replicasets"],
    "batch/v1": ["cronjobs", "jobs"],
    "autoscaling/v2": ["horizontalpodautoscalers"],
}
_SUBS = {
    "deployments": ["scale", "status"],
    "statefulsets": ["scale", "status"],
    "replicasets": ["scale", "status"],
    "pods": ["log", "attach", "status"],
}
_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[a-z0-9.]+))/(?P<version>v\d)/namespaces/(?P<ns>[a-z0-9-]+)/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)
_SHORT = {"deployments": "deploy", "statefulsets": "sts", "replicasets": "rs", "cronjobs": "cj", "pods": "po", "horizontalpodautoscalers": "hpa"}


@dataclass
class Request:
    verb: str
    resource: str
    name: str
    body: Any
    agent: str
    content: str
    query: dict[str, str]


@dataclass
class Fault:
    """What the next `times` requests that fit get instead: a status, 'hang', 'close', 'half', 'nonsense'. `before` the effect, or after it."""

    kind: int | str
    fits: Callable[[Request], bool] = lambda _: True
    times: int = 1
    retry_after: str | None = None
    after: bool = False


@dataclass
class Cluster:
    """`async with Cluster() as cluster`: listens on 127.0.0.1, with controllers and kubelet at work."""

    namespace: str = "shop"
    store: Store = field(default_factory=Store)
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    forbidden: set[tuple[str, str]] = field(default_factory=set)  #: (verb, resource or resource/sub)
    protocols: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")
    #: called before a write is carried out: somebody else who is faster
    before_write: Callable[[Request], None] = lambda _: None
    port: int = 0

    def __post_init__(self) -> None:
        self.controllers = Controllers(self.store, self.namespace)
        self.kubelet = Kubelet(self.store, self.namespace)
        self._hanging: set[asyncio.Task[Any]] = set()
        self._attached: list[web.Request] = []

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # aiohttp has no public way to ask
        self._loop = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.cancel()
        for task in self._hanging:
            task.cancel()
        await self.kubelet.stop()
        await self._runner.cleanup()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop

    async def _work(self) -> None:
        """As long as something changes; a pod that waits for its Secret is looked at again."""
        while True:
            changed = self.store.changed
            before = self.store.version
            self.controllers.look()
            await self.kubelet.look()
            await asyncio.sleep(0)  # requests have their turn, whatever changes
            if self.store.version == before:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await changed.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, folder: Path, token: str = TOKEN) -> str:
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}], "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": self.namespace}}],
        }))  # fmt: skip
        return str(path)

    def create(self, plural: str, found: Json) -> Json:
        return self.store.create(plural, self.namespace, found)

    def get(self, plural: str, name: str) -> Json:
        return self.store.get(plural, self.namespace, name)

    def pods(self) -> list[str]:
        return [one["metadata"]["name"] for one in self.store.find("pods", self.namespace)]

    def change(self, plural: str, name: str, change: Callable[[Json], Any], manager: str = "somebody") -> Json:
        """As somebody else would, at once."""
        found = self.get(plural, name)
        change(found)
        return self.store.update(plural, self.namespace, found, manager=manager)

    def fire(self, cronjob: str, name: str) -> bool:
        """The cronjob's time has come: a job, unless it is suspended."""
        one = self.get("cronjobs", cronjob)
        if one["spec"].get("suspend"):
            return False
        owner = [{"apiVersion": "batch/v1", "kind": "CronJob", "name": cronjob, "uid": one["metadata"]["uid"], "controller": True}]
        self.create("jobs", {"metadata": {"name": name, "ownerReferences": owner}, "spec": one["spec"]["jobTemplate"]["spec"]})
        return True

    def drop_connections(self) -> None:
        """Whoever is attached loses the connection, as when the API server is restarted."""
        for request in self._attached:
            if request.transport is not None:
                request.transport.abort()

    # ------------------------------------------------------------------ requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        # kubectl sends no token without TLS
        silent = "Authorization" not in request.headers and request.headers.get("User-Agent", "").startswith("kubectl")
        if not silent and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(Wrong(401, "Unauthorized", "Unauthorized"))
        found = _PATH.match(request.path)
        body: Any = None
        if request.can_read_body:
            raw = await request.read()
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                return _status(Wrong(400, "BadRequest", "the body is not JSON"))
        asked = _request(request, found, body)
        self.requests.append(asked)
        fault = next((one for one in self.faults if one.fits(asked)), None)
        if fault is not None:
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
            if fault.after:
                await self._answer(request, found, asked)
            return await self._fail(request, fault)
        return await self._answer(request, found, asked)

    async def _fail(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if isinstance(fault.kind, int):
            answer = _status(Wrong(fault.kind, "TooManyRequests" if fault.kind == 429 else "InternalError", "the server is on fire"))
            if fault.retry_after is not None:
                answer.headers["Retry-After"] = fault.retry_after
            return answer
        if fault.kind == "nonsense":
            return web.Response(text="<html>a proxy's page</html>", content_type="text/html")
        if fault.kind == "hang":
            task = asyncio.current_task()
            assert task is not None
            self._hanging.add(task)
            await asyncio.Event().wait()
        assert request.transport is not None
        if fault.kind == "half":
            request.transport.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"kind": "Li')
            await asyncio.sleep(0.05)
        request.transport.close()
        return web.Response()

    async def _answer(self, request: web.Request, found: re.Match[str] | None, asked: Request) -> web.StreamResponse:
        try:
            if found is None:
                return self._outside(request, asked)
            self._allowed(found, asked)
            if found["plural"] == "pods" and found["sub"] == "log":
                return self._log(found, asked)
            if found["plural"] == "pods" and found["sub"] == "attach":
                return await self._attach(request, found)
            if request.query.get("watch") in {"true", "1"}:
                return await self._watch(request, found)
            if request.method != "GET":
                self.before_write(asked)
            return self._plain(request, found, asked)
        except Wrong as error:
            return _status(error)
        except patching.BadPatch as error:
            return _status(Wrong(422, "Invalid", str(error)))

    def _allowed(self, found: re.Match[str], asked: Request) -> None:
        if (asked.verb, asked.resource) in self.forbidden:
            group = found["group"] or ""
            what = f'cannot {asked.verb} resource "{asked.resource}" in API group "{group}" in the namespace "{found["ns"]}"'
            raise Wrong(403, "Forbidden", f'{asked.resource} "{asked.name}" is forbidden: User "backout" {what}')
        if found["plural"] not in KIND:
            raise Wrong(404, "NotFound", "the server could not find the requested resource")

    def _outside(self, request: web.Request, asked: Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" and request.method == "POST":
            if wrong := schema.faults("SelfSubjectAccessReview", asked.body):
                raise Wrong(422, "Invalid", "; ".join(wrong))
            about = asked.body["spec"]["resourceAttributes"]
            sub = f"/{about['subresource']}" if about.get("subresource") else ""
            allowed = (about["verb"], about["resource"] + sub) not in self.forbidden
            return web.json_response({**asked.body, "status": {"allowed": allowed}}, status=201)
        return _discovery(path)

    def _plain(self, request: web.Request, found: re.Match[str], asked: Request) -> web.StreamResponse:
        plural, space, name, sub = found["plural"], found["ns"], found["name"], found["sub"] or ""
        if sub and sub not in _SUBS.get(plural, []):
            raise Wrong(404, "NotFound", "the server could not find the requested resource")
        manager = request.query.get("fieldManager") or asked.agent.split("/")[0]
        match request.method:
            case "GET" if not name:
                return web.json_response(self._page(request, plural, space))
            case "GET":
                there = self.store.get(plural, space, name)
                return web.json_response(_scale(there) if sub == "scale" else there)
            case "POST" if not name:
                _checked(KIND[plural][0], asked.body)
                return web.json_response(self.store.create(plural, space, asked.body, manager), status=201)
            case "PUT" | "PATCH":
                return web.json_response(self._written(request, found, asked.body, manager))
            case "DELETE" if name:
                return web.json_response(self._deleted(plural, space, name, asked.body or {}))
        raise Wrong(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _written(self, request: web.Request, found: re.Match[str], body: Any, manager: str) -> Json:
        plural, space, name, sub = found["plural"], found["ns"], found["name"], found["sub"] or ""
        there = self.store.get(plural, space, name)
        view = _scale(there) if sub == "scale" else there
        kind = "Scale" if sub == "scale" else KIND[plural][0]
        wanted = body if request.method == "PUT" else _patched(request.content_type, kind, view, body)
        _checked(kind, wanted)
        if wanted["metadata"].get("name") != name:
            raise Wrong(400, "BadRequest", "the name of the object does not match the name on the URL")
        if sub == "scale":
            asked = wanted["metadata"].get("resourceVersion")
            there["metadata"]["resourceVersion"] = asked or there["metadata"]["resourceVersion"]
            there["spec"]["replicas"] = (wanted.get("spec") or {}).get("replicas", 0)
            return _scale(self.store.update(plural, space, there, manager=manager, sub=sub))
        return self.store.update(plural, space, wanted, manager=manager, sub=sub)

    def _deleted(self, plural: str, space: str, name: str, options: Json) -> Json:
        if options:
            _checked("DeleteOptions", options)
        there = self.store.get(plural, space, name)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != there["metadata"]["uid"]:
            raise Wrong(409, "Conflict", "the UID in the precondition does not match the UID in record")
        return self.store.end(plural, space, name, options.get("gracePeriodSeconds"))

    def _page(self, request: web.Request, plural: str, space: str) -> Json:
        labels, fields = _labels(request.query.get("labelSelector", "")), _fields(request.query.get("fieldSelector", ""))
        found = self.store.find(plural, space, lambda one: labels(one) and fields(one))
        limit, start = int(request.query.get("limit") or 0), int(request.query.get("continue") or 0)
        meta: Json = {"resourceVersion": str(self.store.version)}
        if limit and start + limit < len(found):
            meta |= {"continue": str(start + limit), "remainingItemCount": len(found) - start - limit}
        kind, version = KIND[plural]
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": meta, "items": found[start : start + limit] if limit else found[start:]}

    async def _watch(self, request: web.Request, found: re.Match[str]) -> web.StreamResponse:
        """From a version on; 410 as an event where it is forgotten; a bookmark when nothing happens."""
        labels, fields = _labels(request.query.get("labelSelector", "")), _fields(request.query.get("fieldSelector", ""))
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)

        async def event(kind: str, thing: Json) -> None:
            await answer.write(json.dumps({"type": kind, "object": thing}).encode() + b"\n")

        since = int(request.query.get("resourceVersion") or 0)
        if 0 < since < self.store.forgotten:
            await event("ERROR", {"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old resource version"})
            return answer
        if not since:
            for one in self.store.find(found["plural"], found["ns"], lambda one: labels(one) and fields(one)):
                await event("ADDED", one)
            since = self.store.version
        kind, version = KIND[found["plural"]]
        with contextlib.suppress(ConnectionResetError, TimeoutError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds") or 60)):
                while True:
                    changed = self.store.changed
                    for number, what, key, one in list(self.store.history):
                        if number > since and key[:2] == (found["plural"], found["ns"]) and labels(one) and fields(one):
                            await event(what, one)
                    since = self.store.version
                    try:
                        async with asyncio.timeout(0.5):
                            await changed.wait()
                    except TimeoutError:
                        if request.query.get("allowWatchBookmarks") == "true":
                            await event("BOOKMARK", {"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": str(since)}})
        return answer

    def _log(self, found: re.Match[str], asked: Request) -> web.StreamResponse:
        pod = self.store.get("pods", found["ns"], found["name"])
        names = [one["name"] for one in pod["spec"]["containers"]]
        if asked.query.get("container", names[0]) not in names:
            raise Wrong(400, "BadRequest", f"container {asked.query['container']} is not valid for pod {found['name']}")
        if pod["status"].get("phase") == "Pending":
            raise Wrong(400, "BadRequest", f'container "{names[0]}" in pod "{found["name"]}" is waiting to start: ContainerCreating')
        lines = self.kubelet.log(pod).splitlines(keepends=True)
        return web.Response(body=b"".join(lines[-int(asked.query.get("tailLines", "100000")) :]), content_type="text/plain")

    async def _attach(self, request: web.Request, found: re.Match[str]) -> web.StreamResponse:
        pod = self.store.get("pods", found["ns"], found["name"])
        running = self.kubelet.running.get(pod["metadata"]["uid"])
        if running is None or running.over:
            raise Wrong(500, "InternalError", f"container not found ({request.query.get('container')})")
        offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        chosen = next((one for one in self.protocols if one in offered), None)
        if chosen is None:
            raise Wrong(400, "BadRequest", f"none of the protocols {offered} is spoken here")
        socket = web.WebSocketResponse(protocols=(chosen,))
        await socket.prepare(request)
        self._attached.append(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        running.listeners.append(queue)
        writer = asyncio.create_task(_told(socket, queue))
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    _heard(running.process, message.data, chosen)
        finally:
            running.listeners.remove(queue)
            if pod["spec"]["containers"][0].get("stdinOnce") and running.process.stdin is not None:
                running.process.stdin.close()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await writer
        return socket


def _heard(process: asyncio.subprocess.Process, data: bytes, protocol: str) -> None:
    channel, rest = data[0], data[1:]
    if process.stdin is None:
        return
    if channel == 0:
        process.stdin.write(rest)
    elif channel == 255 and protocol.startswith("v5") and rest[:1] == b"\x00":
        process.stdin.close()


async def _told(socket: web.WebSocketResponse, queue: asyncio.Queue[bytes | None]) -> None:
    """stdout on channel 1; at the end the Status on channel 3, as the real one tells it."""
    while (data := await queue.get()) is not None:
        await socket.send_bytes(b"\x01" + data)
    await socket.send_bytes(b"\x03" + json.dumps({"metadata": {}, "status": "Success"}).encode())
    await socket.close()


def _request(request: web.Request, found: re.Match[str] | None, body: Any) -> Request:
    common = {"body": body, "agent": request.headers.get("User-Agent", ""), "content": request.content_type, "query": dict(request.query)}
    if found is None:
        return Request(request.method.lower(), request.path, "", **common)  # type: ignore[arg-type]  # each has its own type
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get" if found["name"] else "list"}[request.method]
    if request.query.get("watch") in {"true", "1"}:
        verb = "watch"
    resource = found["plural"] + (f"/{found['sub']}" if found["sub"] else "")
    return Request(verb, resource, found["name"] or "", **common)  # type: ignore[arg-type]  # each has its own type


def _patched(content: str, kind: str, there: Json, body: Any) -> Json:
    match content:
        case "application/merge-patch+json" if isinstance(body, dict):
            return dict(patching.merge(there, body))
        case "application/strategic-merge-patch+json" if isinstance(body, dict):
            return patching.strategic(kind, there, body)
        case "application/json-patch+json" if isinstance(body, list):
            return dict(patching.json_patch(there, body))
        case "application/merge-patch+json" | "application/strategic-merge-patch+json" | "application/json-patch+json":
            raise Wrong(400, "BadRequest", f"the body is no {content}")
    raise Wrong(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content}")


def _checked(kind: str, found: Any) -> None:
    if not isinstance(found, dict):
        raise Wrong(400, "BadRequest", "the body is no object")
    if wrong := schema.faults(kind, found):
        raise Wrong(422, "Invalid", f"{kind} is invalid: {'; '.join(wrong[:3])}")


def _scale(there: Json) -> Json:
    meta = {key: there["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    chosen = ",".join(f"{key}={value}" for key, value in there["spec"]["selector"]["matchLabels"].items())
    status = {"replicas": (there.get("status") or {}).get("replicas", 0), "selector": chosen}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": {"replicas": there["spec"]["replicas"]}, "status": status}


def _labels(text: str) -> Callable[[Json], bool]:
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]

    def fits(one: Json) -> bool:
        labels = one["metadata"].get("labels") or {}
        return all(_label(part, labels) for part in parts)

    return fits


def _label(part: str, labels: Json) -> bool:
    if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", part):
        values = [value.strip() for value in found[3].split(",")]
        return (labels.get(found[1]) in values) is (found[2] == "in")
    if found := re.fullmatch(r"([^=!\s]+)\s*(==|=|!=)\s*([^=!\s]*)", part):
        return (labels.get(found[1]) == found[3]) is (found[2] != "!=")
    if re.fullmatch(r"!?[A-Za-z0-9./_-]+", part):
        return (part.lstrip("!") in labels) is not part.startswith("!")
    raise Wrong(400, "BadRequest", f"unable to parse requirement: {part}")


def _fields(text: str) -> Callable[[Json], bool]:
    parts = [part.partition("=") for part in text.split(",") if part]

    def value(one: Json, path: str) -> str:
        found: Any = one
        for part in path.split("."):
            found = (found or {}).get(part)
        return str(found or "")

    return lambda one: all(value(one, path) == wanted.lstrip("=") for path, _, wanted in parts)


def _status(error: Wrong) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(error),
        "reason": error.reason,
        "code": error.status,
    }
    return web.json_response(body, status=error.status)


def _discovery(path: str) -> web.Response:
    """What kubectl asks first."""
    if path == "/version":
        return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
    if path == "/api":
        return web.json_response({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
    if path == "/apis":
        groups = []
        for each in _GROUPS:
            version = {"groupVersion": each, "version": each.partition("/")[2]}
            groups.append({"name": each.partition("/")[0], "versions": [version], "preferredVersion": version})
        return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    wanted = path.removeprefix("/apis/").removeprefix("/api/")
    plurals = {**_GROUPS, "v1": ["pods", "secrets", "events"]}.get(wanted)
    if plurals is None:
        raise Wrong(404, "NotFound", "the server could not find the requested resource")
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources: list[Json] = []
    for plural in plurals:
        common = {"namespaced": True, "singularName": KIND[plural][0].lower()}
        resources.append(
            {**common, "name": plural, "kind": KIND[plural][0], "verbs": verbs, "shortNames": [_SHORT[plural]] if plural in _SHORT else []}
        )
        for sub in _SUBS.get(plural, []):
            scale = {"kind": "Scale", "group": "autoscaling", "version": "v1"} if sub == "scale" else {"kind": KIND[plural][0]}
            resources.append({"namespaced": True, "singularName": "", "name": f"{plural}/{sub}", "verbs": ["get", "patch", "update"], **scale})
    return web.json_response({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": wanted, "resources": resources})
