"""Block Kit: composition objects, elements and blocks with their limits. Sources: @slack/types 3.2, slack_sdk 3.47 models, Slack's pages.

Described is what a rollback bot sends; any other type is refused by name. Where sources disagree, the smaller limit holds.
"""

from __future__ import annotations

from typing import Any

from playground.slack.shapes import Check, also, among, boolean, number, problem, record, several, string, typed, unique, url

OPTIONS_IN_SELECT = 100
OPTIONS_IN_BOXES = 10


def _text(most: int, *kinds: str, least: int = 1) -> Check:
    shapes: dict[str, Check] = {
        "plain_text": record({"type": among("plain_text"), "text": string(most, least)}, {"emoji": boolean}),
        "mrkdwn": record({"type": among("mrkdwn"), "text": string(most, least)}, {"verbatim": boolean}),
    }
    return typed({kind: shapes[kind] for kind in kinds})


def plain(most: int) -> Check:
    return _text(most, "plain_text")


def either(most: int) -> Check:
    return _text(most, "plain_text", "mrkdwn")


CONFIRM = record(
    {"title": plain(100), "text": either(300), "confirm": plain(30), "deny": plain(30)},
    {"style": among("primary", "danger")},
)
OPTION = record({"text": either(75), "value": string(75)}, {"description": either(75)})
PLAIN_OPTION = record({"text": plain(75), "value": string(75)}, {"description": plain(75)})
OPTION_GROUP = record({"label": plain(75), "options": several(PLAIN_OPTION, OPTIONS_IN_SELECT)})
_ACTION = {"action_id": string(255)}


def _chosen_are_options(value: dict[str, Any], pointer: str) -> list[str]:
    options = list(value.get("options", [])) + [option for group in value.get("option_groups", []) for option in group["options"]]
    chosen = [("initial_option", value["initial_option"])] if "initial_option" in value else []
    chosen += [(f"initial_options/{place}", option) for place, option in enumerate(value.get("initial_options", []))]
    found = unique("value", (option["value"] for option in options), pointer)
    for name, option in chosen:
        if option not in options:
            found += problem("must be one of the options", f"{pointer}/{name}")
    return found


def _options_or_groups(value: dict[str, Any], pointer: str) -> list[str]:
    return [] if ("options" in value) != ("option_groups" in value) else problem("must define either `options` or `option_groups`", pointer)


def _least_before_most(value: dict[str, Any], pointer: str) -> list[str]:
    if value.get("min_length", 0) > value.get("max_length", 3000):
        return problem("must not be more than max_length", f"{pointer}/min_length")
    return []


BUTTON = record(
    {"type": among("button"), "text": plain(75)},
    {**_ACTION, "value": string(2000), "url": url, "style": among("primary", "danger"), "confirm": CONFIRM, "accessibility_label": string(75)},
)  # fmt: skip
CHECKBOXES = also(
    record(
        {"type": among("checkboxes"), "options": several(OPTION, OPTIONS_IN_BOXES)},
        {**_ACTION, "initial_options": several(OPTION, OPTIONS_IN_BOXES), "confirm": CONFIRM, "focus_on_load": boolean},
    ),
    _chosen_are_options,
)
STATIC_SELECT = also(
    record(
        {"type": among("static_select")},
        {**_ACTION, "options": several(PLAIN_OPTION, OPTIONS_IN_SELECT), "option_groups": several(OPTION_GROUP, 100), "placeholder": plain(150),
         "initial_option": PLAIN_OPTION, "confirm": CONFIRM, "focus_on_load": boolean},
    ),
    _options_or_groups,
    _chosen_are_options,
)  # fmt: skip
PLAIN_TEXT_INPUT = also(
    record(
        {"type": among("plain_text_input")},
        {**_ACTION, "initial_value": string(3000, 0), "multiline": boolean, "min_length": number(0, 3000), "max_length": number(1, 3000),
         "placeholder": plain(150), "focus_on_load": boolean,
         "dispatch_action_config": record({"trigger_actions_on": several(among("on_enter_pressed", "on_character_entered"), 2)})},
    ),
    _least_before_most,
)  # fmt: skip
ELEMENT = typed({"button": BUTTON, "checkboxes": CHECKBOXES, "static_select": STATIC_SELECT})
INPUT_ELEMENT = typed({"checkboxes": CHECKBOXES, "static_select": STATIC_SELECT, "plain_text_input": PLAIN_TEXT_INPUT})

