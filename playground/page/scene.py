"""What the page shows and acts on, and how that looks to one person, as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from playground.slack import SlackStandIn
from playground.slack.model import Channel, Json

_SHOWN = ("ts", "thread_ts", "user", "text", "blocks", "files", "metadata", "edited")


class Scene(Protocol):
    """`slack` is another object after each reset, and `turn` another number; the old one is told that it changed."""

    slack: SlackStandIn
    turn: int
    #: user id -> what they are, e.g. "DBA on call"
    roles: dict[str, str]
    channel: str
    command: str

    def controls(self) -> Json:
        """Beside the workspace: {bot: {running, ready, problem}, shop: {healthy, says}, incident, incidents, blocker, suggestion}."""
        ...

    async def start_bot(self) -> None:
        """Raises NotPossible when it runs."""
        ...

    async def kill_bot(self) -> None:
        """As kill -9 does. Raises NotPossible when it doesn't run."""
        ...

    async def reset(self, incident: str) -> None:
        """Begin again. Raises NotPossible for an incident that isn't there, and while a reset is under way."""
        ...

    async def end_blocker(self) -> None:
        """Raises NotPossible when nothing is in the way."""
        ...


def seen_by(scene: Scene, me: str) -> Json:
    """Everything that `me` sees; only the own private messages and forms are in it. Not a copy: for JSON, at once."""
    slack = scene.slack
    direct = [channel for channel in slack.channels.values() if channel.user == me]
    return {
        "mark": mark(scene),
        "turn": scene.turn,
        "me": me,
        "command": scene.command,
        "people": [{"id": user, "name": slack.users[user].name, "role": role} for user, role in scene.roles.items()],
        "names": slack.names(),
        "app": slack.bot_user,
        "channel": {"id": scene.channel, "name": slack.channels[scene.channel].name},
        "messages": [_message(each) for each in _of((slack.channels[scene.channel],))],
        "ephemerals": [_message(each) for each in slack.ephemerals(me) if each["channel"] == scene.channel],
        "dms": [_message(each) for each in _of(direct)],
        "views": slack.views(me)[-1:],
        **scene.controls(),
    }


def mark(scene: Scene) -> str:
    """Another one whenever something may look different."""
    return f"{scene.turn}.{scene.slack.changes}"


def _of(channels: Iterable[Channel]) -> list[Json]:
    return [message for channel in channels for message in channel.messages.values()]


def _message(message: Json) -> Json:
    return {name: message[name] for name in _SHOWN if name in message}
