"""Block Kit, and its limits, which are held before anything is sent (docs/reference of Slack; the total is measured, not documented)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from handlers.text import clean

Block = dict[str, Any]

BLOCKS = 50
SECTION = 3000  # characters
HEADER = 150
ELEMENTS = 25
TOTAL = 12_000  # characters of JSON; Slack refuses near 13,200
BOXES = 10  # checkboxes in one element
OPTION = 75  # characters of an option's text


@dataclass(frozen=True)
class Message:
    """What is posted: `text` is what notifications and screen readers get. `files` are (name, content) for the thread."""

    text: str
    blocks: tuple[Block, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()
    #: who gets a direct message with the card's link, and what it says
    people: tuple[str, ...] = ()
    calls: str = ""


def plain(text: str, limit: int) -> Block:
    return {"type": "plain_text", "text": clean(text, limit), "emoji": False}


def mrkdwn(text: str) -> Block:
    """`verbatim`: nothing in it becomes a link or a mention that we did not write as one."""
    return {"type": "mrkdwn", "text": cut(text), "verbatim": True}


def cut(text: str, limit: int = SECTION) -> str:
    """Whole lines only, so that no escape and no code block is torn."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 2].rpartition("\n")[0] or text[: limit - 2].rpartition(" ")[0]
    return f"{kept}\n…"


def header(text: str) -> Block:
    return {"type": "header", "text": plain(text, HEADER)}


def section(text: str) -> Block:
    return {"type": "section", "text": mrkdwn(text)}


def context(text: str) -> Block:
    return {"type": "context", "elements": [mrkdwn(text)]}


def listing(lines: Iterable[str], room: int, more: str = "and {} more, see the thread file") -> str:
    """As many lines as there is room for, in characters; then how many were left out."""
    every = list(lines)
    kept: list[str] = []
    used = 0
    for line in every:
        if used + len(line) + 1 > room:
            break
        kept.append(line)
        used += len(line) + 1
    if left := len(every) - len(kept):
        kept.append(more.format(left))
    return "\n".join(kept)


def is_cut(lines: Sequence[str], room: int) -> bool:
    return sum(len(line) + 1 for line in lines) > room


def button(label: str, action_id: str, value: str, *, style: str | None = None, confirm: Block | None = None) -> Block:
    made: Block = {"type": "button", "text": plain(label, 75), "action_id": action_id, "value": value}
    return made | ({"style": style} if style else {}) | ({"confirm": confirm} if confirm else {})


def confirm(title: str, text: str, yes: str, no: str) -> Block:
    return {"title": plain(title, 100), "text": plain(text, 300), "confirm": plain(yes, 30), "deny": plain(no, 30)}


def option(text: str, value: str) -> Block:
    return {"text": plain(text or "-", OPTION), "value": value}


def checkboxes(action_id: str, options: Sequence[Block], ticked: Sequence[Block]) -> Block:
    made: Block = {"type": "checkboxes", "action_id": action_id, "options": list(options)}
    return made | ({"initial_options": list(ticked)} if ticked else {})


def within_limits(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Drop what may be missing, from the end, until the message is small enough; the header, the decision and the buttons stay."""
    kept = list(blocks)
    while len(kept) > BLOCKS or len(json.dumps(kept, ensure_ascii=False)) > TOTAL:
        spare = [place for place, block in enumerate(kept) if place > 1 and not str(block.get("block_id", "")).startswith("backout:")]
        if not spare:
            break
        kept.pop(spare[-1])
    return tuple(kept)
