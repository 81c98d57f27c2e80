"""Checks that are put together to describe JSON: each returns what is wrong, in Slack's words, with a JSON pointer.

A check is a function (value, pointer) -> list of problems; an empty list means it fits. Wording follows what chat.postMessage answers,
e.g. `must be less than 151 characters [json-pointer:/blocks/0/text/text]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Check = Callable[[Any, str], list[str]]


def problem(words: str, pointer: str) -> list[str]:
    return [f"{words} [json-pointer:{pointer}]"]


def string(most: int, least: int = 1) -> Check:
    """Characters, both bounds included."""

    def check(value: Any, pointer: str) -> list[str]:
        if not isinstance(value, str):
            return problem("must be a string", pointer)
        if len(value) < least:
            return problem(f"must be more than {least - 1} characters", pointer)
        if len(value) > most:
            return problem(f"must be less than {most + 1} characters", pointer)
        return []

    return check


def among(*values: str) -> Check:
    def check(value: Any, pointer: str) -> list[str]:
        return [] if value in values else problem("must be one of: " + ", ".join(values), pointer)

    return check


def boolean(value: Any, pointer: str) -> list[str]:
    return [] if isinstance(value, bool) else problem("must be a boolean", pointer)


def number(least: int, most: int) -> Check:
    def check(value: Any, pointer: str) -> list[str]:
        if isinstance(value, bool) or not isinstance(value, int):
            return problem("must be an integer", pointer)
        return [] if least <= value <= most else problem(f"must be between {least} and {most}", pointer)

    return check


def url(value: Any, pointer: str) -> list[str]:
    found = string(3000)(value, pointer)
    if not found and not value.startswith(("http://", "https://", "mailto:")):
        return problem("invalid url", pointer)
    return found


def several(of: Check, most: int, least: int = 1) -> Check:
    """A list with `least` to `most` items."""

    def check(value: Any, pointer: str) -> list[str]:
        if not isinstance(value, list):
            return problem("must be an array", pointer)
        if len(value) < least:
            return problem(f"must have at least {least} items", pointer)
        if len(value) > most:
            return problem(f"no more than {most} items allowed", pointer)
        return [found for place, item in enumerate(value) for found in of(item, f"{pointer}/{place}")]

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields and no others."""
    known = {**required, **(optional or {})}

    def check(value: Any, pointer: str) -> list[str]:
        if not isinstance(value, dict):
            return problem("must be an object", pointer)
        found = [line for name in required if name not in value for line in problem(f"missing required field: {name}", pointer)]
        found += [line for name in value if name not in known for line in problem(f"invalid additional property: {name}", pointer)]
        found += [line for name, field in known.items() if name in value for line in field(value[name], f"{pointer}/{name}")]
        return found

    return check


def typed(kinds: Mapping[str, Check]) -> Check:
    """An object whose `type` says which description holds."""

    def check(value: Any, pointer: str) -> list[str]:
        if not isinstance(value, dict):
            return problem("must be an object", pointer)
        kind = value.get("type")
        if not isinstance(kind, str) or kind not in kinds:
            return problem(f"unsupported type: {kind}", f"{pointer}/type")
        return kinds[kind](value, pointer)

    return check


def also(first: Check, *rules: Check) -> Check:
    """`rules` are asked only where the shape fits, so that they need not look twice."""

    def check(value: Any, pointer: str) -> list[str]:
        return first(value, pointer) or [line for rule in rules for line in rule(value, pointer)]

    return check


def unique(name: str, values: Iterable[str], pointer: str) -> list[str]:
    """No value twice."""
    seen: set[str] = set()
    found: list[str] = []
    for value in values:
        if value in seen:
            found += problem(f"`{name}` {value} already exists", pointer)
        seen.add(value)
    return found
