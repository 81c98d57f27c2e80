"""The addresses that the bot calls: the Web API, response_urls, uploads, sockets."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from playground.slack import validate
from playground.slack.faults import Fault, Faults
from playground.slack.methods import Methods
from playground.slack.model import ApiError, Call, Json, ResponseUrl
from playground.slack.sockets import Sockets
from playground.slack.workspace import Workspace

_WRITTEN_AS_JSON = ("blocks", "metadata", "view", "files")
_FORMATS = {"blocks": "invalid_blocks_format", "metadata": "invalid_metadata_format"}


class Web:
    """Every call is logged in `workspace.calls`, refused or not; tokens never are."""

    def __init__(self, workspace: Workspace, methods: Methods, sockets: Sockets, faults: Faults, bot_token: str, app_token: str) -> None:
        self._workspace = workspace
        self._methods = methods
        self._sockets = sockets
        self._faults = faults
        self._tokens = {bot_token: "bot", app_token: "app"}

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("GET", "/api/{method}", self._api)
        app.router.add_route("POST", "/api/{method}", self._api)
        app.router.add_post("/hooks/{key}", self._hook)
        app.router.add_post("/upload/{file}", self._upload)
        app.router.add_get("/link", self._sockets.accept)
        return app

    # -------------------------------------------------------------- /api/

    async def _api(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        args: Json = {}
        try:
            args = await _arguments(request)
            self._authorize(method, request.headers.get("Authorization"), args.pop("token", None))
            if fault := self._faults.take(method):
                if fault.store_first:
                    self._methods(method, _decoded(args))
                return self._fail(request, fault, method, args)
            if (seconds := self._faults.wait(method, args, self._workspace.now())) is not None:
                return self._too_fast(method, args, seconds)
            body = self._methods(method, _decoded(args))
        except ApiError as refused:
            self._log(method, args, refused.code)
            return web.json_response(refused.answer())
        self._log(method, args, None)
        return web.json_response(body)

    def _authorize(self, method: str, header: str | None, written: str | None) -> None:
        token = header.removeprefix("Bearer ") if header else written
        if not token:
            raise ApiError("not_authed")
        if token not in self._tokens:
            raise ApiError("invalid_auth")
        if self._tokens[token] != ("app" if method in Methods.APP else "bot"):
            raise ApiError("not_allowed_token_type")

    def _fail(self, request: web.Request, fault: Fault, method: str, args: Json) -> web.StreamResponse:
        self._log(method, args, fault.error or f"http_{fault.status}", fault.status)
        if fault.status == 0:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        if fault.error or fault.status == 429:
            return web.json_response({"ok": False, "error": fault.error or "ratelimited"}, status=fault.status, headers=headers)
        return web.Response(status=fault.status, text="<html>upstream error</html>", content_type="text/html", headers=headers)

    def _too_fast(self, method: str, args: Json, seconds: int) -> web.Response:
        self._log(method, args, "ratelimited", 429)
        return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers={"Retry-After": str(seconds)})

    def _log(self, method: str, args: Json, error: str | None, status: int = 200) -> None:
        self._workspace.calls.append(Call(method, args, error, status, self._workspace.now()))
        self._workspace.changed()

    # -------------------------------------------------------------- response_url

    async def _hook(self, request: web.Request) -> web.StreamResponse:
        args: Json = {}
        try:
            hook = self._usable(request.match_info["key"])
            args = await _body_json(request)
            fault = self._faults.take("response_url")
            if fault is None or fault.store_first:
                hook.left -= 1
                self._respond(hook, args)
            if fault is not None:
                return self._fail(request, fault, "response_url", args)
        except ApiError as refused:
            status = 404 if refused.code in {"used_url", "expired_url"} else 400
            self._log("response_url", args, refused.code, status)
            return web.Response(status=status, text=refused.code)
        self._log("response_url", args, None)
        return web.Response(text="ok")

    def _usable(self, key: str) -> ResponseUrl:
        hook = self._workspace.response_urls.get(key)
        if hook is None or self._workspace.now() > hook.until:
            raise ApiError("expired_url")
        if hook.left <= 0:
            raise ApiError("used_url")
        return hook

    def _respond(self, hook: ResponseUrl, args: Json) -> None:
        space = self._workspace
        channel = space.channels[hook.channel]
        original = channel.messages.get(hook.ts or "") or space.find_ephemeral(hook.ts)
        if args.get("delete_original"):
            channel.messages.pop(hook.ts or "", None)
            space.drop_ephemeral(hook.ts or "")
            return
        message: Json = {"text": validate.message_text(args.get("text"))}
        if args.get("blocks") is not None:
            message["blocks"] = validate.message_blocks(args["blocks"])
        if not (message["text"].strip() or message.get("blocks")):
            raise ApiError("no_text")
        if args.get("response_type") not in (None, "ephemeral", "in_channel"):
            raise ApiError("invalid_payload")
        if args.get("thread_ts"):
            message["thread_ts"] = args["thread_ts"]
        if args.get("replace_original") and original is not None:
            original.pop("blocks", None)
            original.update(message)
            space.changed()
        elif args.get("response_type") == "in_channel":
            space.store_message(channel, {**space.by_bot(), **message})
        else:
            space.keep_ephemeral(hook.user, hook.channel, message)

    # -------------------------------------------------------------- files

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        file = self._workspace.uploads.get(request.match_info["file"])
        data = await _uploaded(request)
        if file is None or len(data) != file.length:
            return web.Response(status=400, text="the length is not what files.getUploadURLExternal was told")
        fault = self._faults.take("upload")
        if fault is None or fault.store_first:
            file.data = data
        if fault is not None:
            return self._fail(request, fault, "upload", {})
        return web.Response(text=f"OK - {file.length}")


async def _arguments(request: web.Request) -> Json:
    args: Json = dict(request.query)
    if request.method == "GET" or not request.can_read_body:
        return args
    if request.content_type == "application/json":
        return args | await _body_json(request)
    form = await request.post()
    return args | {name: value for name, value in form.items() if isinstance(value, str)}


async def _body_json(request: web.Request) -> Json:
    try:
        body = json.loads(await request.text())
    except ValueError:
        raise ApiError("invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError("json_not_object")
    return {name: value for name, value in body.items() if value is not None}


def _decoded(args: Json) -> Json:
    """Forms and queries carry JSON as text."""
    return {name: _parsed(name, value) if name in _WRITTEN_AS_JSON and isinstance(value, str) else value for name, value in args.items()}


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ApiError(_FORMATS.get(name, "invalid_arguments")) from None


async def _uploaded(request: web.Request) -> bytes:
    if not request.content_type.startswith("multipart/"):
        return await request.read()
    for part in (await request.post()).values():
        if isinstance(part, web.FileField):
            return part.file.read()
    return b""
