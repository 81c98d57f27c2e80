"""What people do in Slack: commands, buttons, boxes, forms, messages. Each returns how the bot acknowledged it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from playground.slack import forms, validate
from playground.slack.model import Ack, ApiError, Channel, Json, NotPossible, Trigger, User, new_id, wall_clock
from playground.slack.sender import Sender
from playground.slack.validate import elements
from playground.slack.workspace import TRIGGER_SECONDS, Workspace

VIEWS_DEEP = 3


class People(Workspace):
    """A workspace whose people can act. Raises NotPossible for what nobody could do in Slack."""

    sender: Sender
    address: Callable[[str], str]
    #: the events that the app is subscribed to
    events: frozenset[str] = frozenset({"message", "app_mention"})

    async def command(self, channel: str, user: str, command: str, text: str = "", *, retry: int = 0, trigger: str | None = None) -> Ack:
        """A slash command. `trigger`: the id of an earlier one, for the exact duplicate; `retry`: which retry of Slack's it is."""
        who, where = self._present(user, channel)
        if trigger is None:
            trigger = self.new_trigger(user)
        self.triggers.setdefault(trigger, Trigger(trigger, user, self.now() + TRIGGER_SECONDS))
        payload = {
            "token": "local", "team_id": who.team, "team_domain": "shop", "channel_id": channel, "channel_name": where.name,
            "user_id": user, "user_name": who.name.lower(), "command": command, "text": text, "api_app_id": self.app_id,
            "is_enterprise_install": "false", "response_url": self._response_url(user, channel), "trigger_id": trigger,
        }  # fmt: skip
        reason = "http_timeout" if retry else ""
        return await self.sender.send("slash_commands", payload, attempt=retry, reason=reason, judge=lambda body: self._shown_to(user, channel, body))

    async def click(
        self, message: Json | str, action_id: str, user: str, *, block_id: str | None = None, value: str | None = None, stale: bool = False
    ) -> Ack:
        """Press a button, confirm dialog included. The current message counts, whichever copy is handed in, unless `stale`.

        `value` overrides what the button carries, as a forged request would.
        """
        shown = self._shown(message, stale)
        block, element = forms.find(shown, action_id, block_id)
        action: Json = {"type": element["type"], "action_id": action_id, "block_id": block["block_id"], "text": element.get("text")}
        action |= {name: element[name] for name in ("value", "style", "url") if name in element}
        if value is not None:
            action["value"] = value
        return await self._act(shown, action, user)

    async def check(self, message: Json | str, action_id: str, values: list[str], user: str, *, block_id: str | None = None) -> Ack:
        """Tick exactly these boxes."""
        shown = self._shown(message, stale=False)
        block, element = forms.find(shown, action_id, block_id)
        if element["type"] != "checkboxes":
            raise NotPossible(f"{action_id} has no boxes")
        ticked = forms.chosen(element, values)
        self._ticked[shown["channel"], shown["ts"], block["block_id"], action_id] = ticked
        action = {"type": "checkboxes", "action_id": action_id, "block_id": block["block_id"], "selected_options": ticked}
        return await self._act(shown, action, user)

    async def submit(self, view: Json | str, values: dict[str, Any], user: str) -> Ack:
        """Fill in a form by block_id and send it; what the ack says (errors, update, push, clear) happens to the view."""
        found = self.find_view(view if isinstance(view, str) else view["id"])
        if found is None or found[0] != user:
            raise NotPossible(f"{user} has no such view open")
        kept = found[1]
        kept["state"] = {"values": forms.filled_in(kept, values)}
        payload = {
            **self._who(user), "type": "view_submission", "trigger_id": self.new_trigger(user), "response_urls": [],
            "view": {name: value for name, value in copy.deepcopy(kept).items() if name != "errors"},
        }  # fmt: skip
        return await self.sender.send("interactive", payload, judge=lambda body: self._after_submission(user, kept, body))

    async def say(self, channel: str, user: str, text: str, thread_ts: str | None = None) -> Ack:
        """Write a message; the bot gets the events that it is subscribed to. The ack is the last event's."""
        who, where = self._present(user, channel)
        if not where.bot:
            raise NotPossible(f"the bot is not in {channel}, so it hears nothing there")
        thread = {"thread_ts": thread_ts} if thread_ts else {}
        message = self.store_message(where, {"user": user, "text": text, "client_msg_id": new_id("m"), "team": who.team, **thread})
        kinds = ["message"] + (["app_mention"] if f"<@{self.bot_user}>" in text else [])
        subscribed = [kind for kind in kinds if kind in self.events]
        if not subscribed:
            raise NotPossible(f"the bot is not subscribed to {', '.join(kinds)}")
        for kind in subscribed:
            ack = await self.sender.send("events_api", self._event(kind, where, message))
        return ack

    # -------------------------------------------------------------- payloads

    def _event(self, kind: str, channel: Channel, message: Json) -> Json:
        event = {**copy.deepcopy(message), "type": kind, "channel": channel.id, "event_ts": message["ts"]}
        if kind == "message":
            event["channel_type"] = "im" if channel.user else "channel"
        authorization = {"enterprise_id": None, "team_id": self.team_id, "user_id": self.bot_user, "is_bot": True, "is_enterprise_install": False}
        return {
            "token": "local", "team_id": self.team_id, "api_app_id": self.app_id, "event": event, "type": "event_callback",
            "event_id": new_id("Ev"), "event_time": int(wall_clock().timestamp()), "authorizations": [authorization],
            "is_ext_shared_channel": False, "event_context": new_id("4-"),
        }  # fmt: skip

    def _who(self, user: str) -> Json:
        who = self.users[user]
        name = who.name.lower()
        return {
            "user": {"id": user, "username": name, "name": name, "team_id": who.team}, "api_app_id": self.app_id, "token": "local",
            "team": {"id": self.team_id, "domain": "shop"}, "enterprise": None, "is_enterprise_install": False,
        }  # fmt: skip

    async def _act(self, message: Json, action: Json, user: str) -> Ack:
        _, where = self._present(user, message["channel"])
        hidden = bool(message.get("is_ephemeral"))
        container = {"type": "message", "message_ts": message["ts"], "channel_id": where.id, "is_ephemeral": hidden}
        if "thread_ts" in message:
            container["thread_ts"] = message["thread_ts"]
        action["action_ts"] = self.next_ts()
        payload = {
            "type": "block_actions", **self._who(user), "container": container, "trigger_id": self.new_trigger(user),
            "channel": {"id": where.id, "name": where.name}, "state": {"values": self._state(message)},
            "response_url": self._response_url(user, where.id, message["ts"]), "actions": [action],
        }  # fmt: skip
        if not hidden:
            payload["message"] = {name: value for name, value in message.items() if name != "channel"}
        return await self.sender.send("interactive", payload)

    def _state(self, message: Json) -> Json:
        values: Json = {}
        for block in message["blocks"]:
            for element in elements(block):
                if element["type"] != "button":
                    key = (message["channel"], message["ts"], block["block_id"], element["action_id"])
                    ticked = [option["value"] for option in self._ticked[key]] if key in self._ticked else None
                    values.setdefault(block["block_id"], {})[element["action_id"]] = forms.answer(element, ticked)
        return values

    def _present(self, user: str, channel: str) -> tuple[User, Channel]:
        where = self._channel(channel)
        if user not in self.users or user not in where.members:
            raise NotPossible(f"{user} is not in {channel}")
        return self.users[user], where

    def _shown(self, message: Json | str, stale: bool) -> Json:
        if stale and not isinstance(message, str):
            return copy.deepcopy(message)
        ts = message if isinstance(message, str) else message["ts"]
        for channel in self.channels.values():
            if ts in channel.messages:
                return {**copy.deepcopy(channel.messages[ts]), "channel": channel.id}
        hidden = self.find_ephemeral(ts)
        if hidden is None:
            raise NotPossible(f"there is no message {ts} any more")
        return copy.deepcopy(hidden)

    def _response_url(self, user: str, channel: str, ts: str | None = None) -> str:
        return self.address(f"/hooks/{self.new_response_url(user, channel, ts)}")

    # -------------------------------------------------------------- what an ack does

    def _shown_to(self, user: str, channel: str, body: str) -> str | None:
        """An ack with a text is a message that only the asker sees."""
        if not body:
            return None
        said = _object(body) or {"text": body}
        try:
            message: Json = {"text": validate.message_text(said.get("text"))}
            if said.get("blocks"):
                message["blocks"] = validate.message_blocks(said["blocks"])
        except ApiError as refused:
            return refused.code
        if said.get("response_type") == "in_channel":
            self.store_message(self.channels[channel], {**self.by_bot(), **message})
        else:
            self.keep_ephemeral(user, channel, message)
        return None

    def _after_submission(self, user: str, view: Json, body: str) -> str | None:
        said = _object(body) or {}
        match said.get("response_action"):
            case None if not body or said == {}:
                self.close_view(user, view["id"])
            case "clear":
                self.close_view(user, view["id"], all_of_them=True)
            case "errors":
                return self._show_errors(view, said.get("errors"))
            case "update" | "push" as action:
                return self._next_view(user, view, action, said.get("view"))
            case other:
                return f"unknown response_action {other}"
        return None

    def _show_errors(self, view: Json, errors: Any) -> str | None:
        inputs = {block["block_id"] for block in view["blocks"] if block["type"] == "input"}
        if not isinstance(errors, dict) or not errors or not set(errors) <= inputs:
            return "errors must name input blocks of the view"
        view["errors"] = dict(errors)
        self.changed()
        return None

    def _next_view(self, user: str, view: Json, action: str, new: Any) -> str | None:
        try:
            modal = validate.modal(new)
        except ApiError as refused:
            return f"{refused.code}: {'; '.join(refused.reasons)}"
        if action == "update":
            self.replace_view(view, modal)
        elif len(self._views[user]) >= VIEWS_DEEP:
            return "push_limit_reached"
        else:
            self.open_view(user, modal)
        return None


def _object(body: str) -> Json | None:
    try:
        said = json.loads(body)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
