"""What Slack judges as a whole: the blocks of a message, a view, metadata. Each raises `ApiError` with Slack's own code."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from playground.slack.blocks import MESSAGE_BLOCK, VIEW_BLOCK, plain
from playground.slack.model import ApiError, Json, short_id
from playground.slack.shapes import Check, among, boolean, problem, record, several, string, unique

BLOCKS_IN_MESSAGE = 50
BLOCKS_IN_VIEW = 100
#: all text of a message's blocks together; documented nowhere, seen in slackapi/bolt-js#2509
TEXT_IN_BLOCKS = 13_200
MARKDOWN_IN_MESSAGE = 12_000
TEXT_IN_MESSAGE = 40_000
VIEW_BYTES = 250_000
#: Slack publishes no number that we could find; this one is on the safe side
METADATA_BYTES = 16_000

_VIEW: Check = record(
    {"type": among("modal"), "title": plain(24), "blocks": several(VIEW_BLOCK, BLOCKS_IN_VIEW)},
    {
        "submit": plain(24), "close": plain(24), "callback_id": string(255, 0), "private_metadata": string(3000, 0),
        "external_id": string(255, 0), "clear_on_close": boolean, "notify_on_close": boolean, "submit_disabled": boolean,
    },
)  # fmt: skip


def _object(value: Any, pointer: str) -> list[str]:
    return [] if isinstance(value, dict) else problem("must be an object", pointer)


_METADATA = record({"event_type": string(255), "event_payload": _object})


def texts(value: Any) -> Iterator[str]:
    """Every text that people read in blocks, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            yield value["text"]
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def elements(block: Json) -> list[Json]:
    """What can be acted on in a block."""
    found = list(block.get("elements", [])) if block["type"] == "actions" else []
    return found + [block[name] for name in ("accessory", "element") if name in block]


def _whole(blocks: list[Json], pointer: str) -> list[str]:
    found = unique("block_id", (block["block_id"] for block in blocks if "block_id" in block), pointer)
    if sum(block["type"] == "table" for block in blocks) > 1:
        found += problem("only_one_table_allowed", pointer)
    return found


def _too_much(blocks: list[Json], limit: int, error: str) -> None:
    if sum(len(text) for text in texts(blocks)) > limit:
        raise ApiError(error)


def message_blocks(blocks: Any) -> list[Json]:
    """The blocks as Slack keeps them: ids and defaults filled in. Raises invalid_blocks_format, invalid_blocks, msg_blocks_too_long."""
    if not isinstance(blocks, list):
        raise ApiError("invalid_blocks_format")
    found = several(MESSAGE_BLOCK, BLOCKS_IN_MESSAGE, 0)(blocks, "/blocks") or _whole(blocks, "/blocks")
    if found:
        raise ApiError("invalid_blocks", found)
    _too_much([block for block in blocks if block["type"] == "markdown"], MARKDOWN_IN_MESSAGE, "msg_blocks_too_long")
    _too_much(blocks, TEXT_IN_BLOCKS, "msg_blocks_too_long")
    return filled(blocks)


def filled(blocks: list[Json]) -> list[Json]:
    """A copy with what Slack adds: block_id and action_id where missing, emoji and verbatim in texts."""
    kept: list[Json] = copy.deepcopy(blocks)
    for block in kept:
        block.setdefault("block_id", short_id())
        for element in elements(block):
            element.setdefault("action_id", short_id())
    _default_texts(kept)
    return kept


def _default_texts(value: Any) -> None:
    if isinstance(value, dict):
        if value.get("type") == "plain_text":
            value.setdefault("emoji", True)
        if value.get("type") == "mrkdwn":
            value.setdefault("verbatim", False)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _default_texts(part)


def message_text(text: Any) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ApiError("invalid_arguments", problem("must be a string", "/text"))
    if len(text) > TEXT_IN_MESSAGE:
        raise ApiError("msg_too_long")
    return text


def modal(view: Any) -> Json:
    """A modal as Slack keeps it. Raises invalid_arguments with its reasons, view_too_large."""
    found = _VIEW(view, "/view") or _whole(view["blocks"], "/view/blocks")
    if not found and any(block["type"] == "input" for block in view["blocks"]) and "submit" not in view:
        found = problem("missing required field: submit", "/view")
    if found:
        raise ApiError("invalid_arguments", found)
    if len(json.dumps(view).encode()) > VIEW_BYTES:
        raise ApiError("view_too_large")
    kept: Json = copy.deepcopy(view)
    kept["blocks"] = filled(view["blocks"])
    return kept


def metadata(value: Any) -> Json:
    """`{event_type, event_payload}`. Raises invalid_metadata_format, invalid_metadata_schema, metadata_too_large."""
    if not isinstance(value, dict):
        raise ApiError("invalid_metadata_format")
    if value == {}:
        return {}
    found = _METADATA(value, "/metadata")
    if found:
        raise ApiError("invalid_metadata_schema", found)
    if len(json.dumps(value).encode()) > METADATA_BYTES:
        raise ApiError("metadata_too_large")
    return copy.deepcopy(value)
