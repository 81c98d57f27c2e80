"""What a person did to buttons, boxes and inputs, as Slack writes it into `actions` and `state.values`."""

from __future__ import annotations

from typing import Any

from playground.slack.model import Json, NotPossible
from playground.slack.validate import elements


def find(message: Json, action_id: str, block_id: str | None) -> tuple[Json, Json]:
    """The block and the element as displayed. Raises NotPossible, which names what there is."""
    shown = [(block, element) for block in message.get("blocks", []) for element in elements(block)]
    for block, element in shown:
        if element["action_id"] == action_id and block_id in (None, block["block_id"]):
            return block, element
    there = ", ".join(f"{block['block_id']}/{element['action_id']}" for block, element in shown) or "nothing to press"
    raise NotPossible(f"the message has no {action_id}; there is: {there}")


def options(element: Json) -> list[Json]:
    found = list(element.get("options", []))
    return found + [option for group in element.get("option_groups", []) for option in group["options"]]


def chosen(element: Json, values: list[str]) -> list[Json]:
    """The options with these values, in the order in which they are displayed. Raises NotPossible."""
    offered = [option["value"] for option in options(element)]
    if strange := [value for value in values if value not in offered]:
        raise NotPossible(f"{element['action_id']} has no option {strange[0]}; there is: {', '.join(offered)}")
    return [option for option in options(element) if option["value"] in values]


def answer(element: Json, value: Any) -> Json:
    """One entry of `state.values`. `value`: text, an option's value, or a list of values; None leaves what the element began with."""
    kind = element["type"]
    if kind == "plain_text_input":
        return {"type": kind, "value": _typed(element, element.get("initial_value") if value is None else value)}
    if kind == "static_select":
        return {"type": kind, "selected_option": element.get("initial_option") if value is None else chosen(element, [value])[0]}
    return {"type": kind, "selected_options": element.get("initial_options", []) if value is None else chosen(element, list(value))}


def _typed(element: Json, text: str | None) -> str | None:
    if not text:
        return None
    least, most = element.get("min_length", 0), element.get("max_length", 3000)
    if not least <= len(text) <= most:
        raise NotPossible(f"{element['action_id']} takes {least} to {most} characters, not {len(text)}")
    return text


def filled_in(view: Json, values: dict[str, Any]) -> dict[str, Json]:
    """`state.values` of a view after these answers, by block_id. Raises NotPossible as the form itself would."""
    inputs = {block["block_id"]: block for block in view["blocks"] if block["type"] == "input"}
    if strange := [block_id for block_id in values if block_id not in inputs]:
        raise NotPossible(f"the form has no input {strange[0]}; there is: {', '.join(inputs)}")
    state: dict[str, Json] = {}
    for block_id, block in inputs.items():
        entry = answer(block["element"], values.get(block_id))
        if not block.get("optional") and not any(value for name, value in entry.items() if name != "type"):
            raise NotPossible(f"{block_id} is required")
        state[block_id] = {block["element"]["action_id"]: entry}
    return state
