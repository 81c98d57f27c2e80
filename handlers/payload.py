"""What Slack sent, read the same way whatever it is: who, where, and how to answer in private."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.model import Person
from handlers.api import Asker

COMMAND = "command"
ACTION = "action"
SUBMISSION = "submission"
EVENT = "event"

Payload = Mapping[str, Any]


@dataclass(frozen=True)
class Sender:
    """Who sent it, and where they can be answered. `trigger` opens a form within 3 seconds, once."""

    person: Person
    asker: Asker
    trigger: str | None = None

    @property
    def channel(self) -> str | None:
        return self.asker.channel


def identity(kind: str, body: Payload) -> str:
    """The same for every delivery of the same thing."""
    match kind:
        case "command" | "action" if body.get("trigger_id"):
            return f"{kind}:{body['trigger_id']}"
        case "submission" if body.get("view", {}).get("hash"):
            return f"{kind}:{body['view'].get('id')}:{body['view']['hash']}"
        case "event" if body.get("event_id"):
            return f"{kind}:{body['event_id']}"
    return f"{kind}:{hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()}"


def sender(kind: str, body: Payload) -> Sender:
    """Raises KeyError when nobody is named, which Slack never does."""
    if kind == COMMAND:
        person = Person(id=str(body["user_id"]), team=str(body.get("team_id") or ""))
        return Sender(person, Asker(person.id, _text(body, "channel_id"), _text(body, "response_url")), _text(body, "trigger_id"))
    if kind == EVENT:
        event = body["event"]
        person = Person(id=str(event["user"]), team=_event_team(body, event))
        return Sender(person, Asker(person.id, _text(event, "channel"), thread=_text(event, "thread_ts")))
    user = body["user"]
    person = Person(id=str(user["id"]), team=str(user.get("team_id") or (body.get("team") or {}).get("id") or ""))
    if kind == SUBMISSION:
        kept = private_metadata(body)
        return Sender(person, Asker(person.id, _text(kept, "channel"), _text(kept, "response_url")))
    channel = _text(body.get("channel") or {}, "id") or _text(body.get("container") or {}, "channel_id")
    return Sender(person, Asker(person.id, channel, _text(body, "response_url")), _text(body, "trigger_id"))


def private_metadata(body: Payload) -> dict[str, Any]:
    """What a form of ours carries for itself."""
    try:
        kept = json.loads(body.get("view", {}).get("private_metadata") or "{}")
    except ValueError:
        return {}
    return kept if isinstance(kept, dict) else {}


def _event_team(body: Payload, event: Payload) -> str:
    # In a shared channel the envelope names our team, the event its author's.
    return str(event.get("user_team") or event.get("source_team") or event.get("team") or body.get("team_id") or "")


def _text(body: Payload, key: str) -> str | None:
    return str(body[key]) if body.get(key) else None
