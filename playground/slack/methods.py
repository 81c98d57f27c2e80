"""The Web API: one function per method, with the refusals that the real one has."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from playground.slack import validate
from playground.slack.model import ApiError, Channel, Json, UploadedFile, new_id
from playground.slack.shapes import problem
from playground.slack.workspace import Workspace

Method = Callable[[Json], Json]


class Methods:
    """Call with the method's name and its arguments, already parsed; the answer is the body. Raises ApiError."""

    #: methods that want the app-level token
    APP = frozenset({"apps.connections.open"})

    def __init__(self, workspace: Workspace, address: Callable[[str], str], ticket: Callable[[], str]) -> None:
        """`address` makes a URL of a path; `ticket` hands out the address of a socket."""
        self.workspace = workspace
        self._address = address
        self._ticket = ticket
        self._known: dict[str, Method] = {
            "auth.test": self.auth_test,
            "apps.connections.open": self.apps_connections_open,
            "chat.postMessage": self.chat_post_message,
            "chat.update": self.chat_update,
            "chat.postEphemeral": self.chat_post_ephemeral,
            "views.open": self.views_open,
            "views.update": self.views_update,
            "conversations.open": self.conversations_open,
            "conversations.replies": self.conversations_replies,
            "conversations.history": self.conversations_history,
            "users.info": self.users_info,
            "usergroups.users.list": self.usergroups_users_list,
            "files.getUploadURLExternal": self.files_get_upload_url_external,
            "files.completeUploadExternal": self.files_complete_upload_external,
        }

    def __call__(self, method: str, args: Json) -> Json:
        if method not in self._known:
            raise ApiError("unknown_method", req_method=method)
        return {"ok": True, **self._known[method](args)}

    # -------------------------------------------------------------- the app

    def auth_test(self, _: Json) -> Json:
        space = self.workspace
        return {
            "url": self._address("/"), "team": "Shop", "user": "backout", "team_id": space.team_id, "user_id": space.bot_user,
            "bot_id": space.bot_id, "is_enterprise_install": False,
        }  # fmt: skip

    def apps_connections_open(self, _: Json) -> Json:
        return {"url": self._ticket()}

    # -------------------------------------------------------------- chat

    def chat_post_message(self, args: Json) -> Json:
        channel = self._writable(args)
        message = self._content(args)
        if thread_ts := args.get("thread_ts"):
            message |= self._thread(channel, thread_ts)
        kept = self.workspace.store_message(channel, {**self.workspace.by_bot(), **message})
        return {"channel": channel.id, "ts": kept["ts"], "message": copy.deepcopy(kept)}

    def chat_update(self, args: Json) -> Json:
        channel = self._member(args, "channel")
        message = channel.messages.get(str(args.get("ts")))
        if message is None:
            raise ApiError("message_not_found")
        if message["user"] != self.workspace.bot_user:
            raise ApiError("cant_update_message")
        # Metadata alone is enough for an update; blocks stay only while no text comes without them.
        new = self._content(args, enough=args.get("metadata") is not None)
        edited = args.get("text") is not None and args.get("blocks") is None
        if edited:
            message.pop("blocks", None)
            message["edited"] = {"user": self.workspace.bot_user, "ts": self.workspace.next_ts()}
        if args.get("text") is None:
            new.pop("text")
        message.update(new)
        self.workspace.changed()
        return {"channel": channel.id, "ts": message["ts"], "text": message["text"], "message": copy.deepcopy(message)}

    def chat_post_ephemeral(self, args: Json) -> Json:
        channel, user = self._writable(args), _required(args, "user")
        if user not in self.workspace.users:
            raise ApiError("user_not_found")
        if user not in channel.members:
            raise ApiError("user_not_in_channel")
        message = self._content(args)
        if thread_ts := args.get("thread_ts"):
            message |= self._thread(channel, thread_ts)
        return {"message_ts": self.workspace.keep_ephemeral(user, channel.id, message)}

    def _content(self, args: Json, *, enough: bool = False) -> Json:
        message: Json = {"text": validate.message_text(args.get("text"))}
        if args.get("blocks") is not None:
            message["blocks"] = validate.message_blocks(args["blocks"])
        if args.get("metadata") is not None:
            message["metadata"] = validate.metadata(args["metadata"])
        if not (message["text"].strip() or message.get("blocks") or enough):
            raise ApiError("no_text")
        return message

    def _thread(self, channel: Channel, thread_ts: Any) -> Json:
        parent = channel.messages.get(str(thread_ts))
        if parent is None:
            raise ApiError("thread_not_found")
        # A reply to a reply joins the thread of the first message.
        return {"thread_ts": parent.get("thread_ts", parent["ts"])}

    def _channel(self, args: Json, name: str) -> Channel:
        channel = self.workspace.channels.get(_required(args, name))
        if channel is None:
            raise ApiError("channel_not_found")
        return channel

    def _member(self, args: Json, name: str) -> Channel:
        channel = self._channel(args, name)
        if not channel.bot:
            raise ApiError("not_in_channel")
        return channel

    def _writable(self, args: Json) -> Channel:
        if args.get("channel") in self.workspace.users:
            return self.workspace.direct(args["channel"])
        channel = self._member(args, "channel")
        if channel.archived:
            raise ApiError("is_archived")
        return channel

    # -------------------------------------------------------------- views

    def views_open(self, args: Json) -> Json:
        view = validate.modal(_required(args, "view"))
        trigger = self.workspace.use_trigger(_required(args, "trigger_id"))
        self._external_id(view)
        return {"view": copy.deepcopy(self.workspace.open_view(trigger.user, view))}

    def views_update(self, args: Json) -> Json:
        view = validate.modal(_required(args, "view"))
        kept = self._open_view(args)
        if args.get("hash") not in (None, kept["hash"]):
            raise ApiError("hash_conflict")
        self._external_id(view, kept)
        return {"view": copy.deepcopy(self.workspace.replace_view(kept, view))}

    def _open_view(self, args: Json) -> Json:
        if ("view_id" in args) == ("external_id" in args):
            raise ApiError("invalid_arguments", problem("must define either `view_id` or `external_id`", "/view_id"))
        for view in self.workspace.open_views():
            if view["id"] == args.get("view_id") or ("external_id" in args and view["external_id"] == args["external_id"]):
                return view
        raise ApiError("not_found")

    def _external_id(self, view: Json, kept: Json | None = None) -> None:
        wanted = view.get("external_id")
        if wanted and any(view["external_id"] == wanted and view is not kept for view in self.workspace.open_views()):
            raise ApiError("duplicate_external_id")

    # -------------------------------------------------------------- conversations and people

    def conversations_open(self, args: Json) -> Json:
        if args.get("channel"):
            return {"channel": {"id": self._channel(args, "channel").id}}
        if not args.get("users"):
            raise ApiError("users_list_not_supplied")
        users = args["users"] if isinstance(args["users"], list) else str(args["users"]).split(",")
        if len(users) != 1:
            raise ApiError("method_not_supported_for_channel_type")
        return {"channel": {"id": self.workspace.direct(users[0]).id}}

    def conversations_history(self, args: Json) -> Json:
        channel = self._member(args, "channel")
        newest_first = self.workspace.messages(channel.id)[::-1]
        kept = [
            message
            for message in newest_first
            if float(args.get("oldest") or 0) < float(message["ts"]) < float(args.get("latest") or "inf")
            or (_true(args.get("inclusive")) and message["ts"] in {args.get("oldest"), args.get("latest")})
        ]
        return self._page(kept, args)

    def conversations_replies(self, args: Json) -> Json:
        channel, ts = self._member(args, "channel"), _required(args, "ts")
        if ts not in channel.messages:
            raise ApiError("thread_not_found")
        return self._page(self.workspace.messages(channel.id, channel.messages[ts].get("thread_ts", ts)), args)

    def _page(self, messages: list[Json], args: Json) -> Json:
        try:
            start, limit = int(args.get("cursor") or 0), int(args.get("limit") or 100)
        except ValueError:
            raise ApiError("invalid_cursor") from None
        if not 1 <= limit <= 1000:
            raise ApiError("invalid_limit")
        hidden = {"channel"} if _true(args.get("include_all_metadata")) else {"channel", "metadata"}
        shown = [{name: value for name, value in message.items() if name not in hidden} for message in messages[start : start + limit]]
        more = start + limit < len(messages)
        return {"messages": shown, "has_more": more, "response_metadata": {"next_cursor": str(start + limit) if more else ""}}

    def users_info(self, args: Json) -> Json:
        user = self.workspace.users.get(_required(args, "user"))
        if user is None:
            raise ApiError("user_not_found")
        foreign = user.team != self.workspace.team_id
        bot = user.id == self.workspace.bot_user
        return {
            "user": {
                "id": user.id, "team_id": user.team, "name": user.name.lower(), "real_name": user.name, "deleted": False, "is_bot": bot,
                "is_stranger": foreign, "tz": "UTC", "profile": {"real_name": user.name, "display_name": user.name, "team": user.team},
            }
        }  # fmt: skip

    def usergroups_users_list(self, args: Json) -> Json:
        group = _required(args, "usergroup")
        if group not in self.workspace.usergroups:
            raise ApiError("no_such_subteam")
        return {"users": list(self.workspace.usergroups[group])}

    # -------------------------------------------------------------- files

    def files_get_upload_url_external(self, args: Json) -> Json:
        name = _required(args, "filename")
        length = str(_required(args, "length"))
        if not length.isdigit() or length == "0":
            raise ApiError("invalid_arguments", problem("must be a positive integer", "/length"))
        file = UploadedFile(new_id("F"), name, int(length))
        self.workspace.uploads[file.id] = file
        return {"upload_url": self._address(f"/upload/{file.id}"), "file_id": file.id}

    def files_complete_upload_external(self, args: Json) -> Json:
        wanted = args.get("files")
        if not isinstance(wanted, list) or not wanted or not all(isinstance(entry, dict) for entry in wanted):
            raise ApiError("invalid_arguments", problem("must be an array", "/files"))
        files = [self.workspace.uploads.get(str(entry.get("id"))) for entry in wanted]
        if any(file is None or file.data is None for file in files):
            raise ApiError("file_not_found")
        found = [file for file in files if file is not None]
        for file, entry in zip(found, wanted, strict=True):
            file.title = entry.get("title") or file.name
        if args.get("channel_id"):
            self._share(found, args)
        return {"files": [{"id": file.id, "name": file.name, "title": file.title, "size": file.length} for file in found]}

    def _share(self, files: list[UploadedFile], args: Json) -> None:
        channel = self._member(args, "channel_id")
        message: Json = {"text": args.get("initial_comment") or "", "files": [{"id": f.id, "name": f.name, "title": f.title} for f in files]}
        if args.get("thread_ts"):
            message |= self._thread(channel, args["thread_ts"])
        kept = self.workspace.store_message(channel, {**self.workspace.by_bot(), **message})
        for file in files:
            file.channel, file.thread_ts = channel.id, kept.get("thread_ts")
        self.workspace.changed()


def _required(args: Json, name: str) -> Any:
    if args.get(name) in (None, ""):
        raise ApiError("invalid_arguments", problem(f"missing required field: {name}", ""))
    return args[name]


def _true(value: Any) -> bool:
    return str(value).lower() in {"1", "true"}
