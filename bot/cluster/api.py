"""One API server: requests with a deadline, tried again where it asks for that, and errors that say what happened.

The library reads kubeconfigs, keeps tokens fresh and speaks TLS. Objects stay plain JSON: what a newer server adds is not lost when we write back.
Every request that Backout makes comes to the same when it is made twice, so all may be tried again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import yaml

from bot.cluster.place import IN_CLUSTER, Place
from bot.errors import StepFailed
from bot.process import redact

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
MANAGER = "backout"  #: the field manager that the server writes beside what we changed
_REQUEST = 10.0  # seconds that one request may take
_PATIENCE = 30.0  # seconds in all, with everything that is tried again
_WAIT = 10.0  # seconds at most, whatever Retry-After says
_PAGE = 250
_AGAIN = frozenset({429, 500, 502, 503, 504})
_STALE = 5  # times that a stale object is read again


class Resource(NamedTuple):
    """A kind of object, as paths have it."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str, name: str = "", sub: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return "/".join(filter(None, [root, "namespaces", namespace, self.plural, name, sub]))


DEPLOYMENTS = Resource("apps", "v1", "deployments")
STATEFULSETS = Resource("apps", "v1", "statefulsets")
REPLICASETS = Resource("apps", "v1", "replicasets")
CRONJOBS = Resource("batch", "v1", "cronjobs")
JOBS = Resource("batch", "v1", "jobs")
PODS = Resource("", "v1", "pods")
SECRETS = Resource("", "v1", "secrets")
EVENTS = Resource("", "v1", "events")
AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers")


