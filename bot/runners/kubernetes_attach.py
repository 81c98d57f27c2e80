"""A program in a pod, attached to by the cluster's channel protocol over a websocket: stdin 0, stdout 1, stderr 2, its end 3, close 255 (v5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from bot.cluster.api import PODS, Api, ApiRefused, ApiSilent, Json
from bot.errors import OutcomeUnknown, ProgramMissing
from bot.process import redact
from bot.runners.kubernetes_pod import CONTAINER

_V5, _V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _ENDED, _CLOSE = 0, 1, 2, 3, 255
_ALIVE = 15.0  # seconds between two signs of life of the connection
_PAUSE = 0.1
#: how the runtime says that the program could not even begin
_NO_START = frozenset({"StartError", "ContainerCannotRun"})


class PodProgram:
    """Implements running.Program. `socket` is None where it had ended before we came: then its log is its output."""

    pid = 0  #: the node's business; what is left is known by the pod

    def __init__(self, api: Api, name: str, socket: aiohttp.ClientWebSocketResponse | None, gone: Callable[[], Awaitable[None]]) -> None:
        self._api, self._name, self._socket, self._gone = api, name, socket, gone

    async def output(self) -> AsyncIterator[bytes]:
        """Raises OutcomeUnknown when the connection breaks while it runs."""
        if self._socket is None:
            yield (await self._api.text(PODS, self._name, "log", {"container": CONTAINER})).encode()
            return
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel in {_STDOUT, _STDERR} and data:
                yield data
            elif channel == _ENDED:
                return
        if ended(await self._api.find(PODS, self._name)) is None:
            raise OutcomeUnknown(f"The connection to the pod {self._name} broke while its program ran, so nobody heard how it ended.")

    async def send(self, data: bytes) -> None:
        await self._told(bytes([_STDIN]) + data)

    async def close_stdin(self) -> None:
        """Before v5 there is no way to: an empty line says that no word comes."""
        closes = self._socket is not None and self._socket.protocol == _V5
        await self._told(bytes([_CLOSE, _STDIN]) if closes else bytes([_STDIN]) + b"\n")

    async def _told(self, data: bytes) -> None:
        """As with a pipe: that nobody reads any more is seen at its end."""
        if self._socket is not None and not self._socket.closed:
            try:
                await self._socket.send_bytes(data)
            except (aiohttp.ClientConnectionError, ConnectionError):
                return

    async def wait(self) -> int:
        while True:
            found = await self._api.find(PODS, self._name)
            if found is None:
                raise OutcomeUnknown(f"The pod {self._name} was removed by somebody else before its end was seen.")
            code = ended(found)
            if code is not None:
                return code
            await asyncio.sleep(_PAUSE)

    async def kill(self) -> None:
        await self._gone()


def ended(pod: Json | None) -> int | None:
    """The exit code of its container; None while it runs. A pod that ended without one was ended by its node: 137."""
    status = (pod or {}).get("status") or {}
    for container in status.get("containerStatuses") or []:
        terminated = (container.get("state") or {}).get("terminated")
        if terminated is not None:
            return int(terminated.get("exitCode", 137))
    return 137 if status.get("phase") in {"Failed", "Succeeded"} else None


def could_not_start(pod: Json) -> str:
    """The runtime's words where the program is not in the image, or its folder isn't; else ''."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        terminated = (container.get("state") or {}).get("terminated") or {}
        if terminated.get("reason") in _NO_START:
            return redact(str(terminated.get("message") or "no words"))[:300].rstrip(". ")
    return ""


@asynccontextmanager
async def attached(api: Api, name: str, gone: Callable[[], Awaitable[None]]) -> AsyncIterator[PodProgram]:
    """Raises ProgramMissing, ApiRefused, ApiSilent."""
    try:
        socket = await _socket(api, name)
    except aiohttp.WSServerHandshakeError as error:
        found = await api.get(PODS, name)
        if ended(found) is None:
            told = f"The cluster would not let Backout attach to the pod {name} ({error.status}: {error.message}). Look at its rights on pods/attach."
            raise ApiRefused(told, error.status, "") from error
        if why := could_not_start(found):
            raise ProgramMissing(f"the program can't be started in the pod: {why}") from error
        yield PodProgram(api, name, None, gone)
        return
    except (aiohttp.ClientError, OSError) as error:
        raise ApiSilent(f"The cluster let nobody attach to the pod {name} ({type(error).__name__}). Try again.") from error
    try:
        yield PodProgram(api, name, socket, gone)
    finally:
        await socket.close()


async def _socket(api: Api, name: str) -> aiohttp.ClientWebSocketResponse:
    client = api.client
    headers = {"User-Agent": str(client.user_agent)}
    query = [("container", CONTAINER), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
    await client.update_params_for_auth(headers, query, ["BearerToken"])
    url = str(client.configuration.host) + PODS.path(api.namespace, name, "attach")
    return await client.rest_client.pool_manager.ws_connect(
        url, params=query, headers=headers, protocols=(_V5, _V4), heartbeat=_ALIVE, max_msg_size=0, proxy=client.configuration.proxy,
        timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
    )  # fmt: skip