_STYLE = record({}, {"bold": boolean, "italic": boolean, "strike": boolean, "code": boolean})
_RICH = typed(
    {
        "text": record({"type": among("text"), "text": string(12_000)}, {"style": _STYLE}),
        "link": record({"type": among("link"), "url": url}, {"text": string(3000), "style": _STYLE}),
        "user": record({"type": among("user"), "user_id": string(20)}, {"style": _STYLE}),
        "usergroup": record({"type": among("usergroup"), "usergroup_id": string(20)}, {"style": _STYLE}),
        "channel": record({"type": among("channel"), "channel_id": string(20)}, {"style": _STYLE}),
        "emoji": record({"type": among("emoji"), "name": string(100)}),
    }
)
_RICH_SECTION = record({"type": among("rich_text_section"), "elements": several(_RICH, 1000, 0)})
_RICH_PART = typed(
    {
        "rich_text_section": _RICH_SECTION,
        "rich_text_list": record(
            {"type": among("rich_text_list"), "style": among("bullet", "ordered"), "elements": several(_RICH_SECTION, 1000)},
            {"indent": number(0, 8), "offset": number(0, 10_000), "border": number(0, 1)},
        ),
        "rich_text_preformatted": record({"type": among("rich_text_preformatted"), "elements": several(_RICH, 1000, 0)}, {"border": number(0, 1)}),
        "rich_text_quote": record({"type": among("rich_text_quote"), "elements": several(_RICH, 1000, 0)}, {"border": number(0, 1)}),
    }
)
_RICH_TEXT = {"type": among("rich_text"), "elements": several(_RICH_PART, 100, 0)}
_CELL = typed({"raw_text": record({"type": among("raw_text"), "text": string(3000)}), "rich_text": record(_RICH_TEXT)})
_COLUMN = record({}, {"align": among("left", "center", "right"), "is_wrapped": boolean})
_BLOCK_ID = {"block_id": string(255)}


def _text_or_fields(value: dict[str, Any], pointer: str) -> list[str]:
    return [] if "text" in value or "fields" in value else problem("must define either `text` or `fields`", pointer)


def _unique_actions(value: dict[str, Any], pointer: str) -> list[str]:
    return unique("action_id", (element["action_id"] for element in value["elements"] if "action_id" in element), pointer)


SECTION = also(
    record(
        {"type": among("section")},
        {**_BLOCK_ID, "text": either(3000), "fields": several(either(2000), 10), "accessory": ELEMENT, "expand": boolean},
    ),
    _text_or_fields,
)
BLOCKS: dict[str, Check] = {
    "section": SECTION,
    "header": record({"type": among("header"), "text": plain(150)}, _BLOCK_ID),
    "divider": record({"type": among("divider")}, _BLOCK_ID),
    "context": record({"type": among("context"), "elements": several(either(3000), 10)}, _BLOCK_ID),
    "actions": also(record({"type": among("actions"), "elements": several(ELEMENT, 25)}, _BLOCK_ID), _unique_actions),
    "input": record(
        {"type": among("input"), "label": plain(2000), "element": INPUT_ELEMENT},
        {**_BLOCK_ID, "hint": plain(2000), "optional": boolean, "dispatch_action": boolean},
    ),
    "rich_text": record(_RICH_TEXT, _BLOCK_ID),
}
MESSAGE_BLOCK = typed(
    {
        **BLOCKS,
        "markdown": record({"type": among("markdown"), "text": string(12_000)}, _BLOCK_ID),
        "table": record({"type": among("table"), "rows": several(several(_CELL, 20), 100)}, {**_BLOCK_ID, "column_settings": several(_COLUMN, 20)}),
    }
)
VIEW_BLOCK = typed(
    {
        **BLOCKS,
        "alert": record(
            {"type": among("alert"), "text": either(3000)}, {**_BLOCK_ID, "level": among("default", "info", "warning", "error", "success")}
        ),
    }
)