class ApiRefused(StepFailed):
    """The server would not: `status` and `reason` are its own."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    @property
    def missing(self) -> bool:
        return self.status == 404


class ApiSilent(StepFailed):
    """The server could not be asked, or gave no answer in time."""


class Cluster:
    """`patience` and `request` are seconds: for a question with all its tries, and for one try."""

    def __init__(self, place: Place, *, patience: float = _PATIENCE, request: float = _REQUEST) -> None:
        self.place = place
        self._patience, self._request = patience, request

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Api]:
        """The credentials are read anew each time, since they change. Raises ApiSilent."""
        client = await self._client()
        try:
            yield Api(client, self.place.namespace, patience=self._patience, request=self._request)
        finally:
            await client.close()

    async def _client(self) -> ApiClient:
        # Importing it takes a second, and most commands never ask a cluster.
        from kubernetes_asyncio import client, config  # noqa: PLC0415

        settings = client.Configuration()
        try:
            if self.place.kubeconfig == IN_CLUSTER:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]  # the library leaves it without types
            else:
                async with asyncio.timeout(self._request):  # it may start a program that gets a token
                    await config.load_kube_config(self.place.kubeconfig, self.place.context, settings, persist_config=False)
        except (config.ConfigException, OSError, TimeoutError, yaml.YAMLError, ValueError, KeyError) as error:
            where = "the pod's service account" if self.place.kubeconfig == IN_CLUSTER else self.place.kubeconfig
            told = "it took too long" if isinstance(error, TimeoutError) else redact(str(error))[:200].rstrip(". ")
            raise ApiSilent(f"The cluster can't be asked: {where} can't be used ({told}). Mend kubeconfig and context, then try again.") from error
        made = client.ApiClient(settings)
        made.user_agent = MANAGER
        return made


class Api:
    """An open API server, in one namespace."""

    def __init__(self, client: ApiClient, namespace: str, *, patience: float, request: float) -> None:
        self.client, self.namespace = client, namespace
        self._patience, self._request = patience, request

    async def get(self, resource: Resource, name: str, sub: str = "") -> Json:
        return await self.ask("GET", resource.path(self.namespace, name, sub))

    async def find(self, resource: Resource, name: str) -> Json | None:
        """None where it is not there."""
        try:
            return await self.get(resource, name)
        except ApiRefused as error:
            if error.missing:
                return None
            raise

    async def every(self, resource: Resource, *, labels: str = "", fields: str = "") -> list[Json]:
        """All pages. A list that grew too old on the way is begun again."""
        found: list[Json] = []
        going = ""
        while True:
            asked = {"labelSelector": labels, "fieldSelector": fields, "limit": str(_PAGE), "continue": going}
            try:
                page = await self.ask("GET", resource.path(self.namespace), query={key: value for key, value in asked.items() if value})
            except ApiRefused as error:
                if error.status != 410 or not going:
                    raise
                found, going = [], ""
                continue
            found += page.get("items") or []
            going = (page.get("metadata") or {}).get("continue") or ""
            if not going:
                return found

    async def patch(self, resource: Resource, name: str, body: Json | list[Json], *, kind: str = MERGE, sub: str = "") -> Json:
        return await self.ask("PATCH", resource.path(self.namespace, name, sub), query={"fieldManager": MANAGER}, body=body, content=kind)

    async def replace(self, resource: Resource, name: str, body: Json, *, sub: str = "") -> Json:
        return await self.ask("PUT", resource.path(self.namespace, name, sub), query={"fieldManager": MANAGER}, body=body)

    async def create(self, resource: Resource, body: Json) -> None:
        """Under a name that nobody else thinks of: if it is there already, it is ours, and the answer to our first try was lost."""
        try:
            await self.ask("POST", resource.path(self.namespace), query={"fieldManager": MANAGER}, body=body)
        except ApiRefused as error:
            if error.reason != "AlreadyExists":
                raise

    async def delete(self, resource: Resource, name: str, *, grace: int | None = None) -> None:
        """What is gone already is as good. What it owns goes too."""
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self.ask("DELETE", resource.path(self.namespace, name), body=options)
        except ApiRefused as error:
            if not error.missing:
                raise

    async def text(self, resource: Resource, name: str, sub: str, query: Mapping[str, str]) -> str:
        return (await self._tried("GET", resource.path(self.namespace, name, sub), query, None, "application/json")).decode("utf-8", "replace")

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | list[Json] | None = None,
        content: str = "application/json",
    ) -> Json:
        """Raises ApiRefused, ApiSilent."""
        data = await self._tried(method, path, query or {}, body, content)
        try:
            found: Json = json.loads(data)
        except ValueError as error:
            raise ApiSilent(f"{self._server()} answered {method} {path} with something that is not JSON. Is it an API server?") from error
        return found

    async def _tried(self, method: str, path: str, query: Mapping[str, str], body: Any, content: str) -> bytes:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._patience, 0.2
        while True:
            problem: StepFailed
            wait = pause
            try:
                status, headers, data = await self._once(method, path, query, body, content)
            except TimeoutError:
                problem = ApiSilent(f"{self._server()} gave no answer to {method} {path} in time. {_LOOK}")
            except (aiohttp.ClientError, OSError) as error:
                problem = ApiSilent(f"{self._server()} can't be reached ({type(error).__name__}: {redact(str(error))[:200]}). {_LOOK}")
            else:
                if status < 400:
                    return data
                problem = _refused(status, data, f"{method} {path}")
                if status not in _AGAIN:
                    raise problem
                wait = max(pause, _retry_after(headers.get("Retry-After")))
            if loop.time() + wait >= until:
                raise problem
            await asyncio.sleep(wait)
            pause = min(pause * 2, 5.0)

    async def _once(self, method: str, path: str, query: Mapping[str, str], body: Any, content: str) -> tuple[int, Mapping[str, str], bytes]:
        async with asyncio.timeout(self._request):
            answer = await self.client.call_api(
                path, method, query_params=list(query.items()), body=body, header_params={"Accept": "application/json", "Content-Type": content},
                auth_settings=["BearerToken"], _preload_content=False,
            )  # fmt: skip
            try:
                return answer.status, answer.headers, await answer.read()
            finally:
                answer.release()

    def _server(self) -> str:
        return f"The cluster's API server ({self.client.configuration.host})"


_LOOK = "Look whether it is up and whether the network lets Backout through, then try again."


def _refused(status: int, data: bytes, what: str) -> ApiRefused:
    """The server's Status in one sentence: 'deployments.apps "api" not found'."""
    try:
        said: Json = json.loads(data)
    except ValueError:
        said = {}
    message = redact(str(said.get("message") or data[:200].decode("utf-8", "replace") or "no words")).replace("\n", " ")[:500].rstrip(". ")
    reason = str(said.get("reason") or "")
    if status == 401:
        return ApiRefused(f"The cluster doesn't take Backout's credentials: {message}. Mend kubeconfig, then try again.", status, reason)
    return ApiRefused(f"The cluster answered {what} with {status}: {message}.", status, reason)


def _retry_after(value: str | None) -> float:
    """Seconds; a date counts as nothing, since it would be another clock's."""
    return min(float(value), _WAIT) if value is not None and value.isdigit() else 0.0


def selector(found: Mapping[str, Any]) -> str:
    """A LabelSelector as a query: 'app=api,tier in (web)'."""
    parts = [f"{key}={value}" for key, value in sorted((found.get("matchLabels") or {}).items())]
    for one in found.get("matchExpressions") or []:
        key, values = one["key"], ",".join(one.get("values") or [])
        parts.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}[one["operator"]])
    return ",".join(parts)


async def changed(api: Api, resource: Resource, name: str, change: Any, *, sub: str = "") -> Json:
    """Read it, change it, write it back; read it again where somebody else was faster. `change(object)` returns None where nothing is to be done,
    else what to write (PUT): the whole object, or that of its subresource, under the object's own version. Returns the object as it was, or what the
    server answered. Raises ApiRefused, ApiSilent."""
    for left in reversed(range(_STALE)):
        there = await api.get(resource, name)
        wanted = change(there)
        if wanted is None:
            return there
        try:
            return await api.replace(resource, name, wanted, sub=sub)
        except ApiRefused as error:
            if error.status != 409 or not left:
                raise
    raise AssertionError("the last try returns or raises")


def owner(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Its controller: the ownerReference that says so."""
    references: Sequence[Mapping[str, Any]] = found["metadata"].get("ownerReferences") or []
    return next((one for one in references if one.get("controller")), None)
