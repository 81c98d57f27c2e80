"""Messages as plain text: what a channel would show, for a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_LINK = re.compile(r"<(?P<target>[^<>|]+)(?:\|(?P<label>[^<>]*))?>")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


def render(message: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """Header, sections, fields, context, buttons as [Approve], files by name. `names` maps ids to what people read."""
    names = names or {}
    blocks = message.get("blocks") or []
    lines = [line for block in blocks for line in _block(block, names)] or _readable(message.get("text", ""), names).splitlines()
    lines += [f"(file) {file['name']}" for file in message.get("files", [])]
    return "\n".join(lines)


def render_thread(messages: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None) -> str:
    """The first message, and the others indented below it, each with its author."""
    drawn = [f"{(names or {}).get(message.get('user', ''), message.get('user', ''))}:\n{render(message, names)}" for message in messages]
    first, replies = drawn[:1], drawn[1:]
    return "\n".join(first + [f"  | {line}" for reply in replies for line in reply.splitlines()])


def _readable(text: str, names: Mapping[str, str]) -> str:
    def link(match: re.Match[str]) -> str:
        target, label = match["target"], match["label"]
        if target[0] in "@#":
            return f"{target[0]}{label or names.get(target[1:], target[1:])}"
        if target.startswith("!"):
            return label or "@" + target[1:].removeprefix("subteam^")
        return f"{label} ({target})" if label else target

    text = _LINK.sub(link, text)
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


def _text(shape: Mapping[str, Any], names: Mapping[str, str]) -> str:
    words = str(shape["text"])
    return words if shape["type"] == "plain_text" else _readable(words, names)


def _element(element: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    if element["type"] == "button":
        return [f"[{element['text']['text']}]"]
    if element["type"] == "checkboxes":
        ticked = element.get("initial_options", [])
        return [f"[{'x' if option in ticked else ' '}] {_text(option['text'], names)}" for option in element["options"]]
    if element["type"] == "static_select":
        chosen = element.get("initial_option") or {"text": element.get("placeholder", {"text": "Choose"})}
        return [f"[{chosen['text']['text']} v]"]
    return [f"[{element.get('initial_value', '')}____]"]


def _side_by_side(elements: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    row: list[str] = []
    for element in elements:
        if element["type"] == "checkboxes":
            lines += _element(element, names)
        else:
            row += _element(element, names)
    return lines + ([" ".join(row)] if row else [])


def _rich(part: Mapping[str, Any], names: Mapping[str, str]) -> str:
    kind = part.get("type")
    if kind == "user":
        return f"@{names.get(part['user_id'], part['user_id'])}"
    if kind == "link":
        return str(part.get("text") or part["url"])
    if kind == "emoji":
        return f":{part['name']}:"
    if "elements" in part:
        between = "\n" if kind in {"rich_text", "rich_text_list"} else ""
        return between.join(("- " if kind == "rich_text_list" else "") + _rich(inner, names) for inner in part["elements"])
    return str(part.get("text") or part.get("channel_id") or part.get("usergroup_id") or "")


def _cell(cell: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return str(cell["text"]) if cell["type"] == "raw_text" else _rich(cell, names)


def _table(rows: Sequence[Sequence[Mapping[str, Any]]], names: Mapping[str, str]) -> list[str]:
    cells = [[_cell(cell, names) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in cells if place < len(row)) for place in range(max(map(len, cells)))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip() for row in cells]


def _section(block: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    lines = _text(block["text"], names).splitlines() if "text" in block else []
    lines += [": ".join(part.strip() for part in _text(field, names).splitlines()) for field in block.get("fields", [])]
    return lines + (_element(block["accessory"], names) if "accessory" in block else [])


def _block(block: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    match block["type"]:
        case "header":
            title = block["text"]["text"]
            return [title, "=" * len(title)]
        case "section":
            return _section(block, names)
        case "divider":
            return ["-" * 40]
        case "context":
            return ["  " + "  ".join(_text(element, names) for element in block["elements"])]
        case "actions":
            return _side_by_side(block["elements"], names)
        case "input":
            return [f"{block['label']['text']}:", *_element(block["element"], names)]
        case "table":
            return _table(block["rows"], names)
        case "markdown":
            return str(block["text"]).splitlines()
        case "rich_text":
            return _rich(block, names).splitlines()
        case _:
            return _text(block["text"], names).splitlines()
