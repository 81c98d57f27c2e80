"""What can be done on the page. Each action does what Slack's own client would, typed text and all."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from playground.page.scene import Scene
from playground.slack.model import Ack, Json, NotPossible

Action = Callable[[Scene, str, Mapping[str, Any]], Awaitable[str | None]]

_MOST = 12_000  # characters of one message that the page takes
_POSTS = ("chat.postMessage", "chat.update")


async def act(scene: Scene, name: str, me: str, args: Mapping[str, Any]) -> str | None:
    """Do one of ACTIONS. Returns what `me` should be told, if anything. Raises NotPossible."""
    if me not in scene.roles:
        raise NotPossible(f"nobody here is {me}")
    return await ACTIONS[name](scene, me, args)


async def _send(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    """A message, or a slash command."""
    text, thread = _text(args, "text").strip(), args.get("thread_ts")
    if not text:
        raise NotPossible("there is nothing to send")
    if len(text) > _MOST:
        raise NotPossible(f"that is {len(text)} characters; {_MOST} is the most")
    if text.startswith("/"):
        return await _command(scene, me, text, in_thread=thread is not None)
    written = _as_slack_writes(scene, text)
    # The message stands in the channel whether or not the bot hears of it: Slack says nothing about that to its writer.
    await scene.slack.say(scene.channel, me, written, None if thread is None else str(thread))
    return None


async def _command(scene: Scene, me: str, text: str, *, in_thread: bool) -> str | None:
    command, *rest = text.split(maxsplit=1)
    if command != scene.command:
        return f"{command} is not a valid command here. Try {scene.command} help."
    if in_thread:
        return f"{command} is not supported in threads. Type it in the channel."
    ack = await scene.slack.command(scene.channel, me, command, _as_slack_writes(scene, "".join(rest)))
    return _judged(ack, command)


async def _press(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    ack = await scene.slack.click(_text(args, "ts"), _text(args, "action_id"), me, block_id=_text(args, "block_id"))
    return _judged(ack, "That")


async def _tick(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    values = [str(each) for each in args.get("values") or ()]
    ack = await scene.slack.check(_text(args, "ts"), _text(args, "action_id"), values, me, block_id=_text(args, "block_id"))
    return _judged(ack, "That")


async def _submit(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    values = args.get("values")
    if not isinstance(values, dict):
        raise NotPossible("there is nothing in the form")
    return _judged(await scene.slack.submit(_text(args, "view"), values, me), "The form")


async def _close(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    scene.slack.close_view(me, _text(args, "view"))
    return None


async def _trouble(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    """Slack's bad days; what was ordered is said."""
    slack, kind = scene.slack, _text(args, "kind")
    match kind:
        case "429" | "503-before" | "503-after":
            for method in _POSTS:
                slack.fail_next(method, int(kind[:3]), store_first=kind.endswith("after"), retry_after=3 if kind == "429" else None)
            return f"The next post and the next update of the bot get {kind[:3]}{_HOW[kind]}."
        case "drop":
            await slack.drop_sockets(None)
            return "The bot's sockets were cut. It connects again by itself."
        case "redeliver":
            if not slack.sent:
                raise NotPossible("nothing was sent to the bot yet")
            return _judged(await slack.redeliver(), "The delivery") or "The last delivery was sent once more. It must not count twice."
        case _:
            raise NotPossible(f"there is no trouble called {kind}")


_HOW: Mapping[str, str] = {"429": " and are told to wait 3 s", "503-before": " and are lost", "503-after": ", though they were stored"}


async def _kill(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    await scene.kill_bot()
    return None


async def _start(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    await scene.start_bot()
    return None


async def _reset(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    await scene.reset(_text(args, "incident"))
    return None


async def _unblock(scene: Scene, me: str, args: Mapping[str, Any]) -> str | None:
    await scene.end_blocker()
    return None


ACTIONS: Mapping[str, Action] = {
    "send": _send, "press": _press, "tick": _tick, "submit": _submit, "close": _close, "trouble": _trouble,
    "kill": _kill, "start": _start, "reset": _reset, "unblock": _unblock,
}  # fmt: skip


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str):
        raise NotPossible(f"{name} is missing")
    return value


def _as_slack_writes(scene: Scene, text: str) -> str:
    """Escaped, and with people named by id, as Slack's client sends what was typed."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    ids = {user.name.lower(): user.id for user in scene.slack.users.values()}
    return re.sub(r"(?<!\w)@(\w+)", lambda found: f"<@{ids[found[1].lower()]}>" if found[1].lower() in ids else found[0], escaped)


def _judged(ack: Ack, what: str) -> str | None:
    if ack.ok:
        return None
    if ack.problem == "no socket is open":
        return f"{what} failed: Backout is not connected. Start the bot, then try again."
    if ack.problem == "operation_timeout":
        return f"{what} failed: Backout did not answer in time (operation_timeout). Try again."
    return f"{what} failed: {ack.problem or ack.status}. Try again."


def problem(error: NotPossible) -> Json:
    """The answer to something that nobody could do."""
    said = str(error)
    return {"ok": False, "said": f"{said[:1].upper()}{said[1:]}."}
