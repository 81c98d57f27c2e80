"""The patches of the API server: RFC 6902, RFC 7386, and the strategic merge with its lists by key."""

from __future__ import annotations

import copy
from typing import Any

from tests.cluster import schema
from tests.cluster.schema import Json


class BadPatch(Exception):
    """422 at the real one."""


def merge(there: Any, patch: Any) -> Any:
    """RFC 7386: lists are replaced, null removes."""
    if not isinstance(patch, dict):
        return patch
    made = dict(there) if isinstance(there, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merge(made.get(key), value)
    return made


def json_patch(there: Any, operations: list[Json]) -> Any:
    made = copy.deepcopy(there)
    for one in operations:
        parts = [part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:]]
        parent = made
        for part in parts[:-1]:
            parent = parent[int(part)] if isinstance(parent, list) else parent.get(part)
            if parent is None:
                raise BadPatch(f"the path {one['path']} is not there")
        _operate(parent, parts[-1], one)
    return made


def _operate(parent: Any, last: str, one: Json) -> None:
    there = isinstance(parent, dict) and last in parent
    match one["op"]:
        case "add" if isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else int(last), one["value"])
        case "add":
            parent[last] = one["value"]
        case "replace" if there:
            parent[last] = one["value"]
        case "remove" if there:
            del parent[last]
        case "test" if there and parent[last] == one["value"]:
            pass
        case _:
            raise BadPatch(f"{one['op']} {one['path']} can't be done")


def strategic(kind: str, there: Json, patch: Json) -> Json:
    """As apimachinery's strategicpatch: lists with a merge key are merged by it, others replaced; and its directives, those with $."""
    merged = _strategic(schema.root(kind), there, patch)
    assert isinstance(merged, dict)
    return merged


def _strategic(node: Json, there: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    made = dict(there) if isinstance(there, dict) else {}
    node = schema.followed(node)
    for key, value in patch.items():
        if key.startswith("$"):
            _directive(made, key, value, patch)
            continue
        below = schema.followed((node.get("properties") or {}).get(key) or {})
        if value is None:
            made.pop(key, None)
        elif isinstance(value, list):
            made[key] = _list(below, made.get(key) or [], value)
        elif isinstance(value, dict):
            made[key] = _strategic(below, made.get(key), value)
        else:
            made[key] = value
    _order(made, patch)
    return made


def _directive(made: Json, key: str, value: Any, patch: Json) -> None:
    if key.startswith("$deleteFromPrimitiveList/"):
        field = key.partition("/")[2]
        made[field] = [one for one in made.get(field) or [] if one not in value]
    elif key == "$retainKeys":
        for name in [one for one in made if one not in value and one not in patch]:
            del made[name]
    elif not key.startswith("$setElementOrder/"):
        raise BadPatch(f"the directive {key} is not known")


def _list(node: Json, there: list[Any], patch: list[Any]) -> list[Any]:
    strategy, key = node.get("x-kubernetes-patch-strategy") or "", node.get("x-kubernetes-patch-merge-key")
    if "merge" not in strategy.split(","):
        return patch
    if key is None:
        return [*there, *(one for one in patch if one not in there)]
    item = schema.followed(node.get("items") or {})
    if any(isinstance(one, dict) and one.get("$patch") == "replace" for one in patch):
        return [one for one in patch if "$patch" not in one]
    made = list(there)
    for one in patch:
        if key not in one:
            raise BadPatch(f"an item has no {key}, its merge key")
        at = next((index for index, old in enumerate(made) if old.get(key) == one[key]), None)
        if one.get("$patch") == "delete":
            made = [old for old in made if old.get(key) != one[key]]
        elif at is None:
            made.append(_strategic(item, {}, one))
        else:
            made[at] = _strategic(item, made[at], one)
    return made


def _order(made: Json, patch: Json) -> None:
    for key, wanted in patch.items():
        field = key.removeprefix("$setElementOrder/")
        if field == key or not isinstance(made.get(field), list):
            continue
        names = [next(iter(one.values())) if isinstance(one, dict) else one for one in wanted]
        by = next(iter(wanted[0])) if wanted and isinstance(wanted[0], dict) else None
        made[field].sort(key=lambda one: names.index(value) if (value := one.get(by) if by else one) in names else len(names))
